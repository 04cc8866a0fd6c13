"""Samples that are kept after the first pass over them, where they are small, or never."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        self._samples = samples
        sample_bytes = sum(
            prod(spec.shape) * NUMPY_DTYPES[spec.dtype].itemsize for spec in samples.inputs
        )
        # Of an open size it is not known how much they take.
        fixed = not any(spec.open_axes for spec in samples.inputs)
        self._keeps = fixed and sample_bytes * len(samples) <= most_bytes
        self._kept: list[Sample] = []
        self._rest: Iterator[Sample] | None = None

    def with_known_scale(self) -> CachedSamples:
        """These samples, of whose values it is known that they are scaled as they must be."""
        self._samples.with_known_scale()
        return self

    @property
    def description(self) -> str:
        """What these are."""
        return self._samples.description

    @property
    def diagnostics(self) -> Diagnostics:
        """What is odd about them; complete after the first whole pass."""
        return self._samples.diagnostics

    def labels(self) -> Iterator[str]:
        """How messages name each sample: a file's path, or a number."""
        return self._samples.labels()

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        if not self._keeps:
            yield from self._samples
            return
        # One reading of the source serves all passes, also those that stop early.
        if self._rest is None:
            self._rest = iter(self._samples)
        for position in count():
            if position == len(self._kept):
                sample = next(self._rest, None)
                if sample is None:
                    return
                self._kept.append(sample)
            yield self._kept[position]


class FirstSamples:
    """The first `count` of some samples."""

    def __init__(self, samples: CachedSamples, count: int) -> None:
        self._samples = samples
        self._count = count

    @property
    def description(self) -> str:
        """What these are."""
        if len(self) == len(self._samples):
            return self._samples.description
        return f"{len(self)} of {self._samples.description}"

    def labels(self) -> Iterator[str]:
        """How messages name each sample."""
        return islice(self._samples.labels(), self._count)

    def __len__(self) -> int:
        return min(self._count, len(self._samples))

    def __iter__(self) -> Iterator[Sample]:
        return islice(iter(self._samples), self._count)


class PassingSamples:
    """Samples of a once-only iterable, taken in one pass and never kept: memory does not grow."""

    def __init__(
        self, inputs: Sequence[InputSpec], items: Iterator[Any], where: str, most: int
    ) -> None:
        self.inputs = tuple(inputs)
        self.diagnostics = Diagnostics()
        self._items, self._where, self._most = items, where, most
        self._taken = 0

    @property
    def description(self) -> str:
        """What these are; complete after the pass."""
        return f"{self._taken} samples of {self._where}" if self._taken else self._where

    def __iter__(self) -> Iterator[Sample]:
        checks = DataChecks(self.inputs)
        for item in islice(self._items, self._most - self._taken):
            label = f"sample {self._taken} of {self._where}"
            sample = conform_item(item, self.inputs, label)
            self.diagnostics.add(*checks.add(label, sample))
            self._taken += 1
            yield sample
        self.diagnostics.add(*checks.finish(), few_samples_warning(self._taken))


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
