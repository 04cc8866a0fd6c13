"""Padding before a convolution that the convolution does by itself."""

from __future__ import annotations

from qfrewrite.errors import QfError
from qfrewrite.ir import Graph, Op
from qfrewrite.ops.linear import window_of
from qfrewrite.ops.spec import const_ints
from qfrewrite.ops.windows import same_padding
from qfrewrite.rewrite.match import NoMatch
from qfrewrite.rewrite.rewriter import Rewriter


def raise_same_padding(rw: Rewriter) -> None:
    """Given  conv(PAD(x)), conv VALID, PAD with the zeros that SAME means;  Result  conv(x), SAME.

    Keras writes the convolutions of stride 2 in MobileNet and EfficientNet this way.
    """
    for conv in rw.graph.ops_of("CONV_2D", "DEPTHWISE_CONV_2D"):
        pad = _same_pad_before(rw.graph, conv)
        if isinstance(pad, NoMatch):
            continue
        attrs = {**conv.attrs, "padding": "SAME"}
        rw.graph.update_op(conv, inputs=[pad.operand(0), *conv.inputs[1:]], attrs=attrs)
        rw.edit("padded", conv, f"by itself, was '{pad.name}'")
        if not rw.graph.readers(pad.output) and not rw.graph.is_output(pad.output):
            rw.remove(pad)


def _same_pad_before(graph: Graph, conv: Op) -> Op | NoMatch:
    """The PAD before `conv` that SAME makes needless, or why there is none."""
    pad = graph.producer(conv.operand(0))
    strides, dilations, padding = window_of(conv)
    if pad is None or pad.kind not in ("PAD", "PADV2") or padding != "VALID":
        return NoMatch("is not a VALID convolution of a PAD", at=conv.name)
    value = pad.input(2)
    if value is not None and (value.data is None or value.data.any()):
        return NoMatch("pads with another value than 0", at=pad.name)
    try:
        table = const_ints(pad, 1)
    except QfError as error:
        return NoMatch(str(error), at=pad.name)
    x, window = pad.operand(0).shape, conv.operand(1).shape[1:3]
    wanted = [
        (0, 0),
        *(same_padding(x[i + 1], window[i], strides[i], dilations[i]) for i in range(2)),
        (0, 0),
    ]
    if list(zip(table[::2], table[1::2], strict=True)) != wanted:
        return NoMatch("pads otherwise than SAME", at=pad.name)
    return pad
