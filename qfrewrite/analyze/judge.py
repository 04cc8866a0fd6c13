"""How close a written model is to its float source, and what to report if it is not close."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from qfrewrite.analyze.compare import LayerFidelity, compare_models
from qfrewrite.data.source import synthetic
from qfrewrite.errors import Diagnostic, Diagnostics, UsageError, VerifyError
from qfrewrite.formats.tflite.read import read_tflite
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Array, Graph, Model
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.ops.subgraphs import entries
from qfrewrite.passes import PassContext
from qfrewrite.rewrite.resize import Resizing
from qfrewrite.runtime.metrics import Fidelity, Outputs, collect, compare
from qfrewrite.runtime.session import Runner, input_specs
from qfrewrite.solve.dataset import Dataset

# Below these a result is of little use, whatever it is used for.
_POOR_DB, _POOR_AGREEMENT = 10.0, 0.5
# Layers are ranked on so many samples.
_RANKED_ON = 16
# Without data: enough to see that the result runs, and that its outputs depend on its inputs.
_MADE_UP = 4
# An output that varies by less than this share of its largest value may become one value, and so
# may one that varies by fewer than so many of its steps.
_VARIES, _STEPS = 0.05, 8
# The float model's outputs are all the same: so many samples, to this share of the largest value.
_ENOUGH, _SAME = 8, 0.01


@dataclass
class Judgement:
    """What is known of a result beside its float source."""

    fidelity: Fidelity | None = None
    """None if it was not measured."""
    measured_on: str = ""
    """The samples that it was measured on, or why it was not measured."""
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    """What the user should know before the result is used."""
    signatures: dict[str, Fidelity] = field(default_factory=dict)
    """The fidelity of other entry points that have data, by the names of their signatures."""


def judge(
    reference: Model,
    path: Path,
    context: PassContext,
    *,
    size: tuple[int, int] | None = None,
    passes: Sequence[str] = (),
) -> Judgement:
    """How close the `.tflite` at `path` is to `reference` in float, and on which samples.

    Held-out samples are used, or the calibration samples if there are no others:
    the text says which. Without data both run on a few synthetic inputs, so that a broken result
    does not go unnoticed; but no figure is given, since it would say nothing about real inputs.

    context: with the data at the size that the result has. size: [H, W] if passes gave the image
    input another one; `reference` is resized to it in place. passes: the names of those that were
    run. Raises VerifyError if an output became constant, NaN or infinite.
    """
    if path.suffix != ".tflite" or not path.is_file():
        return Judgement()
    graph = reference.graph
    if size is not None:
        Resizing(graph, size).run()
    signatures = _judge_signatures(reference, path, context)
    runner = Runner(path, threads=context.threads)
    samples = context.samples or _made_up(graph, context)
    floats, result = _run(graph, runner, samples, context)
    if context.samples is None:
        return Judgement(measured_on="not measured: no data", signatures=signatures)
    kind = "held out" if samples.held_out else "used in calibration: no others are left"
    diagnostics, fidelity = Diagnostics(), compare(floats, result)
    if len(floats) >= _ENOUGH and _hardly_varies([sample[0] for sample in floats]):
        diagnostics.warn(
            "same-outputs",
            f"the float model itself gives nearly the same output for all {len(floats)} samples: "
            "check the data and how they are scaled",
        )
    if is_poor(fidelity):
        diagnostics.add(_poor_warning(reference, path, context, fidelity, passes))
    measured_on = f"{context.judged_on.description} ({kind})"
    return Judgement(fidelity, measured_on, diagnostics, signatures)


def _judge_signatures(reference: Model, path: Path, context: PassContext) -> dict[str, Fidelity]:
    """How close the model's other entry points are to float, on their own data.

    Those without data run on a few synthetic inputs. Raises RunError where one cannot be run.
    """
    keyed = [(reference.signature_of(graph), graph) for graph in entries(reference)[1:]]
    graphs = {key: graph for key, graph in keyed if key is not None}
    if not graphs:
        return {}
    written, fidelities = read_tflite(path), {}
    for key, graph in graphs.items():
        samples = context.signatures.get(key)
        own = samples or _made_up(graph, context)
        result = written.graphs[reference.graphs.index(graph)]
        runner = Runner(serialize(Model([result, *result.bodies])), threads=context.threads)
        floats, values = _run(graph, runner, own, context)
        if samples is not None:
            fidelities[key] = compare(floats, values)
    return fidelities


def _run(
    graph: Graph, runner: Runner, samples: Dataset, context: PassContext
) -> tuple[Outputs, Outputs]:
    """The outputs of the float graph and of the result; raises VerifyError for useless ones."""
    floats = samples.outputs(graph, threads=context.threads)
    values = collect(runner, samples.judged_on)
    _check_outputs(graph, floats, values, runner.output_steps)
    return floats, values


def _made_up(graph: Graph, context: PassContext) -> Dataset:
    """A few synthetic inputs of `graph`."""
    return Dataset(synthetic(input_specs(graph), _MADE_UP, seed=context.seed + 1))


def is_poor(fidelity: Fidelity) -> bool:
    """Whether a result is so far from float that it cannot be used as it is."""
    agreement = fidelity.agreement
    return fidelity.sqnr_db < _POOR_DB or (agreement is not None and agreement < _POOR_AGREEMENT)


def _check_outputs(graph: Graph, floats: Outputs, result: Outputs, steps: Sequence[float]) -> None:
    """Raise VerifyError where the result says nothing, and the float model does."""
    for k, tensor in enumerate(graph.outputs):
        x, y = ([sample[k] for sample in outputs] for outputs in (floats, result))
        why = _degenerate(x, y, steps[k])
        if why is not None:
            what = f"{why} in the result, and not in the float model"
            remedy = "calibrate on real data, or see where it is lost with qfrewrite compare"
            raise VerifyError(what, where=f"output '{tensor.name}'", remedy=remedy)


def _hardly_varies(floats: Sequence[Array]) -> bool:
    """Whether no value of an output changes between samples, but for a hundredth of the largest."""
    first = floats[0]
    same = all(x.shape == first.shape and np.isfinite(x).all() for x in floats)
    if first.dtype.kind != "f" or not first.size or not same:
        return False
    varies, largest = _spread(floats)
    return varies <= _SAME * largest


def _spread(values: Sequence[Array]) -> tuple[float, float]:
    """By how much a value changes between samples at most, and the largest magnitude."""
    low = high = values[0].astype(np.float64)
    for x in values:
        low, high = np.minimum(low, x), np.maximum(high, x)
    return float((high - low).max()), float(max(high.max(), -low.min()))


def _degenerate(floats: Sequence[Array], result: Sequence[Array], step: float) -> str | None:
    """Why `result` says nothing although `floats` do; step: of its grid, 0 for floats."""
    if any(x.dtype.kind != "f" or not x.size or not np.isfinite(x).all() for x in floats):
        return None
    if not all(np.isfinite(y).all() for y in result):
        return "is NaN or infinite"
    if len(result) < 2 or any(not np.array_equal(result[0], y) for y in result[1:]):
        return None
    varies, largest = _spread(floats)
    # A step wider than the values themselves is no excuse.
    step = min(step, max(1 / 128, largest / 64))
    if varies <= max(_VARIES * largest, _STEPS * step):
        return None
    return f"is the same for all {len(result)} samples"


def _poor_warning(
    reference: Model, path: Path, context: PassContext, fidelity: Fidelity, passes: Sequence[str]
) -> Diagnostic:
    text = f"the result is far from the float model: {fidelity}"
    if worst := _worst_layers(reference, path, context):
        named = ", ".join(f"'{row.name}' ({row.lost_db:.1f} dB)" for row in worst)
        text += f"; most is lost in {named}"
    remedies = ", or ".join(_remedies(context.quant, passes, worst))
    remedy = f"try {remedies}" if remedies else ""
    return Diagnostic("warning", "far-from-float", text, remedy=remedy)


def _worst_layers(reference: Model, path: Path, context: PassContext) -> list[LayerFidelity]:
    """Up to three layers that lose most of what enters them, the worst first."""
    samples = islice(context.judged_on, _RANKED_ON)
    try:
        comparison = compare_models(reference, read_tflite(path), samples, threads=context.threads)
    except UsageError:  # the result takes other inputs
        return []
    ranked = sorted(comparison.layers, key=lambda row: (-row.lost_db, row.order))
    return [row for row in ranked[:3] if row.lost_db > 0]


def _remedies(
    options: QuantOptions, passes: Sequence[str], worst: Sequence[LayerFidelity]
) -> Iterator[str]:
    """What is worth a try, by the options, the passes that were run, and the worst layers."""
    kind = options.kind
    if kind.per_channel and not options.per_channel:
        yield "--weights per-channel"
    if options.scheme == "uint8":
        yield "--scheme int8"
    if kind.activations is None:
        yield "--scheme float16"
        return
    if {"reconstruct", "auto"}.isdisjoint(passes):
        per_channel = kind.per_channel and options.per_channel
        yield "-p @per-channel" if per_channel else "-p @per-tensor"
    if worst:
        # With one scale for all weights it is these that cost, and 16 bits do not help them.
        helps = options.scheme == "int8" and options.per_channel
        option = "--keep-int16" if helps else "--keep-float"
        yield " ".join(f"{option} '{row.name}'" for row in worst)
