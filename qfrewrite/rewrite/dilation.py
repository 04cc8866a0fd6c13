"""SPACE_TO_BATCH_ND, convolution, BATCH_TO_SPACE_ND: one dilated convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qfrewrite.errors import QfError
from qfrewrite.ir import Graph, Op, Tensor, constant
from qfrewrite.ops.build import append_op
from qfrewrite.ops.spec import attr, const_ints, inferred
from qfrewrite.ops.windows import same_padding
from qfrewrite.rewrite.match import NoMatch, operand_orders, per_channel, sole_user
from qfrewrite.rewrite.rewriter import Rewriter

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_FIRST = ("EXPAND_DIMS", *_CONVOLUTIONS)
_ARITHMETIC = ("ADD", "MUL")
_BETWEEN = (*_ARITHMETIC, "BATCH_NORM", "RELU", "RELU6", "SQUEEZE", "BATCH_TO_SPACE_ND")


def raise_dilation(rw: Rewriter) -> None:
    """Given  BATCH_TO_SPACE_ND(f(conv(SPACE_TO_BATCH_ND(x)))), conv VALID, stride 1, f per channel
    Result f(dilated conv(x)), SAME where the paddings say so, else VALID after a PAD.

    TensorFlow writes `dilation_rate` this way for its own convolutions. Those of one dimension have
    an EXPAND_DIMS before conv, for an axis of size 1, and a SQUEEZE of it behind conv: they stay.
    """
    for spread in rw.graph.ops_of("SPACE_TO_BATCH_ND"):
        chain = _chain(spread)
        if isinstance(chain, NoMatch):
            rw.skip(spread, chain)
            continue
        _dilate(rw, spread, chain)


@dataclass(frozen=True)
class _Chain:
    """The ops between SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND, and the two ends' operands."""

    ops: list[Op]
    """In order: an EXPAND_DIMS where there is one, the convolution, ..., BATCH_TO_SPACE_ND."""
    conv: Op
    blocks: tuple[int, int]
    """Of height and width, as `paddings` and `crops` are."""
    paddings: list[tuple[int, int]]
    crops: list[tuple[int, int]]


def _chain(spread: Op) -> _Chain | NoMatch:
    """What lies between `spread` and its BATCH_TO_SPACE_ND, or why the pattern is not there."""
    ops = _ops_between(spread)
    if isinstance(ops, NoMatch):
        return ops
    conv, gather = next(op for op in ops if op.kind in _CONVOLUTIONS), ops[-1]
    strides = attr(conv, "stride_h"), attr(conv, "stride_w")
    if attr(conv, "padding") != "VALID" or strides != (1, 1):
        return NoMatch("is not VALID with stride 1", at=conv.name)
    if conv.operand(1).data is None:
        return NoMatch("has computed weights", at=conv.name)
    axis = _added_axis(ops)
    if isinstance(axis, NoMatch):
        return axis
    try:
        blocks, crops = const_ints(spread, 1), const_ints(gather, 2)
        paddings, back = const_ints(spread, 2), const_ints(gather, 1)
    except QfError as error:
        return NoMatch(str(error))
    if blocks != back or len(blocks) != (2 if axis is None else 1) or any(crops[::2]):
        return NoMatch("has blocks or crops that are no dilation", at=gather.name)
    if any(p < c for p, c in zip(paddings[1::2], crops[1::2], strict=True)):
        return NoMatch("crops more than was padded", at=gather.name)
    sides = [list(blocks), _pairs(paddings), _pairs(crops)]
    if axis is not None:
        for side, nothing in zip(sides, (1, (0, 0), (0, 0)), strict=True):
            side.insert(axis - 1, nothing)
    return _Chain(ops, conv, tuple(sides[0]), sides[1], sides[2])


def _ops_between(spread: Op) -> list[Op] | NoMatch:
    """The readers behind `spread`, each the only one, up to a BATCH_TO_SPACE_ND."""
    ops: list[Op] = []
    tensor = spread.output
    wanted: tuple[str, ...] = _FIRST
    while not ops or ops[-1].kind != "BATCH_TO_SPACE_ND":
        reader = sole_user(tensor)
        if isinstance(reader, NoMatch):
            return reader
        if reader.kind not in wanted:
            return NoMatch(f"is read by {reader.kind}", at=tensor.name)
        if reader.kind in _ARITHMETIC and not _per_channel(reader, tensor):
            return NoMatch("combines other values than one per channel", at=reader.name)
        wanted = _CONVOLUTIONS if reader.kind == "EXPAND_DIMS" else _BETWEEN
        ops.append(reader)
        tensor = reader.output
    return ops


def _per_channel(op: Op, x: Tensor) -> bool:
    other = next((c for v, c in operand_orders(op) if v is x), None)
    return per_channel(other, x.shape[-1]) is not None and op.output.shape == x.shape


def _pairs(flat: tuple[int, ...]) -> list[Any]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _added_axis(ops: list[Op]) -> int | NoMatch | None:
    """The axis of size 1 that is there for the convolution alone; None where there is none."""
    expands = [op for op in ops if op.kind == "EXPAND_DIMS"]
    squeezes = [op for op in ops if op.kind == "SQUEEZE"]
    if not expands and not squeezes:
        return None
    if len(expands) != 1 or len(squeezes) != 1 or expands[0].operand(1).data is None:
        return NoMatch("has other axes than its input", at=ops[-1].name)
    rank = len(expands[0].output.shape)
    (axis,) = (a % rank for a in const_ints(expands[0], 1))
    squeezed = [a % rank for a in attr(squeezes[0], "squeeze_dims")]
    if rank != 4 or axis not in (1, 2) or squeezed != [axis]:
        return NoMatch("has other axes than its input", at=ops[-1].name)
    return axis


def _dilate(rw: Rewriter, spread: Op, chain: _Chain) -> None:
    """Give the convolution of `chain` its dilation and padding, and take out both ends."""
    graph, conv, first, gather = rw.graph, chain.conv, chain.ops[0], chain.ops[-1]
    graph.set_input(first, 0, spread.operand(0))
    if first is not conv:
        _reshape_output(graph, first)
    x = conv.operand(0)
    # What was padded only to reach a multiple of the block is cropped again at the end.
    pads = [(p[0], p[1] - c[1]) for p, c in zip(chain.paddings, chain.crops, strict=True)]
    window = conv.operand(1).shape[1:3]
    same = [same_padding(x.shape[i + 1], window[i], 1, chain.blocks[i]) for i in range(2)]
    if pads != same and any(p != (0, 0) for p in pads):
        table = constant(f"{conv.name}/paddings", np.array([(0, 0), *pads, (0, 0)], np.int32))
        x = append_op(graph, "PAD", [x, table], name=f"{conv.name}/pad", anchor=conv).output
    graph.set_input(conv, 0, x)
    graph.set_attrs(
        conv,
        dilation_h_factor=chain.blocks[0],
        dilation_w_factor=chain.blocks[1],
        padding="SAME" if pads == same else "VALID",
    )
    graph.remove_op(spread)
    rw.bypass(gather, action="raised", detail=f"to dilation {chain.blocks}")
    for op in chain.ops[:-1]:
        _reshape_output(graph, op)
    rw.edit("dilated", conv, f"by {chain.blocks}, was SPACE_TO_BATCH_ND .. BATCH_TO_SPACE_ND")


def _reshape_output(graph: Graph, op: Op) -> None:
    out, (shape,) = op.output, inferred(op)
    signature = out.shape_signature
    if signature is not None:
        pairs = zip(signature, shape, strict=True)
        signature = tuple(-1 if open_ == -1 else size for open_, size in pairs)
    graph.set_shape(out, shape)
    graph.set_signature(out, signature)
