"""What calibration remembers of each tensor while samples run; all of it merges exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf, sqrt

import numpy as np

from qfrewrite.calibration.histogram import DEFAULT_BINS, Distribution, Histogram
from qfrewrite.calibration.kernels import NO_BINS, Float32, Scratch, add_exactly, observe, widen
from qfrewrite.ir import Array
from qfrewrite.ir.dtypes import Float64
from qfrewrite.lower.fake_quant_ranges import Range

# Values of a row: numpy's inner loop runs over one row.
_ROW = 4096


@dataclass(frozen=True)
class Detail:
    """What to observe beyond minimum, maximum and count."""

    channel_mean: bool = False
    """The mean per channel, [C]."""
    full: bool = False
    """Minimum and maximum per channel, [C], and a histogram."""
    bins: int = DEFAULT_BINS
    """Of the histogram."""


class TensorStats:
    """The statistics of one tensor with channels on its last axis.

    Values that are NaN or infinite are counted in `not_finite` and left out of everything else.
    """

    def __init__(self, channels: int = 1, detail: Detail | None = None) -> None:
        self.channels = channels
        self.detail = detail or Detail()
        self.low, self.high = inf, -inf
        self.samples = self.count = self.not_finite = 0
        self._clear_channels()
        self.histogram = Histogram(self.detail.bins) if self.detail.full else None

    @property
    def range(self) -> Range | None:
        """(low, high), or None where nothing finite was seen."""
        return (self.low, self.high) if self.low <= self.high else None

    @property
    def channel_low(self) -> Float32 | None:
        """The minimum per channel, [C], or None where it was not observed."""
        return self.ends[0] if self.detail.full and self.range else None

    @property
    def channel_high(self) -> Float32 | None:
        """The maximum per channel, [C], or None where it was not observed."""
        return self.ends[1] if self.detail.full and self.range else None

    @property
    def channel_mean(self) -> Float64 | None:
        """The mean per channel, [C], or None where it was not observed."""
        if not (self.detail.channel_mean and self.count):
            return None
        # What was not finite counts as zeros: it tells nothing of the other channels.
        total: Float64 = self.sums.sum(0)
        return total / ((self.count + self.not_finite) / self.channels)

    @property
    def mean(self) -> float | None:
        """The mean, or None where it was not observed."""
        mean_known = self.detail.channel_mean and self.count
        return float(self.sums.sum(0).sum()) / self.count if mean_known else None

    @property
    def variance(self) -> float | None:
        """The variance as the histogram has it, or None where it was not observed."""
        values, mean = self.distribution, self.mean
        if values is None or mean is None:
            return None
        return max(values.mean_square - mean * mean, 0.0)

    @property
    def std(self) -> float | None:
        """The standard deviation, or None where it was not observed."""
        return None if self.variance is None else sqrt(self.variance)

    @property
    def sparsity(self) -> float | None:
        """The fraction of values that are exactly zero, or None where it was not observed."""
        if self.histogram is None or self.histogram.empty:
            return None
        return self.histogram.zeros / self.histogram.total

    @property
    def distribution(self) -> Distribution | None:
        """How the values are distributed, or None where no histogram was taken."""
        return None if self.histogram is None else self.histogram.distribution()

    def add(self, values: Array, scratch: Scratch) -> None:
        """Take one sample's values, [..., C] float32."""
        self.samples += 1
        self.count += values.size
        if not values.size:
            return
        rows = _as_rows(values, self.ends.shape[1])
        bins = NO_BINS if self.histogram is None else self.histogram.window
        seen = observe(rows, self.ends, self.sums, bins)
        flat, zeros = rows.reshape(-1), -1
        if seen is not None:
            self.low, self.high, zeros = seen
        else:
            flat = self._add_damaged(rows)
            self.low, self.high = float(self.ends[0].min()), float(self.ends[1].max())
        if self.histogram is not None and zeros < 0:
            self.histogram.add(flat, self.low, self.high, scratch)
        elif self.histogram is not None:
            self.histogram.counted(self.low, self.high, zeros)

    def merge(self, other: TensorStats) -> None:
        """Add what `other` saw of the same tensor; what only one observed is dropped."""
        if other.samples:
            self._keep(other.detail)
        self.samples += other.samples
        self.count += other.count
        self.not_finite += other.not_finite
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        if self.ends.shape == other.ends.shape:
            widen(self.ends, *other.ends)
            add_exactly(self.sums, other.sums[0], other.sums[1])
        if self.histogram is not None and other.histogram is not None:
            self.histogram.merge(other.histogram)

    def copy(self) -> TensorStats:
        """An independent copy."""
        twin = TensorStats(self.channels, self.detail)
        twin.merge(self)
        return twin

    def without_means(self) -> TensorStats:
        """A copy in which no means were observed."""
        twin = self.copy()
        twin.detail = replace(self.detail, channel_mean=False)
        return twin

    def _clear_channels(self) -> None:
        """Room for what is observed per channel; for a single one where they are not told apart.

        ends: minima and maxima, [2, C]; sums: [2, C], the second row what rounding took.
        """
        apart = self.channels if self.detail.full or self.detail.channel_mean else 1
        self.ends: Float32 = np.tile(np.array([[inf], [-inf]], np.float32), apart)
        self.sums: Float64 = np.zeros((2, apart))

    def _keep(self, detail: Detail) -> None:
        """Drop what was not observed in `detail`."""
        mean, full = (
            getattr(self.detail, k) and getattr(detail, k) for k in ("channel_mean", "full")
        )
        self.detail = replace(self.detail, channel_mean=mean, full=full)
        if not full:
            self.histogram = None
        if not (mean or full):
            self._clear_channels()
            self.ends[:] = [[self.low], [self.high]]

    def _add_damaged(self, rows: Array) -> Array:
        """Take rows with values, or sums, that are not finite; returns the values that are."""
        values = rows.reshape(-1, self.ends.shape[1])
        good = np.isfinite(values)
        low, high = np.where(good, values, inf).min(0), np.where(good, values, -inf).max(0)
        widen(self.ends, low, high)
        add_exactly(self.sums, np.where(good, values, 0).sum(0, dtype=np.float64))
        finite: Array = values[good]
        self.not_finite += values.size - finite.size
        self.count -= values.size - finite.size
        return finite


def _as_rows(values: Array, channels: int) -> Array:
    """[..., C] as [R, k * C], contiguous, with rows near `_ROW` values."""
    width = channels * _fold(values.size // channels, channels)
    return np.ascontiguousarray(values.reshape(-1, width), np.float32)


@lru_cache(maxsize=4096)
def _fold(positions: int, channels: int) -> int:
    """How many positions make a row: a divisor of all of them."""
    most = min(max(_ROW // channels, 1), positions)
    return next(k for k in range(most, 0, -1) if positions % k == 0)
