"""Input sizes against cost, latency and accuracy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qfrewrite.analyze.evaluate import evaluate
from qfrewrite.data.labels import LabelledImages
from qfrewrite.data.preprocess import Preprocess
from qfrewrite.errors import QfError, UsageError
from qfrewrite.ir import Model
from qfrewrite.lower.cost import total_macs
from qfrewrite.passes import PassContext, Progress, run_nested, run_passes
from qfrewrite.records import Record
from qfrewrite.runtime.session import Runner
from qfrewrite.runtime.timing import time_interleaved
from qfrewrite.solve.context import no_progress
from qfrewrite.solve.relaying import plain_int8
from qfrewrite.solve.sizes import MOST, unaligned_maps, wasted_padding

_MOST_SIZES = 200


@dataclass(frozen=True)
class SizePoint(Record):
    """The network at one input size."""

    size: int
    """Height and width of the input."""
    macs: int | None = None
    """Multiply-accumulates."""
    padding: float | None = None
    """The fraction of them that is wasted by kernels which round maps up to multiples of eight."""
    unaligned: int | None = None
    """How many layers have such maps."""
    ms: float | None = None
    """Median latency in int8."""
    top1: float | None = None
    """Top-1 in float, 0..1; None without labels."""
    top5: float | None = None
    """Top-5 in float, 0..1; None without labels, and for up to five classes."""
    error: str | None = None
    """Why the size does not work; then there are no figures."""


@dataclass(frozen=True, repr=False)
class SizeSweep(Record):
    """One network at several input sizes."""

    model: str
    """The name of the model."""
    sizes: list[SizePoint]
    """In the order in which they were given."""


def parse_sizes(text: str) -> list[int]:
    """`128..300:4` (step 4, both ends), or `128,160,224`; raises UsageError."""
    if span := re.fullmatch(r"(\d+)\.\.(\d+)(?::(\d+))?", text.strip()):
        low, high, step = (int(v) if v else 32 for v in span.groups())
        sizes = list(range(low, high + 1, step)) if step else []
    else:
        sizes = [int(part) for part in text.split(",") if part.strip().isdigit()]
        sizes = sizes if len(sizes) == text.count(",") + 1 else []
    if not sizes or not all(0 < s <= MOST for s in sizes) or len(sizes) > _MOST_SIZES:
        remedy = f"give 128..300:4 or 128,160,224; at most {_MOST_SIZES}"
        raise UsageError(f"'{text[:40]}' is no list of sizes", where="--sizes", remedy=remedy)
    return sizes


def sweep(
    model: Model,
    sizes: Sequence[int],
    *,
    images: LabelledImages | None = None,
    preprocess: Preprocess | str | None = None,
    runs: int = 20,
    threads: int = 1,
    progress: Progress = no_progress,
) -> SizeSweep:
    """The model at each size, square.

    Each round of the latency runs all sizes, so that drift of the machine cancels.
    """
    points: dict[int, SizePoint] = {}
    runners: dict[int, Runner] = {}
    step = progress("building sizes", len(sizes))
    for done, size in enumerate(sizes, 1):
        try:
            points[size], runners[size] = _built(model, size, images, preprocess, threads)
        except QfError as error:
            points[size] = SizePoint(size, error=str(error))
        step(done)
    step = progress("timing sizes", runs)
    timings = time_interleaved(list(runners.values()), runs=runs, step=step)
    for size, timing in zip(runners, timings, strict=True):
        points[size] = replace(points[size], ms=1e3 * timing.median)
    return SizeSweep(model.name, list(points.values()))


def _built(
    model: Model,
    size: int,
    images: LabelledImages | None,
    preprocess: Preprocess | str | None,
    threads: int,
) -> tuple[SizePoint, Runner]:
    """The figures of one size, less its latency, and its int8 model."""
    copy = model.clone()
    run_passes(copy, f"resize_input(size={size})", PassContext())
    accuracy = evaluate(copy, images, preprocess=preprocess) if images is not None else None
    graph = copy.graph
    cost = total_macs(graph), wasted_padding(graph), len(unaligned_maps(graph))
    point = SizePoint(size, *cost)
    if accuracy is not None:
        point = replace(point, top1=accuracy.top1, top5=accuracy.top5)
    return point, plain_int8(graph, run_nested, threads=threads)
