"""What an activation between a depthwise and a pointwise layer is worth, and how to do without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from qfrewrite.calibration.statistics import Gaussian, clip_gaussian, propagate
from qfrewrite.ir import Array, Graph, Op, Tensor
from qfrewrite.ir.dtypes import Float64
from qfrewrite.ops.spec import clip_bounds, facets
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.rewrite.match import NoMatch, sole_user
from qfrewrite.runtime.metrics import sqnr_db
from qfrewrite.runtime.session import Session
from qfrewrite.solve.context import PassRewriter
from qfrewrite.solve.fit import HeldOut, Moments, is_held_out, refit

# A clone of a graph, and the map from the graph's tensors to its own.
Original = tuple[Graph, dict[Tensor, Tensor]]
# Positions of one sample that enter the moments, evenly spread; and how many are added at once,
# since a product of a few rows is all overhead.
_ROWS, _BLOCK = 128, 1024


@dataclass(frozen=True)
class Site:
    """A depthwise op and what follows it."""

    depthwise: Op
    """The depthwise convolution."""
    relu6: Op
    """The activation that alone reads it."""
    pointwise: LinearView | NoMatch
    """The 1x1 convolution that alone reads that, or why there is none."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The values that the activation lets through."""
        return clip_bounds(self.relu6)


@dataclass(frozen=True)
class Cost:
    """What it costs to do without an activation."""

    sqnr: float
    """The SQNR at the pointwise output, in dB."""
    weights: Float64
    """The weights of the pointwise layer that reach it, [O, C]."""
    bias: Float64
    """Its bias, [O]."""
    clip_rate: float
    """The fraction of values that the activation clips, at either end."""


def find_site(op: Op) -> Site | NoMatch:
    """The site that the depthwise `op` begins, or why it begins none."""
    relu6 = sole_user(op.output)
    if isinstance(relu6, NoMatch):
        return relu6
    if not facets(relu6).rectifies:
        return NoMatch(f"is read by {relu6.kind}", at=op.output.name)
    return Site(op, relu6, _pointwise(relu6))


def _pointwise(activation: Op) -> LinearView | NoMatch:
    """The 1x1 convolution that alone reads an activation."""
    user = sole_user(activation.output)
    view = user if isinstance(user, NoMatch) else LinearView.of(user)
    if isinstance(view, LinearView) and (
        view.op.kind != "CONV_2D"
        or view.weights.shape[1:] != (1, 1, activation.output.shape[-1])
        or view.pads
    ):
        return NoMatch("is no 1x1 convolution of all channels", at=view.op.name)
    return view


def costs(rw: PassRewriter, sites: Sequence[Site], *, fit: bool) -> dict[Op, Cost]:
    """What each activation (the key) costs: from data, else from BatchNorm statistics.

    fit: whether the pointwise weights are fitted to do without it; needs data.
    """
    judged = [s for s in sites if isinstance(s.pointwise, LinearView)]
    if not judged:
        return {}
    if rw.samples is not None:
        return _measured(rw, judged, fit)
    rw.notice("no-data", "no data: the cost of removing ReLU6 follows from BatchNorm statistics")
    gaussians = propagate(rw.graph)
    return {
        s.relu6: _gaussian_cost(s, gaussians[s.depthwise.output])
        for s in judged
        if s.depthwise.output in gaussians
    }


def _measured(rw: PassRewriter, sites: list[Site], fit: bool) -> dict[Op, Cost]:
    meters = {s.depthwise.output: _Meter(s) for s in sites}
    label = "measuring what ReLU6 does after depthwise layers"
    for index, values in enumerate(rw.values_of(list(meters), label)):
        for meter, value in zip(meters.values(), values, strict=True):
            meter.add(value, value, held_out=is_held_out(index, first=3))
    return {s.relu6: meters[s.depthwise.output].cost(fit) for s in sites}


def without_activation(
    rw: PassRewriter, site: Site, original: Original, *, fit: bool = True
) -> Cost:
    """The cost of one site, fitted to what an `original` graph gives where this one has changed.

    original: the graph before its changes.
    """
    graph, twins = original
    assert rw.samples is not None
    meter, now = _Meter(site), site.depthwise.output
    before = Session(graph, [twins[now]], threads=rw.context.threads)
    label = f"fitting what follows {site.depthwise.name}"
    pairs = zip(rw.samples.calibration, rw.values_of([now], label), strict=False)
    for index, (sample, values) in enumerate(pairs):
        meter.add(values[0], before.run(sample)[0], held_out=is_held_out(index, first=3))
    return meter.cost(fit)


class _Meter:
    """Moments of a layer's outputs x before the activation and a behind it, streamed."""

    def __init__(self, site: Site) -> None:
        assert isinstance(site.pointwise, LinearView)
        channels = site.depthwise.output.shape[-1]
        self._bounds = site.bounds
        self._weights = site.pointwise.weights.astype(np.float64).reshape(-1, channels)
        self._bias = site.pointwise.bias
        # Of x with a, and of a with itself.
        self._mixed = HeldOut(1, channels, channels, block=_BLOCK)
        self._kept = HeldOut(1, channels, channels, block=_BLOCK)
        self._clipped, self._seen = 0, 0

    def add(self, x: Array, before: Array, *, held_out: bool) -> None:
        """Take positions of one sample: x, and what it was before anything was changed."""
        step = max(x.size // x.shape[-1] // _ROWS, 1)
        rows, clean = (np.array(v.reshape(-1, 1, v.shape[-1])[::step]) for v in (x, before))
        low, high = self._bounds
        a = np.clip(clean, low, high)
        self._mixed.add(rows, a, held_out=held_out)
        self._kept.add(a, a, held_out=held_out)
        self._clipped += int(np.count_nonzero((rows < low) | (rows > high)))
        self._seen += rows.size

    def cost(self, fit: bool) -> Cost:
        """What doing without the activation costs, of all that was added."""
        fitted, held_out = self._mixed.parts
        w, both = self._weights, self._mixed.both
        # The error on held-out rows; where there are none, on all.
        judge = held_out if held_out.count else both
        kept = self._kept.parts[int(held_out.count > 0)]
        xx, ax = (m[0] for m in judge.about(*judge.means))
        aa = kept.about(*kept.means)[0][0]
        signal = float(((w @ aa) * w).sum())

        def noise(of: Float64) -> float:
            return signal - 2 * float(((w @ ax) * of).sum()) + float(((of @ xx) * of).sum())

        best = w
        if fit and self._clipped and fitted.count and held_out.count:
            fitted_w = refit(_at_output(fitted, w), _at_output(held_out, w), w[None])[0][0]
            best = min(w, fitted_w, key=noise)
        mean_x, mean_a = (m[0] for m in both.means)
        bias = self._bias + w @ mean_a - best @ mean_x
        return Cost(
            sqnr_db(signal, max(noise(best), 0.0)), best, bias, self._clipped / max(self._seen, 1)
        )


def _at_output(moments: Moments, w: Float64) -> Moments:
    """Moments of x with w a, from those of x with a."""
    result = Moments(1, w.shape[0], moments.inputs, moments.count)
    result.x, result.xx = moments.x, moments.xx
    result.y, result.yx = moments.y @ w.T, w @ moments.yx
    return result


def _gaussian_cost(site: Site, x: Gaussian) -> Cost:
    """Channels taken as independent."""
    assert isinstance(site.pointwise, LinearView)
    low, high = site.bounds
    w = site.pointwise.weights.astype(np.float64).reshape(-1, x.mean.size)
    kept = clip_gaussian(x, low, high)
    # x - clip(x) = (x - high)+ - (low - x)+; the two never meet.
    under = clip_gaussian(Gaussian(x.mean - low, x.std), -inf, 0.0)
    change = under.std**2, under.mean
    if high < inf:
        over = clip_gaussian(Gaussian(x.mean - high, x.std), 0.0, inf)
        change = change[0] + over.std**2 - 2 * under.mean * over.mean, under.mean + over.mean
    power = (w**2).sum(0)
    clipped = float(1 - x.above(low).mean()) + float(x.above(high).mean())
    sqnr = sqnr_db(float(power @ kept.std**2), float(power @ np.maximum(change[0], 0)))
    return Cost(sqnr, w, site.pointwise.bias - w @ change[1], clipped)
