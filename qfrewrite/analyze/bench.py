"""Latency: models in turn, and their layers one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from qfrewrite.errors import RunError
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Model, Op, Tensor
from qfrewrite.lower.canonical import is_fused
from qfrewrite.lower.cost import macs
from qfrewrite.lower.model import lower_model
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import Progress
from qfrewrite.runtime.session import Runner
from qfrewrite.runtime.timing import Timing, fed, time_in_turn
from qfrewrite.runtime.units import cut_out
from qfrewrite.solve.sizes import has_unaligned_map

_MULTIPLE = 8


@dataclass(frozen=True)
class Latency:
    """One model: milliseconds per inference, and the ratio to the first model.

    p5, p95: the percentiles that 90 % of the rounds lie between.
    """

    model: str
    median_ms: float
    p5_ms: float
    p95_ms: float
    ratio: float

    def record(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class LayerTime:
    """One op cut out as a model of its own, with its real shapes and types.

    share: of the sum over all ops, 0..1. gmacs: 1e9 multiply-accumulates per second. flags: `C`
    where a count of channels, `HW` where the size of the map is no multiple of eight.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    ms: float
    share: float
    macs: int
    gmacs: float | None
    flags: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {**asdict(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class LayerTimes:
    """Every op of one model; whole_ms: the model, timed in turn with its ops."""

    layers: list[LayerTime]
    whole_ms: float

    @property
    def sum_ms(self) -> float:
        """All ops together."""
        return sum(layer.ms for layer in self.layers)


def bench_models(
    models: Sequence[Model],
    *,
    runs: int = 50,
    threads: int = 1,
    progress: Progress | None = None,
    seed: int = 0,
) -> list[Latency]:
    """Time whole models in turn, on synthetic inputs; see `time_in_turn`."""
    timings = time_models(models, runs=runs, threads=threads, progress=progress, seed=seed)
    return [
        Latency(
            model.name,
            1e3 * t.median,
            1e3 * t.percentile(5),
            1e3 * t.percentile(95),
            t.ratio(timings[0]),
        )
        for model, t in zip(models, timings, strict=True)
    ]


def time_models(
    models: Sequence[Model],
    *,
    runs: int = 50,
    threads: int = 1,
    progress: Progress | None = None,
    seed: int = 0,
) -> list[Timing]:
    """What each round of each model took."""
    runners = [fed(Runner.of(model, threads=threads), seed) for model in models]
    step = progress("timing models", runs) if progress is not None else None
    return time_in_turn(runners, runs=runs, step=step)


def bench_layers(
    model: Model,
    *,
    runs: int = 50,
    threads: int = 1,
    progress: Progress | None = None,
    seed: int = 0,
) -> LayerTimes:
    """Time every op of a model by itself, in turn with the whole model.

    What calling the runtime costs is taken off: that of a model that does next to nothing.
    """
    lowered, _ = lower_model(model)
    graph = lowered.graph
    found = [
        (op, runner)
        for op in graph.ops
        if not is_fused(op) and op.outputs and (runner := _alone(op, threads, seed)) is not None
    ]
    runners = [fed(Runner(serialize(lowered), threads=threads), seed), _idle(threads)]
    step = progress("timing layers", runs) if progress is not None else None
    whole, idle, *parts = time_in_turn([*runners, *(r for _, r in found)], runs=runs, step=step)
    seconds = [max(t.median - idle.median, 0.0) for t in parts]
    total = sum(seconds) or 1.0
    layers = [_layer_time(op, s, total) for (op, _), s in zip(found, seconds, strict=True)]
    return LayerTimes(layers, 1e3 * whole.median)


def _layer_time(op: Op, seconds: float, total: float) -> LayerTime:
    work = macs(op)
    kind = "+".join(o.kind for o in (op, *_fused(op)))
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
    if has_unaligned_map(y, _MULTIPLE):
        flags.append("HW")
    return flags


def _fused(op: Op) -> list[Op]:
    """The activation that is written into `op`, if any."""
    readers = op.output.users if len(op.outputs) == 1 else ()
    return [r.op for r in readers if is_fused(r.op)]


def _alone(op: Op, threads: int, seed: int) -> Runner | None:
    """`op` as a model; None where the runtime does not take it alone (it runs a subgraph, say)."""
    small, _ = cut_out([op, *_fused(op)], Tensor.twin)
    if not small.inputs:
        return None
    try:
        return fed(Runner(serialize(Model([small])), threads=threads), seed)
    except RunError:
        return None


def _idle(threads: int) -> Runner:
    """A model of one copied number."""
    b = GraphBuilder("idle")
    graph = b.finish(b.op("RESHAPE", b.input("x", (1, 1)), b.const("shape", np.array([1], "i4"))))
    return fed(Runner(serialize(Model([graph])), threads=threads), 0)


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
