"""Histograms: the same bins and counts in any order, exactly."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qfrewrite.calibrate.counting import CHUNK, Scratch
from qfrewrite.calibrate.histogram import Histogram
from qfrewrite.errors import UsageError
from qfrewrite.ir import Array

SCRATCH = Scratch()
FLOATS = st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from(
    [0.0, -0.0, 1e-42, -1e-42, 1.0, -1.0, 6.0, 2.0**-90]
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
