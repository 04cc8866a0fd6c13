"""Samples that are kept in memory after the first pass over them, where they are small."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from qfrewrite.calibrate.data import Sample, Samples

# Several passes read the same samples; decoding images again costs more than running small models.
_MOST_BYTES = 64 << 20


class CachedSamples:
    """`samples`, kept after a complete pass if they take no more than `most_bytes`."""

    def __init__(self, samples: Samples, most_bytes: int = _MOST_BYTES) -> None:
        self._samples = samples
        self._most = most_bytes
        self._kept: list[Sample] | None = None

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
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Sample] | None = []
        size = 0
        for sample in self._samples:
            size += sum(v.nbytes for v in sample.values())
            if kept is not None and size <= self._most:
                kept.append(sample)
            else:
                kept = None
            yield sample
        self._kept = kept


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
