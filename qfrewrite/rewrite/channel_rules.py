"""How each op carries channels: what its result's channels are, and what follows a new layout.

One entry of `RULES` per op. `trace` says which channels of the operands and the result are the
same. `relay` is called once the operands and the result have their new layouts: it brings the
op's constants and attributes in line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qfrewrite.ir import Array, Graph, Op, Tensor
from qfrewrite.ops.shaping import pad_pairs
from qfrewrite.ops.spec import attr, const_ints, facets, kinds_that, normal_axis
from qfrewrite.rewrite.channels import Channels, Family, Ids, stay, trace
from qfrewrite.rewrite.linear import LinearView, linear_ports
from qfrewrite.rewrite.match import NoMatch
from qfrewrite.rewrite.relayout import Relayout


class ChannelRule(NamedTuple):
    """What an op does to channels."""

    trace: Callable[[Channels, Op], None]
    relay: Callable[[Relayout, Op], None]


def _nothing(relayout: Relayout, op: Op) -> None:
    """No constant depends on the layout."""


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


def _trace_layer(channels: Channels, op: Op) -> None:
    view = _layer(op)
    if isinstance(view, NoMatch):
        stay(channels, op, str(view))
        return
    channels.ids(view.x)
    channels.fresh(op.output)


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


def _trace_depthwise(channels: Channels, op: Op) -> None:
    view = _free_weights(op)
    if isinstance(view, NoMatch):
        stay(channels, op, str(view))
        return
    source = channels.ids(op.operand(0))
    if op.output.shape[-1] == source.size:
        channels.give(op.output, source)
    else:
        channels.families.append(Family(source, channels.fresh(op.output)))


def _relay_depthwise(relayout: Relayout, op: Op) -> None:
    w = taken(op.operand(1).value(), relayout.layout(op.output), -1)
    _relay_constants_of(relayout, op, w)
    multiplier = w.shape[-1] // relayout.layout(op.operand(0)).size
    if "depth_multiplier" in op.attrs:
        relayout.attributes(op, depth_multiplier=multiplier)


# -- element by element ------------------------------------------------------------------------


def _trace_same(channels: Channels, op: Op) -> None:
    channels.give(op.output, channels.ids(op.operand(0)))


def _trace_prelu(channels: Channels, op: Op) -> None:
    alpha = op.operand(1)
    if not alpha.is_const:
        stay(channels, op, f"is read by '{op.name}', whose slopes are computed")
        return
    _trace_same(channels, op)


def _trace_binary(channels: Channels, op: Op) -> None:
    """Operands that are broadcast along their channels keep theirs."""
    computed = [t for t in op.inputs if t is not None and not t.is_const]
    wide = [t for t in computed if t.shape and t.shape[-1] == op.output.shape[-1]]
    narrow = [t for t in computed if t not in wide]
    if not wide or (facets(op).divides and len(computed) > 1):
        stay(channels, op, f"is read by {op.kind} '{op.name}'")
        return
    for tensor in narrow:
        if tensor.shape:
            channels.freeze(channels.ids(tensor), f"is broadcast by '{op.name}'")
    ids = channels.ids(wide[0])
    for tensor in wide[1:]:
        channels.unite(ids, channels.ids(tensor))
    channels.give(op.output, ids)


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


def _trace_concat(channels: Channels, op: Op) -> None:
    operands = [t for t in op.inputs if t is not None]
    axis = normal_axis(op, attr(op, "axis"), len(op.output.shape))
    parts = [channels.ids(t) for t in operands]
    if axis == len(op.output.shape) - 1:
        channels.give(op.output, np.concatenate(parts))
        return
    for part in parts[1:]:
        channels.unite(parts[0], part)
    channels.give(op.output, parts[0])


def _split_axis(op: Op) -> tuple[Tensor, int]:
    whole = op.operand(1 if op.kind == "SPLIT" else 0)
    axis = const_ints(op, 0 if op.kind == "SPLIT" else 2)[0]
    return whole, normal_axis(op, axis, len(whole.shape))


def _trace_split(channels: Channels, op: Op) -> None:
    whole, axis = _split_axis(op)
    ids, start = channels.ids(whole), 0
    for out in op.outputs:
        if axis != len(whole.shape) - 1:
            channels.give(out, ids)
            continue
        channels.give(out, ids[start : start + out.shape[-1]])
        start += out.shape[-1]


def _relay_split(relayout: Relayout, op: Op) -> None:
    """Parts of different sizes are for SPLIT_V."""
    whole, axis = _split_axis(op)
    if axis != len(whole.shape) - 1:
        return
    sizes = [relayout.layout(out).size for out in op.outputs]
    if op.kind == "SPLIT_V":
        relayout.constant(op, 1, np.array(sizes, op.operand(1).value().dtype))
    elif len(set(sizes)) > 1:
        table = relayout.new_constant(f"{op.name}/sizes", np.array(sizes, np.int32))
        relayout.replace(op, "SPLIT_V", [whole, table, op.operand(0)], {"num_splits": len(sizes)})


def _trace_slice(channels: Channels, op: Op) -> None:
    ids = channels.ids(op.operand(0))
    begin = const_ints(op, 1)[-1]
    channels.give(op.output, ids[begin : begin + op.output.shape[-1]])


def _relay_slice(relayout: Relayout, op: Op) -> None:
    begin, size = const_ints(op, 1), const_ints(op, 2)
    first = relayout.place(op.operand(0), begin[-1])
    dtype = op.operand(1).value().dtype
    relayout.constant(op, 1, np.array([*begin[:-1], first], dtype))
    relayout.constant(op, 2, np.array([*size[:-1], relayout.layout(op.output).size], dtype))


def _trace_strided(channels: Channels, op: Op) -> None:
    """Only where all channels are taken."""
    x, rank = op.operand(0), len(op.operand(0).shape)
    masks = [attr(op, k) for k in ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask")]
    begin, end, step = (const_ints(op, slot) for slot in (1, 2, 3))
    bit, last = 1 << (rank - 1), rank - 1
    whole = len(begin) < rank or (
        step[last] == 1
        and (attr(op, "begin_mask") & bit or begin[last] == 0)
        and (attr(op, "end_mask") & bit or end[last] >= x.shape[-1])
    )
    if masks[0] or masks[1] or masks[2] & bit or not whole:
        stay(channels, op, f"is cut up by '{op.name}'")
    else:
        channels.give(op.output, channels.ids(x))


def _relay_strided(relayout: Relayout, op: Op) -> None:
    """An end that is written out becomes the new one."""
    end, rank = list(const_ints(op, 2)), len(op.operand(0).shape)
    if len(end) == rank and not attr(op, "end_mask") & (1 << (rank - 1)):
        end[-1] = relayout.layout(op.output).size
        relayout.constant(op, 2, np.array(end, op.operand(2).value().dtype))


def _trace_pad(channels: Channels, op: Op) -> None:
    if pad_pairs(op)[-1] != (0, 0):
        stay(channels, op, f"is padded with channels by '{op.name}'")
    else:
        _trace_same(channels, op)


def _trace_reduction(channels: Channels, op: Op) -> None:
    rank = len(op.operand(0).shape)
    axes = {normal_axis(op, a, rank) for a in const_ints(op, 1)}
    if rank - 1 in axes:
        stay(channels, op, f"is summed up over channels by '{op.name}'")
    else:
        _trace_same(channels, op)


def _trace_reshape(channels: Channels, op: Op) -> None:
    """The last axis stays, or takes in axes before it whole."""
    x, y = op.operand(0).shape, op.output.shape
    size = 1
    for dim in reversed(x):
        size *= dim
        if y and size == y[-1] and size:
            ids = channels.ids(op.operand(0))
            channels.give(op.output, np.tile(ids, size // x[-1]))
            return
    stay(channels, op, f"is reshaped by '{op.name}' in a way that mixes channels")


def _relay_reshape(relayout: Relayout, op: Op) -> None:
    last = relayout.layout(op.output).size
    table = op.input(1)
    if table is not None:
        shape = list(const_ints(op, 1))
        if shape[-1] != -1:
            relayout.constant(op, 1, np.array([*shape[:-1], last], table.value().dtype))
    shape = list(attr(op, "new_shape") or ())
    if shape and shape[-1] != -1:
        relayout.attributes(op, new_shape=(*shape[:-1], last))


def _trace_transpose(channels: Channels, op: Op) -> None:
    perm = const_ints(op, 1)
    if perm[-1] != len(perm) - 1:
        stay(channels, op, f"is transposed by '{op.name}'")
    else:
        _trace_same(channels, op)


def _trace_tile(channels: Channels, op: Op) -> None:
    channels.give(op.output, np.tile(channels.ids(op.operand(0)), const_ints(op, 1)[-1]))


def _trace_space_to_depth(channels: Channels, op: Op) -> None:
    block = int(attr(op, "block_size"))
    channels.give(op.output, np.tile(channels.ids(op.operand(0)), block * block))


def _trace_fake_quant(channels: Channels, op: Op) -> None:
    if np.asarray(attr(op, "min")).size > 1:
        stay(channels, op, f"has a range per channel at '{op.name}'")
    else:
        _trace_same(channels, op)


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

RULES: dict[str, ChannelRule] = {
    **dict.fromkeys(_LAYERS, ChannelRule(_trace_layer, _relay_layer)),
    "DEPTHWISE_CONV_2D": ChannelRule(_trace_depthwise, _relay_depthwise),
    **dict.fromkeys(kinds_that(lambda op: op.channelwise), ChannelRule(_trace_same, _nothing)),
    **dict.fromkeys(
        kinds_that(lambda op: op.combines), ChannelRule(_trace_binary, _relay_constants)
    ),
    "PRELU": ChannelRule(_trace_prelu, _relay_constants),
    "CONCATENATION": ChannelRule(_trace_concat, _nothing),
    **dict.fromkeys(("SPLIT", "SPLIT_V"), ChannelRule(_trace_split, _relay_split)),
    "SLICE": ChannelRule(_trace_slice, _relay_slice),
    "STRIDED_SLICE": ChannelRule(_trace_strided, _relay_strided),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), ChannelRule(_trace_pad, _nothing)),
    **dict.fromkeys(kinds_that(lambda op: op.reduces), ChannelRule(_trace_reduction, _nothing)),
    "RESHAPE": ChannelRule(_trace_reshape, _relay_reshape),
    "TRANSPOSE": ChannelRule(_trace_transpose, _nothing),
    "TILE": ChannelRule(_trace_tile, _nothing),
    "SPACE_TO_DEPTH": ChannelRule(_trace_space_to_depth, _nothing),
    "FAKE_QUANT": ChannelRule(_trace_fake_quant, _nothing),
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
