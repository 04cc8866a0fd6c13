"""Input sizes against cost, latency and accuracy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from qfrewrite.analyze.evaluate import evaluate
from qfrewrite.data.labels import LabelledImages
from qfrewrite.data.preprocess import Preprocess
from qfrewrite.errors import QfError, UsageError
from qfrewrite.ir import Model
from qfrewrite.lower.cost import total_macs
from qfrewrite.passes import PassContext, Progress, run_nested, run_passes
from qfrewrite.runtime.session import Runner
from qfrewrite.runtime.timing import time_in_turn
from qfrewrite.solve.relaying import plain_int8
from qfrewrite.solve.sizes import MOST, unaligned_maps, wasted_padding

_MOST_SIZES = 200


@dataclass(frozen=True)
class SizePoint:
    """The network at one input size.

    macs: multiply-accumulates. padding: the share of them that kernels which round maps up to
    multiples of eight spend on nothing, 0..1. unaligned: layers with such maps. ms: median int8
    latency. top1: in float, fraction 0..1, where labels were given. error: why the size does not
    work; then the rest is missing.
    """

    size: int
    macs: int | None = None
    padding: float | None = None
    unaligned: int | None = None
    ms: float | None = None
    top1: float | None = None
    top5: float | None = None
    error: str | None = None

    def record(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return asdict(self)


def parse_sizes(text: str) -> list[int]:
    """`128..300:4` (step 4, both ends), or `128,160,224`; raises UsageError."""
    found = re.fullmatch(r"(\d+)\.\.(\d+)(?::(\d+))?", text.strip())
    if found:
        low, high, step = (int(v) if v else 32 for v in found.groups())
        sizes = list(range(low, high + 1, step)) if step else []
    else:
        sizes = [int(part) for part in text.split(",") if part.strip().isdigit()]
        sizes = sizes if len(sizes) == text.count(",") + 1 else []
    if not sizes or not all(0 < s <= MOST for s in sizes) or len(sizes) > _MOST_SIZES:
        raise UsageError(
            f"'{text[:40]}' is no list of sizes",
            where="--sizes",
            remedy=f"give 128..300:4 or 128,160,224; at most {_MOST_SIZES}",
        )
    return sizes


def sweep(
    model: Model,
    sizes: Sequence[int],
    *,
    images: LabelledImages | None = None,
    preprocess: Preprocess | str | None = None,
    runs: int = 20,
    threads: int = 1,
    progress: Progress | None = None,
) -> list[SizePoint]:
    """The model at each size, square; int8 latency of all sizes in turn, so that drift cancels."""
    points: dict[int, SizePoint] = {}
    runners: dict[int, Runner] = {}
    step = progress("building sizes", len(sizes)) if progress else None
    for done, size in enumerate(sizes, 1):
        try:
            points[size], runners[size] = _built(model, size, images, preprocess, threads)
        except QfError as error:
            points[size] = SizePoint(size, error=str(error))
        if step is not None:
            step(done)
    step = progress("timing sizes", runs) if progress else None
    timings = time_in_turn(list(runners.values()), runs=runs, step=step)
    for size, timing in zip(runners, timings, strict=True):
        points[size] = replace(points[size], ms=1e3 * timing.median)
    return list(points.values())


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
    point = SizePoint(
        size,
        total_macs(copy.graph),
        wasted_padding(copy.graph),
        len(unaligned_maps(copy.graph)),
        top1=accuracy.top1 if accuracy else None,
        top5=accuracy.top5 if accuracy else None,
    )
    return point, plain_int8(copy.graph, run_nested, threads=threads)
