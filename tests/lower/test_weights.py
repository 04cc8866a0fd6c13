"""Weights and biases as integers, by numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import normal

from qfrewrite.lower.weights import quantize_linear, weight_bounds

W = normal(3, 8)
BOUNDS = weight_bounds(W, 0, per_channel=True)
SCALES: dict[str, Any] = {"axis": 0, "input_scale": 1e-3, "output_scale": 1.0}


def test_the_bias_takes_up_what_rounding_does_to_the_mean() -> None:
    """The mean output stays that of the float weights."""
    mean, bias = np.linspace(1, 4, 8), normal(3, seed=1)
    plain = quantize_linear(W, bias, BOUNDS, **SCALES)
    mended = quantize_linear(W, bias, BOUNDS, lambda w: w @ mean, **SCALES)
    step = 1e-3 * mended.scale.astype("f8")
    assert mended.bias is not None
    assert plain.bias is not None
    rounded = mended.weights * mended.scale[:, None].astype("f8")
    wanted = W.astype("f8") @ mean + bias
    assert rounded @ mean + mended.bias * step == pytest.approx(wanted, abs=2e-5)
    assert np.abs(rounded @ mean + plain.bias * step - wanted).max() > 1e-3


def test_codes_are_symmetric_also_where_weights_lie_beyond_their_bounds() -> None:
    result = quantize_linear(W, None, BOUNDS / 2, **SCALES)
    assert result.weights.min() == -127
    assert result.weights.max() == 127


def test_no_scale_makes_a_multiplier_that_rounds_to_nothing() -> None:
    """input x weight / output is 2^-28 at least."""
    result = quantize_linear(
        W * 1e-12, None, BOUNDS * 1e-12, axis=0, input_scale=0.5, output_scale=8.0
    )
    assert result.scale == pytest.approx(np.full(3, 2.0**-28 * 8.0 / 0.5))
