"""Change the channels of a graph, and say of which layers and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qfrewrite.errors import QfError
from qfrewrite.ir import Graph, Model
from qfrewrite.lower.cost import macs, total_macs, weight_bytes
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.rewrite.channel_rules import RULES
from qfrewrite.rewrite.channels import Channels
from qfrewrite.rewrite.match import LINEAR
from qfrewrite.rewrite.relayout import Relayout
from qfrewrite.rewrite.rewriter import Log
from qfrewrite.runtime.session import Runner
from qfrewrite.runtime.timing import fed, time_interleaved
from qfrewrite.solve.context import Nested, PassContext, PassRewriter

_ROUNDS = 15


def relay(
    rw: PassRewriter,
    channels: Channels,
    action: str,
    *,
    drop: Iterable[int] = (),
    pad: Mapping[int, int] | None = None,
) -> None:
    """Drop classes of channels and put padding behind others; an edit per layer that changes."""
    relayout = Relayout(channels, drop, pad or {})
    before = {op: (op.output.shape[-1], macs(op)) for op in rw.graph.ops_of(*LINEAR)}
    relayout.apply({kind: rule.relay for kind, rule in RULES.items()})
    for op, (width, work) in before.items():
        after = op.output.shape[-1]
        if after != width:
            rw.edit(action, op, f"{width} -> {after} channels")
        if macs(op) != work:
            rw.layer(op, channels=f"{width} -> {after}", macs=f"{work} -> {macs(op)}")


class Costs:
    """What a pass that changes the geometry of a graph does to what inference takes.

    Latency is that of plain int8 models of before and after, interleaved, on one thread.
    """

    def __init__(self, rw: PassRewriter) -> None:
        self._rw = rw
        self._before = rw.graph.clone()[0]
        self._edits = len(rw.log.edits)

    def report(self) -> None:
        """Enter the figures as a note, where anything changed."""
        after = self._rw.graph
        if len(self._rw.log.edits) == self._edits:
            return
        texts = [
            f"{label} {old:,} -> {new:,} ({new / max(old, 1):.3f}x)"
            for label, old, new in (
                ("MACs", total_macs(self._before), total_macs(after)),
                ("int8 weights, bytes", _bytes(self._before), _bytes(after)),
            )
        ]
        if self._rw.main:
            try:
                texts.append(_latency(self._before, after, self._rw.context))
            except QfError as error:
                texts.append(f"latency not measured: {error}")
        self._rw.note("costs", "; ".join(texts))


def _bytes(graph: Graph) -> int:
    return sum(weight_bytes(op, eight=True) for op in graph.ops)


def _latency(before: Graph, after: Graph, context: PassContext) -> str:
    nested, seed = context.nested, context.seed
    runners = [plain_int8(graph, nested, threads=1, seed=seed) for graph in (before, after)]
    old, new = time_interleaved(runners, runs=_ROUNDS)
    return (
        f"int8 latency {1e3 * old.median:.2f} -> {1e3 * new.median:.2f} ms "
        f"({new.ratio(old):.3f}x, one thread)"
    )


def plain_int8(graph: Graph, nested: Nested, *, threads: int, seed: int = 0) -> Runner:
    """A plain int8 model to be timed: its ranges need not be good to take the time they take.

    nested: how to run passes on a copy.
    """
    copy = graph.clone()[0]
    nested("calibrate(bias=false)", copy, PassContext(seed=seed), Log(), True, None)
    model = Model([copy, *copy.bodies], source="graphdef")
    return fed(Runner.of(model, QuantOptions(), threads=threads), seed)
