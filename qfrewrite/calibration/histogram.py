"""A histogram that does not depend on the order of its values, and merges exactly.

Bins are a power of two wide and aligned at zero, so that the bins of one width nest in those of
the next: when the range grows, bins only merge. The width follows from the smallest and largest
value alone; counts are integers. Any order of values, and any split into histograms that are
added up, gives the same bins and the same counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp, ldexp, trunc

import numpy as np
import numpy.typing as npt

from qfrewrite.calibration.kernels import NO_BINS, Bins, Counts, Scratch, count
from qfrewrite.errors import UsageError
from qfrewrite.ir import Array
from qfrewrite.ir.dtypes import Float64

DEFAULT_BINS = 2048
BIN_LIMITS = (64, 8192)
# Bin numbers are computed as int16, and float32 needs 1 / width to be finite.
_BIN_NUMBER_BITS = 15
_LEAST_EXPONENT = -100
# A bin with more than this share of all values is cut into pieces to estimate losses.
_COARSE_SHARE = 1 / 256
_PIECES = 16


class Histogram:
    """Counts of finite float32 values in at most `bins` bins of width 2^exponent.

    Bin k holds the values x with trunc(x / width) == k: [k width, (k + 1) width) above zero, its
    mirror image below, and (-width, width) for k = 0. `first` is the number of the first bin,
    that of the smallest value seen; the last bin is that of the largest.
    """

    def __init__(self, bins: int = DEFAULT_BINS) -> None:
        if not BIN_LIMITS[0] <= bins <= BIN_LIMITS[1]:
            remedy = f"choose {BIN_LIMITS[0]} to {BIN_LIMITS[1]}"
            raise UsageError(f"{bins} bins", where="histogram", remedy=remedy)
        self.bins = bins
        self.low, self.high = np.inf, -np.inf
        self.exponent = _LEAST_EXPONENT
        self.zeros = 0
        self._base = 0
        self._counts: Counts = np.zeros(bins, np.int64)

    @property
    def width(self) -> float:
        """The width of a bin, in real units."""
        return ldexp(1.0, self.exponent)

    @property
    def empty(self) -> bool:
        """Whether nothing was counted."""
        return self.low > self.high

    @property
    def first(self) -> int:
        """The number of the first bin."""
        return 0 if self.empty else self._number(self.low)

    @property
    def counts(self) -> Counts:
        """The counts, [last - first + 1]; `zeros` of bin 0 are exactly zero."""
        first = self.first - self._base
        size = 0 if self.empty else self._number(self.high) - self.first + 1
        return np.array(self._counts[first : first + size])

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self._counts.sum())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        ours, theirs = (
            (h.bins, h.low, h.high, h.exponent, h.zeros, h.first) for h in (self, other)
        )
        return ours == theirs and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]

    @property
    def window(self) -> Bins:
        """Where values can be counted without growing: see `counted`."""
        return NO_BINS if self.empty else Bins(self.exponent, self._base, self._counts)

    def add(self, values: Array, low: float, high: float, scratch: Scratch) -> None:
        """Count `values`, [n] float32, all finite; low and high: their extremes."""
        if not values.size:
            return
        self._extend(low, high)
        # Below zero, quarters of bins and bins are not truncated alike.
        signed = self.low < 0 or self._base != 0
        self.zeros += count(values, self.window, scratch, signed=signed)

    def counted(self, low: float, high: float, zeros: int) -> None:
        """Take note of values that were counted in `window`; low and high: their extremes."""
        self._extend(low, high)
        self.zeros += zeros

    def merge(self, other: Histogram) -> None:
        """Add the counts of `other`, which must have as many bins."""
        if other.bins != self.bins:
            what = f"histograms of {self.bins} and {other.bins} bins do not add up"
            raise UsageError(what, remedy="calibrate both runs with the same number of bins")
        if other.empty:
            return
        self._extend(other.low, other.high)
        self._put(other.first, other.counts, self.exponent - other.exponent)
        self.zeros += other.zeros

    def distribution(self) -> Distribution:
        """The values as a density that is constant in each piece, and the exact zeros.

        A piece is a bin, or a fraction of one that holds much of all values.
        """
        if self.empty:
            nothing = np.zeros(0)
            return Distribution(nothing, nothing, nothing, 0, 0.0, 0.0)
        counts = self.counts.astype(np.float64)
        numbers = np.arange(self.first, self.first + counts.size + 1)
        edges = np.where(numbers > 0, numbers, numbers - 1) * self.width
        edges = np.clip(edges, self.low, self.high)
        if self.first <= 0 < self.first + counts.size:
            counts[-self.first] -= self.zeros
        left, right, counts = _refined(edges, counts)
        inside = counts > 0
        return Distribution(
            left[inside], right[inside], counts[inside], self.zeros, self.low, self.high
        )

    @staticmethod
    def restore(
        bins: int, low: float, high: float, exponent: int, zeros: int, counts: Counts
    ) -> Histogram:
        """The histogram that has these properties; raises ValueError where none has."""
        made = Histogram(bins)
        if not counts.size:
            return made
        made._extend(low, high)
        fits = made.exponent == exponent and made.counts.size == counts.size
        if not (fits and counts.min() >= 0 and counts[0] and counts[-1]):
            raise ValueError(f"its bins do not fit the values {low}..{high}")
        if zeros < 0 or zeros > (made._at_zero(counts)):
            raise ValueError(f"{zeros} zeros are more than its bins hold")
        made._put(made.first, counts, 0)
        made.zeros = zeros
        return made

    def _at_zero(self, counts: Counts) -> int:
        inside = self.first <= 0 < self.first + counts.size
        return int(counts[-self.first]) if inside else 0

    def _number(self, value: float) -> int:
        return trunc(ldexp(value, -self.exponent))

    def _extend(self, low: float, high: float) -> None:
        """Make the bins cover [low, high] as well."""
        if self.low <= low and high <= self.high:
            return
        low, high = min(self.low, low), max(self.high, high)
        exponent = _exponent(low, high, self.bins)
        first, last = trunc(ldexp(low, -exponent)), trunc(ldexp(high, -exponent))
        fits = self._base <= first and last < self._base + self.bins
        if self.empty or exponent != self.exponent or not fits:
            was, counts, doublings = self._base, self._counts, exponent - self.exponent
            self.exponent, self._base = exponent, first
            self._counts = np.zeros_like(counts)
            self._put(was, counts, doublings)
        self.low, self.high = low, high

    def _put(self, first: int, counts: Counts, doublings: int) -> None:
        """Add the counts of bins first, first + 1, ... as wide as now after so many doublings."""
        taken = np.flatnonzero(counts)
        numbers = _coarser(first + taken, doublings)
        np.add.at(self._counts, numbers - self._base, counts[taken])


@dataclass(frozen=True)
class Distribution:
    """A density that is constant in each of some bins, and a number of exact zeros.

    left, right, count: [B] float64, in real units; bins without width hold one repeated value.
    """

    left: Float64
    right: Float64
    count: Float64
    zeros: int
    low: float
    high: float

    @property
    def total(self) -> float:
        """How many values there are."""
        return float(self.count.sum()) + self.zeros

    def outside(self, low: float, high: float) -> float:
        """The fraction of values below `low` or above `high`."""
        if not self.total:
            return 0.0
        width = self.right - self.left
        safe = np.where(width > 0, width, 1.0)
        overlap = np.clip(self.right, low, high) - np.clip(self.left, low, high)
        at = (self.left >= low) & (self.left <= high)
        inside = float((np.where(width > 0, overlap / safe, at) * self.count).sum())
        inside += self.zeros * (low <= 0 <= high)
        return max(1 - inside / self.total, 0.0)

    @property
    def mean_square(self) -> float:
        """The mean of the squares."""
        squares = (self.left**2 + self.left * self.right + self.right**2) / 3
        return float((squares * self.count).sum()) / max(self.total, 1.0)

    @property
    def center(self) -> Float64:
        """The middle of each bin, [B]."""
        return (self.left + self.right) / 2


def _refined(edges: Float64, counts: Float64) -> tuple[Float64, Float64, Float64]:
    """Bins that hold much of all values, cut into pieces by a smooth cumulative distribution.

    Under heavy tails most values lie in few bins, and unevenly. The cumulative counts are
    interpolated by monotone cubics (Fritsch and Butland 1984): no piece gets a negative count.
    edges: [B + 1]; counts: [B]. Returns left, right and counts of the pieces.
    """
    width = np.diff(edges)
    coarse = (counts > _COARSE_SHARE * counts.sum()) & (width > 0)
    if not coarse.any():
        return edges[:-1], edges[1:], counts
    density = np.divide(counts, width, out=np.zeros_like(counts), where=width > 0)
    a, b = density[:-1], density[1:]
    wa, wb = 2 * width[1:] + width[:-1], width[1:] + 2 * width[:-1]
    both = (a > 0) & (b > 0)
    slope = np.zeros(edges.size)
    slope[1:-1][both] = ((wa + wb) / (wa / np.where(both, a, 1) + wb / np.where(both, b, 1)))[both]
    slope[0], slope[-1] = density[0], density[-1]
    # Cubic Hermite in t = 0..1 within each coarse bin.
    t = np.linspace(0, 1, _PIECES + 1)
    k = np.flatnonzero(coarse)
    upto = (
        counts[k, None] * (t**2 * (3 - 2 * t))
        + (width[k] * slope[k])[:, None] * (t * (1 - t) ** 2)
        - (width[k] * slope[k + 1])[:, None] * (t**2 * (1 - t))
    )
    cuts = edges[k, None] + width[k, None] * t
    cuts[:, -1] = edges[k + 1]
    return (
        np.concatenate([edges[:-1][~coarse], cuts[:, :-1].ravel()]),
        np.concatenate([edges[1:][~coarse], cuts[:, 1:].ravel()]),
        np.concatenate([counts[~coarse], np.maximum(np.diff(upto), 0).ravel()]),
    )


def _exponent(low: float, high: float, bins: int) -> int:
    """The least exponent whose bins cover [low, high] with no more than `bins` of them."""
    largest = max(-low, high)
    if largest == 0:
        return _LEAST_EXPONENT
    # |x| < 2^power.
    power = frexp(largest)[1]
    exponent = max(power - _BIN_NUMBER_BITS, _LEAST_EXPONENT)
    while trunc(ldexp(high, -exponent)) - trunc(ldexp(low, -exponent)) >= bins:
        exponent += 1
    return exponent


def _coarser(numbers: npt.NDArray[np.int64], doublings: int) -> npt.NDArray[np.int64]:
    """The numbers of the bins that these lie in once the width has doubled so many times."""
    magnitude: npt.NDArray[np.int64] = np.abs(numbers) >> min(doublings, 62)
    return np.where(numbers < 0, -magnitude, magnitude)
