"""Fitting and rounding of one layer, against direct solutions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfrewrite.ir import Array
from qfrewrite.solve.fit import (
    HeldOut,
    Moments,
    is_held_out,
    output_error,
    refit,
    round_weights,
)


def rows(n: int, g: int, m: int, k: int, seed: int) -> tuple[Array, Array, Array]:
    """Correlated inputs, weights, and the outputs."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(g, k, k)) / np.sqrt(k) + np.eye(k)
    x = np.einsum("ngk,gkl->ngl", rng.normal(size=(n, g, k)), mix) + rng.normal(size=(g, k))
    w = rng.normal(size=(g, m, k))
    return x.astype("f4"), w, np.einsum("ngk,gmk->ngm", x, w).astype("f4")


def moments(x: Array, y: Array) -> Moments:
    found = Moments(x.shape[1], y.shape[2], x.shape[2])
    found.add(x[: len(x) // 3], y[: len(x) // 3])
    found.add(x[len(x) // 3 :], y[len(x) // 3 :])
    return found


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.integers(0, 99))
def test_moments_are_covariances(g: int, m: int, k: int, seed: int) -> None:
    x, _, y = rows(60, g, m, k, seed)
    found = moments(x, y)
    mx, my = found.means
    np.testing.assert_allclose(mx, x.mean(0), atol=1e-4)
    xx, yx = found.about(mx, my)
    dx, dy = x - x.mean(0), y - y.mean(0)
    np.testing.assert_allclose(xx, np.einsum("ngk,ngl->gkl", dx, dx) / 60, atol=1e-3)
    np.testing.assert_allclose(yx, np.einsum("ngm,ngk->gmk", dy, dx) / 60, atol=1e-3)


def test_a_refit_undoes_what_a_distorted_input_costs() -> None:
    x, w, y = rows(4000, 1, 5, 12, 3)
    bent = (x * np.linspace(0.7, 1.3, 12) + 0.02 * np.roll(x, 1, 2)).astype("f4")
    fit, held = moments(bent[:3000], y[:3000]), moments(bent[3000:], y[3000:])
    better, strength = refit(fit, held, w)

    def error(v: Array) -> float:
        r = y[3000:] - np.einsum("ngk,gmk->ngm", bent[3000:], v)
        return float(((r - r.mean(0)) ** 2).sum())

    assert error(better) < 1e-3 * error(w)
    assert strength < 1


def test_too_few_rows_leave_the_weights_alone() -> None:
    """Noise in place of a relation: held-out rows show that the fit is worse than none."""
    rng = np.random.default_rng(0)
    x, w, y = rows(300, 1, 3, 40, 5)
    noisy = (y + rng.normal(size=y.shape) * 30).astype("f4")
    kept, strength = refit(moments(x[:45], noisy[:45]), moments(x[45:], noisy[45:]), w)
    assert strength >= 1
    assert np.abs(kept - w).max() < 0.6 * np.abs(w).max()


@pytest.mark.parametrize("how", ["gptq", "descent"])
@pytest.mark.parametrize(("g", "m", "k"), [(1, 6, 40), (4, 2, 9), (1, 3, 200)])
def test_rounding_minds_the_inputs(how: str, g: int, m: int, k: int) -> None:
    x, w, y = rows(2000, g, m, k, 7)
    h = moments(x, y).about(*moments(x, y).means)[0]
    scale = np.abs(w).max(2) / 7  # 4 bits: rounding matters
    codes = {name: round_weights(w, h, scale, name) for name in ("nearest", how)}
    errors = {n: output_error(w, q * scale[:, :, None], h) for n, q in codes.items()}
    assert errors[how] < 0.75 * errors["nearest"]
    assert np.abs(codes[how]).max() <= 127
    np.testing.assert_array_equal(codes[how], np.rint(codes[how]))


def test_independent_inputs_are_rounded_to_the_nearest() -> None:
    w = np.random.default_rng(1).normal(size=(1, 4, 8))
    scale = np.abs(w).max(2) / 127
    h = np.eye(8)[None]
    np.testing.assert_array_equal(round_weights(w, h, scale), round_weights(w, h, scale, "nearest"))


@pytest.mark.parametrize("block", [1, 25, 1000])
def test_held_out_rows_are_apart_and_every_row_counts(block: int) -> None:
    """Rows that wait for a block are added too, and none is on both sides."""
    x, _, y = rows(60, 2, 3, 4, 0)
    split = HeldOut(2, 3, 4, block=block)
    for at in range(6):
        part = slice(10 * at, 10 * at + 10)
        split.add(x[part], y[part], held_out=is_held_out(at, first=3))
    fit, held = split.parts
    assert (fit.count, held.count, split.both.count) == (50, 10, 60)
    np.testing.assert_allclose(held.means[0], x[30:40].mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(split.both.means[0], x.mean(0), rtol=1e-4, atol=1e-5)


def test_a_fit_without_held_out_rows_keeps_the_weights() -> None:
    x, w, y = rows(20, 1, 2, 3, 1)
    split = HeldOut(1, 2, 3)
    split.add(x, 2 * y, held_out=False)
    assert split.refit(w)[0] is w
    split.add(x, 2 * y, held_out=True)
    np.testing.assert_allclose(split.refit(w)[0], 2 * w, atol=0.05)


@pytest.mark.parametrize(("first", "held"), [(0, [0, 4]), (3, [3, 7])])
def test_one_sample_in_four_is_held_out(first: int, held: list[int]) -> None:
    assert [i for i in range(8) if is_held_out(i, first=first)] == held
