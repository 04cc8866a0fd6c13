"""`equalize`: scale channels between two layers so that their weights use one range alike."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import numpy as np

from qfrewrite.errors import UsageError
from qfrewrite.ir import Graph, Op
from qfrewrite.lower.canonical import canonicalise
from qfrewrite.passes._base import Pass, register
from qfrewrite.passes._context import PassRewriter
from qfrewrite.passes._pairs import MARGIN, Float64, Pair, find_pair, look
from qfrewrite.rewrite.fold import set_weights
from qfrewrite.rewrite.match import (
    LINEAR,
    bias_of,
    channel_axis,
    weights_of,
)

# How far channels may be scaled.
_MOST = 64.0
_MODES = ("exact", "fill")


@register
@dataclass(frozen=True)
class Equalize(Pass):
    """Scale channels between two linear layers, so that one range of weights fits all of them.

    Given:  y = f(x; w, b);  z = g(act(y); v, d)
    Result: y = f(x; w t, b t);  z = g(act(y); v / t, d), t[c] > 0 for each channel c
    Exact for RELU, LEAKY_RELU, PRELU, pooling, zero padding, or nothing in between; for RELU6 too:
    channels that it clips stay, and scaled ones never come to clip. mode=exact balances the
    largest weights of both layers (Nagel et al. 2019, arXiv:1906.04721, section 4.1), `sweeps`
    times over the graph; mode=fill widens activations to the power `power` of what the range
    leaves instead, for weights with a scale per channel. The largest activations come from data,
    else from BatchNorm statistics. Stops at residual additions and other joins.
    """

    name: ClassVar[str] = "equalize"
    exact: ClassVar[bool] = True

    mode: str = "exact"
    power: float = 0.5
    sweeps: int = 15

    def __post_init__(self) -> None:
        """Fail on a wrong mode before anything slow happens."""
        if self.mode not in _MODES:
            raise UsageError(f"mode={self.mode}", where="equalize",
                             remedy=f"use one of {', '.join(_MODES)}")  # fmt: skip

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """Find pairs, look at activations once, then balance the weights in memory."""
        canonicalise(graph)
        pairs = [p for op in graph.ops_of(*LINEAR) if (p := find_pair(rw, op)) is not None]
        if not pairs:
            rw.note("no two linear layers follow each other")
            return
        look(rw, pairs)
        for pair in pairs:
            pair.scale = np.ones(pair.first.output.shape[-1])
        weights = {op: weights_of(op).astype(np.float64) for p in pairs
                   for op in (p.first, p.second)}  # fmt: skip
        biases = {p.first: bias_of(p.first) for p in pairs}
        for _ in range(1 if self.mode == "fill" else self.sweeps):
            for pair in pairs:
                t = self._fill(pair, weights) if self.mode == "fill" else _balance(pair, weights)
                _scale(pair, t, weights, biases)
        for pair in pairs:
            self._report(rw, pair)
        for op in dict.fromkeys(op for p in pairs for op in (p.first, p.second)):
            set_weights(rw, op, weights[op].astype(np.float32),
                        biases.get(op, bias_of(op)).astype(np.float32))  # fmt: skip

    def _fill(self, pair: Pair, weights: dict[Op, Float64]) -> Float64:
        bound = 6.0 if pair.clips_at_6 else float(pair.most.max(initial=0.0))
        t = np.maximum(MARGIN * bound / np.maximum(pair.most, 1e-9), 1.0) ** self.power
        return np.where(pair.fixed | (pair.most <= 0), 1.0, np.minimum(t, _MOST))

    def _report(self, rw: PassRewriter, pair: Pair) -> None:
        moved = int((np.abs(np.log(pair.scale)) > 1e-3).sum())
        if moved:
            rw.edit("equalized", pair.first, f"{moved} channels with {pair.second.name}")
        rw.layer(pair.first, second=pair.second.name, channels=moved,
                 clipping=int(pair.fixed.sum()), least=float(pair.scale.min()),
                 most=float(pair.scale.max()))  # fmt: skip


def _largest(pair: Pair, weights: dict[Op, Float64]) -> tuple[Float64, Float64]:
    """The largest weight of each channel in both layers, [C]."""
    first = np.moveaxis(np.abs(weights[pair.first]), channel_axis(pair.first), 0)
    r1 = first.reshape(first.shape[0], -1).max(1)
    second = np.abs(weights[pair.second])
    if pair.second.kind == "DEPTHWISE_CONV_2D":
        return r1, second.reshape(-1, r1.size, second.shape[3] // r1.size).max((0, 2))
    return r1, second.reshape(-1, second.shape[-1]).max(0)


def _balance(pair: Pair, weights: dict[Op, Float64]) -> Float64:
    r1, r2 = _largest(pair, weights)
    dead = (r1 <= 0) | (r2 <= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.sqrt((r2 / r2.max()) / (r1 / r1.max()))
    t = np.where(dead | ~np.isfinite(t), 1.0, t)
    limit = MARGIN * 6.0 / np.maximum(pair.most, 1e-9) if pair.clips_at_6 else inf
    t = np.minimum(t, np.maximum(limit, 1e-9))
    t = np.clip(pair.scale * t, 1 / _MOST, _MOST) / pair.scale
    # Within the limit again: the bound on the product must not let a channel clip.
    return np.where(pair.fixed | dead, 1.0, np.minimum(t, limit))


def _scale(pair: Pair, t: Float64, weights: dict[Op, Float64], biases: dict[Op, Float64]) -> None:
    shape = [1] * weights[pair.first].ndim
    shape[channel_axis(pair.first)] = -1
    weights[pair.first] = weights[pair.first] * t.reshape(shape)
    biases[pair.first] = biases[pair.first] * t
    spread = t
    if pair.second.kind == "DEPTHWISE_CONV_2D":
        spread = np.repeat(t, weights[pair.second].shape[3] // t.size)
    weights[pair.second] = weights[pair.second] / spread
    pair.most, pair.scale = pair.most * t, pair.scale * t
