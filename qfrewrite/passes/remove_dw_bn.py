"""`remove_dw_bn`: nothing between a depthwise convolution and its pointwise one."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import inf
from typing import Any, ClassVar

import numpy as np

from qfrewrite.calibrate.statistics import Gaussian, clip_gaussian, propagate
from qfrewrite.ir import Array, Graph, Op
from qfrewrite.passes._base import Pass, register
from qfrewrite.passes._context import PassRewriter
from qfrewrite.rewrite.dead_channels import (
    absorb,
    dead_by_batch_norm,
    dead_by_weights,
    settle_values,
)
from qfrewrite.rewrite.fold import fold_batch_norm, pads, set_weights
from qfrewrite.rewrite.match import NoMatch, bias_of, float_weights, sole_reader, weights_of
from qfrewrite.runtime.metrics import sqnr_db

# Samples that settle a signal to noise ratio: each gives dozens of positions of every channel.
_JUDGED_ON = 50


@register
@dataclass(frozen=True)
class RemoveDwBn(Pass):
    """Remove BatchNorm, and ReLU6 where that costs next to nothing, after depthwise layers.

    Given:  pointwise(RELU6(BATCH_NORM(depthwise(x))))
    Result: pointwise(depthwise(x)), or pointwise(RELU6(depthwise(x))) where ReLU6 is needed
    BatchNorm goes everywhere, exactly: it is folded, and channels whose variance is about 0 are
    absorbed into the next bias. ReLU6 goes where the pointwise layer's output keeps a signal to
    noise ratio of `min_sqnr` dB without it (`layers=auto`: measured on data, else judged from
    BatchNorm statistics; the mean of the change goes into the pointwise bias), on the layers
    whose name matches a pattern, or on all (`layers=all`: for graphs to be trained again).
    Source: Sheng et al. 2018, arXiv:1803.08607, section 4.
    """

    name: ClassVar[str] = "remove_dw_bn"
    exact: ClassVar[bool] = False

    layers: str = "auto"
    min_sqnr: float = 40.0

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """BatchNorm first, then ReLU6 by its cost."""
        depthwise = graph.ops_of("DEPTHWISE_CONV_2D")
        if not depthwise:
            rw.note("the graph has no depthwise convolution")
        for op in depthwise:
            _remove_batch_norm(rw, op)
        sites = [site for op in depthwise if (site := _site(rw, op)) is not None]
        costs = _measured(rw, sites) if rw.context.data is not None else _estimated(rw, sites)
        for site in sites:
            self._decide(rw, site, costs.get(site.relu6))
        forced = [s for s in sites if s.relu6 not in graph and self.layers != "auto"]
        if forced:
            rw.warn(
                f"ReLU6 was removed from {len(forced)} depthwise layers regardless of its cost: "
                "the graph must be trained again before it is used"
            )

    def _decide(self, rw: PassRewriter, site: _Site, cost: _Cost | None) -> None:
        sqnr = cost.sqnr if cost is not None else None
        figures: dict[str, Any] = {
            "sqnr_db": sqnr, "clip_rate": cost.clip_rate if cost is not None else None
        }  # fmt: skip
        if self.layers == "auto":
            if sqnr is None:
                rw.skip(site.relu6, "no data and no BatchNorm statistics to judge by")
                return
            if sqnr < self.min_sqnr:
                rw.layer(site.depthwise, **figures, decision="kept")
                rw.skip(site.relu6, f"ReLU6 stays: SQNR {sqnr:.1f} dB without it")
                return
        elif self.layers != "all" and not fnmatchcase(site.depthwise.name, self.layers):
            rw.skip(site.relu6, f"does not match '{self.layers}'")
            return
        rw.layer(site.depthwise, **figures, decision="removed")
        if cost is not None and site.pointwise is not None:
            b = bias_of(site.pointwise) - cost.mean_change
            set_weights(rw, site.pointwise, weights_of(site.pointwise), b)
        detail = "" if sqnr is None else f", SQNR {sqnr:.1f} dB at the pointwise output"
        rw.bypass(site.relu6, detail=f"{site.relu6.kind} after {site.depthwise.name}{detail}")


@dataclass(frozen=True)
class _Site:
    """A depthwise op, the activation that follows it, and the 1x1 op that reads that, if any."""

    depthwise: Op
    relu6: Op
    pointwise: Op | None


@dataclass(frozen=True)
class _Cost:
    """Removing an activation: SQNR at the pointwise output in dB after its mean is mended, the
    mean change there [O], and the fraction of values it clips at either end."""

    sqnr: float
    mean_change: Array
    clip_rate: float


def _remove_batch_norm(rw: PassRewriter, op: Op) -> None:
    graph = rw.graph
    reader = sole_reader(graph, op.output)
    channels = None
    if isinstance(reader, Op) and reader.kind == "BATCH_NORM":
        channels = dead_by_batch_norm(reader)
        why = fold_batch_norm(rw, reader)
        if why is not None:
            rw.skip(reader, why)
            return
        channels = settle_values(op, channels) if channels is not None else None
    if float_weights(op) is not None:
        return
    for found in (channels, dead_by_weights(op)):
        if found is None:
            continue
        done = absorb(rw, op, found)
        if isinstance(done, NoMatch):
            rw.skip(op, f"{int(found.dead.sum())} dead channels stay: {done}")
        elif done and found is channels:
            rw.edit("absorbed", op, f"{done} dead channels into the next bias")


def _site(rw: PassRewriter, op: Op) -> _Site | None:
    relu6 = sole_reader(rw.graph, op.output)
    if isinstance(relu6, NoMatch) or relu6.kind not in ("RELU6", "RELU"):
        return None
    reader = sole_reader(rw.graph, relu6.output)
    if isinstance(reader, NoMatch) or reader.kind != "CONV_2D" or float_weights(reader):
        return _Site(op, relu6, None)
    fits = weights_of(reader).shape[1:] == (1, 1, op.output.shape[-1])
    return _Site(op, relu6, reader if fits and not pads(reader) else None)


def _bounds(relu: Op) -> tuple[float, float]:
    return (0.0, 6.0) if relu.kind == "RELU6" else (0.0, inf)


def _measured(rw: PassRewriter, sites: list[_Site]) -> dict[Op, _Cost]:
    """Costs from moments of the activation and of the change, streamed over the data."""
    judged = [s for s in sites if s.pointwise is not None]
    if not judged:
        return {}
    moments = [_Moments(s) for s in judged]
    for values in rw.observe(
        [s.depthwise.output for s in judged],
        "measuring what ReLU6 does after depthwise layers",
        most=_JUDGED_ON,
    ):
        for moment, value in zip(moments, values, strict=True):
            moment.add(value)
    return {s.relu6: m.cost() for s, m in zip(judged, moments, strict=True)}


class _Moments:
    """Sums over positions of the activation a and the change d = x - a, [C] and [C, C]."""

    # Positions of one sample that enter the covariances, evenly spread.
    rows = 32
    # Positions that are added up at once.
    block = 1024

    def __init__(self, site: _Site) -> None:
        assert site.pointwise is not None
        channels = site.depthwise.output.shape[-1]
        self._w = weights_of(site.pointwise).astype(np.float64).reshape(-1, channels)
        self._bounds = _bounds(site.relu6)
        self._sums = [np.zeros(channels), np.zeros(channels)]
        self._squares = [np.zeros((channels, channels)), np.zeros((channels, channels))]
        self._count, self._clipped, self._seen = 0, 0, 0
        self._waiting: list[Array] = []

    def add(self, x: Array) -> None:
        """Take the positions of one sample."""
        flat = x.reshape(-1, x.shape[-1])
        self._waiting.append(np.array(flat[:: max(len(flat) // self.rows, 1)]))
        if sum(map(len, self._waiting)) >= self.block:
            self._flush()

    def _flush(self) -> None:
        """Add what waits to the sums; in blocks, since a product of a few rows is all overhead."""
        if not self._waiting:
            return
        x = np.concatenate(self._waiting)
        self._waiting.clear()
        a = np.clip(x, *self._bounds)
        change = x - a
        for i, part in enumerate((a, change)):
            self._sums[i] += part.sum(0, dtype=np.float64)
            self._squares[i] += part.T @ part
        self._count += len(x)
        self._clipped += int(np.count_nonzero(change))
        self._seen += change.size

    def cost(self) -> _Cost:
        """What removing the activation costs, of all that was added."""
        self._flush()
        means = [s / self._count for s in self._sums]
        signal, noise = (
            float(((self._w @ (q / self._count - np.outer(m, m))) * self._w).sum())
            for q, m in zip(self._squares, means, strict=True)
        )
        sqnr = sqnr_db(signal, max(noise, 0.0))
        return _Cost(sqnr, self._w @ means[1], self._clipped / max(self._seen, 1))


def _estimated(rw: PassRewriter, sites: list[_Site]) -> dict[Op, _Cost]:
    """Costs from BatchNorm statistics, channels taken as independent."""
    if sites:
        rw.note("no data: the cost of removing ReLU6 follows from BatchNorm statistics")
    known = propagate(rw.graph)
    return {
        s.relu6: _gaussian_cost(s, known[s.depthwise.output])
        for s in sites
        if s.pointwise is not None and s.depthwise.output in known
    }


def _gaussian_cost(site: _Site, x: Gaussian) -> _Cost:
    assert site.pointwise is not None
    low, high = _bounds(site.relu6)
    w = weights_of(site.pointwise).astype(np.float64).reshape(-1, x.mean.size)
    kept = clip_gaussian(x, low, high)
    # x - clip(x) = (x - high)+ - (low - x)+; the two never meet.
    under = clip_gaussian(Gaussian(x.mean - low, x.std), -inf, 0.0)
    change = under.std**2, under.mean
    if high < inf:
        over = clip_gaussian(Gaussian(x.mean - high, x.std), 0.0, inf)
        change = change[0] + over.std**2 - 2 * under.mean * over.mean, under.mean + over.mean
    power = (w**2).sum(0)
    clipped = float(1 - x.above(low).mean())
    if high < inf:
        clipped += float(x.above(high).mean())
    sqnr = sqnr_db(float(power @ kept.std**2), float(power @ np.maximum(change[0], 0)))
    return _Cost(sqnr, w @ change[1], clipped)
