"""Samples that are kept after the first pass over them, where they are small, or never."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from math import prod
from typing import Any

from qfrewrite.data.checks import DataChecks, few_samples_warning
from qfrewrite.data.inputs import InputSpec, Sample
from qfrewrite.data.items import conform_item
from qfrewrite.data.source import DataSource, Samples
from qfrewrite.errors import Diagnostics
from qfrewrite.ir import NUMPY_DTYPES

# Several passes read the same samples; decoding images again costs more than running small models.
_MOST_BYTES = 64 << 20


class CachedSamples:
    """`samples`, kept as they are first read, if all of them take no more than `most_bytes`."""

    def __init__(self, samples: Samples, most_bytes: int = _MOST_BYTES) -> None:
        self.samples = samples
        self.description = samples.description
        # Complete after the first whole pass.
        self.diagnostics = samples.diagnostics
        sample_bytes = sum(
            prod(spec.shape) * NUMPY_DTYPES[spec.dtype].itemsize for spec in samples.inputs
        )
        # Of an open size it is not known how much they take.
        fixed = not any(spec.open_axes for spec in samples.inputs)
        self._keeps = fixed and sample_bytes * len(samples) <= most_bytes
        self._kept: list[Sample] = []
        self._rest: Iterator[Sample] | None = None

    def labels(self) -> Iterator[str]:
        """How messages name each sample: a file's path, or a number."""
        return self.samples.labels()

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        if not self._keeps:
            yield from self.samples
            return
        # One reading of the source serves all passes, also those that stop early.
        if self._rest is None:
            self._rest = iter(self.samples)
        for position in count():
            if position == len(self._kept):
                sample = next(self._rest, None)
                if sample is None:
                    return
                self._kept.append(sample)
            yield self._kept[position]


@dataclass(frozen=True, eq=False)
class FirstSamples:
    """The first `count` of some samples."""

    samples: CachedSamples
    """All of them."""
    count: int
    """How many are wanted."""

    @property
    def description(self) -> str:
        """What these are."""
        whole = self.samples.description
        return whole if len(self) == len(self.samples) else f"{len(self)} of {whole}"

    def labels(self) -> Iterator[str]:
        """How messages name each sample."""
        return islice(self.samples.labels(), self.count)

    def __len__(self) -> int:
        return min(self.count, len(self.samples))

    def __iter__(self) -> Iterator[Sample]:
        return islice(iter(self.samples), self.count)


@dataclass(eq=False)
class PassingSamples:
    """Samples of a once-only iterable, taken in one pass and never kept: memory does not grow."""

    inputs: Sequence[InputSpec]
    """What the model takes."""
    items: Iterator[Any]
    """Samples in any accepted form."""
    where: str
    """What messages call the iterable."""
    most: int
    """How many to take."""
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    """What is odd about the samples; complete after the pass."""
    taken: int = 0
    """How many were taken so far."""

    @property
    def description(self) -> str:
        """What these are; complete after the pass."""
        return f"{self.taken} samples of {self.where}" if self.taken else self.where

    def __iter__(self) -> Iterator[Sample]:
        checks = DataChecks(self.inputs, self.diagnostics)
        for item in islice(self.items, self.most - self.taken):
            label = f"sample {self.taken} of {self.where}"
            sample = conform_item(item, self.inputs, label)
            checks.add(label, sample)
            self.taken += 1
            yield sample
        checks.finish()
        self.diagnostics.add(few_samples_warning(self.taken))


def one_pass(
    source: DataSource, samples: int, *, in_order: bool = False
) -> Samples | PassingSamples:
    """Up to `samples` of `source`, to be read once: what comes from an iterable is not kept.

    in_order: as in `DataSource.split`.
    """
    passing = source.passing
    if passing is None:
        return source.split(samples, in_order=in_order)[0]
    return PassingSamples(source.inputs, passing, source.name, samples)
