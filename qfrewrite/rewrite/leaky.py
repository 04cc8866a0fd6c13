"""Activations with a slope below zero, written as arithmetic."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qfrewrite.ir import Tensor
from qfrewrite.rewrite.match import NoMatch, operand_orders
from qfrewrite.rewrite.pattern import Match, Patterns
from qfrewrite.rewrite.rewriter import Rewriter

Float64 = npt.NDArray[np.float64]


_p = Patterns()
_MAXIMUM = _p.MAXIMUM(_p.x, _p.MUL(_p.x, _p.const("slope")).commute()).commute()
_SUM = _p.any_of(_p.ADD(_p.RELU(_p.x), _p.other).commute(), _p.SUB(_p.RELU(_p.x), _p.other))


def raise_leaky(rw: Rewriter) -> None:
    """Given  y = RELU(x) + a * min(x, 0), a constant; or y = max(x, a * x), a constant from 0 to 1
    Result y = PRELU(x, a), or LEAKY_RELU(x) where a is a single number.

    a * min(x, 0) is also recognised as -a * RELU(-x), which Keras writes, and a * (x - |x|) / 2.
    """
    rw.rewrite_all(_MAXIMUM, _of_maximum, action="raised", tell=False)
    rw.rewrite_all(_SUM, _of_sum, action="raised", tell=False)


def _of_maximum(m: Match) -> Tensor | NoMatch:
    slope = _constant(m.slope)
    if slope is None or not ((slope >= 0) & (slope <= 1)).all():
        return NoMatch("is not between 0 and 1", at=m.slope.name)
    return _leaky(m, slope)


def _of_sum(m: Match) -> Tensor | NoMatch:
    slope = _of_negative_part(m.other, m.x)
    if slope is None:
        return NoMatch(f"is no multiple of the negative part of '{m.x.name}'", at=m.other.name)
    return _leaky(m, slope if m.root.kind == "ADD" else -slope)


def _leaky(m: Match, slope: Float64) -> Tensor | NoMatch:
    x = m.x
    if x.dtype != "float32" or x.shape != m.root.output.shape:
        return NoMatch("is broadcast, or not float32", at=x.name)
    if slope.size > 1:
        return m.new("PRELU", x, m.constant("slope", slope))
    return m.new("LEAKY_RELU", x, attrs={"alpha": float(np.float32(slope.reshape(-1)[0]))})


def _of_negative_part(tensor: Tensor, x: Tensor) -> Float64 | None:
    """k where `tensor` is k * min(x, 0); None where it is no such thing."""
    op = tensor.producer
    if op is None:
        return None
    if op.kind == "RELU":
        slope = _multiple(op.operand(0), x)
        return slope if slope is not None and (slope < 0).all() else None
    if op.kind == "NEG":
        inner = _of_negative_part(op.operand(0), x)
        return None if inner is None else -inner
    if op.kind == "SUB" and op.operand(0) is x:
        taken = op.operand(1).producer
        known = {"ABS": 2.0, "RELU": 1.0}.get(taken.kind) if taken is not None else None
        fits = taken is not None and taken.operand(0) is x and known is not None
        return np.full((), known) if fits else None
    for value, other in operand_orders(op) if op.kind in ("MUL", "MINIMUM") else ():
        factor = _constant(other)
        if factor is None:
            continue
        if op.kind == "MINIMUM":
            return np.ones(()) if value is x and not factor.any() else None
        inner = _of_negative_part(value, x)
        return None if inner is None else inner * factor
    return None


def _multiple(tensor: Tensor, x: Tensor) -> Float64 | None:
    """k where `tensor` is k * x, computed by NEG or MUL."""
    op = tensor.producer
    if op is None:
        return None
    if op.kind == "NEG":
        return np.full((), -1.0) if op.operand(0) is x else None
    if op.kind == "MUL":
        return next((_constant(c) for v, c in operand_orders(op) if v is x and c.is_const), None)
    return None


def _constant(tensor: Tensor) -> Float64 | None:
    if tensor.data is None or tensor.dtype != "float32" or not np.isfinite(tensor.data).all():
        return None
    return tensor.data.astype(np.float64)
