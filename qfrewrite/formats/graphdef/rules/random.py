"""Reading random numbers: a dropout of rate 0 keeps everything, whatever is drawn.

What is drawn is followed as a range through the arithmetic of a dropout. Where the range alone
decides a comparison or a rounding, the result is a constant; everything else is refused.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from qfrewrite.errors import UnsupportedError
from qfrewrite.formats.graphdef.importer import MAX_ELEMENTS, NodeContext
from qfrewrite.formats.graphdef.rules.arith import Table, element_type
from qfrewrite.formats.graphdef.values import Constant, Drawn, Value

_Converter = Callable[[NodeContext], list[Value]]
_Special = Callable[[NodeContext], Value | None]


def _draws(low: float, high: float, c: NodeContext) -> list[Value]:
    """RandomUniform(shape) and its like."""
    shape = c.ints(0)
    if min(shape, default=0) < 0 or np.prod(shape, dtype=np.float64) > MAX_ELEMENTS:
        raise UnsupportedError(f"draws numbers of shape {list(shape)}")
    data = np.broadcast_to(np.float32(0), shape)
    return [Drawn(c.name, data, low=low, high=high, open_above=True)]


DRAWS: Table = {
    **dict.fromkeys(
        ("RandomUniform", "StatelessRandomUniform", "StatelessRandomUniformV2"),
        partial(_draws, 0.0, 1.0),
    ),
    **dict.fromkeys(
        ("RandomStandardNormal", "StatelessRandomNormal", "StatelessRandomNormalV2"),
        partial(_draws, -np.inf, np.inf),
    ),
}
"""Converters of ops that draw random numbers."""


def on_drawn(op: str, convert: _Converter | None) -> _Converter:
    """The converter of a node that reads random numbers; `convert`: that of other values."""
    special = _ON_DRAWN.get(op)

    def on_range(c: NodeContext) -> list[Value]:
        result = special(c) if special is not None else None
        if result is not None:
            return [result]
        values = [_constant(v) if isinstance(v, Drawn) else v for v in c.inputs]
        if convert is None:
            raise _refusal()
        return convert(NodeContext(c.importer, c.node, values))

    return on_range


def _refusal() -> UnsupportedError:
    return UnsupportedError(
        "computes with random numbers, which depend on no input",
        remedy="freeze the graph for inference: dropout off, or its rate 0",
    )


def _constant(drawn: Drawn) -> Constant:
    if not drawn.settled:
        raise _refusal()
    return Constant(drawn.name, drawn.data)


def _operands(c: NodeContext) -> tuple[Drawn, float, bool]:
    """The random operand of a binary op, the other one, and whether the random one is first."""
    c.require(2)
    first, second = c.inputs[:2]
    drawn, slot = (first, 1) if isinstance(first, Drawn) else (second, 0)
    assert isinstance(drawn, Drawn)
    other = None if isinstance(c.inputs[slot], Drawn) else c.known(slot)
    if other is None or other.data.size != 1:
        raise _refusal()
    return drawn, float(other.data.reshape(-1)[0]), slot == 1


def _settled(drawn: Drawn, value: float | bool) -> Value:
    """The constant that became of `drawn`; a mask of ones is still followed."""
    constant = Constant.filled(
        drawn.name, value, "bool" if isinstance(value, bool) else "float32", drawn.shape
    )
    return Drawn(drawn.name, constant.data, low=1.0, high=1.0) if value == 1 else constant


def _shifted(
    f: Callable[[float, float], float], c: NodeContext, *, only_first: bool = False
) -> Value | None:
    """Arithmetic with one number; only_first: the random operand must be the first."""
    drawn, other, first = _operands(c)
    if drawn.settled:
        return None
    low, high = f(drawn.low, other), f(drawn.high, other)
    if not low < high or (only_first and not first):
        raise _refusal()
    return Drawn(c.name, drawn.data, low=low, high=high, open_above=drawn.open_above)


def _times(c: NodeContext) -> Value | None:
    """A mask of ones changes nothing; random numbers times zero are zero."""
    c.require(2)
    for slot in (0, 1):
        drawn, value = c.inputs[slot], c.inputs[1 - slot]
        settled = isinstance(drawn, Drawn) and drawn.settled
        if settled and np.broadcast_shapes(drawn.shape, value.shape) == value.shape:
            return value
    drawn, other, _ = _operands(c)
    if other == 0 and not drawn.settled:
        return _settled(drawn, 0.0)
    return _shifted(operator.mul, c)


def _selected(c: NodeContext) -> Value | None:
    """Where the mask is true everywhere, the first choice."""
    c.require(3)
    mask, value, other = c.inputs[:3]
    shapes = (mask.shape, value.shape, other.shape)
    fits = np.broadcast_shapes(*shapes) == value.shape
    return value if fits and isinstance(mask, Drawn) and mask.settled else None


def _floor(c: NodeContext) -> Value | None:
    drawn = c.inputs[0]
    assert isinstance(drawn, Drawn)
    low = float(np.floor(drawn.low))
    if not (drawn.high < low + 1 or (drawn.high == low + 1 and drawn.open_above)):
        raise _refusal()
    return _settled(drawn, low)


def _compared(f: Callable[[float, float], bool], c: NodeContext) -> Value | None:
    """A comparison that both ends of the range decide alike."""
    drawn, other, first = _operands(c)
    top = float(np.nextafter(drawn.high, -np.inf)) if drawn.open_above else drawn.high
    results = {f(end, other) if first else f(other, end) for end in (drawn.low, top)}
    if len(results) != 1:
        raise _refusal()
    return _settled(drawn, results.pop())


def _cast(c: NodeContext) -> Value | None:
    drawn = c.inputs[0]
    assert isinstance(drawn, Drawn)
    if not drawn.settled:
        return drawn if c.attr("SrcT") == c.attr("DstT") else None
    dtype = element_type(c.attr("DstT", "DT_FLOAT"))
    ones = Constant.filled(c.name, 1, dtype, drawn.shape).data
    return Drawn(c.name, ones, low=1.0, high=1.0)


# Converters of ops that read random numbers; they give None where the value is known, so that it
# is converted like any other constant.
_ON_DRAWN: Mapping[str, _Special] = {
    **dict.fromkeys(("Identity", "StopGradient"), lambda c: c.inputs[0]),
    "Cast": _cast,
    **dict.fromkeys(("Add", "AddV2"), partial(_shifted, operator.add)),
    "Sub": partial(_shifted, operator.sub, only_first=True),
    "Mul": _times,
    "Floor": _floor,
    "GreaterEqual": partial(_compared, operator.ge),
    "Greater": partial(_compared, operator.gt),
    "Less": partial(_compared, operator.lt),
    "LessEqual": partial(_compared, operator.le),
    **dict.fromkeys(("Select", "SelectV2"), _selected),
}
