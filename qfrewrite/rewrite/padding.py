"""Padding before a convolution or a pooling: what it does by itself, what stands for -infinity."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from qfrewrite.errors import QfError
from qfrewrite.ir import Op
from qfrewrite.ops.linear import window_of
from qfrewrite.ops.spec import attr, const_ints
from qfrewrite.ops.windows import same_padding
from qfrewrite.rewrite.match import NoMatch
from qfrewrite.rewrite.rewriter import Rewriter, is_unread

# The lowest float16: a padding as low as this stands for minus infinity.
_LOWEST = -65504.0


def raise_same_padding(rw: Rewriter) -> None:
    """Given  conv(PAD(x)), conv VALID, PAD with the zeros that SAME means;  Result  conv(x), SAME.

    Keras writes the convolutions of stride 2 in MobileNet and EfficientNet this way.
    """
    for conv in rw.graph.ops_of("CONV_2D", "DEPTHWISE_CONV_2D"):
        pad = _same_pad_before(conv)
        if isinstance(pad, NoMatch):
            continue
        rw.graph.set_input(conv, 0, pad.operand(0))
        rw.graph.set_attrs(conv, padding="SAME")
        rw.edit("padded", conv, f"by itself, was '{pad.name}'")
        if is_unread(pad):
            rw.remove(pad)


def _same_pad_before(conv: Op) -> Op | NoMatch:
    """The PAD before `conv` that SAME makes needless, or why there is none."""
    pad = conv.operand(0).producer
    strides, dilations, padding = window_of(conv)
    if pad is None or pad.kind not in ("PAD", "PADV2") or padding != "VALID":
        return NoMatch("is not a VALID convolution of a PAD", at=conv.name)
    value = pad.input(2)
    if value is not None and (value.data is None or value.data.any()):
        return NoMatch("pads with another value than 0", at=pad.name)
    window = conv.operand(1).shape[1:3]
    if not _pads_as_same(pad, window, strides, dilations):
        return NoMatch("pads otherwise than SAME", at=pad.name)
    return pad


def _pads(pad: Op) -> list[tuple[int, int]] | None:
    """How many values a PAD puts before and after each axis; None where that is computed."""
    try:
        table = const_ints(pad, 1)
    except QfError:
        return None
    return list(zip(table[::2], table[1::2], strict=True))


def _pads_as_same(
    pad: Op, window: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> bool:
    x = pad.operand(0).shape
    wanted = [same_padding(x[i + 1], window[i], strides[i], dilations[i]) for i in range(2)]
    return _pads(pad) == [(0, 0), *wanted, (0, 0)]


def raise_lowest_padding(rw: Rewriter) -> None:
    """Given  y = MAX_POOL_2D(PADV2(x, v)), v so low that it stands for minus infinity
    Result y = MAX_POOL_2D(x), SAME, where that pads alike; else the same with v = -infinity.

    A finite v (float32's lowest, in exports of PyTorch) would stretch the range of the pooled
    values to it. No result changes: every window holds a value of x, and none is as low as v.
    """
    for pad in rw.graph.ops_of("PADV2"):
        value, pads = pad.operand(2).data, _pads(pad)
        pools = [user.op for user in pad.output.users]
        if value is None or value.dtype != np.float32 or not value.max(initial=-inf) <= _LOWEST:
            continue
        if pads is None or not all(_reaches_in(pool, pads) for pool in pools):
            continue
        for pool in pools:
            window, strides = _pool_window(pool), (attr(pool, "stride_h"), attr(pool, "stride_w"))
            if attr(pool, "padding") == "VALID" and _pads_as_same(pad, window, strides, (1, 1)):
                rw.graph.set_input(pool, 0, pad.operand(0))
                rw.graph.set_attrs(pool, padding="SAME")
                rw.edit("padded", pool, f"by itself, was '{pad.name}'")
        if is_unread(pad):
            rw.remove(pad)
        elif not pad.output.is_output and np.isfinite(value).any():
            rw.set_constant(pad, 2, np.full(value.shape, -inf, np.float32))
            rw.edit("padded", pad, f"with -inf, was {float(value.max()):.4g}")


def _pool_window(pool: Op) -> tuple[int, int]:
    return attr(pool, "filter_height"), attr(pool, "filter_width")


def _reaches_in(op: Op, pads: list[tuple[int, int]]) -> bool:
    """Whether `op` is a pooling all of whose windows hold a value that is no padding."""
    if op.kind != "MAX_POOL_2D" or len(pads) != 4 or any(pads[0]) or any(pads[3]):
        return False
    return all(max(p) < size for p, size in zip(pads[1:3], _pool_window(op), strict=True))
