"""How each op carries channels: what its result's channels are, and what follows a new layout.

One entry of `RULES` per op. `trace` gives the channels of the result, some of which are those of
operands. `relay` is called once the operands and the result have their new layouts: it brings the
op's constants and attributes in line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qfrewrite.ir import Array, Graph, Op, Tensor, constant
from qfrewrite.ops.shaping import pad_pairs
from qfrewrite.ops.spec import OpSpec, attr, const_ints, facets, kinds_that, normal_axis
from qfrewrite.rewrite.channels import Channels, Family, Ids, Trace, trace
from qfrewrite.rewrite.linear import LinearView, linear_ports
from qfrewrite.rewrite.match import NoMatch
from qfrewrite.rewrite.relayout import Relayout


class ChannelRule(NamedTuple):
    """What an op does to channels."""

    trace: Trace
    """Gives the channels of the first result, or says why nothing may change at the op."""
    relay: Callable[[Relayout, Op], None] = lambda relayout, op: None
    """Brings constants and attributes in line with a new layout."""


# -- layers with weights -----------------------------------------------------------------------


def _free_weights(op: Op) -> LinearView | NoMatch:
    """The layer, or why its weights cannot get another layout."""
    view = LinearView.of(op)
    trained = view.trained if isinstance(view, LinearView) else None
    if trained is not None and trained.axis is not None:
        return NoMatch(f"the weights of '{op.name}' have trained ranges per channel")
    return view


def _layer(op: Op) -> LinearView | NoMatch:
    """The layer, or why it has no weights of its own for every input channel."""
    view = _free_weights(op)
    if isinstance(view, NoMatch):
        return view
    inputs, channels = view.weights.shape[-1], view.x.shape[-1]
    # What is flattened holds its channels over and over.
    flat = op.kind == "FULLY_CONNECTED" and inputs % max(channels, 1) == 0
    if inputs and (flat or inputs == channels):
        return view
    return NoMatch(f"is read by '{op.name}' in groups")


def _trace_layer(channels: Channels, op: Op) -> Ids | NoMatch:
    view = _layer(op)
    if isinstance(view, NoMatch):
        return view
    channels.ids(view.x)
    return channels.fresh(op.output)


def _relay_layer(relayout: Relayout, op: Op) -> None:
    x, w = op.operand(linear_ports(op).x), op.operand(linear_ports(op).weights).value()
    before = relayout.layout(x)
    if w.shape[-1] != relayout.channels_before(x):
        before = tiled(before, relayout.channels_before(x), w.shape[-1])
    w = taken(taken(w, before, -1), relayout.layout(op.output), linear_ports(op).axis)
    _relay_constants_of(relayout, op, w)
    if op.kind == "TRANSPOSE_CONV":
        shape = (*const_ints(op, 0)[:-1], relayout.layout(op.output).size)
        relayout.constant(op, 0, np.array(shape, op.operand(0).value().dtype))


def _relay_constants_of(relayout: Relayout, op: Op, weights: Array) -> None:
    ports = linear_ports(op)
    relayout.constant(op, ports.weights, weights)
    b = op.input(ports.bias)
    if b is not None:
        relayout.constant(op, ports.bias, taken(b.value(), relayout.layout(op.output), -1))


def _trace_depthwise(channels: Channels, op: Op) -> Ids | NoMatch:
    view = _free_weights(op)
    if isinstance(view, NoMatch):
        return view
    source = channels.ids(view.x)
    if op.output.shape[-1] == source.size:
        return source
    result = channels.fresh(op.output)
    channels.families.append(Family(source, result))
    return result


def _relay_depthwise(relayout: Relayout, op: Op) -> None:
    w = taken(op.operand(1).value(), relayout.layout(op.output), -1)
    _relay_constants_of(relayout, op, w)
    multiplier = w.shape[-1] // relayout.layout(op.operand(0)).size
    if "depth_multiplier" in op.attrs:
        relayout.graph.set_attrs(op, depth_multiplier=multiplier)


# -- element by element ------------------------------------------------------------------------


def _trace_same(channels: Channels, op: Op) -> Ids:
    return channels.ids(op.operand(0))


def _same_if(holds: Callable[[Op], object], why: str) -> Trace:
    """A trace that gives the channels of the first operand where `holds`, else says why not."""
    return lambda channels, op: (
        channels.ids(op.operand(0)) if holds(op) else NoMatch(why.format(op.name))
    )


def _tiled_by(count: Callable[[Op], int]) -> Trace:
    """A trace that gives the channels of the first operand, `count` times."""
    return lambda channels, op: np.tile(channels.ids(op.operand(0)), count(op))


def _trace_binary(channels: Channels, op: Op) -> Ids | NoMatch:
    """Operands that are broadcast along their channels keep theirs."""
    computed = [t for t in op.inputs if t is not None and not t.is_const]
    wide = [t for t in computed if t.shape and t.shape[-1] == op.output.shape[-1]]
    if not wide or (facets(op).divides and len(computed) > 1):
        return NoMatch(f"is read by {op.kind} '{op.name}'")
    for tensor in computed:
        if tensor not in wide and tensor.shape:
            channels.freeze(channels.ids(tensor), f"is broadcast by '{op.name}'")
    return _united(channels, wide)


def _united(channels: Channels, tensors: Sequence[Tensor]) -> Ids:
    """The channels of the first tensor, which are those of the others from now on."""
    ids = channels.ids(tensors[0])
    for tensor in tensors[1:]:
        channels.unite(ids, channels.ids(tensor))
    return ids


def _relay_constants(relayout: Relayout, op: Op) -> None:
    """Constants with a value per channel; 1 where nothing may be divided by."""
    layout = relayout.layout(op.output)
    fill = 1 if facets(op).divides else 0
    for slot, tensor in enumerate(op.inputs):
        if tensor is None or not tensor.is_const or not tensor.shape:
            continue
        if tensor.shape[-1] == relayout.channels_before(op.output) > 1:
            relayout.constant(op, slot, taken(tensor.value(), layout, -1, fill))


# -- moving values -----------------------------------------------------------------------------


def _trace_concat(channels: Channels, op: Op) -> Ids:
    operands = [t for t in op.inputs if t is not None]
    axis = normal_axis(op, attr(op, "axis"), len(op.output.shape))
    if axis == len(op.output.shape) - 1:
        return np.concatenate([channels.ids(t) for t in operands])
    return _united(channels, operands)


def _split_axis(op: Op) -> tuple[Tensor, int]:
    whole = op.operand(1 if op.kind == "SPLIT" else 0)
    axis = const_ints(op, 0 if op.kind == "SPLIT" else 2)[0]
    return whole, normal_axis(op, axis, len(whole.shape))


def _trace_split(channels: Channels, op: Op) -> Ids:
    whole, axis = _split_axis(op)
    parts = [channels.ids(whole)] * len(op.outputs)
    if axis == len(whole.shape) - 1:
        parts = np.split(parts[0], np.cumsum([out.shape[-1] for out in op.outputs])[:-1])
    for out, ids in zip(op.outputs, parts, strict=True):
        channels.give(out, ids)
    return parts[0]


def _relay_split(relayout: Relayout, op: Op) -> None:
    """Parts of different sizes are for SPLIT_V."""
    whole, axis = _split_axis(op)
    if axis != len(whole.shape) - 1:
        return
    sizes = [relayout.layout(out).size for out in op.outputs]
    if op.kind == "SPLIT_V":
        relayout.constant(op, 1, np.array(sizes, op.operand(1).value().dtype))
    elif len(set(sizes)) > 1:
        graph, name = relayout.graph, relayout.graph.unique_name(f"{op.name}/sizes")
        graph.set_kind(op, "SPLIT_V", {"num_splits": len(sizes)})
        graph.set_inputs(op, [whole, constant(name, np.array(sizes, np.int32)), op.operand(0)])


def _trace_slice(channels: Channels, op: Op) -> Ids:
    begin = const_ints(op, 1)[-1]
    return channels.ids(op.operand(0))[begin : begin + op.output.shape[-1]]


def _relay_slice(relayout: Relayout, op: Op) -> None:
    begin, size = const_ints(op, 1), const_ints(op, 2)
    first = relayout.place(op.operand(0), begin[-1])
    dtype = op.operand(1).value().dtype
    relayout.constant(op, 1, np.array([*begin[:-1], first], dtype))
    relayout.constant(op, 2, np.array([*size[:-1], relayout.layout(op.output).size], dtype))


def _takes_all_channels(op: Op) -> bool:
    """Whether a STRIDED_SLICE cuts nothing off the last axis, and makes no axes."""
    x, rank = op.operand(0), len(op.operand(0).shape)
    begin, end, step = (const_ints(op, slot) for slot in (1, 2, 3))
    bit, last = 1 << (rank - 1), rank - 1
    if attr(op, "ellipsis_mask") or attr(op, "new_axis_mask") or attr(op, "shrink_axis_mask") & bit:
        return False
    return len(begin) < rank or bool(
        step[last] == 1
        and (attr(op, "begin_mask") & bit or begin[last] == 0)
        and (attr(op, "end_mask") & bit or end[last] >= x.shape[-1])
    )


def _relay_strided(relayout: Relayout, op: Op) -> None:
    """An end that is written out becomes the new one."""
    end, rank = list(const_ints(op, 2)), len(op.operand(0).shape)
    if len(end) == rank and not attr(op, "end_mask") & (1 << (rank - 1)):
        end[-1] = relayout.layout(op.output).size
        relayout.constant(op, 2, np.array(end, op.operand(2).value().dtype))


def _trace_reshape(channels: Channels, op: Op) -> Ids | NoMatch:
    """The last axis stays, or takes in axes before it whole."""
    x, y = op.operand(0).shape, op.output.shape
    for axis in reversed(range(len(x))):
        if y and prod(x[axis:]) == y[-1] > 0:
            return np.tile(channels.ids(op.operand(0)), y[-1] // x[-1])
    return NoMatch(f"is reshaped by '{op.name}' in a way that mixes channels")


def _relay_reshape(relayout: Relayout, op: Op) -> None:
    last = relayout.layout(op.output).size
    table = op.input(1)
    if table is not None:
        shape = list(const_ints(op, 1))
        if shape[-1] != -1:
            relayout.constant(op, 1, np.array([*shape[:-1], last], table.value().dtype))
    shape = list(attr(op, "new_shape") or ())
    if shape and shape[-1] != -1:
        relayout.graph.set_attrs(op, new_shape=(*shape[:-1], last))


def _keeps_channels(op: Op) -> bool:
    """Whether a reduction leaves the last axis alone."""
    rank = len(op.operand(0).shape)
    return rank - 1 not in {normal_axis(op, axis, rank) for axis in const_ints(op, 1)}


def taken(values: Array, layout: Ids, axis: int, fill: float = 0) -> Array:
    """`values` with the indices `layout` along `axis`, `fill` where it says -1."""
    result = np.take(values, np.maximum(layout, 0), axis)
    if (layout < 0).any():
        np.moveaxis(result, axis, 0)[layout < 0] = fill
    return np.ascontiguousarray(result)


def tiled(layout: Ids, channels: int, count: int) -> Ids:
    """The layout of `count` inputs that hold `channels` channels over and over."""
    starts = np.arange(0, count, channels)[:, None]
    return np.where(layout < 0, -1, layout + starts).reshape(-1)


_LAYERS = tuple(k for k in kinds_that(lambda op: op.linear) if k != "DEPTHWISE_CONV_2D")

_trace_prelu = _same_if(
    lambda op: op.operand(1).is_const, "is read by '{}', whose slopes are computed"
)
_trace_strided = _same_if(_takes_all_channels, "is cut up by '{}'")
_trace_pad = _same_if(lambda op: pad_pairs(op)[-1] == (0, 0), "is padded with channels by '{}'")
_trace_reduction = _same_if(_keeps_channels, "is summed up over channels by '{}'")
_trace_transpose = _same_if(
    lambda op: const_ints(op, 1)[-1] == len(op.output.shape) - 1, "is transposed by '{}'"
)
_trace_fake_quant = _same_if(
    lambda op: np.asarray(attr(op, "min")).size <= 1, "has a range per channel at '{}'"
)
_BY_FACET: list[tuple[Callable[[OpSpec], object], ChannelRule]] = [
    (lambda op: op.linear, ChannelRule(_trace_layer, _relay_layer)),
    (lambda op: op.channelwise, ChannelRule(_trace_same)),
    (lambda op: op.combines, ChannelRule(_trace_binary, _relay_constants)),
    (lambda op: op.reduces, ChannelRule(_trace_reduction)),
]

RULES: dict[str, ChannelRule] = {
    **{kind: rule for facet, rule in _BY_FACET for kind in kinds_that(facet)},
    "DEPTHWISE_CONV_2D": ChannelRule(_trace_depthwise, _relay_depthwise),
    "PRELU": ChannelRule(_trace_prelu, _relay_constants),
    "CONCATENATION": ChannelRule(_trace_concat),
    **dict.fromkeys(("SPLIT", "SPLIT_V"), ChannelRule(_trace_split, _relay_split)),
    "SLICE": ChannelRule(_trace_slice, _relay_slice),
    "STRIDED_SLICE": ChannelRule(_trace_strided, _relay_strided),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), ChannelRule(_trace_pad)),
    "RESHAPE": ChannelRule(_trace_reshape, _relay_reshape),
    "TRANSPOSE": ChannelRule(_trace_transpose),
    "TILE": ChannelRule(_tiled_by(lambda op: const_ints(op, 1)[-1])),
    "SPACE_TO_DEPTH": ChannelRule(_tiled_by(lambda op: int(attr(op, "block_size")) ** 2)),
    "FAKE_QUANT": ChannelRule(_trace_fake_quant),
}
"""What is not here carries no channels: what it reads and makes stays."""


def trace_channels(graph: Graph) -> Channels:
    """The classes of all channels of a canonical float graph."""
    return trace(graph, {kind: rule.trace for kind, rule in RULES.items()})


def unused(channels: Channels) -> set[int]:
    """Classes that every layer which reads them multiplies by 0, and that may change.

    A tensor keeps one channel at least.
    """
    used = np.zeros(channels.count, np.bool_)
    everything = np.arange(channels.count)
    used[channels.is_frozen(everything)] = True
    roots = channels.roots(everything)
    used |= used[roots]
    layers = [
        view for op in channels.graph.ops_of(*_LAYERS) if isinstance(view := _layer(op), LinearView)
    ]
    while True:
        before = int(used.sum())
        for view in reversed(layers):
            _mark_used(channels, view, used)
        for family in channels.families:
            needed = used[channels.roots(family.result)].reshape(-1, family.multiplier).any(1)
            used[channels.roots(family.source)[needed]] = True
        if int(used.sum()) == before:
            break
    for op in channels.graph.ops:
        for tensor in op.outputs:
            ids = channels.of(tensor)
            if ids is not None and ids.size and not used[ids].any():
                used[ids[0]] = True
    return {int(one) for one in everything if roots[one] == one and not used[one]}


def _mark_used(channels: Channels, view: LinearView, used: npt.NDArray[np.bool_]) -> None:
    source, result = channels.of(view.x), channels.of(view.output)
    assert source is not None
    assert result is not None
    rows = view.by_output[used[result]]
    read = (rows != 0).reshape(-1, rows.shape[-1]).any(0).reshape(-1, source.size).any(0)
    used[source[read]] = True
