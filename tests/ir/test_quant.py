from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfrewrite.ir.quant import activation_quant, dequantize, quantize

REAL = st.floats(-1e6, 1e6, allow_nan=False, width=32)


@given(REAL, REAL, st.sampled_from(["int8", "uint8", "int16"]))
def test_zero_is_a_code_and_errors_stay_within_half_a_step(a: float, b: float, dtype: str) -> None:
    low, high = min(a, b), max(a, b)
    quant = activation_quant(low, high, dtype)
    assert np.isfinite(quant.scale).all()
    assert (quant.scale > 0).all()
    assert dequantize(quantize(np.zeros(1), quant, dtype), quant)[0] == 0
    values = np.linspace(min(low, 0), max(high, 0), 50)
    back = dequantize(quantize(values, quant, dtype), quant)
    # The zero point is rounded: one end of the range may lie half a step outside the codes.
    assert np.abs(back - values).max() <= 1.001 * quant.scale[0] + 1e-30


def test_int16_is_symmetric() -> None:
    quant = activation_quant(-3.0, 1.0, "int16")
    assert quant.zero_point[0] == 0
    assert quant.scale[0] == pytest.approx(3 / 32767)


def test_image_inputs_get_the_converters_grid() -> None:
    quant = activation_quant(-1.0, 1.0)
    assert (quant.scale[0], quant.zero_point[0]) == (pytest.approx(2 / 255), -1)
