"""Mean and variance of each channel of tensors, over the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qfrewrite.ir import Tensor
from qfrewrite.rewrite.linear import Float64
from qfrewrite.solve.context import PassRewriter


def channel_moments(
    rw: PassRewriter, tensors: Sequence[Tensor], label: str
) -> dict[Tensor, tuple[Float64, Float64]]:
    """Mean and variance [C] of the last axis of each tensor over all calibration samples.

    Tensors whose last axis is not the same in all samples are left out.
    """
    sums = {t: np.zeros((2, t.shape[-1])) for t in tensors if t.dims[-1:] != (-1,)}
    rows = dict.fromkeys(sums, 0)
    for values in rw.observe(list(sums), label) if sums else ():
        for tensor, value in zip(sums, values, strict=True):
            flat = value.reshape(-1, value.shape[-1])
            sums[tensor][0] += flat.sum(0, dtype=np.float64)
            sums[tensor][1] += np.square(flat, dtype=np.float64).sum(0)
            rows[tensor] += len(flat)
    found = {}
    for tensor, total in sums.items():
        mean, square = total / max(rows[tensor], 1)
        found[tensor] = mean, np.maximum(square - mean**2, 0.0)
    return found
