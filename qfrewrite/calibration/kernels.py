"""The inner loops of observing activations: compiled where that was built, else by numpy.

Both give the same bits. The compiled loops (`_kernels.c`) take a quarter to a third of the time and
do not hold Python's lock; `QFREWRITE_NO_COMPILED=1` switches them off.
"""

from __future__ import annotations

import os
from math import ldexp
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qfrewrite.ir import Array
from qfrewrite.ir.dtypes import Float64

Counts = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

# How many values are looked at in one step: temporaries stay in the cache, and numpy's fixed
# cost per call (about 1 us) stays small beside its work.
CHUNK = 1 << 18
# Numpy counts into as many tables as this, interleaved: adding to one place again and again (a
# ReLU's zeros) waits for the addition before it. Measured: 1.0 instead of 1.6 ns a value.
_TABLES_LOG2 = 2
_TABLES = 1 << _TABLES_LOG2

try:
    if os.environ.get("QFREWRITE_NO_COMPILED"):
        raise ImportError
    from qfrewrite.calibration import _kernels
except ImportError:
    COMPILED = False
else:
    COMPILED = True


class Scratch:
    """Temporary arrays that observers share, for `CHUNK` values; for one thread at a time."""

    def __init__(self) -> None:
        if not COMPILED:
            self.allocate()

    def allocate(self) -> None:
        """Make what numpy's way needs."""
        self.code = np.empty(CHUNK, np.int16)
        self.index = np.empty(CHUNK, np.int64)
        self.flag = np.empty(CHUNK, np.bool_)
        self.table = (np.arange(CHUNK) % _TABLES).astype(np.int16)


class Bins(NamedTuple):
    """Bins of width 2^exponent; the first of them is number `base`."""

    exponent: int
    base: int
    counts: Counts


NO_BINS = Bins(0, 0, np.zeros(0, np.int64))


def observe(
    rows: Array, ends: Float32, sums: Float64, bins: Bins = NO_BINS
) -> tuple[float, float, int] | None:
    """Update minimum, maximum and sum of each channel; returns the extremes so far, and zeros.

    rows: [R, k * C] float32, contiguous; ends: [2, C], the minima and the maxima; sums: [2, C],
    the second row what rounding took from the first (Knuth's two-sum). The values are counted in
    `bins` on the way if they all lie within; zeros is then how many of them are zero, else -1: they
    are still to be counted. None where a value or a sum is not finite: then nothing was updated.
    """
    width = rows.shape[1]
    step = max(CHUNK // width, 1)
    if COMPILED:
        inverse = ldexp(1.0, -bins.exponent)
        return _kernels.observe(rows, width, step, ends, sums, inverse, bins.base, bins.counts)
    extremes = observe_numpy(rows, step, ends, sums)
    return None if extremes is None else (*extremes, -1)


def observe_numpy(
    rows: Array, step: int, ends: Float32, sums: Float64
) -> tuple[float, float] | None:
    """`observe` by numpy alone, `step` rows at a time."""
    channels = ends.shape[1]
    total: Float64 | None = None
    lows, highs = [], []
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            folded = _sum(_sum(part, np.float32).reshape(-1, channels), np.float64)
            total = folded if total is None else total + folded
            lows.append(part.min(0).reshape(-1, channels).min(0))
            highs.append(part.max(0).reshape(-1, channels).max(0))
    if total is None or not np.isfinite(total).all():
        return None
    add_exactly(sums, total)
    widen(ends, np.min(lows, axis=0), np.max(highs, axis=0))
    return float(ends[0].min()), float(ends[1].max())


def widen(ends: Float32, low: Array, high: Array) -> None:
    """Make minima and maxima, ends [2, C], cover low [C] and high [C]."""
    # Adding zero makes one of both zeros: which came first must not show.
    ends[0] = np.minimum(ends[0], low) + np.float32(0)
    ends[1] = np.maximum(ends[1], high) + np.float32(0)


def add_exactly(sums: Float64, x: Float64, rest: Float64 | float = 0.0) -> None:
    """Add x [n], and `rest`, what rounding took from it, to sums [2, n].

    Knuth's two-sum keeps what each addition rounds away (Ogita, Rump, Oishi 2005): in twice the
    working precision the order of additions does not show.
    """
    total = sums[0] + x
    back = total - sums[0]
    sums[1] += (sums[0] - (total - back)) + (x - back) + rest
    sums[0] = total


def count(values: Array, bins: Bins, scratch: Scratch, *, signed: bool) -> int:
    """Add 1 to counts[trunc(x / 2^exponent) - base] for each x; returns the number of zeros.

    values: [n] float32, contiguous, finite, within the bins; signed: whether some values may lie
    below zero, or the first bin is not bin 0.
    """
    if COMPILED:
        return _kernels.count(values, ldexp(1.0, -bins.exponent), bins.base, bins.counts)
    return sum(
        count_numpy(values[i : i + CHUNK], bins, scratch, signed=signed)
        for i in range(0, values.size, CHUNK)
    )


def count_numpy(values: Array, bins: Bins, scratch: Scratch, *, signed: bool) -> int:
    """`count` by numpy alone, of no more than `CHUNK` values."""
    size = values.size
    code, index, table = scratch.code[:size], scratch.index[:size], scratch.table[:size]
    if signed:
        # An exact product (a power of two), and an exact truncation.
        np.multiply(values, np.float32(ldexp(1.0, -bins.exponent)), out=code, casting="unsafe")
        np.subtract(code, np.int16(bins.base), out=code)
        np.left_shift(code, _TABLES_LOG2, out=code)
    else:
        # Quarters of bins serve as tables: values spread over them by themselves, and zeros, all
        # in the first quarter, by the pattern in `table`.
        inverse = np.float32(ldexp(1.0, _TABLES_LOG2 - bins.exponent))
        np.multiply(values, inverse, out=code, casting="unsafe")
    np.bitwise_or(code, table, out=code)
    np.copyto(index, code)
    tables = np.bincount(index, minlength=bins.counts.size << _TABLES_LOG2)
    np.add(bins.counts, tables.reshape(-1, _TABLES).sum(1), out=bins.counts)
    return int(np.count_nonzero(np.equal(values, 0, out=scratch.flag[:size])))


def _sum(rows: Array, dtype: npt.DTypeLike) -> Array:
    """The sum over rows [R, n], row by row as the compiled loop adds them.

    Where n is 1 numpy's own sum adds pairs of pairs.
    """
    pairwise = rows.shape[1] == 1
    total = np.cumsum(rows, axis=0, dtype=dtype)[-1] if pairwise else rows.sum(0, dtype=dtype)
    return np.asarray(total)
