"""What is known of a value besides its type: passes leave it, rewrites move it along."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qfrewrite.ir.dtypes import Array, Float64

Map = Callable[[Float64], Float64]


class Normal(NamedTuple):
    """A normal distribution per channel."""

    mean: Float64
    """[C]"""
    std: Float64
    """The standard deviation, [C]."""


@dataclass(frozen=True, eq=False)
class ChannelFacts:
    """What is known of the channels of a value, C of them on its last axis."""

    normal: Normal | None = None
    """The distribution that the parameters of a BatchNorm promise. It stays when BatchNorm is
    folded, so that passes can judge without data."""
    mean: Float64 | None = None
    """The mean over the calibration data, [C]."""
    live: npt.NDArray[np.bool_] | None = None
    """Which channels are not padding, [C]; None where all are."""

    def scaled(self, factor: Float64) -> ChannelFacts:
        """The facts of the value times `factor`, [C]."""
        return self._mapped(lambda mean: mean * factor, lambda std: std * np.abs(factor))

    def shifted(self, offset: Float64) -> ChannelFacts:
        """The facts of the value plus `offset`, [C]."""
        return self._mapped(lambda mean: mean + offset, lambda std: std)

    def selected(self, layout: npt.NDArray[np.int64]) -> ChannelFacts:
        """The facts of the channels `layout` of the value; -1 stands for padding with zeros."""
        live = self.live
        if live is None and (layout < 0).any():
            live = np.ones(1 + int(layout.max(initial=0)), np.bool_)

        def taken(values: Array) -> Array:
            return np.where(layout >= 0, values[np.maximum(layout, 0)], values.dtype.type(0))

        return replace(self._mapped(taken, taken), live=None if live is None else taken(live))

    def _mapped(self, mean: Map, std: Map) -> ChannelFacts:
        """The facts with all means and all deviations mapped."""
        normal = self.normal and Normal(mean(self.normal.mean), std(self.normal.std))
        return replace(self, normal=normal, mean=None if self.mean is None else mean(self.mean))

    def spread(self, values: Array) -> Array:
        """Values of the live channels as values of all channels, [C], with zeros for padding."""
        if self.live is None or values.size != int(self.live.sum()):
            return values
        result = np.zeros(self.live.size, values.dtype)
        result[self.live] = values
        return result

    @property
    def sizes(self) -> set[int]:
        """The numbers of channels that the facts speak of."""
        arrays = (*(self.normal or ()), self.mean, self.live)
        return {array.size for array in arrays if array is not None}


NO_FACTS = ChannelFacts()


@dataclass(frozen=True, eq=False)
class TrainedRange:
    """The range that training chose for a constant, by a FAKE_QUANT between it and its user."""

    low: Array
    """The lower ends, in real units: [C], or [] where one range is for all channels."""
    high: Array
    """The upper ends, likewise."""
    axis: int | None = None
    """The axis of the channels; None where one range is for all."""
    num_bits: int = 8
    """How many bits the grid of quantized values has."""
    narrow_range: bool = False
    """Whether the lowest quantized value is left out."""
    name: str = ""
    """The name of the FAKE_QUANT."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What a file format needs to write the FAKE_QUANT back."""

    def scaled(self, factor: Float64, axis: int) -> TrainedRange | None:
        """The range of the constant with channels on `axis` that are multiplied by `factor`, [C].

        A range per channel keeps its quantized values; one for all becomes one per channel that
        does. None where the range is per channel of another axis.
        """
        if self.axis not in (None, axis):
            return None
        low, high = (np.asarray(v, np.float64).reshape(-1) for v in (self.low, self.high))
        ends = np.sort([low * factor, high * factor], axis=0)
        return replace(self, low=ends[0], high=ends[1], axis=axis)
