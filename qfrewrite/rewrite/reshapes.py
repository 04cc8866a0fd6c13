"""Move changes of shape behind what works on each channel alike, so that layers meet directly.

A frozen Conv1D is EXPAND_DIMS, CONV_2D and SQUEEZE: the SQUEEZE parts the layer from its bias,
BatchNorm and activation, and with the next layer's EXPAND_DIMS it does nothing at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from qfrewrite.ir import Graph, Op, Tensor, constant
from qfrewrite.ops.build import append_op
from qfrewrite.ops.spec import attr, inferred, kinds_that
from qfrewrite.rewrite.match import LINEAR, NoMatch, all_of, sole_user
from qfrewrite.rewrite.pattern import Match, Patterns
from qfrewrite.rewrite.rewriter import Rewriter, is_unread

_RESHAPES = kinds_that(lambda op: op.reshapes)
# They treat every position alike, and combine values at one position only.
_UNARY = (*kinds_that(lambda op: op.activation), "BATCH_NORM", "FAKE_QUANT")
_BINARY = kinds_that(lambda op: op.combines)
# Activations that kernels of `_BINARY` apply themselves.
_FUSED = kinds_that(lambda op: op.fusible and op.clips)


_p = Patterns()
_TWICE = _p.op(*_RESHAPES)(_p.op(*_RESHAPES)(_p.x))


def keep_reduced_axes(rw: Rewriter) -> None:
    """Given  y = r(MEAN(x)), r puts the axes back with size 1;  Result  y = MEAN(x, keep_dims)."""
    graph = rw.graph
    for op in graph.ops_of(*kinds_that(lambda op: op.reduces)):
        user = sole_user(op.output)
        if isinstance(user, NoMatch) or user.kind not in _RESHAPES or not _is_fixed(user):
            continue
        axes = op.operand(1).data
        if axes is None or attr(op, "keep_dims") or _is_open(op.operand(0)):
            continue
        rank = len(op.operand(0).shape)
        reduced = {int(a) % rank for a in axes.reshape(-1)}
        kept = tuple(1 if i in reduced else d for i, d in enumerate(op.operand(0).shape))
        if user.output.shape == kept:
            graph.set_attrs(op, keep_dims=True)
            graph.set_shape(op.output, kept)
            rw.bypass(user, detail=f"'{op.name}' keeps its axes")


def sink_reshapes(rw: Rewriter) -> None:
    """Given  y = f(r(layer(x))), r a change of shape that keeps or splits the last axis
    Result y = r(f(layer(x))); a change of shape and its inverse are dropped.

    f does the same at each position: an activation (behind ADD and its like too, which it is fused
    into), BATCH_NORM, arithmetic with constants per channel, the sum (product, ...) of two such r,
    or a PAD before the inverse of r.
    """
    graph = rw.graph
    _cancel_inverses(rw)
    for op in graph.ops_of(*_RESHAPES):
        layer = op.operand(0).producer if op in graph else None
        if layer is not None and layer.kind in _BINARY:
            _sink_once(rw, op, _FUSED)
        moved: Op | NoMatch = op
        while isinstance(moved, Op) and layer is not None and layer.kind in LINEAR:
            moved = _sink_once(rw, moved)
    for op in graph.ops_of("PAD"):
        _sink_below_pad(rw, op)
    _cancel_inverses(rw)


def _cancel_inverses(rw: Rewriter) -> None:
    """Given  y = r'(r(x)), y of the shape of x;  Result  y = x."""
    rw.rewrite_all(_TWICE, _undone, action="removed", detail="undoes the one before it", tell=False)


def _undone(m: Match) -> Tensor | NoMatch:
    x: Tensor = m.x
    y = m.root.output
    if x.shape != y.shape or _is_open(x, m.root.operand(0), y):
        return NoMatch("has another shape than two ops before", at=y.name)
    return x


def _is_open(*tensors: Tensor) -> bool:
    return any(t.has_open_dims for t in tensors)


def _remove_unread(rw: Rewriter, op: Op) -> None:
    if is_unread(op):
        rw.graph.remove_op(op)


def _sink_once(rw: Rewriter, op: Op, kinds: Sequence[str] = (*_UNARY, *_BINARY)) -> Op | NoMatch:
    """Move `op` behind its user, of one of `kinds`.

    Returns the op that does its work there, or why it cannot move.
    """
    graph, x, y = rw.graph, op.operand(0), op.output
    user = sole_user(y)
    if isinstance(user, NoMatch):
        return user
    if user.kind not in kinds or not _is_fixed(op) or user.output.shape != y.shape:
        return NoMatch(f"is read by {user.kind}", at=y.name)
    operands = _before_reshape(graph, op, user)
    if isinstance(operands, NoMatch):
        return operands
    out = user.output
    sources = [p for t in user.inputs if t is not None and (p := t.producer) is not None]
    graph.set_inputs(user, operands)
    graph.set_shape(out, x.shape)
    for source in dict.fromkeys(sources):
        if source.kind in _RESHAPES:
            _remove_unread(rw, source)
    moved = append_op(
        graph, op.kind, [out, *op.inputs[1:]], name=op.name, attrs=op.attrs, anchor=user
    )
    graph.replace_uses(out, moved.output, skip=(moved,))
    rw.edit("moved", moved, f"behind '{user.name}'")
    return moved


def _is_fixed(op: Op) -> bool:
    """Whether all sizes of a change of shape are known, and none is computed."""
    x, y = op.operand(0), op.output
    constant_shape = all(t is not None and t.is_const for t in op.inputs[1:])
    return constant_shape and not _is_open(x, y) and bool(x.shape) and y.size > 0


def _channel_axes(op: Op) -> tuple[int, ...]:
    """The last sizes behind `op` that together are the last axis before it; () where none are."""
    x, y = op.operand(0), op.output
    counts = (n for n in range(1, len(y.shape) + 1) if prod(y.shape[-n:]) == x.shape[-1])
    count = next(counts, 0)
    return y.shape[-count:] if count else ()


def _before_reshape(graph: Graph, op: Op, user: Op) -> list[Tensor | None] | NoMatch:
    """What `user`, behind `op`, would read before it, or why that is not the same."""
    x, channels = op.operand(0), _channel_axes(op)
    if user.kind in _UNARY:
        splits = user.kind == "BATCH_NORM" and len(channels) != 1
        if splits or (user.kind == "FAKE_QUANT" and attr(user, "axis") is not None):
            return NoMatch("works on other channels", at=user.name)
        return [x, *user.inputs[1:]]
    operands = [t for t in user.inputs if t is not None]
    others = all_of(x if t is op.output else _counterpart(graph, t, x, channels) for t in operands)
    return others if isinstance(others, NoMatch) else [*others]


def _counterpart(
    graph: Graph, tensor: Tensor, x: Tensor, channels: tuple[int, ...]
) -> Tensor | NoMatch:
    """What stands to x as `tensor` does behind a change of its shape, or why nothing does."""
    why = NoMatch("has no counterpart before the change of shape", at=tensor.name)
    if not channels:
        return why
    if tensor.data is None:
        producer = tensor.producer
        if producer is None or producer.kind not in _RESHAPES or not _is_fixed(producer):
            return why
        source = producer.operand(0)
        alike = source.shape == x.shape and _channel_axes(producer) == channels
        return source if alike else why
    inner = tensor.shape
    while len(inner) > len(channels) and inner[0] == 1:
        inner = inner[1:]
    if tensor.size != 1 and inner != channels:
        return why
    if not tensor.shape or (len(tensor.shape) <= len(x.shape) and len(channels) == 1):
        return tensor
    values = tensor.data.reshape(-1 if tensor.size > 1 else ())
    return constant(graph.unique_name(f"{tensor.name}/flat"), np.ascontiguousarray(values))


def _sink_below_pad(rw: Rewriter, pad: Op) -> None:
    """Given  y = r'(PAD(r(x))), r drops an axis of size 1, r' adds it;  Result  y = PAD(x)."""
    graph = rw.graph
    before, user = pad.operand(0).producer, sole_user(pad.output)
    if before is None or before.kind not in _RESHAPES or isinstance(user, NoMatch):
        return
    x, y, table = before.operand(0), user.output, pad.operand(1)
    if user.kind not in _RESHAPES or table.data is None or _is_open(x, pad.operand(0), y):
        return
    axis = next(
        (
            a
            for a in range(len(x.shape))
            if _without(x, a) == before.output.shape and _without(y, a) == pad.output.shape
        ),
        None,
    )
    if axis is None:
        return
    paddings = np.insert(table.data, axis, 0, axis=0)
    operand = constant(graph.unique_name(table.name), paddings)
    graph.set_inputs(pad, [x, operand])
    graph.set_shape(pad.output, inferred(pad)[0])
    rw.bypass(user, detail=f"'{pad.name}' has its shape")
    _remove_unread(rw, before)


def _without(tensor: Tensor, axis: int) -> tuple[int, ...] | None:
    """The shape without an axis of size 1; None where it has no such axis there."""
    shape = tensor.shape
    if axis >= len(shape) or shape[axis] != 1:
        return None
    return (*shape[:axis], *shape[axis + 1 :])
