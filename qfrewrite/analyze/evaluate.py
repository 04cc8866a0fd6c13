"""Accuracy of classifiers on labelled images, and whether one is better than another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from qfrewrite.data.labels import LabelledImages, class_offset
from qfrewrite.data.preprocess import Preprocess, chosen_preprocess
from qfrewrite.errors import UsageError
from qfrewrite.ir import Array, Model
from qfrewrite.passes import Progress
from qfrewrite.runtime.session import Runner

Bool = npt.NDArray[np.bool_]
# The normal quantile of a 95 % confidence interval.
_Z = 1.959964
_TOP = 5


@dataclass(frozen=True)
class Accuracy:
    """One classifier on labelled images; fractions 0..1.

    low, high: the 95 % confidence interval of top1 (Wilson). first, within: for each image,
    whether the label was the largest score, or among the five largest.
    """

    model: str
    samples: int
    top1: float
    low: float
    high: float
    top5: float | None
    first: Bool
    within: Bool | None

    def record(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {k: getattr(self, k) for k in ("model", "samples", "top1", "low", "high", "top5")}


@dataclass(frozen=True)
class Difference:
    """Two classifiers on the same images: how much better the second is, in top-1.

    low, high: 95 % confidence interval of the paired difference. gained, lost: images that only
    the second, or only the first, has right. p: of McNemar's exact test that both are as good.
    """

    difference: float
    low: float
    high: float
    gained: int
    lost: int
    p: float

    def __str__(self) -> str:
        return (
            f"{100 * self.difference:+.2f} points top-1 (95 %: {100 * self.low:+.2f} to "
            f"{100 * self.high:+.2f}); {self.gained} images gained, {self.lost} lost; p = "
            f"{self.p:.2g}"
        )


def evaluate(
    model: Model,
    images: LabelledImages,
    *,
    preprocess: Preprocess | str | None = None,
    offset: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Accuracy:
    """Top-1 and top-5 of a classifier.

    offset: of the model's classes against the labels; by default 1 where the model has 1,001
    classes and no label is above 999, else 0. Raises DataError, UsageError.
    """
    runner = Runner.of(model, threads=threads)
    samples = images.samples(runner.inputs, chosen_preprocess(model, preprocess))
    step = progress(f"evaluating {model.name}", len(images.files)) if progress else None
    ranks: list[int] = []
    classes = 0
    for done, (sample, label) in enumerate(zip(samples, images.labels, strict=True), 1):
        scores = _scores(runner.run(sample), model.name)
        if not classes:
            classes = scores.size
            offset = class_offset(classes, images.labels, offset)
        assert offset is not None
        ranks.append(_rank(scores, label + offset))
        if step is not None:
            step(done)
    found = np.array(ranks)
    first = found == 0
    within = found < _TOP if classes > _TOP else None
    low, high = wilson(int(first.sum()), len(first))
    top5 = None if within is None else float(within.mean())
    return Accuracy(model.name, len(first), float(first.mean()), low, high, top5, first, within)


def _scores(outputs: Sequence[Array], name: str) -> Array:
    """The scores of one image, [classes]."""
    if len(outputs) != 1 or outputs[0].ndim == 0 or outputs[0].size != outputs[0].shape[-1]:
        shapes = ", ".join(str(list(v.shape)) for v in outputs)
        raise UsageError(
            f"has outputs {shapes}, a classifier has one vector of scores",
            where=name,
            remedy="for a detector give --coco",
        )
    return outputs[0].reshape(-1)


def _rank(scores: Array, label: int) -> int:
    """How many scores are above the label's; of equal ones the first counts as the largest."""
    own = scores[label]
    return int((scores > own).sum() + (scores[:label] == own).sum())


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion (Wilson 1927)."""
    if not count:
        return 0.0, 1.0
    share, z2 = hits / count, _Z**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def paired(first: Accuracy, second: Accuracy) -> Difference:
    """How much better `second` is than `first` on the same images."""
    gained = int((second.first & ~first.first).sum())
    lost = int((first.first & ~second.first).sum())
    count = first.samples
    difference = (gained - lost) / count
    half = _Z * sqrt(max(gained + lost - (gained - lost) ** 2 / count, 0.0)) / count
    return Difference(
        difference, difference - half, difference + half, gained, lost, _mcnemar(gained, lost)
    )


def _mcnemar(gained: int, lost: int) -> float:
    """The two-sided exact binomial test of as many gained as lost."""
    count = gained + lost
    tail = sum(comb(count, k) for k in range(min(gained, lost) + 1))
    return float(min(2 * tail / 2**count, 1.0))
