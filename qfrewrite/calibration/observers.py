"""What calibration remembers of each tensor while samples run; all of it merges exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf, isfinite, sqrt

import numpy as np

from qfrewrite.calibration.counting import CHUNK, Scratch
from qfrewrite.calibration.histogram import DEFAULT_BINS, Distribution, Float64, Histogram
from qfrewrite.ir import Array
from qfrewrite.lower.fake_quant_ranges import Range

# Rows of a channel reduction: numpy's inner loop runs over one row.
_ROW = 4096


@dataclass(frozen=True)
class Detail:
    """What to observe beyond minimum, maximum and count.

    channel_mean: the mean per channel, [C]; full: also the minimum and maximum per channel, and a
    histogram of `bins` bins.
    """

    channel_mean: bool = False
    full: bool = False
    bins: int = DEFAULT_BINS


class Sum:
    """A running sum, float64 [n], in twice the working precision: order does not show.

    Knuth's two-sum keeps what each addition rounds away (Ogita, Rump, Oishi 2005).
    """

    def __init__(self, high: Float64, low: Float64 | None = None) -> None:
        self.high = high
        self.low = np.zeros_like(high) if low is None else low

    @property
    def value(self) -> Float64:
        """The sum so far."""
        return self.high + self.low

    def add(self, x: Float64, rest: Float64 | float = 0.0) -> None:
        """Add x [n] (and `rest`, what rounding took from it)."""
        total = self.high + x
        back = total - self.high
        self.low = self.low + ((self.high - (total - back)) + (x - back) + rest)
        self.high = total


class TensorStats:
    """The statistics of one tensor with channels on its last axis.

    bounds: between which values lie by construction (RELU6: 0 and 6). Values that are NaN or
    infinite are counted in `not_finite` and left out of everything else.
    """

    def __init__(
        self, channels: int = 1, bounds: Range = (-inf, inf), detail: Detail | None = None
    ) -> None:
        self.channels = channels
        self.bounds = bounds
        self.detail = detail or Detail()
        self.low, self.high = inf, -inf
        self.samples = self.count = self.not_finite = 0
        self.channel_low: Array | None = None
        self.channel_high: Array | None = None
        self.sums: Sum | None = None
        self.histogram = Histogram(self.detail.bins) if self.detail.full else None
        self._at_bounds = [False, False]

    @property
    def range(self) -> Range | None:
        """(low, high), or None where nothing finite was seen."""
        return (self.low, self.high) if self.low <= self.high else None

    @property
    def channel_mean(self) -> Float64 | None:
        """The mean per channel, [C], or None where it was not observed."""
        if self.sums is None or not self.count:
            return None
        # What was not finite counts as zeros: it tells nothing of the other channels.
        return self.sums.value / ((self.count + self.not_finite) / self.channels)

    @property
    def mean(self) -> float | None:
        """The mean, or None where it was not observed."""
        if self.sums is None or not self.count:
            return None
        return float(self.sums.value.sum()) / self.count

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
        if self.detail.full or self.detail.channel_mean:
            rows = _as_rows(values, self.channels)
            step = max(CHUNK // rows.shape[1], 1)
            sums = [
                self._add_rows(rows[start : start + step], scratch)
                for start in range(0, len(rows), step)
            ]
            self._take_sum(sums[0] if len(sums) == 1 else np.sum(sums, axis=0), 0.0)
        else:
            self._add_range(values)

    def merge(self, other: TensorStats) -> None:
        """Add what `other` saw of the same tensor; what only one observed is dropped."""
        if self.count and other.count:
            self._keep(other.detail)
        self.samples += other.samples
        self.count += other.count
        self.not_finite += other.not_finite
        self._take_range(other.low, other.high)
        if self.detail.full:
            self._take_channels(other.channel_low, other.channel_high)
        if other.sums is not None and (self.detail.full or self.detail.channel_mean):
            self._take_sum(other.sums.high, other.sums.low)
        if self.histogram is not None and other.histogram is not None:
            self.histogram.merge(other.histogram)

    def copy(self) -> TensorStats:
        """An independent copy."""
        twin = TensorStats(self.channels, self.bounds, self.detail)
        twin.merge(self)
        return twin

    def _keep(self, detail: Detail) -> None:
        """Drop what was not observed in `detail`."""
        if self.detail.full and not detail.full:
            self.histogram = self.channel_low = self.channel_high = None
            self.detail = replace(detail, channel_mean=True)
        if not (detail.full or detail.channel_mean):
            self.sums = None
            self.detail = detail

    def _add_range(self, values: Array) -> None:
        low, high = float(values.min()), float(values.max())
        if not (isfinite(low) and isfinite(high)):
            values = self._finite(values.reshape(-1))
            if not values.size:
                return
            low, high = float(values.min()), float(values.max())
        self._take_range(low, high)

    def _finite(self, flat: Array) -> Array:
        finite: Array = flat[np.isfinite(flat)]
        self.not_finite += flat.size - finite.size
        self.count -= flat.size - finite.size
        return finite

    def _add_rows(self, rows: Array, scratch: Scratch) -> Float64:
        """Take rows [R, k * C], at most CHUNK values or a single row; returns their sum, [C]."""
        channels = self.channels
        with np.errstate(invalid="ignore"):
            total: Float64 = rows.sum(0).reshape(-1, channels).sum(0, dtype=np.float64)
        if not np.isfinite(total).all():
            return self._add_damaged(rows.reshape(-1, channels), scratch)
        if not self.detail.full:
            self._take_range(float(rows.min()), float(rows.max()))
            return total
        low = high = None
        if not self._at_bounds[0]:
            low = rows.min(0).reshape(-1, channels).min(0)
        if not self._at_bounds[1]:
            high = rows.max(0).reshape(-1, channels).max(0)
        self._take_channels(low, high)
        self._count(rows.reshape(-1), scratch)
        return total

    def _count(self, flat: Array, scratch: Scratch) -> None:
        assert self.histogram is not None
        for start in range(0, flat.size, CHUNK):
            part = flat[start : start + CHUNK]
            self.histogram.add(part, self.low, self.high, scratch)

    def _add_damaged(self, rows: Array, scratch: Scratch) -> Float64:
        """Like `_add_rows`, of [R, C] with values that are not finite (or whose sum is not)."""
        good = np.isfinite(rows)
        total: Float64 = np.where(good, rows, 0).sum(0, dtype=np.float64)
        flat = self._finite(rows.reshape(-1))
        if flat.size and not self.detail.full:
            self._take_range(float(flat.min()), float(flat.max()))
        elif flat.size:
            self._take_channels(np.where(good, rows, inf).min(0), np.where(good, rows, -inf).max(0))
            self._count(flat, scratch)
        return total

    def _take_range(self, low: float, high: float) -> None:
        # Adding zero makes one of both zeros: which came first must not show.
        self.low, self.high = min(self.low, low) + 0.0, max(self.high, high) + 0.0

    def _take_channels(self, low: Array | None, high: Array | None) -> None:
        """Per channel; a side that lies at its bound in every channel cannot move any more."""
        if low is not None:
            mine = self.channel_low
            self.channel_low = (low if mine is None else np.minimum(mine, low)) + 0.0
            self.low = min(self.low, float(self.channel_low.min()))
            self._at_bounds[0] = bool((self.channel_low <= self.bounds[0]).all())
        if high is not None:
            mine = self.channel_high
            self.channel_high = (high if mine is None else np.maximum(mine, high)) + 0.0
            self.high = max(self.high, float(self.channel_high.max()))
            self._at_bounds[1] = bool((self.channel_high >= self.bounds[1]).all())

    def _take_sum(self, x: Float64, rest: Float64 | float) -> None:
        if self.sums is None:
            self.sums = Sum(np.zeros(self.channels))
        self.sums.add(x, rest)


def _as_rows(values: Array, channels: int) -> Array:
    """[..., C] as [R, k * C] with rows near `_ROW` values, without a copy."""
    return values.reshape(-1, channels * _fold(values.size // channels, channels))


@lru_cache(maxsize=4096)
def _fold(positions: int, channels: int) -> int:
    """How many positions make a row: a divisor of all of them."""
    most = min(max(_ROW // channels, 1), positions)
    return next(k for k in range(most, 0, -1) if positions % k == 0)
