"""Latency: models one after the other in each round, and their layers one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qfrewrite.analyze.evaluate import evaluate
from qfrewrite.data.labels import LabelledImages
from qfrewrite.data.preprocess import Preprocess
from qfrewrite.errors import Diagnostics, RunError
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Model, Op, Tensor
from qfrewrite.lower.canonical import is_fused, with_fused
from qfrewrite.lower.cost import macs
from qfrewrite.lower.model import lower_model
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import Progress
from qfrewrite.records import Record
from qfrewrite.runtime.session import Runner
from qfrewrite.runtime.timing import Timing, fed, time_interleaved
from qfrewrite.runtime.units import cut_out
from qfrewrite.solve.context import no_progress
from qfrewrite.solve.sizes import has_unaligned_map

_MULTIPLE = 8
# 95 % of the rounds of a machine that does nothing else lie below so many medians.
_UNSTEADY = 1.5


@dataclass(frozen=True)
class Latency(Record):
    """One model: milliseconds per inference."""

    model: str
    """The name of the model."""
    median_ms: float
    """The median of all rounds."""
    p5_ms: float
    """The percentile below which 5 % of the rounds lie."""
    p95_ms: float
    """The percentile below which 95 % of the rounds lie."""
    ratio: float
    """The median of the ratios to the first model, round by round."""


@dataclass(frozen=True, repr=False)
class Latencies(Record):
    """Models that were run one after the other in each round."""

    runs: int
    """How many rounds there were."""
    threads: int
    """Threads of the runtime."""
    models: list[Latency]
    """In the order in which they were given."""
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    """What speaks against the timings."""


@dataclass(frozen=True)
class LayerTime(Record):
    """One op cut out as a model of its own, with its real shapes and types."""

    name: str
    """The name of the op."""
    op: str
    """The kind of the op, and of the activation after a `+`."""
    shape: tuple[int, ...]
    """The shape of its output."""
    ms: float
    """Milliseconds, less what calling the runtime costs."""
    share: float
    """The fraction of the sum over all ops."""
    macs: int
    """Multiply-accumulates."""
    gmacs: float | None
    """1e9 multiply-accumulates per second."""
    flags: list[str] = field(default_factory=list)
    """`C` if a count of channels, `HW` if the size of the map is no multiple of eight."""


@dataclass(frozen=True, repr=False)
class LayerTimes(Record):
    """Every op of one model."""

    model: str
    """The name of the model."""
    layers: list[LayerTime]
    """In execution order."""
    whole_ms: float
    """The model as a whole, run in the same rounds as its ops."""

    @property
    def sum_ms(self) -> float:
        """All ops together."""
        return sum(layer.ms for layer in self.layers)

    def figures(self) -> dict[str, Any]:
        """The fields and the sum."""
        return super().figures() | {"sum_ms": self.sum_ms}


@dataclass(frozen=True)
class Score(Record):
    """One model by the metric of the Low-Power Image Recognition Challenge."""

    model: str
    """The name of the model."""
    median_ms: float
    """Milliseconds per image."""
    top1: float
    """The fraction of images that are classified right."""
    within: float
    """The fraction that are classified right before the time is over."""
    score: float
    """Right classifications per second."""


@dataclass(frozen=True, repr=False)
class Scores(Record):
    """Models on the same images."""

    samples: int
    """How many images there were."""
    budget_ms: float
    """Milliseconds allowed per image."""
    models: list[Score]
    """In the order in which they were given."""


def bench_models(
    models: Sequence[Model], *, runs: int = 50, threads: int = 1, progress: Progress = no_progress
) -> Latencies:
    """Time whole models on synthetic inputs, one after the other in each round."""
    timings = time_models(models, runs=runs, threads=threads, progress=progress)
    latencies = []
    for model, timing in zip(models, timings, strict=True):
        median, p5, p95 = (1e3 * timing.percentile(share) for share in (50, 5, 95))
        latencies.append(Latency(model.name, median, p5, p95, timing.ratio(timings[0])))
    diagnostics = Diagnostics()
    if any(one.p95_ms > _UNSTEADY * one.median_ms for one in latencies):
        diagnostics.warn("unsteady", "timings vary much: the machine is busy with other things")
    return Latencies(runs, threads, latencies, diagnostics)


def time_models(
    models: Sequence[Model], *, runs: int = 50, threads: int = 1, progress: Progress = no_progress
) -> list[Timing]:
    """What each round of each model took."""
    runners = [fed(Runner.of(model, threads=threads)) for model in models]
    return time_interleaved(runners, runs=runs, step=progress("timing models", runs))


def bench_layers(
    model: Model, *, runs: int = 50, threads: int = 1, progress: Progress = no_progress
) -> LayerTimes:
    """Time every op of a model by itself, in the same rounds as the whole model.

    What calling the runtime costs is taken off: that of a model that does next to nothing.
    """
    lowered, _ = lower_model(model)
    ops = [op for op in lowered.graph.ops if not is_fused(op) and op.outputs]
    alone = {op: runner for op in ops if (runner := _alone(op, threads)) is not None}
    runners = [fed(Runner(serialize(lowered), threads=threads)), _idle(threads), *alone.values()]
    step = progress("timing layers", runs)
    whole, idle, *parts = time_interleaved(runners, runs=runs, step=step)
    seconds = [max(timing.median - idle.median, 0.0) for timing in parts]
    total = sum(seconds) or 1.0
    layers = [_layer_time(op, s, total) for op, s in zip(alone, seconds, strict=True)]
    return LayerTimes(model.name, layers, 1e3 * whole.median)


def _layer_time(op: Op, seconds: float, total: float) -> LayerTime:
    work = macs(op)
    kind = "+".join(o.kind for o in with_fused(op))
    rate = work / seconds / 1e9 if work and seconds > 0 else None
    return LayerTime(
        op.name, kind, op.output.shape, 1e3 * seconds, seconds / total, work, rate, _flags(op)
    )


def _flags(op: Op) -> list[str]:
    if not macs(op):
        return []
    x, y = next(t for t in op.inputs if t is not None and not t.is_const), op.output.shape
    # The channels of an image are what they are.
    unaligned = x.shape[-1] % _MULTIPLE and not x.is_input
    flags = ["C"] if unaligned or y[-1] % _MULTIPLE else []
    return [*flags, "HW"] if has_unaligned_map(y, _MULTIPLE) else flags


def _alone(op: Op, threads: int) -> Runner | None:
    """`op` as a model; None where the runtime does not take it alone (it runs a subgraph, say)."""
    small, _ = cut_out(with_fused(op), Tensor.twin)
    if not small.inputs:
        return None
    try:
        return fed(Runner(serialize(Model([small])), threads=threads))
    except RunError:
        return None


def _idle(threads: int) -> Runner:
    """A model of one copied number."""
    b = GraphBuilder("idle")
    graph = b.finish(b.op("RESHAPE", b.input("x", (1, 1)), b.const("shape", np.array([1], "i4"))))
    return fed(Runner(serialize(Model([graph])), threads=threads))


def score_models(
    models: Sequence[Model],
    images: LabelledImages,
    *,
    preprocess: Sequence[Preprocess],
    budget_ms: float = 30.0,
    runs: int = 50,
    threads: int = 1,
    progress: Progress = no_progress,
) -> Scores:
    """Latency and accuracy of models as one figure; see `competition_score`.

    preprocess: that of each model. budget_ms: milliseconds allowed per image.
    """
    timings = time_models(models, runs=runs, threads=threads, progress=progress)
    scores = []
    for model, how, timing in zip(models, preprocess, timings, strict=True):
        accuracy = evaluate(model, images, preprocess=how, progress=progress)
        score, within = competition_score(accuracy.first.tolist(), timing, budget_ms / 1e3)
        scores.append(Score(model.name, 1e3 * timing.median, accuracy.top1, within, score))
    return Scores(len(images.files), budget_ms, scores)


def competition_score(
    correct: Sequence[bool], timing: Timing, budget: float
) -> tuple[float, float]:
    """The metric of the Low-Power Image Recognition Challenge, and accuracy within its budget.

    correct: for N images in order; budget: seconds per image. The first is correct / max(budget N,
    time), per second; the second counts only images that are done within budget N seconds.
    """
    count = len(correct)
    spent = timing.median * count
    allowed = budget * count
    done = min(count, int(allowed / timing.median))
    return sum(correct) / max(allowed, spent), sum(correct[:done]) / max(count, 1)
