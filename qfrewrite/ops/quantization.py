"""Quantization itself: into quantized values, out of them, and the simulation of both."""

from __future__ import annotations

import numpy as np

from qfrewrite.ir import Array, Op
from qfrewrite.ir.quant import dequantize, quantize
from qfrewrite.ops.features import is_set, makes, per_channel
from qfrewrite.ops.spec import FLOAT_ONLY, OpSpec, Shape, X, attr, define, same_shape, shape_error


def fake_quant_grid(
    low: Array, high: Array, num_bits: int, narrow_range: bool
) -> tuple[Array, Array, Array]:
    """Nudged low, nudged high and scale of TensorFlow's fake quantization.

    The range is shifted so that 0 lies on the grid (tensorflow/core/kernels/fake_quant_ops_
    functor.h): one that does not hold 0 begins or ends there, so [-3, -0.5] stands for [-2.5, 0].
    A range without width holds 0 alone. low, high: scalars or [C], real units.
    """
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    first, last, zero = _codes(low, high, num_bits, narrow_range)
    scale = (high - low) / np.float32(last - first)
    return (first - zero) * scale, (last - zero) * scale, np.where(scale > 0, scale, np.float32(1))


# Ends up to here have a difference that float32 holds.
_WIDEST = float(np.finfo(np.float32).max) / 2


def nudged(low: Array, high: Array, num_bits: int, narrow_range: bool) -> tuple[Array, Array]:
    """The ends of `fake_quant_grid` in float64, so that the scale they give is exact.

    The quantized value that stands for 0 is TensorFlow's, in whose float32 arithmetic it is
    decided, unless that is too narrow for the width of the range.
    """
    wide = max(float(np.abs(low).max()), float(np.abs(high).max())) > _WIDEST
    kind = np.float64 if wide else np.float32
    first, last, zero = _codes(
        np.asarray(low, kind), np.asarray(high, kind), num_bits, narrow_range
    )
    scale = (np.asarray(high, np.float64) - low) / (last - first)
    return (first - zero) * scale, (last - zero) * scale


def _codes(low: Array, high: Array, num_bits: int, narrow: bool) -> tuple[float, float, Array]:
    """The first quantized value, the last one, and the one that stands for 0."""
    first, last = float(narrow), float(2**num_bits - 1)
    scale = (high - low) / np.float32(last - first)
    safe = np.where(scale > 0, scale, np.float32(1))
    zero = np.clip(np.floor(np.float32(first) - low / safe + np.float32(0.5)), first, last)
    return first, last, zero


def holding_zero(low: Array, high: Array) -> tuple[Array, Array]:
    """The range [low, high], shifted where it does not hold 0 until it begins or ends there.

    As `nudged`, but exact where the range holds 0. A range of no width is widened, as it would
    stand for nothing. Scalars or [C].
    """
    outside = np.minimum(high, 0) + np.maximum(low, 0)
    shift = np.where(low < high, outside, 0)
    return np.minimum(low - shift, 0), np.maximum(high - shift, 0)


def _fake_quant_shape(op: Op) -> list[Shape]:
    """Shape of a FAKE_QUANT; TensorFlow and LiteRT take 2 to 16 bits."""
    if not 2 <= attr(op, "num_bits") <= 16:
        raise shape_error(op, f"num_bits is {attr(op, 'num_bits')}, must be 2 to 16")
    return same_shape(op)


def _fake_quant(op: Op, x: Array) -> Array:
    low, high, scale = fake_quant_grid(
        attr(op, "min"), attr(op, "max"), attr(op, "num_bits"), attr(op, "narrow_range")
    )
    axis = attr(op, "axis")
    if axis is not None:
        shape = [1] * x.ndim
        shape[axis] = -1
        low, high, scale = (np.reshape(a, shape) for a in (low, high, scale))
    steps = np.floor((np.clip(x, low, high) - low) / scale + np.float32(0.5))
    return np.asarray(steps * scale + low)


def _quantize(op: Op, x: Array) -> Array:
    quant, source = op.output.quant, op.operand(0).quant
    assert quant is not None
    return quantize(x if source is None else dequantize(x, source), quant, op.output.dtype)


def _dequantize(op: Op, x: Array) -> Array:
    quant = op.operand(0).quant
    return x.astype(np.float32) if quant is None else dequantize(x, quant)


define(
    OpSpec("FAKE_QUANT", (X,), _fake_quant_shape, _fake_quant, kernels=FLOAT_ONLY)
    .attributes(min=0.0, max=0.0, num_bits=8, narrow_range=False, axis=None)
    .since({is_set("narrow_range"): 2}),
    OpSpec("QUANTIZE", reference=_quantize)
    .facets("quantizes converts")
    .since({makes("int16"): 2, lambda op: per_channel(op.output): 3}),
    OpSpec("DEQUANTIZE", reference=_dequantize)
    .facets("quantizes converts")
    .since({lambda op: per_channel(op.input(0)): 5}, int8=2, int16=3, float16=3),
)
