"""Statistics of a tensor against numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qfrewrite.calibration.kernels import CHUNK, Scratch
from qfrewrite.calibration.observers import Detail, TensorStats
from qfrewrite.ir import Array

SCRATCH = Scratch()
FULL = Detail(channel_mean=True, full=True)


def observed(samples: Array, *, detail: Detail = FULL) -> TensorStats:
    stats = TensorStats(samples.shape[-1], detail)
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
    n = 1 if shape[-1] > CHUNK else 3
    x = np.random.default_rng(1).normal(1, 2, (n, *shape)).astype("f4")
    x[x < 0] = 0
    s = observed(x)
    flat = x.reshape(-1, shape[-1])
    assert (s.low, s.high, s.count, s.samples) == (x.min(), x.max(), x.size, n)
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


def test_empty_values_say_nothing() -> None:
    s = TensorStats(3, detail=FULL)
    s.add(np.zeros((0, 3), "f4"), SCRATCH)
    assert s.range is None
    assert s.mean is None
    assert s.sparsity is None


FINITE = st.floats(-(2.0**20), 2.0**20, width=32)
ODD = FINITE | st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 2.0**-140, 6.0])


@given(st.data(), st.integers(1, 5), st.integers(1, 12))
def test_whatever_the_values_figures_equal_numpys(
    data: st.DataObject, channels: int, rows: int
) -> None:
    x = data.draw(arrays(np.float32, (rows, channels), elements=ODD))
    good = np.isfinite(x)
    # inf - inf within one channel warns: see the test of it below.
    with np.errstate(invalid="ignore"):
        stats = [observed(x[None], detail=d) for d in (FULL, Detail(), Detail(channel_mean=True))]
    for s in stats:
        assert (s.count, s.not_finite, s.samples) == (good.sum(), (~good).sum(), 1)
        assert s.range == ((x[good].min(), x[good].max()) if good.any() else None)
    full = stats[0]
    if not good.any():
        assert (full.mean, full.sparsity) == (None, None)
        return
    assert full.histogram is not None
    assert full.channel_low is not None
    assert full.channel_high is not None
    assert full.histogram.total == good.sum()
    assert full.sparsity == (x[good] == 0).mean()
    assert np.array_equal(full.channel_low, np.where(good, x, np.inf).min(0))
    assert np.array_equal(full.channel_high, np.where(good, x, -np.inf).max(0))
    # Sums are of float32 first: the error is relative to the sum of magnitudes.
    wide = x[good].astype("f8")
    assert full.mean == pytest.approx(wide.mean(), abs=1e-6 * np.abs(wide).mean() + 1e-40)


@given(arrays(np.float32, (6, 4, 3), elements=FINITE), st.data())
def test_any_split_gives_the_same_bits(x: Array, data: st.DataObject) -> None:
    """Also the means, bit for bit; of values whose sums two float64 hold exactly."""
    x = np.where(np.abs(x) < 2.0**-40, np.float32(0), x)
    order = data.draw(st.permutations(range(6)))
    a, b = sorted(data.draw(st.tuples(st.integers(0, 6), st.integers(0, 6))))
    parts = [observed(x[list(k)]) for k in (order[:a], order[a:b], order[b:])]
    whole = TensorStats(3, detail=FULL)
    for k in data.draw(st.permutations(range(3))):
        whole.merge(parts[k])
    wanted = observed(x)
    assert same(whole, wanted)
    assert whole.channel_mean is not None
    assert wanted.channel_mean is not None
    assert whole.channel_mean.tobytes() == (wanted.channel_mean + 0.0).tobytes()
    assert whole.mean == wanted.mean


def test_a_copy_is_independent() -> None:
    x = np.random.default_rng(5).normal(size=(3, 4, 2)).astype("f4")
    s = observed(x[:2])
    twin = s.copy()
    assert same(s, twin)
    twin.add(10 * x[2], SCRATCH)
    assert not same(s, twin)
    assert same(s, observed(x[:2]))
    into = TensorStats(2, detail=FULL)
    into.merge(s)
    into.add(10 * x[2], SCRATCH)
    assert same(into, twin)
    assert same(s, observed(x[:2]))


@pytest.mark.parametrize("shape", [(4, 6, 5), (1, 3, 2)])
def test_the_layout_in_memory_does_not_matter(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(6).normal(size=(*shape, 2)).astype("f4")
    wanted = observed(np.ascontiguousarray(x[:, :, ::-2, :].transpose(0, 2, 1, 3)))
    strided = x[:, :, ::-2, :].transpose(0, 2, 1, 3)
    readonly = strided.copy()
    readonly.setflags(write=False)
    assert same(observed(strided), wanted)
    assert same(observed(readonly), wanted)
    assert same(observed(np.asfortranarray(strided)), wanted)


@pytest.mark.parametrize(
    ("draw", "tolerance"),
    [
        (lambda rng: rng.normal(0.5, 2, 40_000), 1e-3),
        (lambda rng: np.maximum(rng.normal(0, 1, 40_000), 0), 1e-3),
        (lambda rng: rng.standard_t(3, 40_000), 1e-2),
        (lambda rng: np.exp(rng.normal(0, 1, 40_000)), 1e-2),
        (lambda rng: rng.uniform(-3, -1, 40_000), 1e-3),
    ],
)
def test_the_variance_is_numpys(
    draw: Callable[[np.random.Generator], Array], tolerance: float
) -> None:
    x = draw(np.random.default_rng(7)).astype("f4")
    s = observed(x.reshape(1, -1, 1))
    assert s.variance == pytest.approx(x.var(dtype="f8"), rel=tolerance)
    assert s.std == pytest.approx(x.std(dtype="f8"), rel=tolerance)


@pytest.mark.parametrize("shape", [(149 * 149, 32), (20_011, 3), (20_011, 1)])
def test_sums_of_many_equal_values_stay_close(shape: tuple[int, ...]) -> None:
    """The worst case of float32 sums: every rounding goes the same way. Rows do not fold here."""
    s = observed(np.full((1, *shape), 0.1, "f4"))
    assert s.channel_mean == pytest.approx(np.full(shape[1], np.float32(0.1), "f8"), rel=5e-4)


@pytest.mark.parametrize("detail", [Detail(channel_mean=True), FULL])
def test_opposite_infinities_do_not_warn(detail: Detail) -> None:
    assert observed(np.array([[[np.inf], [-np.inf], [1]]], "f4"), detail=detail).not_finite == 2


def test_nan_in_one_channel_leaves_the_other_means_alone() -> None:
    x = np.array([[[np.nan, 1], [2, 1], [4, 1]]], "f4")
    assert observed(x).channel_mean == pytest.approx([2, 1])


def test_the_sign_of_zero_does_not_depend_on_order() -> None:
    a, b = np.array([[[0.0], [1.0]]], "f4"), np.array([[[-0.0], [1.0]]], "f4")
    ours, theirs = (observed(np.concatenate(pair)) for pair in ((a, b), (b, a)))
    assert np.signbit(ours.low) == np.signbit(theirs.low)


@pytest.mark.parametrize("detail", [Detail(), Detail(channel_mean=True)])
def test_of_statistics_in_different_detail_what_both_have_adds_up(detail: Detail) -> None:
    x = np.random.default_rng(8).normal(size=(2, 5, 3)).astype("f4")
    twice = np.concatenate([x, x])
    for first, second in [(FULL, detail), (detail, FULL)]:
        s = observed(x, detail=first)
        s.merge(observed(x, detail=second))
        wanted = observed(twice, detail=detail)
        assert same(s, wanted)
        assert s.detail.full == detail.full
