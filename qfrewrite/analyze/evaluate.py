"""Accuracy of classifiers on labelled images, and whether one is better than another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import comb, sqrt

import numpy as np
import numpy.typing as npt

from qfrewrite.data.labels import LabelledImages, class_offset
from qfrewrite.data.preprocess import Preprocess, chosen_preprocess
from qfrewrite.errors import UsageError
from qfrewrite.ir import Array, Model
from qfrewrite.passes import Progress
from qfrewrite.records import Record
from qfrewrite.runtime.session import Runner
from qfrewrite.solve.context import no_progress

Bool = npt.NDArray[np.bool_]
# The normal quantile of a 95 % confidence interval.
_Z = 1.959964
_TOP = 5


@dataclass(frozen=True)
class Accuracy(Record):
    """One classifier on labelled images; fractions 0..1."""

    model: str
    """The name of the model."""
    samples: int
    """How many images there were."""
    top1: float
    """The fraction of images whose label has the largest score."""
    low: float
    """The lower end of the 95 % confidence interval of `top1` (Wilson)."""
    high: float
    """The upper end of the same."""
    top5: float | None
    """The fraction whose label is among the five largest scores; None for up to five classes."""
    first: Bool = field(repr=False)
    """For each image, whether the label has the largest score."""


@dataclass(frozen=True)
class Difference(Record):
    """Two classifiers on the same images: how much better the second is, in top-1."""

    difference: float
    """Top-1 of the second less that of the first."""
    low: float
    """The lower end of the 95 % confidence interval of the paired difference."""
    high: float
    """The upper end of the same."""
    gained: int
    """How many images only the second classifies right."""
    lost: int
    """How many images only the first classifies right."""
    p: float
    """The probability of such a difference if both are as good (McNemar's exact test)."""

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
    progress: Progress = no_progress,
) -> Accuracy:
    """Top-1 and top-5 of a classifier.

    offset: of the model's classes against the labels; by default 1 where the model has 1,001
    classes and no label is above 999, else 0. Raises DataError, UsageError.
    """
    ranks, classes, shift = [], 0, 0
    runs = run_images(model, images, preprocess, threads=threads, progress=progress)
    for outputs, label in zip(runs, images.labels, strict=True):
        scores = _scores(outputs, model.name)
        if not classes:
            classes = scores.size
            shift = class_offset(classes, images.labels, offset)
        ranks.append(_rank(scores, label + shift))
    first = np.array(ranks) == 0
    low, high = wilson(int(first.sum()), len(first))
    top5 = float((np.array(ranks) < _TOP).mean()) if classes > _TOP else None
    return Accuracy(model.name, len(first), float(first.mean()), low, high, top5, first)


def run_images(
    model: Model,
    images: LabelledImages,
    preprocess: Preprocess | str | None,
    *,
    threads: int | None,
    progress: Progress,
) -> Iterator[Sequence[Array]]:
    """The outputs of `model` for each image, valid for one step."""
    runner = Runner.of(model, threads=threads)
    samples = images.samples(runner.inputs, chosen_preprocess(model, preprocess))
    step = progress(f"evaluating {model.name}", len(images.files))
    for done, sample in enumerate(samples, 1):
        yield runner.run(sample)
        step(done)


def _scores(outputs: Sequence[Array], name: str) -> Array:
    """The scores of one image, [classes]."""
    if len(outputs) != 1 or outputs[0].ndim == 0 or outputs[0].size != outputs[0].shape[-1]:
        shapes = ", ".join(str(list(v.shape)) for v in outputs)
        what = f"has outputs {shapes}, a classifier has one vector of scores"
        raise UsageError(what, where=name, remedy="for a detector give --coco")
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
