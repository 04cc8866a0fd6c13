"""Statistics of a tensor against numpy."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfrewrite.calibrate.counting import CHUNK, Scratch
from qfrewrite.calibrate.observers import Detail, TensorStats
from qfrewrite.ir import Array

SCRATCH = Scratch()
FULL = Detail(channel_mean=True, full=True)


def observed(samples: Array, *, bounds: tuple[float, float] = (-inf, inf), detail: Detail = FULL
             ) -> TensorStats:  # fmt: skip
    stats = TensorStats(samples.shape[-1], bounds, detail)
    for sample in samples:
        stats.add(sample, SCRATCH)
    return stats


def same(a: TensorStats, b: TensorStats) -> bool:
    figures = [
        (s.low, s.high, s.samples, s.count, s.not_finite, s.mean, s.variance, s.sparsity)
        for s in (a, b)
    ]
    return (
        figures[0] == figures[1]
        and a.histogram == b.histogram
        and all(
            np.array_equal(getattr(a, k), getattr(b, k))
            for k in ("channel_low", "channel_high", "channel_mean")
        )
    )


@pytest.mark.parametrize(
    "shape", [(7, 9, 3), (1, 14, 14, 512), (1, 1), (5000,), (1, 300, 300, 8), (3, CHUNK + 5)]
)
def test_figures_equal_numpys(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).normal(1, 2, (3, *shape)).astype("f4")
    x[x < 0] = 0
    s = observed(x)
    flat = x.reshape(-1, shape[-1])
    assert (s.low, s.high, s.count, s.samples) == (x.min(), x.max(), x.size, 3)
    assert np.array_equal(s.channel_low, flat.min(0))
    assert np.array_equal(s.channel_high, flat.max(0))
    assert s.channel_mean == pytest.approx(flat.mean(0, dtype="f8"), rel=1e-5, abs=1e-6)
    assert s.mean == pytest.approx(x.mean(dtype="f8"), rel=1e-5)
    assert s.variance == pytest.approx(x.var(dtype="f8"), rel=1e-3)
    assert s.sparsity == (x == 0).mean()
    least = observed(x, detail=Detail())
    assert (least.low, least.high, least.mean) == (s.low, s.high, None)


@given(st.permutations(range(6)), st.integers(0, 6))
def test_order_and_merging_do_not_show(order: list[int], cut: int) -> None:
    x = np.random.default_rng(2).standard_t(2, (6, 4, 5, 3)).astype("f4")
    whole = observed(x)
    a, b = observed(x[order[:cut]]), observed(x[order[cut:]])
    b.merge(a)
    assert same(b, whole)


def test_values_that_are_not_finite_are_left_out_and_counted() -> None:
    x = np.random.default_rng(3).normal(size=(2, 4, 4, 3)).astype("f4")
    damaged = x.copy()
    damaged[0, 0, 0] = [np.nan, np.inf, -np.inf]
    good = np.isfinite(damaged)
    for detail in (Detail(), Detail(channel_mean=True), FULL):
        s = observed(damaged, detail=detail)
        assert s.not_finite == 3
        assert s.count == x.size - 3
        assert (s.low, s.high) == (damaged[good].min(), damaged[good].max())
    assert s.histogram is not None
    assert s.histogram.total == x.size - 3
    assert s.channel_low is not None
    assert np.isfinite(s.channel_low).all()
    nothing = observed(np.full((1, 2, 2, 3), np.nan, "f4"))
    assert nothing.range is None


def test_sums_that_overflow_float32_are_no_damage() -> None:
    s = observed(np.full((2, 64, 2), 3e38, "f4"))
    assert s.not_finite == 0
    assert s.mean == pytest.approx(3e38, rel=1e-6)


@pytest.mark.parametrize("bounds", [(0.0, 6.0), (0.0, inf)])
def test_bounds_save_work_and_change_nothing(bounds: tuple[float, float]) -> None:
    x = np.clip(np.random.default_rng(4).normal(2, 4, (5, 6, 6, 4)), *bounds).astype("f4")
    x[..., 3] += 1e-3  # a channel that never reaches zero
    x = np.minimum(x, bounds[1])
    assert same(observed(x, bounds=bounds), observed(x))


def test_empty_values_say_nothing() -> None:
    s = TensorStats(3, detail=FULL)
    s.add(np.zeros((0, 3), "f4"), SCRATCH)
    assert s.range is None
    assert s.mean is None
    assert s.sparsity is None
