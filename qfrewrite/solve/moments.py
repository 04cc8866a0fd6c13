"""Statistics of each channel of tensors, over the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from qfrewrite.ir import Array, Tensor
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
    for tensor, flat in _rows(rw, list(sums), label):
        sums[tensor][0] += flat.sum(0, dtype=np.float64)
        sums[tensor][1] += np.square(flat, dtype=np.float64).sum(0)
        rows[tensor] += len(flat)
    found = {}
    for tensor, total in sums.items():
        mean, square = total / max(rows[tensor], 1)
        found[tensor] = mean, np.maximum(square - mean**2, 0.0)
    return found


def channel_extremes(
    rw: PassRewriter, tensors: Sequence[Tensor], label: str
) -> dict[Tensor, tuple[Float64, Float64]]:
    """The least and the largest value [C] of the last axis over all calibration samples.

    inf and -inf where nothing was seen.
    """
    found = {t: (np.full(t.shape[-1], np.inf), np.full(t.shape[-1], -np.inf)) for t in tensors}
    for tensor, flat in _rows(rw, tensors, label):
        low, high = found[tensor]
        found[tensor] = np.minimum(low, flat.min(0)), np.maximum(high, flat.max(0))
    return found


def _rows(
    rw: PassRewriter, tensors: Sequence[Tensor], label: str
) -> Iterator[tuple[Tensor, Array]]:
    """Each tensor with its values in each sample, [N, C]."""
    for values in rw.observe(tensors, label) if tensors else ():
        for tensor, value in zip(tensors, values, strict=True):
            yield tensor, value.reshape(-1, value.shape[-1])
