"""`remove_dw_bn`: nothing between a depthwise convolution and its pointwise one."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any

import numpy as np

from qfrewrite.ir import Graph, Op
from qfrewrite.passes._registry import Pass, register
from qfrewrite.rewrite.dead_channels import dead_by_weights
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.rewrite.match import NoMatch
from qfrewrite.solve.activation_cost import (
    Cost,
    Original,
    Site,
    costs,
    find_site,
    without_activation,
)
from qfrewrite.solve.context import PassRewriter
from qfrewrite.solve.dead_channels import absorb_reported, fold_and_absorb
from qfrewrite.solve.parameters import Within
from qfrewrite.solve.trial import Trials

# Layers that lose more than this at the pointwise output are not tried; after so many tries that
# failed the rest is not either.
_WORTH_A_TRY_DB = 12.0
_GIVE_UP = 2
_NOTHING_KNOWN = "no data and no BatchNorm statistics to judge by"
_NO_POINTWISE = "no pointwise layer alone reads it"


@register
@dataclass(frozen=True)
class RemoveDwBn(Pass):
    """Remove BatchNorm, and ReLU6 where that costs next to nothing, after depthwise layers.

    Given:  pointwise(RELU6(BATCH_NORM(depthwise(x))))
    Result: pointwise(depthwise(x)), or pointwise(RELU6(depthwise(x))) where ReLU6 is needed
    BatchNorm goes everywhere, exactly: it is folded, and channels whose variance is about 0 are
    absorbed into the next bias. With data the pointwise weights are then fitted to do without the
    activation (`refit`, ridge regression, strength chosen on samples held out), and
    `layers=auto` removes ReLU6 where the pointwise output keeps a signal to noise ratio of
    `min_sqnr` dB, and goes on, from the cheapest, while the SQNR of the quantized outputs drops
    by no more than `max_drop_db` in all. Without data BatchNorm statistics judge. `layers` may
    be a name pattern, or `all` (for graphs to be trained again): removed whatever it costs.
    Source: Sheng et al. 2018, arXiv:1803.08607, section 4.
    """

    layers: str = "auto"
    min_sqnr: Annotated[float, Within(0)] = 40.0
    refit: bool = True
    max_drop_db: Annotated[float, Within(0)] = 1.0

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """BatchNorm first, then ReLU6 by its cost."""
        depthwise = graph.ops_of("DEPTHWISE_CONV_2D")
        if not depthwise:
            rw.note("nothing-to-do", "the graph has no depthwise convolution")
        for op in depthwise:
            fold_and_absorb(rw, op)
            view = LinearView.of(op)
            if isinstance(view, LinearView):
                absorb_reported(rw, view, dead_by_weights(view), "without weights")
        sites = [site for op in depthwise if isinstance(site := find_site(op), Site)]
        found = costs(rw, sites, fit=self.refit)
        if self.layers == "auto":
            self._where_cheap(rw, sites, found)
        else:
            self._where_asked(rw, sites, found)

    def _where_asked(self, rw: PassRewriter, sites: list[Site], found: dict[Op, Cost]) -> None:
        """Each layer is fitted to what the ones before it, changed already, give."""
        original = rw.graph.clone()
        done = 0
        for site in sites:
            if self.layers != "all" and not fnmatchcase(site.depthwise.name, self.layers):
                rw.skip(site.relu6, f"does not match '{self.layers}'")
                continue
            cost = found.get(site.relu6)
            if done and cost is not None and rw.samples is not None and self.refit:
                cost = without_activation(rw, site, original)
            _remove(rw, site, cost)
            done += 1
        if done:
            rw.warn(
                "train-again",
                f"ReLU6 was removed from {done} depthwise layers regardless of its cost: "
                "the graph must be trained again before it is used",
            )

    def _where_cheap(self, rw: PassRewriter, sites: list[Site], found: dict[Op, Cost]) -> None:
        costly: list[Site] = []
        original = rw.graph.clone()
        for site in sites:
            cost, why = found.get(site.relu6), _NOTHING_KNOWN
            if isinstance(site.pointwise, NoMatch):
                why = f"{_NO_POINTWISE}: {site.pointwise}"
            if cost is None:
                rw.skip(site.relu6, why)
            elif cost.sqnr >= self.min_sqnr:
                _remove(rw, site, cost)
            else:
                costly.append(site)
        tried = rw.main and rw.samples is not None and self.max_drop_db
        worth = [s for s in costly if tried and found[s.relu6].sqnr >= _WORTH_A_TRY_DB]
        for site in costly:
            if site not in worth:
                cost = found[site.relu6]
                _keep(rw, site, cost, f"SQNR {cost.sqnr:.1f} dB without it")
        if worth:
            self._while_cheap(rw, worth, found, original)

    def _while_cheap(
        self, rw: PassRewriter, sites: list[Site], found: dict[Op, Cost], original: Original
    ) -> None:
        """Try the sites from the one that costs the scores least; costs add up."""
        budget = _Budget(rw)
        alone = {site: budget.drop(site, found[site.relu6]) for site in sites}
        failed = 0
        for site in sorted(sites, key=alone.__getitem__):
            cost, drop = found[site.relu6], alone[site]
            if drop <= self.max_drop_db and failed < _GIVE_UP:
                # Others may be gone already: fit, and measure, again.
                cost = without_activation(rw, site, original, fit=self.refit)
                drop = budget.drop(site, cost)
            if drop > self.max_drop_db or failed == _GIVE_UP:
                failed += 1
                _keep(rw, site, cost, f"the scores would lose {drop:.1f} dB", drop_db=drop)
            else:
                _remove(rw, site, cost, drop_db=drop)


class _Budget:
    """What the quantized scores lose by what is removed, in dB of their SQNR.

    Errors of quantizing and of removing are taken as independent: their powers add up.
    """

    def __init__(self, rw: PassRewriter) -> None:
        self._trials = Trials(rw)
        self._noise = 10 ** (-self._trials.quantized_sqnr() / 10)

    def drop(self, site: Site, cost: Cost) -> float:
        """The loss once this layer's activation is gone too."""

        def edit(rw: PassRewriter, twin: dict[Op, Op]) -> None:
            pointwise = site.pointwise
            if isinstance(pointwise, LinearView):
                pointwise = LinearView.of(twin[pointwise.op])
            _remove(rw, Site(twin[site.depthwise], twin[site.relu6], pointwise), cost)

        removed = 10 ** (-self._trials.sqnr(edit) / 10)
        return float(10 * np.log10(1 + removed / self._noise))


def _remove(rw: PassRewriter, site: Site, cost: Cost | None, **figures: Any) -> None:
    _report(rw, site, cost, "removed", **figures)
    if cost is not None and isinstance(site.pointwise, LinearView):
        weights = cost.weights.reshape(site.pointwise.weights.shape)
        rw.set_linear(site.pointwise.with_weights(weights, cost.bias))
    detail = "" if cost is None else f", SQNR {cost.sqnr:.1f} dB at the pointwise output"
    rw.bypass(site.relu6, detail=f"{site.relu6.kind} after {site.depthwise.name}{detail}")


def _keep(rw: PassRewriter, site: Site, cost: Cost, why: str, **figures: Any) -> None:
    _report(rw, site, cost, "kept", **figures)
    rw.skip(site.relu6, f"ReLU6 stays: {why}")


def _report(rw: PassRewriter, site: Site, cost: Cost | None, decision: str, **figures: Any) -> None:
    sqnr, clips = (None, None) if cost is None else (cost.sqnr, cost.clip_rate)
    rw.layer(site.depthwise, sqnr_db=sqnr, clip_rate=clips, **figures, decision=decision)
