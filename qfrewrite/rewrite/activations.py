"""Activations that frameworks write as arithmetic, recognised by their values.

Also the error function, which TFLite lacks, by means of the GELU that it has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import sqrt

import numpy as np

from qfrewrite.ir import Array, Op, Tensor
from qfrewrite.ops.spec import computed
from qfrewrite.rewrite.match import NoMatch, all_of, followed
from qfrewrite.rewrite.pattern import Match, Patterns
from qfrewrite.rewrite.rewriter import Rewriter

# The ops that a GELU is written with.
_GELU_PARTS = frozenset({"ADD", "SUB", "MUL", "DIV", "NEG", "SQUARE", "POW", "ERF", "TANH"})
# How many ops may lie before and after the ERF or TANH.
_BEFORE, _AFTER = 8, 4
# A formula is GELU where it agrees here, to what constants with seven digits leave.
_PROBES = np.linspace(-9, 9, 145)
_TOLERANCE = 4e-6
# The ops that a leaky activation is written with. A product with a power of two is exact.
_LEAKY_PARTS = frozenset({"ADD", "SUB", "MUL", "NEG", "ABS", "RELU", "MINIMUM", "MAXIMUM"})
_POINTS = (1.0, -1.0, 0.25, -0.25, 2.0, -2.0, 4.0, -4.0)
# How many ops of a formula may follow each other.
_DEPTH = 2 * (_BEFORE + _AFTER)

_p = Patterns()
_RELU = _p.RELU(_p.x)
_LEAKY = _p.any_of(
    _p.MAXIMUM(_p.x, _p.MUL(_p.x, _p.const()).commute()).commute(),
    _p.ADD(_RELU, _p.other).commute(),
    _p.SUB(_RELU, _p.other),
)


def raise_leaky(rw: Rewriter) -> None:
    """Given  y = RELU(x) + a * min(x, 0), a constant; or y = max(x, a * x), a constant from 0 to 1
    Result y = PRELU(x, a), or LEAKY_RELU(x) where a is a single number.

    a * min(x, 0) may be written in any way, as -a * RELU(-x) by Keras, or as a * (x - |x|) / 2.
    """
    rw.rewrite_all(_LEAKY, _leaky, action="raised", tell=False)


def _leaky(m: Match) -> Tensor | NoMatch:
    x, y = m.x, m.root.output
    if x.dtype != "float32" or x.shape != y.shape:
        return NoMatch("is broadcast, or not float32", at=x.name)
    values = all_of(_value_at(y, x, np.float64(at), _LEAKY_PARTS) for at in _POINTS)
    if isinstance(values, NoMatch):
        return values
    slope = 0.0 - values[1]
    pairs = zip(_POINTS, values, strict=True)
    if not all(np.array_equal(v, at + 0 * slope if at > 0 else at * slope) for at, v in pairs):
        return NoMatch("is not x above 0 and a multiple of it below", at=y.name)
    if m.root.kind == "MAXIMUM" and not (slope >= 0).all():
        return NoMatch("has a slope below 0", at=y.name)
    if slope.size > 1:
        return m.new("PRELU", x, m.constant("slope", slope))
    return m.new("LEAKY_RELU", x, attrs={"alpha": float(np.float32(slope.reshape(-1)[0]))})


def raise_gelu(rw: Rewriter) -> None:
    """Given  y = x * 0.5 * (1 + ERF(x / sqrt(2))), or its approximation by TANH, in any order
    Result y = GELU(x).
    """
    for op in rw.graph.ops_of("ERF", "TANH"):
        after, _ = followed(op.output, lambda user: user.kind in _GELU_PARTS)
        ends = [last for last in after[:_AFTER] if last.kind == "MUL"]
        pairs = ((last, x) for last in ends for x in _upstream(op))
        for last, x in pairs if op in rw.graph else ():
            approximate = _gelu_form(last.output, x)
            if not isinstance(approximate, NoMatch):
                new = rw.put(last, "GELU", x, name=last.name, attrs={"approximate": approximate})
                detail = f"{op.kind} and {last.kind} -> GELU"
                rw.replace(last, new, action="raised", detail=detail)
                break


def _upstream(op: Op) -> Iterator[Tensor]:
    """The computed tensors that `op` follows from, nearest first."""
    queue = [op]
    for before in queue:
        for tensor in before.inputs:
            if tensor is None or tensor.is_const:
                continue
            yield tensor
            source = tensor.producer
            near = source is not None and source.kind in _GELU_PARTS and len(queue) < _BEFORE
            if source is not None and near and source not in queue:
                queue.append(source)


def _gelu_form(y: Tensor, x: Tensor) -> bool | NoMatch:
    """Whether `y` is the approximation by TANH of the GELU of `x`, or why it is no GELU."""
    if y.shape != x.shape or x.dtype != "float32":
        return NoMatch("is broadcast, or not float32", at=x.name)
    values = _value_at(y, x, _PROBES, _GELU_PARTS)
    if isinstance(values, NoMatch):
        return values
    probe = Tensor("probe", _PROBES.shape)
    for approximate in (False, True):
        gelu = Op("GELU", (probe,), (probe,), {"approximate": approximate})
        if np.abs(computed(gelu, [_PROBES])[0] - values).max() <= _TOLERANCE:
            return approximate
    return NoMatch("has other values than a GELU", at=y.name)


def _value_at(y: Tensor, x: Tensor, value: Array, kinds: Collection[str]) -> Array | NoMatch:
    """What `y` is where `x` is `value`, or why it follows from more than x and constants.

    kinds: the ops that may compute it. Constants of several values are taken as they are where
    `value` is a number.
    """
    known: dict[Tensor, Array | NoMatch] = {x: value}

    def of(tensor: Tensor, depth: int) -> Array | NoMatch:
        if tensor not in known:
            known[tensor] = found(tensor, depth)
        return known[tensor]

    def found(tensor: Tensor, depth: int) -> Array | NoMatch:
        op, data = tensor.producer, tensor.data
        if data is not None and tensor.dtype == "float32" and 1 in (tensor.size, value.size):
            return data.astype(np.float64).reshape(() if value.size > 1 else data.shape)
        if op is None or op.kind not in kinds or not depth:
            return NoMatch("is not computed from it", at=tensor.name)
        operands = all_of(of(t, depth - 1) for t in op.inputs if t is not None)
        if isinstance(operands, NoMatch):
            return operands
        return np.asarray(computed(op, [*operands])[0], np.float64)

    return of(y, _DEPTH)


def lower_erf(rw: Rewriter) -> None:
    """Given  y = ERF(x)
    Result y = SIGN(x) * (GELU(sqrt(2) * u) / (u / sqrt(2)) - 1), u = max(|x|, 1e-20).

    From GELU(v) = v / 2 * (1 + erf(v / sqrt(2))).
    """
    for op in rw.graph.ops_of("ERF"):

        def add(kind: str, *operands: Op | Tensor | float, op: Op = op) -> Op:
            inputs = [
                o if isinstance(o, (Op, Tensor)) else rw.constant(f"{op.name}/value", o)
                for o in operands
            ]
            return rw.put(op, kind, *inputs, name=f"{op.name}/{kind.lower()}")

        x = op.operand(0)
        size = add("MAXIMUM", add("ABS", x), 1e-20)
        gelu = add("GELU", add("MUL", size, sqrt(2)))
        above = add("SUB", add("DIV", gelu, add("MUL", size, sqrt(0.5))), 1.0)
        rw.replace(op, add("MUL", above, add("SIGN", x)), action="lowered", detail="ERF by GELU")
