"""Compiled counting equals numpy's, and is safe whatever it is given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qfrewrite.calibration.counting import COMPILED, Scratch, count_numpy
from qfrewrite.ir import Array

pytestmark = pytest.mark.skipif(not COMPILED, reason="the compiled kernel was not built")
SCRATCH = Scratch()
SCRATCH.allocate()
INSIDE = st.floats(-31.96875, 31.96875, width=32) | st.sampled_from([0.0, -0.0, 2.0**-140, -0.125])


@given(arrays(np.float32, st.integers(1, 600), elements=INSIDE), st.booleans())
def test_both_ways_count_the_same(values: Array, signed: bool) -> None:
    from qfrewrite.calibration import _count

    values = values if signed else np.abs(values)
    base = -127 if signed else 0
    compiled, plain = np.zeros((256, 4), np.int64), np.zeros((256, 4), np.int64)
    zeros = _count.count(values, 4.0, base, compiled)
    wanted = count_numpy(values, -2, base, plain, SCRATCH, signed=signed)
    assert zeros == wanted == int((values == 0).sum())
    assert np.array_equal(compiled.sum(1), plain.sum(1))
    assert compiled.sum() == values.size


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38, -1e38, 256.0, -1.0])
@pytest.mark.parametrize("size", [1, 255, 256, 257, 1000])
def test_values_outside_are_counted_nowhere(bad: float, size: int) -> None:
    from qfrewrite.calibration import _count

    guarded = np.zeros((256 + 2, 4), np.int64)
    values = np.full(size, 3.0, "f4")
    values[-1] = bad
    with pytest.raises(ValueError, match="1 values lie outside"):
        _count.count(values, 1.0, 0, guarded[1:-1])
    assert guarded[4].sum() == size - 1
    assert guarded.sum() == size - 1


def test_wrong_arguments_are_refused() -> None:
    from qfrewrite.calibration import _count

    x, tables = np.zeros(4, "f4"), np.zeros((8, 4), np.int64)
    with pytest.raises((ValueError, BufferError, TypeError)):
        _count.count(x[::2], 1.0, 0, tables)
    with pytest.raises((ValueError, BufferError, TypeError)):
        _count.count(x, 1.0, 0, tables.T)
    with pytest.raises((ValueError, BufferError, TypeError)):
        _count.count(x, 1.0, 0, b"0" * 64)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="outside"):
        _count.count(x, 1.0, 0, tables[:0])
    with pytest.raises(ValueError, match="outside"):
        _count.count(x, 1.0, 2**40, tables)
