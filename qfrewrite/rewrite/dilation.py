"""SPACE_TO_BATCH_ND, convolution, BATCH_TO_SPACE_ND: one dilated convolution."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from qfrewrite.ops.spec import attr, inferred
from qfrewrite.ops.windows import same_padding
from qfrewrite.rewrite.match import NoMatch
from qfrewrite.rewrite.pattern import Match, Patterns, match
from qfrewrite.rewrite.rewriter import Rewriter, reshape

_p = Patterns()
_SPREAD = _p.SPACE_TO_BATCH_ND(_p.x, _p.integers("blocks"), _p.integers("paddings"))
_EXPANDED = _SPREAD.then(_p.EXPAND_DIMS(_p.integers("axis")).named("expand"))
_CONV = _p.op("CONV_2D", "DEPTHWISE_CONV_2D")(_p.const())
_CONV = _CONV.where(padding="VALID", stride_h=1, stride_w=1).named("conv")
_DILATED = (
    _p.any_of(_SPREAD, _EXPANDED)
    .then(_CONV)
    .through(
        "between",
        _p.op("ADD", "MUL")(_p.per_channel()),
        _p.op("BATCH_NORM", "RELU", "RELU6", "SQUEEZE")(),
    )
    .then(_p.BATCH_TO_SPACE_ND(_p.integers("back"), _p.integers("crops")))
)


def raise_dilation(rw: Rewriter) -> None:
    """Given  BATCH_TO_SPACE_ND(f(conv(SPACE_TO_BATCH_ND(x)))), conv VALID, stride 1, f per channel
    Result f(dilated conv(x)), SAME where the paddings say so, else VALID after a PAD.

    TensorFlow writes `dilation_rate` this way for its own convolutions. Those of one dimension have
    an EXPAND_DIMS before conv, for an axis of size 1, and a SQUEEZE of it behind conv: they stay.
    """
    for gather in rw.graph.ops_of("BATCH_TO_SPACE_ND"):
        found = match(rw.graph, gather, _DILATED)
        why = found if isinstance(found, NoMatch) else _dilate(rw, found)
        if isinstance(why, NoMatch):
            rw.skip(gather, why)


class _Window(NamedTuple):
    """What the ops at both ends do along one axis."""

    block: int
    padding: tuple[int, int]
    crop: tuple[int, int]


def _windows(m: Match) -> list[_Window] | NoMatch:
    """What is done to height and width, or why that is no dilation."""
    axis = _added_axis(m)
    if isinstance(axis, NoMatch):
        return axis
    paddings, crops = _pairs(m.paddings), _pairs(m.crops)
    if m.blocks != m.back or len(m.blocks) != (2 if axis is None else 1) or any(m.crops[::2]):
        return NoMatch("has blocks or crops that are no dilation", at=m.root.name)
    if any(p[1] < c[1] for p, c in zip(paddings, crops, strict=True)):
        return NoMatch("crops more than was padded", at=m.root.name)
    windows = [_Window(*window) for window in zip(m.blocks, paddings, crops, strict=True)]
    if axis is not None:
        windows.insert(axis - 1, _Window(1, (0, 0), (0, 0)))
    return windows


def _pairs(flat: tuple[int, ...]) -> list[Any]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _added_axis(m: Match) -> int | NoMatch | None:
    """The axis of size 1 that is there for the convolution alone; None where there is none."""
    squeezes = [op for op in m.between if op.kind == "SQUEEZE"]
    expand = m.get("expand")
    if expand is None and not squeezes:
        return None
    if expand is not None and len(squeezes) == 1 and len(expand.output.shape) == 4:
        axis: int = m.axis[0] % 4
        if axis in (1, 2) and [a % 4 for a in attr(squeezes[0], "squeeze_dims")] == [axis]:
            return axis
    return NoMatch("has other axes than its input", at=m.root.name)


def _dilate(rw: Rewriter, m: Match) -> NoMatch | None:
    """Give the convolution its dilation and padding, and take out both ends; or why not."""
    windows = _windows(m)
    if isinstance(windows, NoMatch):
        return windows
    graph, conv, expand = rw.graph, m.conv, m.get("expand")
    first = conv if expand is None else expand
    spread = first.operand(0).producer
    graph.set_input(first, 0, m.x)
    if expand is not None:
        reshape(graph, expand.output, inferred(expand)[0])
    x = conv.operand(0)
    # What was padded only to reach a multiple of the block is cropped again at the end.
    pads = [(w.padding[0], w.padding[1] - w.crop[1]) for w in windows]
    blocks, taps = tuple(w.block for w in windows), conv.operand(1).shape[1:3]
    same = [same_padding(x.shape[i + 1], taps[i], 1, blocks[i]) for i in range(2)]
    if pads != same and any(p != (0, 0) for p in pads):
        table = rw.constant(f"{conv.name}/paddings", np.array([(0, 0), *pads, (0, 0)], np.int32))
        x = rw.put(conv, "PAD", x, table, name=f"{conv.name}/pad").output
    graph.set_input(conv, 0, x)
    graph.set_attrs(
        conv,
        dilation_h_factor=blocks[0],
        dilation_w_factor=blocks[1],
        padding="SAME" if pads == same else "VALID",
    )
    graph.remove_op(spread)
    rw.bypass(m.root, action="raised", detail=f"to dilation {blocks}")
    for op in dict.fromkeys((first, conv, *m.between)):
        reshape(graph, op.output, inferred(op)[0])
    rw.edit("dilated", conv, f"by {blocks}, was SPACE_TO_BATCH_ND .. BATCH_TO_SPACE_ND")
    return None
