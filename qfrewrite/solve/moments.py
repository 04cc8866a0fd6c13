"""Statistics of each channel of tensors, over the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from qfrewrite.ir import Array, Tensor
from qfrewrite.ir.dtypes import Float64
from qfrewrite.solve.context import PassRewriter


class ChannelSums:
    """Sums and sums of squares of each channel, over rows that come one after the other."""

    def __init__(self, channels: int) -> None:
        self._sums = np.zeros((2, channels))
        self._count = 0

    def add(self, rows: Array) -> None:
        """Take rows [N, C]; sums are of float64."""
        self._sums[0] += rows.sum(0, dtype=np.float64)
        self._sums[1] += np.square(rows, dtype=np.float64).sum(0)
        self._count += len(rows)

    @property
    def moments(self) -> tuple[Float64, Float64]:
        """Mean and variance of each channel, [C]."""
        mean, square = self._sums / max(self._count, 1)
        return mean, np.maximum(square - mean**2, 0.0)


def channel_moments(
    rw: PassRewriter, tensors: Sequence[Tensor], label: str
) -> dict[Tensor, tuple[Float64, Float64]]:
    """Mean and variance [C] of the last axis of each tensor over all calibration samples.

    Tensors whose last axis is not the same in all samples are left out.
    """
    sums = {t: ChannelSums(t.shape[-1]) for t in tensors if t.dims[-1:] != (-1,)}
    for tensor, flat in _rows(rw, list(sums), label):
        sums[tensor].add(flat)
    return {tensor: total.moments for tensor, total in sums.items()}


def channel_extremes(
    rw: PassRewriter, tensors: Sequence[Tensor], label: str
) -> dict[Tensor, tuple[Float64, Float64]]:
    """The least and the largest value [C] of the last axis over all calibration samples.

    inf and -inf where nothing was seen.
    """
    extremes = {t: (np.full(t.shape[-1], np.inf), np.full(t.shape[-1], -np.inf)) for t in tensors}
    for tensor, flat in _rows(rw, tensors, label):
        low, high = extremes[tensor]
        extremes[tensor] = np.minimum(low, flat.min(0)), np.maximum(high, flat.max(0))
    return extremes


def _rows(
    rw: PassRewriter, tensors: Sequence[Tensor], label: str
) -> Iterator[tuple[Tensor, Array]]:
    """Each tensor with its values in each sample, [N, C]."""
    for values in rw.values_of(tensors, label) if tensors else ():
        for tensor, value in zip(tensors, values, strict=True):
            yield tensor, value.reshape(-1, value.shape[-1])
