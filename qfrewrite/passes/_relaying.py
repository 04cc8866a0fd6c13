"""Change the channels of a graph, and say of which layers and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qfrewrite.errors import QfError
from qfrewrite.formats.tflite_write import serialize
from qfrewrite.ir import Graph, Model
from qfrewrite.lower.cost import macs, parameters
from qfrewrite.lower.model import lower_model
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.passes._context import PassContext, PassRewriter
from qfrewrite.passes.calibrate import Calibrate
from qfrewrite.rewrite.channel_rules import RULES
from qfrewrite.rewrite.channels import Channels
from qfrewrite.rewrite.match import LINEAR
from qfrewrite.rewrite.relayout import Relayout
from qfrewrite.runtime.session import Runner
from qfrewrite.runtime.timing import time_in_turn

_ROUNDS = 15


def relay(
    rw: PassRewriter, channels: Channels, action: str, *, drop: Iterable[int] = (),
    pad: Mapping[int, int] | None = None,
) -> None:  # fmt: skip
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

    Latency is that of plain int8 models of before and after, in turn, on one thread.
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
                ("MACs", _total(self._before), _total(after)),
                ("int8 weights, bytes", _bytes(self._before), _bytes(after)),
            )
        ]
        if self._rw.main:
            try:
                texts.append(_latency(self._before, after, self._rw.context.seed))
            except QfError as error:
                texts.append(f"latency not measured: {error}")
        self._rw.note("; ".join(texts))


def _total(graph: Graph) -> int:
    return sum(macs(op) for op in graph.ops)


def _bytes(graph: Graph) -> int:
    return sum(parameters(op) for op in graph.ops_of(*LINEAR))


def _latency(before: Graph, after: Graph, seed: int) -> str:
    old, new = time_in_turn([_int8(g, seed) for g in (before, after)], runs=_ROUNDS)
    return (
        f"int8 latency {1e3 * old.median:.2f} -> {1e3 * new.median:.2f} ms "
        f"({new.ratio(old):.3f}x, one thread)"
    )


def _int8(graph: Graph, seed: int) -> Runner:
    """A plain int8 model; its ranges need not be good to take the time they take."""
    copy = graph.clone()[0]
    Calibrate(bias=False).run(copy, PassRewriter(copy, PassContext(seed=seed)))
    lowered, _ = lower_model(Model([copy, *copy.bodies], source="graphdef"), QuantOptions())
    return Runner(serialize(lowered), threads=1)
