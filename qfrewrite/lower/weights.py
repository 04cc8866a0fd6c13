"""Weights and biases as integers (LiteRT 8-bit specification)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qfrewrite.ir import Array, Tensor
from qfrewrite.ir.dtypes import Float64
from qfrewrite.ir.quant import SMALLEST_SCALE
from qfrewrite.ops.spec import facets
from qfrewrite.rewrite.linear import LinearView

# Room for the sum of products beside the bias in an accumulator of 32 or 64 bits.
_BIAS_LIMIT = {"int32": 2.0**30, "int64": 2.0**46}
# The least effective multiplier (input scale x weight scale / output scale): smaller ones round
# to nothing, and XNNPACK refuses those below 2^-32.
_LEAST_MULTIPLIER = 2.0**-28


@dataclass(frozen=True)
class QuantizedLinear:
    """Quantized values and scales of a linear op."""

    weights: Array
    """int8 or uint8, in the layout of the float weights."""
    scale: npt.NDArray[np.float32]
    """Of the weights, [1] or [O]."""
    zero_point: npt.NDArray[np.int64]
    """Of the weights, [1] or [O]."""
    bias: Array | None
    """int32 or int64, [O], at scale input x weight; None where the op has none."""
    raised: int
    """How many channels got a larger scale than their weights ask for, so that the bias fits."""


def weight_bounds(
    w: Array, axis: int, *, per_channel: bool, given: tuple[Array, Array] | None = None
) -> Float64:
    """The largest magnitude per index of `axis` [O], or of all [1].

    given: the ends of the range that a model brings for the weights, which then count alone.
    """
    if given is not None:
        bounds = np.maximum(*np.abs(given)).astype(np.float64).reshape(-1)
    else:
        magnitude = np.abs(w.astype(np.float64))
        bounds = np.moveaxis(magnitude, axis, 0).reshape(w.shape[axis], -1).max(1, initial=0.0)
    return bounds if per_channel else np.array([bounds.max(initial=0.0)])


def grid_scale(bounds: Float64) -> npt.NDArray[np.float32]:
    """The scales with which int8 holds magnitudes up to these bounds; 1 where there are none."""
    scale: npt.NDArray[np.float32] = np.where(bounds > 0, bounds / 127.0, 1.0).astype(np.float32)
    return scale


def in_steps(w: Array, scale: Array, axis: int) -> tuple[Float64, Float64]:
    """Weights in whole steps of the scales on `axis`, and the scales as they broadcast to them."""
    shape = [1] * w.ndim
    shape[axis] = scale.size
    step = scale.astype(np.float64).reshape(shape)
    return np.rint(w.astype(np.float64) / step), step


def on_grid(w: Array, bounds: Float64, axis: int) -> npt.NDArray[np.float32]:
    """Weights rounded to the symmetric int8 grid of these bounds, as real values."""
    steps, step = in_steps(w, grid_scale(bounds), axis)
    rounded: npt.NDArray[np.float32] = (steps * step).astype(np.float32)
    return rounded


def quantize_linear(
    w: Array,
    b: Array | None,
    bounds: Float64,
    mean_response: Callable[[Array], Float64] | None = None,
    *,
    axis: int,
    input_scale: float,
    output_scale: float,
    bias_type: str = "int32",
) -> QuantizedLinear:
    """Weights to 8 bits, bias to `bias_type` with zero point 0.

    w: real units; b: real units, O values of any shape; bounds: the largest magnitude to
    represent, [1] or [O], for int8 codes in [-127, 127] with zero point 0; or both ends of the
    range, [2, 1], for uint8 codes in [1, 255]. A channel without weights takes the largest
    scale of the others. Where the bias would not fit, the channel's scale is raised until it
    does. mean_response: what given weights make of the mean input, [O]; with it the bias takes
    up the mean error of rounding the weights (Nagel et al. 2019, arXiv:1906.04721, section
    4.2).
    """
    scale = bounds / 127.0 if bounds.ndim == 1 else (bounds[1] - bounds[0]) / 254.0
    scale = np.where(scale > 0, scale, scale.max(initial=0.0) or 1.0)
    least = max(_LEAST_MULTIPLIER * output_scale / input_scale, SMALLEST_SCALE)
    scale = np.maximum(scale, least)
    wanted = np.zeros(scale.shape)
    if b is not None:
        b = b.reshape(-1)
        needed = np.abs(b.astype(np.float64)) / (input_scale * _BIAS_LIMIT[bias_type])
        wanted = needed if scale.size > 1 else np.array([needed.max(initial=0.0)])
    raised = int((wanted > scale).sum())
    final: npt.NDArray[np.float32] = np.maximum(scale, wanted).astype(np.float32)
    codes, zero, error = _weight_codes(w, final, bounds, axis)
    bias = None
    if b is not None:
        b = b if mean_response is None else b + mean_response(error)
        bias = _bias_codes(b, input_scale, final, bias_type)
    return QuantizedLinear(codes, final, zero, bias, raised)


def _weight_codes(
    w: Array, scale: Array, bounds: Float64, axis: int
) -> tuple[Array, npt.NDArray[np.int64], Float64]:
    """Codes of weights, zero points, and what rounding took from the weights."""
    codes, step = in_steps(w, scale, axis)
    zero = np.zeros(scale.size, np.int64)
    if bounds.ndim == 1:
        weights: Array = np.clip(codes, -127, 127).astype(np.int8)
    else:
        # Code 0 is left out, as fake quantization with a narrow range leaves it out.
        zero += int(np.clip(np.rint(1 - bounds[0, 0] / float(scale[0])), 1, 255))
        weights = np.clip(codes + zero[0], 1, 255).astype(np.uint8)
    return weights, zero, w - (weights.astype(np.float64) - zero.reshape(step.shape)) * step


def _bias_codes(b: Array, input_scale: float, scale: Array, dtype: str) -> Array:
    step = np.float64(np.float32(input_scale)) * scale.astype(np.float64)
    # Beyond 2^53 float64 has gaps, and no bias that fits comes near.
    bound = min(float(np.iinfo(dtype).max), 2.0**53)
    codes = np.rint(b.astype(np.float64) / step)
    saturated: Array = np.clip(codes, -bound, bound).astype(dtype)
    return saturated


def mean_response(view: LinearView, x: Tensor) -> Callable[[Array], Float64] | None:
    """What weights in a linear op make of the mean of its input `x`, where calibration left it."""
    mean = x.channels.mean
    if mean is None or mean.size != x.shape[-1] or not facets(view.op).gathers:
        return None
    if not view.is_depthwise and view.weights.shape[-1] != mean.size:
        return None
    return lambda w: view.with_weights(w).response(mean)
