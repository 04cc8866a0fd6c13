"""SPACE_TO_BATCH_ND, convolution, BATCH_TO_SPACE_ND: a dilated convolution in disguise."""

from __future__ import annotations

import numpy as np

from qfrewrite.errors import QfError
from qfrewrite.ir import Graph, Op, constant
from qfrewrite.ops.build import append_op
from qfrewrite.ops.spec import attr, const_ints, inferred
from qfrewrite.ops.windows import same_padding
from qfrewrite.rewrite.match import NoMatch, sole_reader, weights_of
from qfrewrite.rewrite.rewriter import Rewriter

_BETWEEN = ("ADD", "MUL", "BATCH_NORM", "RELU", "RELU6")


def raise_dilation(rw: Rewriter) -> None:
    """Given  BATCH_TO_SPACE_ND(f(conv(SPACE_TO_BATCH_ND(x)))), conv VALID, stride 1, f per channel
    Result f(dilated conv(x)), SAME where the paddings say so, else VALID after a PAD.

    TensorFlow writes `dilation_rate` this way for its own convolutions.
    """
    for spread in rw.graph.ops_of("SPACE_TO_BATCH_ND"):
        chain = _chain(rw.graph, spread)
        if isinstance(chain, NoMatch):
            rw.skip(spread, chain)
            continue
        _undisguise(rw, spread, chain)


def _chain(graph: Graph, spread: Op) -> list[Op] | NoMatch:
    """conv, ..., BATCH_TO_SPACE_ND, or why the pattern is not there."""
    ops: list[Op] = []
    tensor = spread.output
    while not ops or ops[-1].kind != "BATCH_TO_SPACE_ND":
        reader = sole_reader(graph, tensor)
        if isinstance(reader, NoMatch):
            return reader
        wanted = _BETWEEN if ops else ("CONV_2D", "DEPTHWISE_CONV_2D")
        if reader.kind not in (*wanted, *(["BATCH_TO_SPACE_ND"] if ops else [])):
            return NoMatch(f"is read by {reader.kind}", at=tensor.name)
        ops.append(reader)
        tensor = reader.output
    conv, gather = ops[0], ops[-1]
    if attr(conv, "padding") != "VALID" or (attr(conv, "stride_h"), attr(conv, "stride_w")) != (
        1,
        1,
    ):
        return NoMatch("is not VALID with stride 1", at=conv.name)
    if conv.operand(1).data is None:
        return NoMatch("has computed weights", at=conv.name)
    try:
        blocks, crops = const_ints(spread, 1), const_ints(gather, 2)
        paddings, back = const_ints(spread, 2), const_ints(gather, 1)
    except QfError as error:
        return NoMatch(str(error))
    if blocks != back or len(blocks) != 2 or any(crops[::2]):
        return NoMatch("has blocks or crops that are no dilation", at=gather.name)
    if any(p < c for p, c in zip(paddings[1::2], crops[1::2], strict=True)):
        return NoMatch("crops more than was padded", at=gather.name)
    return ops


def _undisguise(rw: Rewriter, spread: Op, chain: list[Op]) -> None:
    graph, (conv, gather) = rw.graph, (chain[0], chain[-1])
    blocks, paddings = const_ints(spread, 1), const_ints(spread, 2)
    crops = const_ints(gather, 2)
    # What was padded only to reach a multiple of the block is cropped again at the end.
    pads = [(paddings[2 * i], paddings[2 * i + 1] - crops[2 * i + 1]) for i in range(2)]
    x = spread.operand(0)
    window = weights_of(conv).shape[1:3]
    same = [same_padding(x.shape[i + 1], window[i], 1, blocks[i]) for i in range(2)]
    attrs = dict(conv.attrs)
    attrs |= {"dilation_h_factor": blocks[0], "dilation_w_factor": blocks[1]}
    attrs["padding"] = "SAME" if pads == same else "VALID"
    if pads != same and any(p != (0, 0) for p in pads):
        table = constant(f"{conv.name}/paddings", np.array([(0, 0), *pads, (0, 0)], np.int32))
        x = append_op(graph, "PAD", [x, table], name=f"{conv.name}/pad", anchor=spread).output
    graph.update_op(conv, inputs=[x, *conv.inputs[1:]], attrs=attrs)
    graph.remove_op(spread)
    rw.bypass(gather, action="raised", detail=f"to dilation {blocks}")
    for op in chain[:-1]:
        _reshape_output(graph, op)
    rw.edit("dilated", conv, f"by {blocks}, was SPACE_TO_BATCH_ND .. BATCH_TO_SPACE_ND")


def _reshape_output(graph: Graph, op: Op) -> None:
    graph.update_tensor(op.output, shape=inferred(op)[0])
