"""Give the tensors of a graph other channels: some dropped, zeros put in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from qfrewrite.ir import Array, Graph, Op, Tensor
from qfrewrite.ops.spec import inferred
from qfrewrite.rewrite.channels import Channels, Ids
from qfrewrite.rewrite.rewriter import reshape


class Relayout:
    """New channel layouts for a traced graph.

    drop: classes that go; pad: class -> how many channels of padding stand behind it. Layouts are
    index arrays: the old channel, or -1 for padding. Values of padding are never read with a
    weight other than 0.
    """

    def __init__(self, channels: Channels, drop: Iterable[int], pad: Mapping[int, int]) -> None:
        self.graph: Graph = channels.graph
        self._channels = channels
        self._drop = np.zeros(channels.count, np.bool_)
        self._drop[list(drop)] = True
        self._pad = np.zeros(channels.count, np.int64)
        self._pad[list(pad)] = list(pad.values())
        for family in channels.families:
            source, result = channels.roots(family.source), channels.roots(family.result)
            m = family.multiplier
            self._drop[result] = np.repeat(self._drop[source], m)
            self._pad[result[m - 1 :: m]] = m * self._pad[source]
        self._layouts: dict[Tensor, Ids] = {}
        self._before: dict[Tensor, int] = {}

    def layout(self, tensor: Tensor) -> Ids:
        """The old channel, or -1, at each new place on the last axis of `tensor`."""
        if tensor not in self._layouts:
            ids = self._channels.of(tensor)
            if ids is None:
                ids = np.zeros(0, np.int64)
            places = np.where(self._drop[ids], 0, 1) + self._pad[ids]
            layout = np.full(int(places.sum()), -1, np.int64)
            starts = np.cumsum(places) - places
            kept = ~self._drop[ids]
            layout[starts[kept]] = np.flatnonzero(kept)
            self._layouts[tensor] = layout
            self._before[tensor] = ids.size
        return self._layouts[tensor]

    def channels_before(self, tensor: Tensor) -> int:
        """How many channels `tensor` had."""
        self.layout(tensor)
        return self._before[tensor]

    def place(self, tensor: Tensor, channel: int) -> int:
        """Where an old channel (or the end) lies now."""
        ids = self._channels.of(tensor)
        assert ids is not None
        first = ids[:channel]
        return int((np.where(self._drop[first], 0, 1) + self._pad[first]).sum())

    def changes(self, tensor: Tensor) -> bool:
        """Whether the layout of `tensor` is another than before."""
        layout = self.layout(tensor)
        same = layout.size == self._before[tensor]
        return not (same and bool((layout == np.arange(layout.size)).all()))

    def apply(self, relays: Mapping[str, Callable[[Relayout, Op], None]]) -> list[Op]:
        """Bring every op in line, then every shape; returns the ops that changed."""
        changed = []
        for op in self.graph.ops:
            touched = [t for t in (*op.inputs, *op.outputs) if t is not None and not t.is_const]
            if any(self.changes(t) for t in touched):
                relays[op.kind](self, op)
                changed.append(op)
        for op in changed:
            for tensor, shape in zip(op.outputs, inferred(op), strict=True):
                reshape(self.graph, tensor, shape)
                channels = tensor.channels.selected(self.layout(tensor))
                self.graph.set_channels(tensor, channels)
        return changed

    # -- for rules -------------------------------------------------------------------------

    def constant(self, op: Op, slot: int, data: Array) -> None:
        """Give `op` another constant in `slot`; other users of the old one keep it."""
        old = op.operand(slot)
        if old.value().shape == data.shape and np.array_equal(old.value(), data):
            return
        self.graph.put_constant(op, slot, data)
