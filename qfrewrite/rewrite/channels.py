"""Which channels of a graph's tensors move together, found by union-find over channel axes.

Every channel (index on the last axis) of every activation belongs to a class. An addition unites
the classes of its operands channel by channel, an activation or a pool keeps its operand's, a
concatenation puts those of its operands side by side. So whoever changes the channels of one
tensor knows which others change with it, through residual cycles and joins alike.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qfrewrite.ir import Graph, Op, Tensor
from qfrewrite.ir.relations import Classes
from qfrewrite.ops.shapes import unsettled
from qfrewrite.ops.spec import facets
from qfrewrite.rewrite.match import NoMatch

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Family:
    """A depthwise op with a multiplier: result c * multiplier + j comes from channel c alone."""

    source: Ids
    result: Ids

    @property
    def multiplier(self) -> int:
        """Results per channel."""
        return self.result.size // max(self.source.size, 1)


class Channels:
    """The classes of all channels of a canonical float graph.

    of: the class of each channel of a tensor [C], for tensors whose last axis is understood.
    frozen: classes that must stay as they are, and why. count: how many channels were numbered.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._classes = Classes()
        self.count = 0
        self._ids: dict[Tensor, Ids] = {}
        self._frozen: dict[int, str] = {}
        self.families: list[Family] = []
        self._settled = np.zeros(0, np.int64)

    # -- while tracing ---------------------------------------------------------------------

    def fresh(self, tensor: Tensor) -> Ids:
        """New classes for the channels of `tensor`."""
        start, self.count = self.count, self.count + (tensor.shape[-1] if tensor.shape else 0)
        self._ids[tensor] = np.arange(start, self.count)
        return self._ids[tensor]

    def ids(self, tensor: Tensor) -> Ids:
        """The channels of `tensor` as traced so far; unknown ones are new and stay."""
        if tensor not in self._ids:
            self.freeze(self.fresh(tensor), f"'{tensor.name}' is not computed by a known op")
        return self._ids[tensor]

    def give(self, tensor: Tensor, ids: Ids) -> None:
        """Say what the channels of `tensor` are."""
        self._ids[tensor] = ids

    def unite(self, a: Ids, b: Ids) -> None:
        """Channels at the same place of both belong together."""
        for one, other in zip(a.tolist(), b.tolist(), strict=True):
            roots = self._classes.of(one), self._classes.of(other)
            if roots[0] != roots[1]:
                reasons = [self._frozen.pop(root) for root in roots if root in self._frozen]
                self._classes.unite(*roots)
                if reasons:
                    self._frozen[self._classes.of(one)] = reasons[0]

    def freeze(self, ids: Iterable[int], why: str) -> None:
        """These classes must stay as they are."""
        for one in ids:
            self._frozen.setdefault(self._classes.of(int(one)), why)

    # -- afterwards ------------------------------------------------------------------------

    def finish(self) -> None:
        """Settle classes, then families: where a result must stay its source must too."""
        self._settled = np.array([self._classes.of(one) for one in range(self.count)], np.int64)
        places: dict[int, tuple[int, int, int]] = {}
        for family in self.families:
            source, result = self.roots(family.source), self.roots(family.result)
            m = family.multiplier
            for place, root in enumerate(result.tolist()):
                key = (int(source[place // m]), place % m, m)
                if places.setdefault(root, key) != key or root == key[0]:
                    self.freeze([root, key[0], places[root][0]], "is joined with itself")
        for family in reversed(self.families):
            stays = self.is_frozen(family.result).reshape(-1, family.multiplier).any(1)
            self.freeze(family.source[stays], "a depthwise layer after it must stay")
        for family in self.families:
            stays = np.repeat(self.is_frozen(family.source), family.multiplier)
            self.freeze(family.result[stays], "the depthwise layer's input must stay")

    def of(self, tensor: Tensor) -> Ids | None:
        """The classes of a tensor's channels [C], or None where they were not traced."""
        found = self._ids.get(tensor)
        return None if found is None else self.roots(found)

    def roots(self, ids: Ids) -> Ids:
        """The classes that these channels are in."""
        found: Ids = self._settled[ids]
        return found

    def is_frozen(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which of these must stay."""
        return np.isin(self.roots(ids), list(self._frozen))

    def movable(self, ids: Ids) -> Ids | NoMatch:
        """These, if all of them may change, or why one must stay."""
        frozen = next(filter(self._frozen.__contains__, self.roots(ids).tolist()), None)
        return ids if frozen is None else NoMatch(self._frozen[frozen])

    def derived(self) -> set[int]:
        """Classes that follow from a depthwise layer's input."""
        return {int(root) for f in self.families for root in self.roots(f.result)}

    def segments(self) -> list[Ids]:
        """Runs of classes that follow each other wherever one of them occurs, in order.

        Where something is put in behind the last of a run, it stands behind it everywhere.
        """
        after = np.full(self.count, -2, np.int64)
        before = np.full(self.count, -2, np.int64)
        traced = [self.roots(ids) for ids in self._ids.values() if ids.size]
        for ids in traced:
            for table, own, other in (
                (after, ids, np.append(ids[1:], -1)),
                (before, ids, np.append(-1, ids[:-1])),
            ):
                known = table[own]
                # -1 stands for an end, -2 for nothing known yet, -3 for more than one neighbour.
                table[own] = np.where((known == -2) | (known == other), other, -3)
                # A channel may occur several times in one tensor.
                table[own[table[own] != other]] = -3
        found: list[Ids] = []
        seen: set[int] = set()
        for ids in traced:
            run: list[int] = []
            for one in ids.tolist():
                if one in seen:
                    continue
                seen.add(one)
                run.append(one)
                following = int(after[one])
                if following < 0 or before[following] != one:
                    found.append(np.array(run))
                    run = []
            if run:
                found.append(np.array(run))
        return found


Trace = Callable[[Channels, Op], "Ids | NoMatch"]


def trace(graph: Graph, rules: dict[str, Trace]) -> Channels:
    """Follow the channels through `graph`; what no rule knows, and the interface, must stay."""
    channels = Channels(graph)
    for tensor in graph.inputs:
        channels.freeze(channels.fresh(tensor), f"'{tensor.name}' is an input of the graph")
    unknown = unsettled(graph)
    for op in graph.ops:
        rule = rules.get(op.kind) if _is_understood(op, unknown) else None
        if rule is not None and len(op.outputs) and op.output.dtype == "float32":
            ids = rule(channels, op)
        else:
            ids = NoMatch(f"is read by {op.kind} '{op.name}'")
        if isinstance(ids, NoMatch):
            _stay(channels, op, str(ids))
        else:
            channels.give(op.output, ids)
    for tensor in graph.outputs:
        channels.freeze(channels.ids(tensor), f"'{tensor.name}' is an output of the graph")
    channels.finish()
    return channels


def _is_understood(op: Op, unknown: Collection[Tensor | None]) -> bool:
    """Whether the shapes at `op` are known, and its shape operands are constants."""
    if any(t in unknown for t in (*op.inputs, *op.outputs)):
        return False
    slots = enumerate(op.inputs)
    return all(t is None or t.is_const or facets(op).role(slot) != "param" for slot, t in slots)


def _stay(channels: Channels, op: Op, why: str) -> None:
    """Nothing may change at what `op` reads and makes."""
    for tensor in op.inputs:
        if tensor is not None and not tensor.is_const and tensor.shape:
            channels.freeze(channels.ids(tensor), why)
    for tensor in op.outputs:
        channels.freeze(channels.fresh(tensor), f"is made by {op.kind} '{op.name}'")
