"""Move changes of shape behind what works on each channel alike, so that layers meet directly.

A frozen Conv1D is EXPAND_DIMS, CONV_2D and SQUEEZE: the SQUEEZE parts the layer from its bias,
BatchNorm and activation, and with the next layer's EXPAND_DIMS it does nothing at all.
"""

from __future__ import annotations

import numpy as np

from qfrewrite.ir import Graph, Op, Tensor, constant
from qfrewrite.ops.build import append_op
from qfrewrite.ops.spec import attr, const_ints, inferred
from qfrewrite.rewrite.match import LINEAR, NoMatch, per_channel, sole_reader
from qfrewrite.rewrite.rewriter import Rewriter

_RESHAPES = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
# They treat every position alike, and combine values at one position only.
_UNARY = (
    "RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "ELU", "GELU", "HARD_SWISH", "LOGISTIC", "TANH",
    "BATCH_NORM", "FAKE_QUANT",
)  # fmt: skip
_BINARY = ("ADD", "SUB", "MUL", "DIV", "PRELU")


def sink_reshapes(rw: Rewriter) -> None:
    """Given  y = f(r(layer(x))), r a change of shape that keeps the channels, f of each channel
    Result y = r(f(layer(x))); a change of shape and its inverse are dropped.

    f: an activation, BATCH_NORM, arithmetic with constants per channel, the sum (product, ...) of
    two such r, or a PAD before the inverse of r.
    """
    graph = rw.graph
    _cancel_inverses(rw)
    for op in graph.ops_of(*_RESHAPES):
        layer = graph.producer(op.operand(0)) if op in graph else None
        moved = op if layer is not None and layer.kind in LINEAR else None
        while moved is not None:
            moved = _sink_once(rw, moved)
    for op in graph.ops_of("PAD"):
        _sink_below_pad(rw, op)
    _cancel_inverses(rw)


def _cancel_inverses(rw: Rewriter) -> None:
    """Given  y = r'(r(x)), y of the shape of x;  Result  y = x."""
    graph = rw.graph
    for op in graph.ops_of(*_RESHAPES):
        before = graph.producer(op.operand(0))
        if before is None or before.kind not in _RESHAPES:
            continue
        x = before.operand(0)
        if x.shape != op.output.shape or _is_open(x, op.operand(0), op.output):
            continue
        graph.update_op(op, inputs=[x, *op.inputs[1:]])
        rw.bypass(op, detail=f"undoes '{before.name}'")
        _remove_unread(rw, before)


def _is_open(*tensors: Tensor) -> bool:
    return any(t.has_open_dims for t in tensors)


def _remove_unread(rw: Rewriter, op: Op) -> None:
    if not rw.graph.readers(op.output) and not rw.graph.is_output(op.output):
        rw.graph.remove_op(op)


def _sink_once(rw: Rewriter, op: Op) -> Op | None:
    """Move `op` behind its reader; returns the op that does its work there, None where none."""
    graph, x, y = rw.graph, op.operand(0), op.output
    reader = sole_reader(graph, y)
    if isinstance(reader, NoMatch) or not _keeps_channels(op) or reader.output.shape != y.shape:
        return None
    operands = _before_reshape(graph, op, reader)
    if operands is None or reader.kind not in (*_UNARY, *_BINARY):
        return None
    out = reader.output
    sources = [p for t in reader.inputs if t is not None and (p := graph.producer(t)) is not None]
    graph.update_op(reader, inputs=operands)
    graph.update_tensor(out, shape=x.shape)
    for source in dict.fromkeys(sources):
        if source.kind in _RESHAPES:
            _remove_unread(rw, source)
    moved = append_op(
        graph, op.kind, [out, *op.inputs[1:]], name=op.name, attrs=op.attrs, anchor=reader
    )
    graph.replace_uses(out, moved.output, skip=(moved,))
    rw.edit("moved", moved, f"behind '{reader.name}'")
    return moved


def _keeps_channels(op: Op) -> bool:
    """Whether only constants steer `op`, every size is known and the last axis stays."""
    x, y = op.operand(0), op.output
    fixed = all(t is not None and t.is_const for t in op.inputs[1:])
    return fixed and not _is_open(x, y) and len(x.shape) > 0 and x.shape[-1:] == y.shape[-1:]


def _before_reshape(graph: Graph, op: Op, reader: Op) -> list[Tensor | None] | None:
    """What `reader`, behind `op`, would read before it; None where that is not the same."""
    x, y = op.operand(0), op.output
    if reader.kind == "FAKE_QUANT" and attr(reader, "axis") is not None:
        return None
    if reader.kind in _UNARY:
        return [x, *reader.inputs[1:]]
    operands: list[Tensor | None] = []
    for tensor in reader.inputs:
        assert tensor is not None
        same = graph.producer(tensor)
        if tensor is y:
            operands.append(x)
        elif tensor.is_const and per_channel(tensor, x.shape[-1]) is not None:
            if np.broadcast_shapes(tensor.shape, x.shape) != x.shape:
                return None
            operands.append(tensor)
        elif same is not None and same.kind in _RESHAPES and _keeps_channels(same):
            if same.operand(0).shape != x.shape:
                return None
            operands.append(same.operand(0))
        else:
            return None
    return operands


def _sink_below_pad(rw: Rewriter, pad: Op) -> None:
    """Given  y = EXPAND_DIMS(PAD(SQUEEZE(x)));  Result  y = PAD(x)."""
    graph = rw.graph
    before, reader = graph.producer(pad.operand(0)), sole_reader(graph, pad.output)
    if before is None or before.kind != "SQUEEZE" or isinstance(reader, NoMatch):
        return
    x, table = before.operand(0), pad.operand(1)
    if reader.kind != "EXPAND_DIMS" or table.data is None or not _keeps_channels(reader):
        return
    axes = attr(before, "squeeze_dims") or ()
    axis = {a % len(x.shape) for a in axes}
    if axis != {a % len(x.shape) for a in const_ints(reader, 1)} or _is_open(x, before.output):
        return
    paddings = np.insert(table.data, axis.pop(), 0, axis=0)
    operand = constant(graph.unique_name(table.name), paddings)
    graph.update_op(pad, inputs=[x, operand])
    graph.update_tensor(pad.output, shape=inferred(pad)[0])
    rw.bypass(reader, detail=f"'{pad.name}' has its shape")
    _remove_unread(rw, before)
