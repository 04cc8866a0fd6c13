"""`round_geometry`: channel counts that 8-bit kernels like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qfrewrite.ir import Graph
from qfrewrite.passes._registry import Pass, register
from qfrewrite.passes.resize_input import resize
from qfrewrite.rewrite.channel_rules import trace_channels
from qfrewrite.rewrite.match import LINEAR, NoMatch
from qfrewrite.solve.channel_counts import Plan, rounded_down, rounded_up
from qfrewrite.solve.context import PassRewriter
from qfrewrite.solve.relaying import Costs, relay
from qfrewrite.solve.sizes import next_even_size

_COSTLY = "its users would get more blocks of channels (force=true does it anyway)"


@register
@dataclass(frozen=True)
class RoundGeometry(Pass):
    """Round the channel counts of layers up to a multiple of eight, with zero weights.

    Given:  y = f(x; w, b) with C channels;  z = g(y; v, d)
    Result: y' = f(x; w', b') with multiple * ceil(C / multiple), z = g(y'; v', d)
    w', b' and v' are w, b and v with zeros for the channels put in. They are put in wherever the
    same channels occur: through activations, pools, additions (residual cycles as a whole),
    products, concatenations (each part is rounded, in its place), splits, flattening. Inputs and
    outputs of the graph keep their shapes, and so do layers whose channels an op reads that
    mixes them. Left alone, unless `force`, is what would give kernels more blocks of channels
    to compute than it had before. `down` drops the least important channels instead: not exact;
    with data their mean goes into the biases. what=spatial raises the input size (as
    `resize_input` does, not exact) to the next one at which every feature map is a multiple high
    and wide; what=all does both. Source: Feng et al. 2018 (LPIRC).
    """

    exact = True
    requires = "canonical"

    multiple: Literal[2, 4, 8, 16, 32, 64] = 8
    force: bool = False
    down: bool = False
    what: Literal["channels", "spatial", "all"] = "channels"

    @property
    def keeps_function(self) -> bool:
        """Not where channels are dropped or the input size changes."""
        return not self.down and self.what == "channels"

    @property
    def keeps_interface(self) -> bool:
        """Only rounding of feature maps asks for another input size."""
        return self.what == "channels"

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """All layers are solved together."""
        if self.what != "channels" and rw.main:
            self._spatial(rw)
        if self.what != "spatial":
            self._channels(graph, rw)

    def _spatial(self, rw: PassRewriter) -> None:
        size = next_even_size(rw.graph, self.multiple)
        if isinstance(size, NoMatch):
            rw.note("input-size", f"the input size stays: {size}")
        else:
            resize(rw, size)

    def _channels(self, graph: Graph, rw: PassRewriter) -> None:
        channels = trace_channels(graph)
        costs = Costs(rw)
        if self.down:
            plan = rounded_down(rw, channels, self.multiple)
            rw.warn(
                "channels-dropped",
                f"{len(plan.drop)} channels are dropped: the function is not kept",
            )
        else:
            plan = rounded_up(channels, self.multiple, force=self.force)
        relay(rw, channels, "rounded", drop=plan.drop, pad=plan.pad)
        self._explain(rw, plan)
        costs.report()

    def _explain(self, rw: PassRewriter, plan: Plan) -> None:
        """Why layers stay that are no multiple wide."""
        for op in rw.graph.ops_of(*LINEAR):
            ids = plan.channels.of(op.output)
            if ids is None or not op.output.shape[-1] % self.multiple:
                continue
            why = plan.channels.movable(ids)
            if not isinstance(why, NoMatch):
                costly = bool(plan.costly & set(ids.tolist()))
                why = NoMatch(_COSTLY if costly else "they follow from its input")
            rw.skip(op, f"{ids.size} channels stay: {why}")
