"""Affine quantization: real = scale * (quantized - zero_point).

Source: the LiteRT 8-bit quantization specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]

# Element type -> (lowest, highest) quantized value of an activation.
ACTIVATION_CODES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
)

# The smallest scale that is written: a tensor that is always zero still gets a valid one.
SMALLEST_SCALE = 2.0**-60
# The largest: what has a larger one stays float. The ratio of any two scales is then a normal
# number of float32; where it is none, kernels end the process.
LARGEST_SCALE = 2.0**60


@dataclass(frozen=True, eq=False)
class Quant:
    """Scale and zero point of a tensor: one pair, or one per index along `axis`."""

    scale: FloatArray
    """Real units per step of the quantized values, float32 [1] or [C]."""
    zero_point: npt.NDArray[np.int64]
    """The quantized value that stands for 0, [1] or [C]."""
    axis: int = 0
    """The axis of the channels."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What a file states beyond these: recorded minimum and maximum, custom quantization."""

    @property
    def per_channel(self) -> bool:
        """Whether there is more than one scale."""
        return self.scale.size > 1

    @staticmethod
    def per_tensor(scale: float, zero_point: int) -> Quant:
        """One scale and zero point for the whole tensor."""
        return Quant(np.array([scale], np.float32), np.array([zero_point], np.int64))


def activation_quant(low: float, high: float, dtype: str = "int8") -> Quant:
    """Asymmetric per-tensor parameters for the range [low, high], nudged to represent 0 exactly.

    The range is widened to hold 0. int16 is symmetric with zero point 0, as the specification
    asks. A range without width gets the smallest valid scale. Ranges are in real units.
    """
    lowest, highest = ACTIVATION_CODES[dtype]
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if dtype == "int16":
        bound = max(-low, high)
        return Quant.per_tensor(max(bound / highest, SMALLEST_SCALE), 0)
    scale = (high - low) / (highest - lowest)
    if scale <= SMALLEST_SCALE:
        return Quant.per_tensor(SMALLEST_SCALE if high == low else max(scale, SMALLEST_SCALE), 0)
    # Exact ties (a range symmetric about 0) go down, as the TensorFlow converter has them.
    zero_point = int(np.clip(np.ceil(lowest - low / scale - 0.5), lowest, highest))
    return Quant.per_tensor(scale, zero_point)


def quantize(real: FloatArray, quant: Quant, dtype: str) -> npt.NDArray[Any]:
    """Real values to quantized values of `dtype`, rounded to nearest even and saturated."""
    info = np.iinfo(dtype)
    scale, zero = _along_axis(quant, real.ndim)
    quantized = np.rint(real.astype(np.float64) / scale) + zero
    saturated: npt.NDArray[Any] = np.asarray(np.clip(quantized, info.min, info.max)).astype(dtype)
    return saturated


def dequantize(quantized: npt.NDArray[Any], quant: Quant) -> npt.NDArray[np.float32]:
    """Quantized values to real values, float32."""
    scale, zero = _along_axis(quant, quantized.ndim)
    real = np.asarray((quantized.astype(np.float64) - zero) * scale)
    return real.astype(np.float32)


def _along_axis(quant: Quant, rank: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if not quant.per_channel:
        return quant.scale.astype(np.float64)[0], quant.zero_point[0]
    shape = [1] * rank
    shape[quant.axis] = quant.scale.size
    zero = np.broadcast_to(quant.zero_point, quant.scale.shape)
    return quant.scale.astype(np.float64).reshape(shape), zero.reshape(shape)
