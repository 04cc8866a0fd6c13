"""What calibration remembers of each tensor while samples run."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite

import numpy as np
import numpy.typing as npt

from qfrewrite.ir import Array
from qfrewrite.lower.ranges import Range


@dataclass
class ChannelMean:
    """The mean per channel (last axis), [C], float64."""

    total: npt.NDArray[np.float64] | None = None
    count: int = 0

    def add(self, values: Array) -> None:
        """Take one sample's values [..., C]."""
        flat = values.reshape(-1, values.shape[-1])
        part = flat.sum(0).astype(np.float64)
        self.total = part if self.total is None else self.total + part
        self.count += len(flat)

    @property
    def mean(self) -> npt.NDArray[np.float64] | None:
        """The mean, or None where nothing was seen."""
        return None if self.total is None or not self.count else self.total / self.count


@dataclass
class MinMax:
    """The smallest and largest value seen; the order of samples does not matter."""

    low: float = inf
    high: float = -inf
    samples: int = 0
    not_finite: int = 0

    def add(self, values: Array) -> None:
        """Take one sample's values; those that are NaN or infinite are counted and left out."""
        self.samples += 1
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (isfinite(low) and isfinite(high)):
            finite = values[np.isfinite(values)]
            self.not_finite += values.size - finite.size
            if not finite.size:
                return
            low, high = float(finite.min()), float(finite.max())
        self.low, self.high = min(self.low, low), max(self.high, high)

    @property
    def range(self) -> Range | None:
        """(low, high), or None where nothing finite was seen."""
        return (self.low, self.high) if self.low <= self.high else None
