"""`absorb_bias`: what a channel never falls below goes into the next layer's bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qfrewrite.calibration.statistics import propagate
from qfrewrite.ir import Graph, Op
from qfrewrite.ir.dtypes import Float64
from qfrewrite.ops.spec import facets
from qfrewrite.passes._registry import Pass, register
from qfrewrite.rewrite.dead_channels import next_linear
from qfrewrite.rewrite.linear import LinearView, linear_views
from qfrewrite.rewrite.match import NoMatch
from qfrewrite.solve.context import PassRewriter
from qfrewrite.solve.moments import channel_extremes
from qfrewrite.solve.scaling import NEAR, REACH

# Without data a channel is taken to stay above its mean less so many deviations.
_SIGMAS = 3.0
# With data others may lie lower than the least that was seen, by this share of what lies between
# the least and the most.
_MARGIN = 0.25
# What is less than this share of the spread is not worth an edit.
_LEAST = 1e-3


@register
@dataclass(frozen=True)
class AbsorbBias(Pass):
    """Move what a channel never falls below from one bias into the next.

    Given:  y = f(x; w, b), y[..., c] >= k[c] > 0;  z = g(relu(y); v, d)
    Result: y = f(x; w, b - k);  z = g(relu(y); v, d + what k adds)
    Activations lose an offset that only widens their range. k: with data the least value that any
    sample shows, less a quarter of what lies between that and the largest; without, the mean less 3
    deviations from BatchNorm statistics, as in the paper. Where the next layer pads what it reads,
    or ReLU6 may clip, the channel stays. (Nagel et al. 2019, arXiv:1906.04721, section 4.1.3.)
    """

    requires = "canonical"

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """Only where one activation that keeps positive values lies between."""
        sites: list[_Pair] = []
        for view in linear_views(graph):
            site = _pair(view.op)
            if isinstance(site, NoMatch):
                rw.skip(view.op, site)
            else:
                sites.append(site)
        if not sites:
            return
        for site, (least, most) in zip(sites, _extremes(rw, sites), strict=True):
            first, second = LinearView.of(site.first), LinearView.of(site.second)
            assert isinstance(first, LinearView)
            assert isinstance(second, LinearView)
            clips = (most >= NEAR * 6.0) if site.activation.kind == "RELU6" else False
            k = np.where(clips | (least < _LEAST * (most - least)), 0.0, np.maximum(least, 0.0))
            if not k.any():
                continue
            rw.set_linear(first.shifted(-k))
            rw.set_linear(second.corrected(second.response(k)))
            name, count = second.op.name, int((k > 0).sum())
            rw.edit("absorbed", first.op, f"{count} biases into '{name}'")
            rw.layer(first.op, second=name, channels=count, most=float(k.max()))


@dataclass(frozen=True)
class _Pair:
    """A linear layer, the activation behind it, and the layer that alone reads that, unpadded."""

    first: Op
    activation: Op
    second: Op


def _pair(op: Op) -> _Pair | NoMatch:
    found = next_linear(op)
    if isinstance(found, NoMatch):
        return found
    user, through = found
    if len(through) != 1 or not facets(through[0]).rectifies:
        return NoMatch("has no RELU or RELU6 alone behind it", at=op.name)
    if user.pads:
        return NoMatch("pads what it reads", at=user.op.name)
    return _Pair(op, through[0], user.op)


def _extremes(rw: PassRewriter, sites: list[_Pair]) -> list[tuple[Float64, Float64]]:
    """What each channel of each site never falls below, before the activation, and its most."""
    outputs = [site.first.output for site in sites]
    if rw.main and rw.samples is not None:
        seen = channel_extremes(rw, outputs, "looking at biases")
        finite = [(a, b, np.isfinite(a) & np.isfinite(b)) for a, b in seen.values()]
        return [
            (np.where(ok, a - _MARGIN * (b - a), 0.0), np.where(ok, b, 0.0)) for a, b, ok in finite
        ]
    known = propagate(rw.graph)
    nothing = [(np.zeros(t.shape[-1]), np.zeros(t.shape[-1])) for t in outputs]
    return [
        none
        if stats is None
        else (stats.mean - _SIGMAS * stats.std, stats.mean + REACH * stats.std)
        for none, stats in zip(nothing, map(known.get, outputs), strict=True)
    ]
