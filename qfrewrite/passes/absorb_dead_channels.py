"""`absorb_dead_channels`: constants of dead channels into the next bias, their weights to zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from qfrewrite.ir import Graph, Op
from qfrewrite.lower.canonical import canonicalise
from qfrewrite.passes._registry import Pass, register
from qfrewrite.rewrite.channel_rules import trace_channels, unused
from qfrewrite.rewrite.dead_channels import DEAD_VARIANCE, DeadChannels, dead_by_weights
from qfrewrite.rewrite.linear import LinearView, linear_views
from qfrewrite.rewrite.match import LINEAR
from qfrewrite.solve.context import PassRewriter
from qfrewrite.solve.dead_channels import absorb_reported, fold_and_absorb
from qfrewrite.solve.moments import channel_extremes
from qfrewrite.solve.parameters import Within
from qfrewrite.solve.relaying import Costs, relay

# A channel whose output moved by no more than this fraction of its layer's range is constant.
_STILL = 1e-5


@register
@dataclass(frozen=True)
class AbsorbDeadChannels(Pass):
    """Move the constants of channels that never change into the next layer's bias.

    Given:  y = f(x; w, b), y[..., c] constant for some c;  z = g(y; v, d)
    Result: y = f(x; w', b') with w'[c] = b'[c] = 0;  z = g(y; v', d + what the constants added)
    A channel is dead where its BatchNorm saw a variance below `tol`, where its weights are all
    zero, or (with data) where its output stays the same over all samples. BatchNorm is folded on
    the way. Exact inside; where the next layer pads what it reads, only channels whose constant is
    0 (after the activation) can go. The root cause of the collapse of per-tensor int8 MobileNets
    (Sheng et al. 2018, arXiv:1803.08607, section 3). Without data the function is kept exactly.
    With `remove` channels that nothing reads with a weight other than 0 then leave the graph,
    through additions, concatenations and all that carries them: fewer MACs at the same output.
    """

    exact = True

    tol: Annotated[float, Within(0, 1)] = DEAD_VARIANCE
    remove: bool = False

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """By BatchNorm and weights first; what data show comes last, on folded layers."""
        for op in graph.ops_of(*LINEAR):
            _row(rw, op, fold_and_absorb(rw, op, self.tol), "BatchNorm")
        canonicalise(graph, rw.log)
        for view in linear_views(graph):
            done = absorb_reported(rw, view, dead_by_weights(view), "without weights")
            _row(rw, view.op, done, "weights")
        # A channel that made-up images do not wake may be alive on real ones.
        if rw.main and rw.samples is not None and not rw.context.imagined:
            _by_data(rw)
        if self.remove:
            channels, costs = trace_channels(graph), Costs(rw)
            relay(rw, channels, "narrowed", drop=unused(channels))
            costs.report()


def _by_data(rw: PassRewriter) -> None:
    """Channels whose output before the activation is the same wherever it was seen."""
    ops = [v.op for v in linear_views(rw.graph) if not v.output.is_output]
    if not ops:
        return
    seen = channel_extremes(rw, [op.output for op in ops], "looking for dead channels")
    for op, (least, most) in zip(ops, seen.values(), strict=True):
        view = LinearView.of(op)
        assert isinstance(view, LinearView)
        span = float(most.max() - least.min())
        still = (most - least <= _STILL * span) & (span > 0)
        zeroed = dead_by_weights(view).dead & (view.bias == 0)
        channels = DeadChannels(still & ~zeroed, (least + most) / 2)
        _row(rw, op, absorb_reported(rw, view, channels, "by data"), "data")


def _row(rw: PassRewriter, op: Op, done: int, by: str) -> None:
    if done:
        rw.layer(op, dead=done, found=by)
