"""Which channel counts to round: all together, and only where blocks of channels are saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qfrewrite.ir import Op
from qfrewrite.ir.dtypes import Float64
from qfrewrite.rewrite.channels import Channels, Ids
from qfrewrite.rewrite.linear import LinearView, linear_ports, linear_views
from qfrewrite.rewrite.match import LINEAR, NoMatch
from qfrewrite.solve.context import PassRewriter
from qfrewrite.solve.moments import channel_moments

# Mean and variance of each channel that a layer reads, [C].
Spreads = Mapping[Op, tuple[Float64, Float64]]

# What a layer loses where a count of channels is no whole number of blocks: measured on XNNPACK,
# benchmarks/geometry.py.
_UNALIGNED = 0.05


@dataclass
class Plan:
    """What becomes of classes of channels."""

    channels: Channels
    """All classes."""
    multiple: int
    """What counts of channels are rounded to."""
    pad: dict[int, int] = field(default_factory=dict)
    """How many channels of zeros go behind a class."""
    drop: set[int] = field(default_factory=set)
    """The classes that go."""
    costly: set[int] = field(default_factory=set)
    """Those whose padding would cost more than it brings."""

    def width(self, ids: Ids) -> int:
        """How many channels these will be."""
        dropped = sum(one in self.drop for one in ids.tolist())
        return ids.size - dropped + sum(self.pad.get(one, 0) for one in ids.tolist())


def runs_to_round(channels: Channels, multiple: int) -> list[Ids]:
    """Runs of channels whose number is no multiple and may change."""
    derived = channels.derived()
    return [
        run
        for run in channels.segments()
        if run.size % multiple
        and not isinstance(channels.movable(run), NoMatch)
        and not derived & set(run.tolist())
    ]


def rounded_up(channels: Channels, multiple: int, *, force: bool) -> Plan:
    """Every run up to the multiple; unless forced, less those that cost more than they bring."""
    runs = runs_to_round(channels, multiple)
    plan = Plan(channels, multiple, {int(run[-1]): -run.size % multiple for run in runs})
    if not force:
        _without_costly(plan)
    return plan


def _without_costly(plan: Plan) -> None:
    """Drop paddings, the largest first, that raise the time kernels in blocks will take.

    Such a kernel computes whole blocks anyway, so rounding one layer is free; but a user of a
    join may get more blocks than before.
    """
    layers = {op: _ends(plan.channels, op) for op in plan.channels.graph.ops_of(*LINEAR)}
    touching: dict[int, set[Op]] = {one: set() for one in plan.pad}
    for op, ends in layers.items():
        for one in set(np.concatenate(ends).tolist()) & set(plan.pad):
            touching[one].add(op)

    def drop(group: set[int]) -> bool:
        """Whether these paddings cost time, and were taken out of the plan."""
        group = group & set(plan.pad)
        ops = set[Op]().union(*(touching[one] for one in group))
        before = sum(_time(plan, op, layers[op]) for op in ops)
        short = {one: plan.pad.pop(one) for one in sorted(group)}
        if sum(_time(plan, op, layers[op]) for op in ops) < before:
            plan.costly |= group
            return True
        plan.pad.update(short)
        return False

    # One by one until nothing changes, then what meets in one tensor as a whole.
    settled = False
    while not settled:
        alone = [{one} for one in sorted(plan.pad, key=lambda one: -plan.pad[one])]
        groups = alone + _meeting(plan)
        settled = not any([drop(group) for group in groups])


def _meeting(plan: Plan) -> list[set[int]]:
    """Paddings that occur in one tensor, directly or over others."""
    groups: list[set[int]] = []
    for op in plan.channels.graph.ops:
        for tensor in op.outputs:
            ids = plan.channels.of(tensor)
            here = set() if ids is None else set(ids.tolist()) & set(plan.pad)
            if here:
                near = [group for group in groups if group & here]
                groups = [group for group in groups if not group & here]
                groups.append(here.union(*near))
    return groups


def _ends(channels: Channels, op: Op) -> tuple[Ids, Ids]:
    """The classes of what a layer reads and makes."""
    source, result = channels.of(op.operand(linear_ports(op).x)), channels.of(op.output)
    nothing = np.zeros(0, np.int64)
    return (nothing if source is None else source), (nothing if result is None else result)


def _time(plan: Plan, op: Op, ends: tuple[Ids, Ids]) -> float:
    """Multiply-accumulates in whole blocks, and the loss where blocks are not filled."""
    m = plan.multiple
    inputs, outputs = (plan.width(ids) for ids in ends)
    blocks, unaligned = -(-outputs // m), int(outputs % m > 0)
    if op.kind != "DEPTHWISE_CONV_2D":
        blocks *= -(-inputs // m) * m
        unaligned += int(inputs % m > 0)
    taps = op.operand(linear_ports(op).weights).size / max(ends[1].size * (ends[0].size or 1), 1)
    if op.kind == "DEPTHWISE_CONV_2D":
        taps *= ends[0].size
    places = op.output.size / max(op.output.shape[-1], 1)
    return places * taps * blocks * m * (1 + _UNALIGNED * unaligned)


def rounded_down(rw: PassRewriter, channels: Channels, multiple: int) -> Plan:
    """The least important channels go; runs shorter than the multiple are filled up."""
    plan = Plan(channels, multiple)
    moments = _read_moments(rw, channels)
    worth = _importance(channels, moments)
    for run in runs_to_round(channels, multiple):
        if run.size < multiple:
            plan.pad[int(run[-1])] = multiple - run.size
        else:
            least = run[np.argsort(worth[run], kind="stable")]
            plan.drop |= set(least[: run.size % multiple].tolist())
    _keep_means(rw, plan, moments)
    return plan


def _importance(channels: Channels, moments: Spreads) -> Float64:
    """For each class: what its weights (with data: its values' variance) put into its users."""
    made, read = np.zeros(channels.count), np.zeros(channels.count)
    for view in linear_views(channels.graph):
        source, result = _ends(channels, view.op)
        w = view.by_output.astype(np.float64) ** 2
        np.add.at(made, result, w.reshape(result.size, -1).sum(1))
        if not view.is_depthwise and source.size:
            by_input = w.reshape(-1, w.shape[-1]).sum(0)
            np.add.at(read, source, by_input.reshape(-1, source.size).sum(0))
    if moments:
        made = np.zeros(channels.count)
        for op, (_, variance) in moments.items():
            source = _ends(channels, op)[0]
            made[source] = np.maximum(made[source], variance)
    return made * read


def _keep_means(rw: PassRewriter, plan: Plan, moments: Spreads) -> None:
    """What dropped channels added on average moves into the biases that read them."""
    for op, (mean, _) in moments.items():
        ids = _ends(plan.channels, op)[0]
        gone = np.array([one in plan.drop for one in ids.tolist()])
        view = LinearView.of(op)
        if gone.any() and isinstance(view, LinearView):
            w = view.weights.astype(np.float64)
            lost = w.reshape(w.shape[0], -1, ids.size).sum(1) @ np.where(gone, mean, 0.0)
            rw.set_linear(view.corrected(lost))


def _read_moments(rw: PassRewriter, channels: Channels) -> Spreads:
    """Of what convolutions and dense layers read; nothing without data."""
    if not rw.main or rw.samples is None:
        return {}
    views = linear_views(channels.graph, "CONV_2D", "FULLY_CONNECTED")
    layers = [view.op for view in views if not view.x.is_input]
    moments = channel_moments(rw, [op.operand(0) for op in layers], "weighing channels")
    return {op: moments[op.operand(0)] for op in layers}
