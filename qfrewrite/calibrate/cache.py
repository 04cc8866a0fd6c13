"""Samples that are kept in memory after the first pass over them, where they are small."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from math import prod

from qfrewrite.calibrate.data import Sample, Samples
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
        self._keeps = sample_bytes * len(samples) <= most_bytes
        self._kept: list[Sample] = []
        self._rest: Iterator[Sample] | None = None

    @property
    def description(self) -> str:
        """What these are."""
        return self._samples.description

    @property
    def warnings(self) -> list[str]:
        """What is odd about them; complete after the first whole pass."""
        return self._samples.warnings

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

    def __len__(self) -> int:
        return min(self._count, len(self._samples))

    def __iter__(self) -> Iterator[Sample]:
        return islice(iter(self._samples), self._count)
