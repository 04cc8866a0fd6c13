"""Channels that must be scaled together, the layers that write and read them, and their values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qfrewrite.calibration.statistics import Gaussian, propagate
from qfrewrite.ir import Array, Graph, Op, Tensor
from qfrewrite.ir.dtypes import Float64
from qfrewrite.ops import OPS
from qfrewrite.ops.spec import kinds_that
from qfrewrite.rewrite.channel_rules import RULES
from qfrewrite.rewrite.channels import Channels, Ids, Trace, trace
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.rewrite.match import LINEAR, NoMatch
from qfrewrite.solve.context import PassRewriter
from qfrewrite.solve.moments import channel_extremes

# How near to 6 the largest value of a channel may come, after scaling and before: what no sample
# showed must not clip either. Measured on images held out: wider, the function is not kept.
MARGIN, NEAR = 0.6, 0.65
# How far activations reach where no data say it, in standard deviations.
REACH = 6.0
_RELUS = kinds_that(lambda op: op.rectifies)


@dataclass(frozen=True)
class End:
    """A layer that writes or reads channels."""

    view: LinearView
    """The layer."""
    ids: Ids
    """The class of each row or column of its weights."""


@dataclass
class ChannelGroup:
    """Classes of channels that are balanced at once."""

    first: Op
    """The layer that writes them first."""
    ids: Ids
    """The classes, [C]."""
    producers: list[End]
    """The layers that write them."""
    users: list[End]
    """The layers that read them."""


@dataclass
class Values:
    """The activations of each class."""

    most: Float64
    """The largest magnitude seen."""
    limited: Array
    """Whether a RELU6 limits it."""
    fixed: Array
    """Whether that clips."""


def trace_scales(graph: Graph) -> Channels:
    """Classes of channels that have to be scaled alike, and which cannot be."""
    rules: dict[str, Trace] = {k: rule.trace for k, rule in RULES.items() if OPS[k].homogeneous}
    return trace(
        graph,
        {**rules, "DEPTHWISE_CONV_2D": _trace_depthwise, "ADD": _trace_sum, "SUB": _trace_sum},
    )


def _trace_depthwise(channels: Channels, op: Op) -> Ids | NoMatch:
    """What it makes can be scaled by itself."""
    view = LinearView.of(op)
    if isinstance(view, NoMatch):
        return view
    channels.ids(op.operand(0))
    return channels.fresh(op.output)


def _trace_sum(channels: Channels, op: Op) -> Ids | NoMatch:
    """A sum of two scaled alike is scaled so too; a constant would have to be as well."""
    if any(t is None or t.is_const or t.shape != op.output.shape for t in op.inputs):
        return NoMatch(f"is added to by '{op.name}'")
    return RULES["ADD"].trace(channels, op)


def channel_groups(rw: PassRewriter, channels: Channels) -> list[ChannelGroup]:
    """Every group that may be scaled, in the order of the graph; says why others may not."""
    views = {op: LinearView.of(op) for op in rw.graph.ops_of(*LINEAR)}
    made = {op: ids for op in views if (ids := channels.of(op.output)) is not None}
    fitting = {op: view for op, view in views.items() if isinstance(view, LinearView)}
    producers = [End(view, made[op]) for op, view in fitting.items() if op in made]
    users = [End(view, _tiled(channels, view)) for view in fitting.values()]
    groups, grouped = [], np.zeros(channels.count, np.bool_)
    for op, written_ids in made.items():
        why = channels.movable(written_ids)
        if isinstance(why, NoMatch):
            rw.skip(op, f"channels stay: {why}")
        ids = written_ids[~channels.is_frozen(written_ids) & ~grouped[written_ids]]
        grouped[ids] = True
        ids = np.unique(ids)
        inside = np.zeros(channels.count, np.bool_)
        inside[ids] = True
        read = [r for r in users if r.ids.size and inside[r.ids].any()]
        if ids.size and read:
            written = [w for w in producers if inside[w.ids].any()]
            groups.append(ChannelGroup(op, ids, written, read))
    return groups


def _tiled(channels: Channels, view: LinearView) -> Ids:
    """The class of each input of a layer's weights."""
    ids = channels.of(view.x)
    if ids is None:
        return np.zeros(0, np.int64)
    inputs = ids.size if view.is_depthwise else view.weights.shape[-1]
    return np.tile(ids, inputs // max(ids.size, 1))


def largest_written(end: End, w: Float64, count: int) -> Float64:
    """The largest weight that writes each class, as a fraction of the layer's largest."""
    rows = np.moveaxis(np.abs(w), end.view.ports.axis, 0).reshape(end.ids.size, -1).max(1)
    return _by_class(end.ids, rows, count)


def largest_read(end: End, w: Float64, count: int) -> Float64:
    """The largest weight that reads each class, as a fraction of the layer's largest."""
    columns = np.abs(w).reshape(-1, w.shape[-1]).max(0)
    if end.view.is_depthwise:
        columns = columns.reshape(end.ids.size, -1).max(1)
    return _by_class(end.ids, columns, count)


def _by_class(ids: Ids, values: Float64, count: int) -> Float64:
    largest = np.zeros(count)
    np.maximum.at(largest, ids, values / max(values.max(initial=0.0), 1e-30))
    return largest


def look(rw: PassRewriter, channels: Channels) -> Values:
    """The largest activation of each class, and what RELU6 does to it."""
    most, limited = np.zeros(channels.count), np.zeros(channels.count, np.bool_)
    tensors = [(t, ids) for t in _activations(rw.graph) if (ids := channels.of(t)) is not None]
    for tensor, ids in tensors:
        producer = tensor.producer
        if producer is not None and producer.kind == "RELU6":
            limited[ids] = True
    if rw.main and rw.samples is not None:
        seen = channel_extremes(rw, [t for t, _ in tensors], "looking at activations")
        for tensor, ids in tensors:
            low, high = seen[tensor]
            np.maximum.at(most, ids, np.maximum(-low, high))
    else:
        gaussians = propagate(rw.graph)
        for tensor, ids in tensors:
            np.maximum.at(most, ids, _guessed(tensor, gaussians, limited[ids]))
    return Values(most, limited, limited & (most >= NEAR * 6.0))


def _guessed(tensor: Tensor, gaussians: dict[Tensor, Gaussian], limited: Array) -> Array:
    """What the values before the activation may reach, by BatchNorm statistics."""
    producer = tensor.producer
    before = tensor
    if producer is not None and producer.kind in _RELUS:
        before = producer.operand(0)
    stats = gaussians.get(before)
    if stats is None:
        return np.where(limited, 6.0, 0.0)
    reach: Array = np.maximum(stats.mean + REACH * stats.std, 0.0)
    return reach


def _activations(graph: Graph) -> list[Tensor]:
    """What layers and sums give, behind their RELU where they have one."""
    activations = []
    for op in graph.ops_of(*LINEAR, "ADD", "SUB", *_RELUS):
        users = op.output.users
        clipped = len(users) == 1 and users[0].op.kind in _RELUS
        if op.output.dtype == "float32" and not clipped:
            activations.append(op.output)
    return activations
