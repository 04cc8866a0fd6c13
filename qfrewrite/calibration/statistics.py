"""Activations as Gaussians per channel, from BatchNorm statistics alone.

After BatchNorm a pre-activation of channel c is distributed about as N(beta_c, gamma_c^2)
(Nagel et al. 2019, "Data-Free Quantization", section 4.2). What follows from that without any
data: means and variances through ReLU, additions, pooling and linear layers, how often ReLU6
clips, and ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import erf
from types import MappingProxyType

import numpy as np

from qfrewrite.ir import Graph, Op, Tensor
from qfrewrite.ir.dtypes import Float64
from qfrewrite.lower.fake_quant_ranges import Range
from qfrewrite.ops.spec import clip_bounds, kinds_that
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.rewrite.match import NoMatch

# How many standard deviations a range takes in (Nagel et al. 2019 use 6 for ranges).
RANGE_SIGMAS = 6.0


@dataclass(frozen=True)
class Gaussian:
    """How the values of each channel are distributed."""

    mean: Float64
    """Of each channel, [C]."""
    std: Float64
    """The standard deviation of each channel, [C]."""
    low: float = -np.inf
    """No value lies below."""
    high: float = np.inf
    """No value lies above."""

    @property
    def finite(self) -> bool:
        """Whether ranges that follow are numbers of float32; else the statistics say nothing."""
        reach = np.abs(self.mean) + RANGE_SIGMAS * self.std
        return bool((reach < np.finfo(np.float32).max).all())

    def range(self, sigmas: float = RANGE_SIGMAS) -> Range:
        """The hull of mean +- sigmas * std over all channels, within the bounds."""
        low = max(float((self.mean - sigmas * self.std).min()), self.low)
        high = min(float((self.mean + sigmas * self.std).max()), self.high)
        return min(low, high), high

    def above(self, limit: float) -> Float64:
        """P(x > limit) per channel, [C]."""
        return 1 - _cdf((limit - self.mean) / np.maximum(self.std, 1e-30))


def clip_gaussian(g: Gaussian, low: float, high: float) -> Gaussian:
    """Moments of min(max(x, low), high) for x ~ N(mean, std^2), per channel."""
    std = np.maximum(g.std, 1e-30)
    a, b = (low - g.mean) / std, (high - g.mean) / std
    below, over = _cdf(a), 1 - _cdf(b)
    inside = 1 - below - over
    pa, pb = _pdf(a), _pdf(b)
    ends_low = 0.0 if np.isinf(low) else low
    ends_high = 0.0 if np.isinf(high) else high
    mean = ends_low * below + ends_high * over + g.mean * inside + std * (pa - pb)
    a_pa = np.where(np.isinf(a), 0.0, a) * pa
    b_pb = np.where(np.isinf(b), 0.0, b) * pb
    inner = (g.mean**2 + std**2) * inside + 2 * g.mean * std * (pa - pb) + std**2 * (a_pa - b_pb)
    square = ends_low**2 * below + ends_high**2 * over + inner
    variance = np.maximum(square - mean**2, 0.0)
    return Gaussian(mean, np.sqrt(variance), max(g.low, low), min(g.high, high))


def propagate(graph: Graph) -> dict[Tensor, Gaussian]:
    """Every tensor whose distribution follows from BatchNorm statistics in the graph.

    Reads the facts of channels, which folding leaves on a tensor.
    """
    by_tensor: dict[Tensor, Gaussian] = {}
    for tensor in graph.tensors:
        normal = tensor.channels.normal
        if normal is not None and (gaussian := Gaussian(*normal)).finite:
            by_tensor[tensor] = gaussian
    for op in graph.ops:
        rule = _RULES.get(op.kind)
        if rule is None or not op.outputs or op.output in by_tensor:
            continue
        operands = [by_tensor.get(t) for t in op.inputs if t is not None and not t.is_const]
        given = [g for g in operands if g is not None]
        if len(given) == len(operands) and given:
            made = rule(op, given)
            if made is not None and made.finite and made.mean.size == op.output.shape[-1]:
                by_tensor[op.output] = made
    return by_tensor


def has_statistics(graph: Graph) -> bool:
    """Whether BatchNorm says how values are distributed, in an op or where it was folded."""
    # Scales and shifts that were raised to a BATCH_NORM say nothing of mean and variance.
    ops = graph.ops_of("BATCH_NORM")
    return any(op.input(3) and op.input(4) for op in ops) or bool(propagate(graph))


def _same(op: Op, g: list[Gaussian]) -> Gaussian:
    return g[0]


def _activation(op: Op, g: list[Gaussian]) -> Gaussian:
    return clip_gaussian(g[0], *clip_bounds(op))


def _add(op: Op, g: list[Gaussian]) -> Gaussian | None:
    if len(g) != 2 or g[0].mean.size != g[1].mean.size:
        return None
    return Gaussian(
        g[0].mean + g[1].mean,
        np.hypot(g[0].std, g[1].std),
        g[0].low + g[1].low,
        g[0].high + g[1].high,
    )


def _concat(op: Op, g: list[Gaussian]) -> Gaussian:
    mean, std = (np.concatenate([getattr(x, k) for x in g]) for k in ("mean", "std"))
    return Gaussian(mean, std, min(x.low for x in g), max(x.high for x in g))


def _linear(op: Op, g: list[Gaussian]) -> Gaussian | None:
    """Mean and variance of W x + b for channels taken as independent."""
    view = LinearView.of(op)
    if isinstance(view, NoMatch):
        return None
    w = view.by_output.astype(np.float64)
    channels = g[0].mean.size
    if view.is_depthwise:
        taps = w.reshape(w.shape[0], -1)
        mean = taps.sum(1) * view.along_inputs(g[0].mean)
        std = np.abs(taps).sum(1) * view.along_inputs(g[0].std)
    elif w.shape[-1] == channels:
        taps = w.reshape(w.shape[0], -1, channels).sum(1)
        mean, std = taps @ g[0].mean, np.sqrt(taps**2 @ g[0].std ** 2)
    else:
        return None
    return Gaussian(mean + view.bias, std)


_RULES: Mapping[str, Callable[[Op, list[Gaussian]], Gaussian | None]] = MappingProxyType(
    {
        **dict.fromkeys(kinds_that(lambda op: op.clips), _activation),
        **dict.fromkeys(
            ("AVERAGE_POOL_2D", "MAX_POOL_2D", "MEAN", "RESHAPE", "SQUEEZE", "PAD",
             "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "FAKE_QUANT", "IDENTITY"),
            _same,
        ),
        "ADD": _add,
        "CONCATENATION": _concat,
        **dict.fromkeys(kinds_that(lambda op: op.gathers), _linear),
    }
)  # fmt: skip


def _pdf(z: Float64) -> Float64:
    out: Float64 = np.exp(-0.5 * np.minimum(z * z, 1400.0)) / np.sqrt(2 * np.pi)
    return out


def _cdf(z: Float64) -> Float64:
    """The standard normal distribution function; there are only as many values as channels."""
    flat = [0.5 * (1 + erf(v / np.sqrt(2))) for v in np.asarray(z).reshape(-1)]
    return np.array(flat).reshape(np.shape(z))
