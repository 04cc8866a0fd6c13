"""Histograms: the same bins and counts in any order, exactly."""

from __future__ import annotations

from copy import deepcopy
from fractions import Fraction
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qfrewrite.calibration import kernels
from qfrewrite.calibration.histogram import Histogram
from qfrewrite.calibration.kernels import CHUNK, Scratch
from qfrewrite.errors import UsageError
from qfrewrite.ir import Array

SCRATCH = Scratch()
FLOATS = st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from(
    [0.0, -0.0, 2.0**-140, -(2.0**-140), 1.0, -1.0, 6.0, 2.0**-90]
)
VALUES = arrays(np.float32, st.integers(1, 60), elements=FLOATS)


def counted(*parts: Array, bins: int = 64) -> Histogram:
    made = Histogram(bins)
    for part in parts:
        if part.size:
            made.add(part, float(part.min()), float(part.max()), SCRATCH)
    return made


def by_hand(values: Array, h: Histogram) -> dict[int, int]:
    """Bin number -> count, in exact arithmetic."""
    width = Fraction(2) ** h.exponent
    found: dict[int, int] = {}
    for value in values.tolist():
        quotient = Fraction(value) / width
        number = int(quotient)  # towards zero
        found[number] = found.get(number, 0) + 1
    return found


@given(VALUES)
@example(np.array([1.0, 1.0], "f4"))
@example(np.array([-6, -5.5, -5.9], "f4"))
@example(np.array([1e-42, 2.0**99], "f4"))
def test_bins_hold_what_exact_arithmetic_says(values: Array) -> None:
    h = counted(values)
    held = {h.first + k: int(n) for k, n in enumerate(h.counts) if n}
    assert held == by_hand(values, h)
    assert h.counts.size <= h.bins
    assert h.zeros == int((values == 0).sum())
    assert h.total == values.size


@given(VALUES, st.randoms(use_true_random=False), st.integers(0, 60), st.integers(0, 60))
def test_order_and_split_do_not_matter(values: Array, random: object, a: int, b: int) -> None:
    shuffled = values.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    a, b = sorted((min(a, values.size), min(b, values.size)))
    parts = [counted(p) for p in (shuffled[:a], shuffled[a:b], shuffled[b:])]
    merged = parts[2]
    merged.merge(parts[0])
    merged.merge(parts[1])
    assert merged == counted(values)
    assert counted(shuffled[:a], shuffled[a:b], shuffled[b:]) == counted(values)


@given(VALUES)
def test_a_wider_range_only_merges_bins(values: Array) -> None:
    h = counted(values)
    before = {h.first + k: int(n) for k, n in enumerate(h.counts) if n}
    exponent = h.exponent
    far = np.array([2.0**110], "f4")
    h.add(far, float(far[0]), float(far[0]), SCRATCH)
    merged: dict[int, int] = {}
    for number, count in before.items():
        magnitude = abs(number) >> (h.exponent - exponent)
        key = magnitude if number >= 0 else -magnitude
        merged[key] = merged.get(key, 0) + count
    after = {h.first + k: int(n) for k, n in enumerate(h.counts) if n}
    last = max(after)
    assert after.pop(last) == 1
    assert after == merged


@given(VALUES)
def test_the_distribution_keeps_every_value(values: Array) -> None:
    h = counted(values)
    d = h.distribution()
    assert d.total == pytest.approx(values.size)
    assert (d.left <= d.right).all()
    if d.left.size:
        assert d.left.min() >= h.low
        assert d.right.max() <= h.high


def test_resolution_is_at_least_half_the_bins() -> None:
    values = np.linspace(0, 6, 5000, dtype="f4")
    h = counted(values, bins=2048)
    assert 1024 <= h.counts.size <= 2048
    assert h.width == 2.0**-8


def test_more_values_than_a_chunk_and_other_numbers_of_bins() -> None:
    values = np.random.default_rng(0).normal(size=CHUNK).astype("f4")
    h = counted(values, values[: CHUNK // 2], bins=2048)
    assert h.total == CHUNK + CHUNK // 2
    with pytest.raises(UsageError, match="do not add up"):
        h.merge(Histogram(64))
    with pytest.raises(UsageError, match="64 to 8192"):
        Histogram(63)


@given(VALUES)
def test_a_histogram_is_restored_from_its_figures(values: Array) -> None:
    h = counted(values)
    assert Histogram.restore(h.bins, h.low, h.high, h.exponent, h.zeros, h.counts) == h
    with pytest.raises(ValueError, match="do not fit"):
        Histogram.restore(h.bins, h.low, h.high, h.exponent + 1, h.zeros, h.counts)
    with pytest.raises(ValueError, match="more than"):
        Histogram.restore(h.bins, h.low, h.high, h.exponent, values.size + 1, h.counts)


# All of float32, and arrays of one sort: one value, one sign, tiny, huge, zeros.
WHOLE = st.floats(width=32, allow_nan=False, allow_infinity=False)
SORTS = st.sampled_from([
    WHOLE,
    st.floats(-(2.0**-126), 2.0**-126, width=32),
    st.floats(-1000, -1, width=32),
    st.floats(2.0**9, 2.0**10, width=32),
    st.floats(-1, 1, width=32) | st.just(0.0),
    st.sampled_from([0.0, -0.0]),
    st.sampled_from([3.4028234663852886e38, -3.4028234663852886e38, 1.0, 0.0]),
])  # fmt: skip
ANY = SORTS.flatmap(lambda s: arrays(np.float32, st.integers(1, 40), elements=s)) | WHOLE.map(
    lambda v: np.full(7, v, "f4")
)
BINS = st.sampled_from([64, 65, 100, 1000, 2048, 8192])


def held(h: Histogram) -> dict[int, int]:
    return {h.first + k: int(n) for k, n in enumerate(h.counts) if n}


@given(ANY, BINS)
def test_any_values_lie_in_the_bins_of_exact_arithmetic(values: Array, bins: int) -> None:
    h = counted(values, bins=bins)
    assert held(h) == by_hand(values, h)
    assert (h.total, h.zeros) == (values.size, int((values == 0).sum()))
    assert (h.low, h.high) == (values.min(), values.max())
    # The extremes' bins are the ends, and there are no more than asked for.
    assert h.counts[0]
    assert h.counts[-1]
    assert h.counts.size <= bins


@given(ANY, BINS)
def test_bins_are_no_wider_than_need_be(values: Array, bins: int) -> None:
    h = counted(values, bins=bins)
    half = Fraction(2) ** (h.exponent - 1)
    low, high = (int(Fraction(float(v)) / half) for v in (values.min(), values.max()))
    # Half as wide there were too many; or bin numbers, or float32, do not reach further.
    limit = max(-low, high) >= 2**15 or h.exponent == Histogram(bins).exponent
    assert high - low >= bins or limit


@given(ANY, BINS, st.randoms(use_true_random=False))
def test_one_value_at_a_time_in_any_order_is_all_at_once(
    values: Array, bins: int, random: Random
) -> None:
    shuffled = values.tolist()
    random.shuffle(shuffled)
    apart = counted(*(np.array([v], "f4") for v in shuffled), bins=bins)
    whole = counted(values, bins=bins)
    assert apart == whole
    # What is added together may come with the extremes so far rather than its own.
    again = Histogram(bins)
    for part in np.array_split(np.array(shuffled, "f4"), 3):
        if part.size:
            again.add(part, float(values.min()), float(values.max()), SCRATCH)
    assert again == whole


@given(st.lists(ANY, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_merging_is_addition(parts: list[Array], random: Random) -> None:
    """Any tree of merges, with empty histograms among them; what is merged stays as it was."""
    whole = counted(*parts)
    leaves = [counted(p) for p in parts] + [Histogram(64)]
    before = [deepcopy(h) for h in leaves]
    pool = list(leaves)
    while len(pool) > 1:
        random.shuffle(pool)
        a, b = deepcopy(pool.pop()), pool.pop()
        a.merge(b)
        pool.append(a)
    assert pool[0] == whole
    assert leaves == before
    twice = deepcopy(whole)
    twice.merge(twice)
    assert np.array_equal(twice.counts, 2 * whole.counts)
    assert twice.zeros == 2 * whole.zeros
    assert whole != twice


@given(ANY, BINS)
def test_pieces_hold_what_their_bin_holds(values: Array, bins: int) -> None:
    h = counted(values, bins=bins)
    d = h.distribution()
    assert (d.count > 0).all()
    assert d.zeros == h.zeros
    assert d.total == pytest.approx(values.size, rel=1e-12)
    order = np.argsort(d.left + d.right, kind="stable")
    # Up to rounding: pieces are cut by float64 arithmetic.
    slack = 1e-12 * max(abs(h.low), abs(h.high))
    assert (d.right[order][:-1] <= d.left[order][1:] + slack).all()
    numbers = np.trunc((d.left + d.right) / 2 / h.width).astype(int)
    found = {int(n): float(d.count[numbers == n].sum()) for n in set(numbers.tolist())}
    wanted = held(h)
    wanted[0] = wanted.get(0, 0) - h.zeros
    assert found == pytest.approx({n: c for n, c in wanted.items() if c}, rel=1e-9)


@given(ANY, st.floats(0, 1), st.floats(0, 1))
def test_what_lies_outside_is_known_up_to_the_bins_cut(values: Array, a: float, b: float) -> None:
    h = counted(values, bins=2048)
    low, high = (float(v) for v in np.float64([min(h.low, 0), max(h.high, 0)]) * sorted((a, b)))
    outside = h.distribution().outside(low, high)
    wide = values.astype("f8")
    exact = float(((wide < low) | (wide > high)).mean())
    numbers = {int(Fraction(end) / Fraction(h.width)) for end in (low, high)}
    cut = sum(held(h).get(n, 0) for n in numbers) / values.size
    assert abs(outside - exact) <= cut + 1e-9
    assert 0 <= outside <= 1


@pytest.mark.skipif(not kernels.COMPILED, reason="the compiled kernel was not built")
@given(ANY, BINS)
def test_without_the_compiled_kernel_all_is_the_same(values: Array, bins: int) -> None:
    whole = counted(values, values[: values.size // 2], bins=bins)
    plain = Scratch()
    plain.allocate()
    h = Histogram(bins)
    with patch.object(kernels, "COMPILED", False):
        for part in (values, values[: values.size // 2]):
            if part.size:
                h.add(part, float(part.min()), float(part.max()), plain)
    assert h == whole


def test_figures_that_no_histogram_has_are_refused() -> None:
    h = counted(np.array([-3, 0, 0, 1, 2.5], "f4"))
    counts = h.counts

    def restore(**other: object) -> Histogram:
        given: dict[str, Any] = {
            "bins": h.bins, "low": h.low, "high": h.high, "exponent": h.exponent,
            "zeros": h.zeros, "counts": counts, **other,
        }  # fmt: skip
        return Histogram.restore(**given)

    assert restore() == h
    minus = counts.copy()
    minus[1] = -1
    wrong: list[dict[str, object]] = [
        {"exponent": h.exponent - 1}, {"counts": counts[:-1]}, {"counts": np.append(counts, 1)},
        {"counts": minus}, {"zeros": -1}, {"zeros": 3}, {"high": 40.0}, {"low": -2.0},
        {"bins": 2048},
    ]  # fmt: skip
    for other in wrong:
        with pytest.raises(ValueError, match=r"do not fit|more than"):
            restore(**other)
    assert Histogram.restore(64, 0.0, 0.0, 0, 0, counts[:0]).empty


@pytest.mark.parametrize("end", [0, -1])
def test_the_bins_of_both_extremes_hold_something(end: int) -> None:
    h = counted(np.array([-3, 0, 0, 1, 2.5], "f4"))
    counts = h.counts
    counts[end] = 0
    with pytest.raises(ValueError, match="fit"):
        Histogram.restore(h.bins, h.low, h.high, h.exponent, h.zeros, counts)


def test_of_no_values_none_lie_outside() -> None:
    assert Histogram(64).distribution().outside(-1, 1) == 0
