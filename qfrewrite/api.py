"""The public surface: load, run passes, save, and all of it at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qfrewrite.analyze.judge import judge
from qfrewrite.analyze.preprocessing import judge_preprocess
from qfrewrite.calibration.ranges import RangeTable
from qfrewrite.data.cache import CachedSamples
from qfrewrite.errors import UsageError
from qfrewrite.formats.atomic import staged
from qfrewrite.ir import Graph, Model
from qfrewrite.passes import Pass, PassContext, Progress, RunReport, make_passes
from qfrewrite.passes import run_passes as _run_passes
from qfrewrite.runtime.metrics import Fidelity
from qfrewrite.saving import (
    DEFAULT_SCHEME,
    SaveReport,
    check,
    default_output,
    is_tflite,
    quant_options,
    save,
)
from qfrewrite.solve.sensitivity import Sensitivity

__all__ = [
    "QuantizeReport", "SaveReport", "asked_scheme", "calibrate", "check", "default_output",
    "dequantize", "judge", "judge_data", "judged_on", "load", "open_context", "quant_options",
    "quantize", "run_passes", "save", "sensitivity",
]  # fmt: skip

DEFAULT_PASSES = "remove_dw_bn,relu6_to_relu,calibrate"
# How many samples beyond the calibration samples the closing comparison runs on.
HELD_BACK = Pass.judges_on


@dataclass
class QuantizeReport:
    """What `quantize` did: passes, file, and how close the result is to float."""

    passes: RunReport
    saved: SaveReport
    fidelity: Fidelity | None
    """None if it was not measured, as without data."""
    measured_on: str
    """The samples that it was measured on, or why it was not measured."""
    notices: list[str] = field(default_factory=list)
    """What is unusual about the model."""
    warnings: list[str] = field(default_factory=list)
    """What speaks against the data or the result."""
    preprocess: str = ""
    """How images became the model's input; empty for other data."""
    signatures: dict[str, Fidelity] = field(default_factory=dict)
    """The fidelity of other entry points that have data, by the names of their signatures."""

    @property
    def path(self) -> Path:
        """Where the result is."""
        return self.saved.path


def load(
    path: str | Path,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> Model:
    """Read a frozen GraphDef `.pb` or a `.tflite` model.

    inputs, outputs: names where they shall not be found by themselves (GraphDef only); an input
    may carry a shape: `input:1x224x224x3`. Raises ModelFileError, UnsupportedError, UsageError.
    """
    path = Path(path)
    if is_tflite(path):
        from qfrewrite.formats.tflite.read import read_tflite

        if inputs or outputs:
            raise UsageError(
                "inputs and outputs of a .tflite are fixed", where=str(path),
                remedy="leave out --input and --output",
            )  # fmt: skip
        return read_tflite(path)
    from qfrewrite.formats.graphdef.read import read_graphdef
    from qfrewrite.rewrite.raising import raise_graph

    model = read_graphdef(path, inputs=inputs, outputs=outputs)
    for graph in model.graphs:
        raise_graph(graph)
    model.mark_loaded()
    return model


def dequantize(model: Model) -> None:
    """Make a quantized model the float model it stands for, in place; says so in its notices.

    A float model stays as it is. Raises UnsupportedError for ops that only exist quantized.
    """
    from qfrewrite.ops.check import verify_model
    from qfrewrite.ops.shapes import settle_shapes
    from qfrewrite.rewrite.dequantize import dequantize_graph, quantized_graphs
    from qfrewrite.rewrite.rewriter import Rewriter

    if quantized := quantized_graphs(model.graphs):
        for graph in model.graphs:
            settle_shapes(graph)
        verify_model(model)
        count = sum(dequantize_graph(Rewriter(graph)) for graph in quantized)
        model.notices.append(
            f"the model is quantized already: {count} tensors were made float; what it lost by "
            "that stays lost, so start from the float model where there is one"
        )


def run_passes(
    model: Model,
    passes: str | Sequence[Pass],
    *,
    data: Any = None,
    samples: int = 200,
    preprocess: Any = None,
    seed: int = 0,
    threads: int | None = None,
    verify: str = "structure",
    progress: Progress | None = None,
    after: Callable[[Pass, Model], Any] | None = None,
) -> RunReport:
    """Run passes on `model`, in place, and report what each changed, skipped and why.

    passes: text like `fold_bn,calibrate` or a list of passes. data: an image folder, `.npy`,
    `.npz`, an array, or any iterable of samples (see `qfrewrite.data.source.open_data`);
    `samples` of it are used and up to 50 others kept for measuring. preprocess: `mobilenet`,
    `unit`, `raw`, `imagenet` or `mean=..,std=..`, for images; by default what the metadata of a
    `.tflite` say, else `mobilenet`. verify: `off`, `structure` or `numeric`.
    A quantized model is made float first (`dequantize`). Raises PassError, DataError, VerifyError.
    """
    dequantize(model)
    context = open_context(
        model, data, samples=samples, preprocess=preprocess, seed=seed, threads=threads,
        held_back=judged_on(passes),
    )  # fmt: skip
    if progress is not None:
        context.progress = progress
    return _run_passes(model, passes, context, verify=verify, after=after)


def calibrate(
    model: Model | str | Path,
    data: Any = None,
    *,
    method: str = "minmax",
    per_layer: str = "",
    passes: str = "",
    samples: int = 200,
    preprocess: Any = None,
    bins: int = 2048,
    seed: int = 0,
    threads: int | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> RangeTable:
    """Observe `model` over `data` and choose a range for every tensor; the model stays as it is.

    passes: run first, on a copy, so that the ranges fit the graph they will be used on: replay
    them by `passes + ",calibrate(ranges=FILE)"`. method, per_layer, bins: as for the `calibrate`
    pass; histograms are always taken, so that `RangeTable.choose` can choose anew. checkpoint:
    where Ctrl-C leaves the statistics so far; with `resume` the run goes on from there. The rest
    as in `run_passes`. Raises DataError, UsageError, Interrupted.
    """
    from qfrewrite.passes.calibrate import Calibrate

    loaded = load(model) if isinstance(model, (str, Path)) else model.clone()
    dequantize(loaded)
    context = open_context(
        loaded, data, samples=samples, preprocess=preprocess, seed=seed, threads=threads,
        once=not passes,
    )  # fmt: skip
    context.full_statistics, context.resume = True, resume
    context.checkpoint = Path(checkpoint) if checkpoint is not None else None
    if progress is not None:
        context.progress = progress
    last = Calibrate(method, per_layer=per_layer, bins=bins)
    _run_passes(loaded, [*_as_passes(passes), last], context)
    table = context.ranges or RangeTable()
    table.model = loaded.name
    said = getattr(context.data, "warnings", ())
    table.warnings = list(dict.fromkeys((*said, *table.warnings)))
    return table


def sensitivity(
    model: Model | str | Path,
    data: Any = None,
    *,
    passes: str = "calibrate",
    samples: int = 200,
    preprocess: Any = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    **saving: Any,
) -> tuple[Fidelity | None, list[Sensitivity]]:
    """What quantizing costs: the model as a whole, and each layer alone and left out.

    passes: run first, on a copy. SQNR of the outputs against float, in dB, on up to 32 samples
    held back. Without data layers are ranked on synthetic inputs, and there is no figure of the
    whole. The rest as in `run_passes` and `save`. Raises DataError, PassError, UsageError.
    """
    from qfrewrite.data.source import synthetic
    from qfrewrite.runtime.session import input_specs
    from qfrewrite.solve.sensitivity import sensitivities

    loaded = load(model) if isinstance(model, (str, Path)) else model.clone()
    dequantize(loaded)
    context = open_context(
        loaded, data, samples=samples, preprocess=preprocess, seed=seed, threads=threads
    )
    context.quant = quant_options(**saving)
    if progress is not None:
        context.progress = progress
    if context.data is None:
        context.measuring = synthetic(input_specs(loaded.graph), 16, seed=seed + 1)
    reference = context.outputs(loaded.clone().graph)
    _run_passes(loaded, passes, context)
    whole, rows = sensitivities(loaded.graph, reference, context)
    return (whole if context.data is not None else None), rows


def judged_on(passes: str | Sequence[Pass]) -> int:
    """How many samples these passes want held back from calibration."""
    return max((one.judges_on for one in _as_passes(passes)), default=HELD_BACK)


def asked_scheme(scheme: str | None, passes: str | Sequence[Pass]) -> str | None:
    """The scheme that is asked for: by name, or by passes that are run to write integers."""
    ranged = any(one.gives_ranges for one in _as_passes(passes))
    return scheme or (DEFAULT_SCHEME if ranged else None)


def _as_passes(passes: str | Sequence[Pass]) -> Sequence[Pass]:
    if isinstance(passes, str):
        return make_passes(passes) if passes else []
    return passes


def open_context(
    model: Model,
    data: Any,
    *,
    samples: int = 200,
    preprocess: Any = None,
    seed: int = 0,
    threads: int | None = None,
    once: bool = False,
    held_back: int = HELD_BACK,
) -> PassContext:
    """The data and settings that passes see; `data` may be a PassContext already.

    data: of the main graph; of a model with several signatures also a dict of their data by the
    signatures' names. A signature without data is calibrated on synthetic inputs. preprocess: of
    images; by default what the model's metadata say, else `mobilenet`. held_back: how many samples
    to keep from calibration, for measuring. once: whether the data are read in one pass only; then
    nothing is held back, and what comes from an iterable is not kept in memory.
    """
    if isinstance(data, PassContext):
        return data
    from qfrewrite.data.preprocess import chosen_preprocess

    how = chosen_preprocess(model, preprocess)
    if data is None:
        return PassContext(threads=threads, seed=seed, preprocess=how)
    from qfrewrite.data.cache import FirstSamples, one_pass
    from qfrewrite.data.source import open_data
    from qfrewrite.ops.subgraphs import keeps_state
    from qfrewrite.runtime.session import input_specs

    def opened(graph: Graph, own: Any, subgraph: int = 0) -> PassContext:
        aliases = {
            graph.inputs[place].name: name
            for s in model.signatures if s.subgraph == subgraph for name, place in s.inputs
        }  # fmt: skip
        inputs = [replace(spec, alias=aliases.get(spec.name)) for spec in input_specs(graph)]
        source = open_data(own, inputs, preprocess=how, seed=seed)
        in_order = keeps_state(graph)
        if once:
            passing = one_pass(source, samples, in_order=in_order)
            return PassContext(passing, threads=threads, seed=seed)
        calibration, others = source.split(samples, held_back, in_order=in_order)
        kept, any_left = CachedSamples(calibration), len(others) > 0
        measuring = CachedSamples(others) if any_left else FirstSamples(kept, held_back)
        return PassContext(kept, measuring, any_left, threads=threads, seed=seed, source=source)

    main, others = _by_signature(model, data)
    context = PassContext(threads=threads, seed=seed, preprocess=how)
    if main is not None:
        context = opened(model.graph, main)
        context.reopen = lambda graph: opened(graph, main)
    for key, (graph, own) in others.items():
        context.signatures[key] = opened(graph, own, model.graphs.index(graph))
    return context


def judge_data(model: Model, context: PassContext) -> tuple[str, list[str]]:
    """How images become the model's input, and what speaks against that.

    model: float, before any pass. The text is empty for data that are no images.
    """
    from qfrewrite.data.preprocess import stated_preprocess

    if context.source is None or (how := context.source.preprocess) is None:
        return "", []
    most = len(context.data) if isinstance(context.data, Sized) else None
    verdict = judge_preprocess(model, context.source, most, threads=context.threads)
    if verdict.fits and isinstance(context.data, CachedSamples):
        context.data.with_known_scale()
    stated, text, warnings = stated_preprocess(model), str(how), []
    if stated is not None and replace(stated, crop=how.crop) == how:
        text += " (as the model's metadata say)"
    elif stated is not None:
        warnings.append(f"preprocess '{how}' is not what the model's metadata say: '{stated}'")
    if (warning := verdict.warning(how)) is not None and not warnings:
        warnings.append(warning)
    return text, warnings


def _by_signature(model: Model, data: Any) -> tuple[Any, dict[str, tuple[Graph, Any]]]:
    """The main graph's data, and graph and data of other signatures by the signature's name.

    A mapping whose keys are all names of signatures has data for each; else it is the main
    graph's.
    """
    graphs = {s.key: model.graphs[s.subgraph] for s in model.signatures}
    inputs = {t.name for t in model.graph.inputs} | {
        n for s in model.signatures for n, _ in s.inputs
    }
    named = isinstance(data, Mapping) and bool(data) and set(data) <= set(graphs) - inputs
    if not named:
        return data, {}
    main, others = None, {}
    for key, own in data.items():
        if graphs[key] is model.graph:
            main = own
        else:
            others[model.signature_of(graphs[key]) or key] = graphs[key], own
    return main, others


def quantize(
    path: str | Path,
    output: str | Path | None = None,
    *,
    passes: str | Sequence[Pass] = DEFAULT_PASSES,
    data: Any = None,
    samples: int = 200,
    preprocess: Any = None,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    seed: int = 0,
    threads: int | None = None,
    verify: str = "structure",
    **saving: Any,
) -> QuantizeReport:
    """Load, run passes, write, and compare the result with the float model.

    output: by default `<model>_<scheme>.tflite` in the current directory. A result that the runtime
    fails on is not left behind. The rest as in `load`, `run_passes` and `save` (to which all
    further arguments go).
    """
    saving["scheme"] = asked_scheme(saving.get("scheme"), passes)
    quant_options(**saving)  # a wrong name fails before the work
    model = load(path, inputs=inputs, outputs=outputs)
    dequantize(model)
    reference, state = model.clone(), (model.graph, model.graph.version)
    context = open_context(
        model, data, samples=samples, preprocess=preprocess, seed=seed, threads=threads,
        held_back=judged_on(passes),
    )  # fmt: skip
    context.quant = quant_options(**saving)
    preprocessing, warnings = judge_data(reference, context)
    report = run_passes(model, passes, data=context, verify=verify)
    output = Path(output or default_output(model, saving["scheme"]))
    with staged(output) as temporary:
        saved = save(model, temporary, **saving)
        found = judge(reference, temporary, context, state, report.names)
    saved.path = output
    return QuantizeReport(
        report,
        saved,
        found.fidelity,
        found.measured_on,
        list(model.notices),
        warnings + found.warnings,
        preprocessing,
        found.signatures,
    )
