"""The compiled loops equal numpy's to the bit, and are safe whatever they are given."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qfrewrite.calibration import kernels
from qfrewrite.calibration.kernels import COMPILED, Bins, Scratch, count_numpy, observe_numpy
from qfrewrite.calibration.observers import Detail, TensorStats
from qfrewrite.ir import Array

pytestmark = pytest.mark.skipif(not COMPILED, reason="the compiled kernel was not built")
SCRATCH = Scratch()
SCRATCH.allocate()
# Tables of their own serve where there are many values for each bin.
SIZES = st.integers(1, 40) | st.integers(2000, 2600)
INSIDE = st.floats(-31.96875, 31.96875, width=32) | st.sampled_from([0.0, -0.0, 2.0**-140, -0.125])


@given(
    arrays(np.float32, SIZES, elements=INSIDE, fill=st.sampled_from([0.0, 1.5, 31.0])),
    st.booleans(),
)
def test_both_ways_count_the_same(values: Array, signed: bool) -> None:
    from qfrewrite.calibration import _kernels

    values = values if signed else np.abs(values)
    base = -127 if signed else 0
    compiled, plain = np.zeros(256, np.int64), np.zeros(256, np.int64)
    zeros = _kernels.count(values, 4.0, base, compiled)
    wanted = count_numpy(values, Bins(-2, base, plain), SCRATCH, signed=signed)
    assert zeros == wanted == int((values == 0).sum())
    assert np.array_equal(compiled, plain)
    assert compiled.sum() == values.size


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38, -1e38, 256.0, -1.0])
@pytest.mark.parametrize("size", [1, 255, 256, 257, 3000])
def test_values_outside_are_counted_nowhere(bad: float, size: int) -> None:
    from qfrewrite.calibration import _kernels

    guarded = np.zeros(256 + 2, np.int64)
    values = np.full(size, 3.0, "f4")
    values[-1] = bad
    with pytest.raises(ValueError, match="1 values lie outside"):
        _kernels.count(values, 1.0, 0, guarded[1:-1])
    assert guarded[4] == size - 1
    assert guarded.sum() == size - 1


def test_wrong_arguments_are_refused() -> None:
    from qfrewrite.calibration import _kernels

    x, tables = np.zeros(4, "f4"), np.zeros(8, np.int64)
    with pytest.raises((ValueError, BufferError, TypeError)):
        _kernels.count(x[::2], 1.0, 0, tables)
    with pytest.raises((ValueError, BufferError, TypeError)):
        _kernels.count(x, 1.0, 0, tables[::2])
    with pytest.raises((ValueError, BufferError, TypeError)):
        _kernels.count(x, 1.0, 0, b"0" * 64)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="outside"):
        _kernels.count(x, 1.0, 0, tables[:0])
    with pytest.raises(ValueError, match="outside"):
        _kernels.count(x, 1.0, 2**40, tables)


# Where nothing is counted.
NOTHING = (1.0, 0, np.zeros(0, np.int64))


def new_statistics(channels: int) -> tuple[Array, Array]:
    return np.tile(np.array([[np.inf], [-np.inf]], np.float32), channels), np.zeros((2, channels))


@pytest.mark.parametrize("step", [1, 3, 100])
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_both_ways_observe_the_same(
    step: int, rows: int, channels: int, fold: int, seed: int
) -> None:
    """Bit for bit: a sum in another order, or a zero of another sign, would show."""
    from qfrewrite.calibration import _kernels

    rng = np.random.default_rng(seed)
    compiled, plain = new_statistics(channels), new_statistics(channels)
    for _ in range(3):
        x = (rng.standard_t(2, (rows, fold * channels)) * rng.choice([0, -0.0, 1, 1e9])).astype(
            "f4"
        )
        extremes = _kernels.observe(x, fold * channels, step, *compiled, *NOTHING)
        assert extremes == (*observe_numpy(x, step, *plain), -1)
        for a, b in zip(compiled, plain, strict=True):
            assert a.tobytes() == b.tobytes()
    assert extremes == (compiled[0][0].min(), compiled[0][1].max(), -1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("way", ["compiled", "numpy"])
def test_nothing_is_updated_by_values_that_are_not_finite(bad: float, way: str) -> None:
    from qfrewrite.calibration import _kernels

    x = np.ones((70, 66), np.float32)
    x[69, 65] = bad
    ends, sums = new_statistics(33)
    before = ends.tobytes() + sums.tobytes()
    if way == "compiled":
        assert _kernels.observe(x, 66, 8, ends, sums, *NOTHING) is None
    else:
        assert observe_numpy(x, 8, ends, sums) is None
    assert ends.tobytes() + sums.tobytes() == before


@pytest.mark.parametrize(
    ("width", "step", "channels"), [(5, 1, 2), (7, 1, 7), (6, 0, 2), (0, 1, 2), (-6, 1, 2)]
)
def test_sizes_that_do_not_fit_are_refused(width: int, step: int, channels: int) -> None:
    from qfrewrite.calibration import _kernels

    with pytest.raises(ValueError, match="sizes do not fit"):
        _kernels.observe(np.ones((5, 6), "f4"), width, step, *new_statistics(channels), *NOTHING)
    with pytest.raises(ValueError, match="sizes do not fit"):
        _kernels.observe(
            np.ones((5, 6), "f4"), 6, 1, new_statistics(3)[0], new_statistics(2)[1], *NOTHING
        )


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("rows", [3, 700])
def test_values_are_counted_on_the_way_or_not_at_all(rows: int, inside: bool) -> None:
    """Few values are left to `count`; one beyond the bins leaves all of them."""
    from qfrewrite.calibration import _kernels

    x = np.random.default_rng(0).integers(0, 63, (rows, 8)).astype("f4")
    x[-1, -1] = 63 if inside else 64
    counts = np.zeros(64 + 2, np.int64)
    ends, sums = new_statistics(4)
    low, high, zeros = _kernels.observe(x, 8, 100, ends, sums, 1.0, 0, counts[1:-1])
    assert (low, high) == (x.min(), x.max())
    if inside and rows > 3:
        assert zeros == (x == 0).sum()
        assert np.array_equal(counts[1:-1], np.bincount(x.astype(int).ravel(), minlength=64))
    else:
        assert zeros == -1
        assert not counts.any()


@given(st.lists(st.sampled_from([0.0, 1e-3, 1.0, 7.0, 300.0, -5.0, -2e4]), min_size=1, max_size=6))
def test_statistics_without_the_compiled_loops_are_the_same(scales: list[float]) -> None:
    """Ranges that grow, or lie far from zero, in any order: counted on the way or afterwards."""
    rng = np.random.default_rng(0)
    compiled, plain = (TensorStats(3, Detail(True, True, 64)) for _ in range(2))
    for scale in scales:
        x = (scale + abs(scale) * rng.normal(0, 1e-2, (300, 3))).astype("f4")
        compiled.add(x, SCRATCH)
        with patch.object(kernels, "COMPILED", False):
            plain.add(x, SCRATCH)
    assert compiled.histogram == plain.histogram
    assert compiled.histogram is not None
    assert compiled.histogram.total == 900 * len(scales)
    assert (compiled.low, compiled.high, compiled.mean) == (plain.low, plain.high, plain.mean)
