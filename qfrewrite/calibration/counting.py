"""Counting values into the tables of a histogram: compiled where that was built, else by numpy.

Both give the same counts. Compiled (`_count.c`) it takes half the time and does not hold Python's
lock; `QFREWRITE_NO_COMPILED=1` leaves it out.
"""

from __future__ import annotations

import os
from math import ldexp

import numpy as np
import numpy.typing as npt

from qfrewrite.ir import Array

Counts = npt.NDArray[np.int64]

# Values are counted in as many tables as this, interleaved: adding to one place again and again
# (a ReLU's zeros) waits for the addition before it. Measured: 1.0 instead of 1.6 ns a value.
TABLES_LOG2 = 2
TABLES = 1 << TABLES_LOG2
# How many values are looked at in one step: temporaries stay in the cache, and numpy's fixed
# cost per call (about 1 us) stays small beside its work.
CHUNK = 1 << 18

try:
    if os.environ.get("QFREWRITE_NO_COMPILED"):
        raise ImportError
    from qfrewrite.calibration import _count
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
        self.table = (np.arange(CHUNK) % TABLES).astype(np.int16)


def count(
    values: Array, exponent: int, base: int, tables: Counts, scratch: Scratch, *, signed: bool
) -> int:
    """Add 1 to tables[trunc(x / 2^exponent) - base, k] for each x, for any k; returns the zeros.

    values: [n] float32, contiguous, n <= CHUNK, finite, within the bins; tables: [bins, TABLES];
    signed: whether some values may lie below zero, or the first bin is not bin 0.
    """
    if COMPILED:
        return _count.count(values, ldexp(1.0, -exponent), base, tables)
    return count_numpy(values, exponent, base, tables, scratch, signed=signed)


def count_numpy(
    values: Array, exponent: int, base: int, tables: Counts, scratch: Scratch, *, signed: bool
) -> int:
    """`count` by numpy alone."""
    size = values.size
    code, index, table = scratch.code[:size], scratch.index[:size], scratch.table[:size]
    if signed:
        # An exact product (a power of two), and an exact truncation.
        np.multiply(values, np.float32(ldexp(1.0, -exponent)), out=code, casting="unsafe")
        np.subtract(code, np.int16(base), out=code)
        np.left_shift(code, TABLES_LOG2, out=code)
    else:
        # Quarters of bins serve as tables: values spread over them by themselves, and zeros, all
        # in the first quarter, by the pattern in `table`.
        inverse = np.float32(ldexp(1.0, TABLES_LOG2 - exponent))
        np.multiply(values, inverse, out=code, casting="unsafe")
    np.bitwise_or(code, table, out=code)
    np.copyto(index, code)
    tables += np.bincount(index, minlength=tables.size).reshape(tables.shape)
    return int(np.count_nonzero(np.equal(values, 0, out=scratch.flag[:size])))
