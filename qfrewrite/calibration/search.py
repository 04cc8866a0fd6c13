"""The choice of a range: from what was observed of a tensor to [low, high].

The papers' measure is the sum of two losses of int8: quantization loss, the squared error of
rounding within the range, and saturation loss, the squared error of clipping outside it. Both
follow from the histogram, each bin taken as a constant density, by integrating exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

import numpy as np

from qfrewrite.calibration.histogram import Distribution
from qfrewrite.calibration.observers import TensorStats
from qfrewrite.errors import UsageError
from qfrewrite.ir.dtypes import Float64
from qfrewrite.ir.quant import ACTIVATION_CODES, activation_quant
from qfrewrite.lower.fake_quant_ranges import Range

_CODES = 256
# Steps of the searches: the ends lie on a grid of this many steps across the observed range.
_STEPS = 1024
# Clipping that lowers the losses by less than this is not worth it: other samples reach further.
_LEAST_GAIN = 0.02
# KL divergence is compared on ranges that shrink by steps of this many.
_ENTROPY_STEPS = 64


@dataclass(frozen=True)
class Losses:
    """Mean squared errors of int8, in real units squared."""

    quantization: float
    """Of rounding."""
    saturation: float
    """Of clipping."""

    @property
    def total(self) -> float:
        """Their sum."""
        return self.quantization + self.saturation


@dataclass(frozen=True)
class Method:
    """How to choose a range."""

    name: str = "minmax"
    """One of `METHODS`."""
    value: float | None = None
    """Its number, if it takes one."""

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}({self.value:g})"

    @property
    def needs_histogram(self) -> bool:
        """Whether minimum and maximum are not enough."""
        return self.name in _SEARCHES

    @staticmethod
    def parse(text: str) -> Method:
        """`greedy`, `percentile(99.99)`; raises UsageError."""
        match = re.fullmatch(r"\s*([a-z_]+)\s*(?:\(\s*([0-9.eE+-]+)\s*\))?\s*", text)
        choices = ", ".join(METHODS)
        if match is None or match[1] not in METHODS:
            what = f"no such method: '{text}'"
            raise UsageError(what, where="calibrate", remedy=f"use one of {choices}")
        default, least, most = _NUMBERS.get(match[1], (None, 0.0, 0.0))
        if match[2] is None:
            return Method(match[1], default)
        try:
            value = float(match[2])
        except ValueError:
            value = float("nan")
        if default is None or not least < value <= most:
            what = f"needs a number above {least:g}, up to {most:g}" if default else "takes none"
            remedy = f"e.g. {Method(match[1], default)}"
            raise UsageError(f"{match[1]} {what}", where=f"method '{text}'", remedy=remedy)
        return Method(match[1], value)


@dataclass(frozen=True)
class MethodChoice:
    """A method, and others for some tensors."""

    default: Method = Method()
    """The method of all other tensors."""
    overrides: tuple[tuple[str, Method], ...] = ()
    """Patterns of names (`*` and `?`) with their methods; the first that matches wins."""

    @staticmethod
    def parse(method: str, per_layer: str | Mapping[str, str] = "") -> MethodChoice:
        """per_layer: `PATTERN:METHOD;PATTERN:METHOD` or a mapping; raises UsageError."""
        if isinstance(per_layer, str):
            pairs = [p.rpartition(":")[::2] for p in per_layer.split(";") if p.strip()]
        else:
            pairs = list(per_layer.items())
        for pattern, _ in pairs:
            if not pattern.strip():
                what = "an override has no pattern"
                remedy = "write PATTERN:METHOD;PATTERN:METHOD"
                raise UsageError(what, where=f"per_layer '{per_layer}'", remedy=remedy)
        overrides = tuple((p.strip(), Method.parse(m)) for p, m in pairs)
        return MethodChoice(Method.parse(method), overrides)

    @property
    def methods(self) -> tuple[Method, ...]:
        """All the methods in it."""
        return (self.default, *(m for _, m in self.overrides))

    def of(self, name: str, *, whole: bool = False) -> Method:
        """The method for the tensor `name`; whole: it is not to be clipped unless named."""
        for pattern, method in self.overrides:
            if fnmatchcase(name, pattern):
                return method
        return Method() if whole and self.default.needs_histogram else self.default


def choose(stats: TensorStats, method: Method) -> Range:
    """The range of a tensor by `method`: finite, holds zero, lies within what was observed.

    Raises UsageError where the statistics lack the histogram that the method needs.
    """
    if stats.range is None:
        return 0.0, 0.0
    low, high = stats.range
    values = stats.distribution
    if method.needs_histogram and values is None:
        remedy = "calibrate with histograms='always', or choose minmax"
        raise UsageError(f"{method} needs histograms", where="calibrate", remedy=remedy)
    if method.needs_histogram and low < high:
        assert values is not None
        low, high = _SEARCHES[method.name](values, method.value)
    return min(low, 0.0), max(high, 0.0)


def losses(values: Distribution, low: float, high: float) -> Losses:
    """What int8 of the range [low, high] (nudged so that zero is a code) costs per value."""
    quant = activation_quant(low, high)
    low_end, high_end = (
        np.array(ACTIVATION_CODES["int8"])[:, None] - quant.zero_point
    ) * quant.scale
    rounding, clipping = _bin_losses(values, low_end, high_end, _CODES - 1)
    total = max(values.total, 1.0)
    return Losses(float(rounding[0]) / total, float(clipping[0]) / total)


def _bin_losses(
    values: Distribution, low: Float64, high: Float64, steps: int
) -> tuple[Float64, Float64]:
    """Summed squared errors of grids of `steps` steps from low to high, each [G]."""
    scale = np.maximum((high - low) / steps, 1e-300)[:, None]
    low, high = low[:, None], high[:, None]
    width = values.right - values.left
    point = width <= 0
    safe = np.where(point, 1.0, width)
    weight = values.count / safe
    # Within the grid: the integral of the squared distance to the nearest step.
    left, right = (np.clip(edge, low, high) for edge in (values.left, values.right))
    inside = _rounding((right - low) / scale) - _rounding((left - low) / scale)
    rounding = (inside * weight * ~point).sum(1) * scale[:, 0] ** 3
    # Outside: the integral of the squared distance to the end.
    below = np.maximum(low - values.left, 0) ** 3 - np.maximum(low - values.right, 0) ** 3
    above = np.maximum(values.right - high, 0) ** 3 - np.maximum(values.left - high, 0) ** 3
    clipping = ((below + above) * weight * ~point).sum(1) / 3
    if point.any():
        at, count = values.left[point], values.count[point]
        clipped_at = np.clip(at, low, high)
        near = (clipped_at - low) / scale
        rounding += ((near - np.rint(near)) ** 2 * count).sum(1) * scale[:, 0] ** 2
        clipping += ((at - clipped_at) ** 2 * count).sum(1)
    return rounding, clipping


def _rounding(t: Float64) -> Float64:
    """The integral from 0 to t of the squared distance to the nearest integer."""
    nearest = np.rint(t)
    rest = t - nearest
    out: Float64 = nearest / 12 + rest * rest * rest / 3
    return out


class _Search:
    """Ranges [low, high] whose ends lie on a grid across the observed range, around zero.

    An end is given by the number of grid steps it lies inside the observed one.
    """

    def __init__(self, values: Distribution) -> None:
        self.values = values
        low, high = min(values.low, 0.0), max(values.high, 0.0)
        self.step = (high - low) / _STEPS
        self.low, self.high = low, high
        # Neither end crosses zero, and some range remains.
        self.most = int(-low / self.step), int(high / self.step)
        self.seen: dict[tuple[int, int], float] = {}

    def range(self, at: tuple[int, int]) -> Range:
        """The ends in real units."""
        return self.low + at[0] * self.step, self.high - at[1] * self.step

    def total(self, places: list[tuple[int, int]]) -> list[float]:
        """The sum of both losses at each place; infinite outside the grid."""
        inside = [p for p in dict.fromkeys(places) if p not in self.seen and self._valid(p)]
        if inside:
            low, high = np.array([_nudged(*self.range(p)) for p in inside]).T
            rounding, clipping = _bin_losses(self.values, low, high, _CODES - 1)
            self.seen.update(zip(inside, (rounding + clipping).tolist(), strict=True))
        return [self.seen.get(p, np.inf) for p in places]

    def _valid(self, at: tuple[int, int]) -> bool:
        return 0 <= at[0] <= self.most[0] and 0 <= at[1] <= self.most[1] and sum(at) < _STEPS


def _nudged(low: float, high: float) -> Range:
    """[low, high] shifted so that zero lies on its grid of 256 quantized values."""
    scale = (high - low) / (_CODES - 1)
    zero = np.clip(np.rint(-low / scale), 0, _CODES - 1)
    return float(-zero * scale), float((_CODES - 1 - zero) * scale)


def _greedy(values: Distribution, value: float | None) -> Range:
    """The papers' search over step size and offset.

    From [min, max] move the lower or the upper end, whichever lowers the sum of the losses more,
    until neither does. Moves may be 1, 2, 4, ... steps long and go either way, so that a gap in
    the histogram does not stop them (LPIRC 2018 winners, arXiv:1810.01732, section 3). Where all
    of it gains next to nothing the observed range stays.
    """
    search = _Search(values)
    at, start = (0, 0), search.total([(0, 0)])[0]
    best = start
    moves = [
        (side * sign * length, (1 - side) * sign * length)
        for length in (2**k for k in range(_STEPS.bit_length() - 1))
        for sign in (1, -1)
        for side in (1, 0)
    ]
    while True:
        places = [(at[0] + a, at[1] + b) for a, b in moves]
        losses = search.total(places)
        k = int(np.argmin(losses))
        if not losses[k] < best:
            return search.range(at if best < (1 - _LEAST_GAIN) * start else (0, 0))
        at, best = places[k], losses[k]


def _mse(values: Distribution, value: float | None) -> Range:
    """The least sum of both losses, by looking everywhere: on a coarse grid, then around it."""
    search = _Search(values)
    at = (0, 0)
    span, stride = (0, _STEPS), 32
    while stride:
        lows, highs = (
            range(max(at[k] - span[1], 0), min(at[k] + span[1], search.most[k]) + 1, stride)
            for k in (0, 1)
        )
        places = [at, *((a, b) for a in lows for b in highs)]
        at = places[int(np.argmin(search.total(places)))]
        span, stride = (0, stride), stride // 4
    return search.range(at)


def _percentile(values: Distribution, value: float | None) -> Range:
    """The range that holds `value` percent of the values; the rest is split between the ends.

    Where all values lie on one side of zero the rest is cut at the far end alone.
    """
    assert value is not None
    outside = (1 - value / 100) * values.total
    sides = int(values.low < 0) + int(values.high > 0)
    cut = outside / max(sides, 1)
    low = _quantile(values, cut) if values.low < 0 else 0.0
    high = _quantile(values, values.total - cut) if values.high > 0 else 0.0
    return low, high


def _quantile(values: Distribution, rank: float) -> float:
    """The value below which `rank` values lie, linear within a bin."""
    # The pieces and the exact zeros, in order of their middle.
    left, right = np.append(values.left, 0.0), np.append(values.right, 0.0)
    order = np.argsort(left + right, kind="stable")
    left, right = left[order], right[order]
    count = np.append(values.count, float(values.zeros))[order]
    upto = np.cumsum(count)
    k = min(int(np.searchsorted(upto, rank)), count.size - 1)
    before = upto[k] - count[k]
    part = (rank - before) / count[k] if count[k] else 0.0
    return float(left[k] + np.clip(part, 0, 1) * (right[k] - left[k]))


def _entropy(values: Distribution, value: float | None) -> Range:
    """The range whose 256 quantized values keep the most of the distribution: least KL divergence.

    Both ends shrink in proportion (TensorRT's calibration, Migacz 2017, for asymmetric ranges):
    what is clipped counts at the ends, and each code spreads evenly over the bins it stands for.
    """
    low, high = min(values.low, 0.0), max(values.high, 0.0)
    best, least = (low, high), np.inf
    # Exact zeros are one code in any range: they say nothing about it.
    for k in range(_ENTROPY_STEPS):
        share = 1 - k / _ENTROPY_STEPS
        ends = _nudged(low * share, high * share)
        divergence = _divergence(values, *ends)
        if divergence < least:
            best, least = (low * share, high * share), divergence
    return best


def _divergence(values: Distribution, low: float, high: float) -> float:
    """KL(P || Q) of the clipped distribution P and what 256 quantized values keep of it, Q."""
    center = values.center
    inside = (center >= low) & (center <= high)
    if not inside.any():
        return np.inf
    p = values.count[inside].copy()
    q = p.copy()
    p[np.argmin(center[inside])] += values.count[center < low].sum()
    p[np.argmax(center[inside])] += values.count[center > high].sum()
    scale = (high - low) / (_CODES - 1)
    code = np.rint((center[inside] - low) / scale).astype(np.int64)
    mass, bins = np.bincount(code, q), np.bincount(code)
    q = (mass / np.maximum(bins, 1))[code]
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


_SEARCHES: Mapping[str, Callable[[Distribution, float | None], Range]] = MappingProxyType(
    {"percentile": _percentile, "mse": _mse, "entropy": _entropy, "greedy": _greedy}
)
# Moving averages (ema) are taken while samples run.
METHODS = ("minmax", *_SEARCHES, "ema")
# Method -> default, and the bounds of its number (exclusive, inclusive).
_NUMBERS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {"percentile": (99.99, 0.0, 100.0), "ema": (0.95, 0.0, 1.0)}
)
