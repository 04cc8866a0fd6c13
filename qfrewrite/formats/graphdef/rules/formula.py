"""Reading nodes that the IR has no op for, as the ops that compute the same element by element."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from qfrewrite.errors import UnsupportedError
from qfrewrite.formats.graphdef.importer import NodeContext
from qfrewrite.formats.graphdef.rules.arith import Table
from qfrewrite.formats.graphdef.values import Computed, Constant, Value, common_perm, is_known
from qfrewrite.ir import NUMPY_DTYPES, Tensor

# tensorflow/core/kernels/relu_op_functor.h
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
_SIGN_BIT = np.iinfo(np.int32).min


class Formula:
    """Arithmetic with broadcasting: each call is an op of one node, `finish` its last one.

    The node's operands are unpacked from it, all in one layout; numbers become scalar constants
    of the first operand's element type.
    """

    def __init__(self, c: NodeContext) -> None:
        values = list(c.inputs)
        self.c = c
        self.perm = common_perm(values, max((len(v.shape) for v in values), default=0))
        self.operands = [c.broadcast(v, self.perm) for v in values]

    def __call__(self, kind: str, *operands: Tensor | float, **attrs: Any) -> Tensor:
        """The result of an op inside the formula."""
        return self.c.part(kind, [self._tensor(o) for o in operands], kind.lower(), **attrs)

    def finish(self, kind: str, *operands: Tensor | float, **attrs: Any) -> list[Value]:
        """The result of the node."""
        return self.c.emit(kind, [self._tensor(o) for o in operands], attrs, perm=self.perm)

    def _tensor(self, operand: Tensor | float) -> Tensor:
        if isinstance(operand, Tensor):
            return operand
        return self.c.number(operand, self.operands[0].dtype, "value")


def _formula(inputs: int, write: Callable[..., list[Value]], c: NodeContext) -> list[Value]:
    """The result of a node of so many operands."""
    c.require(inputs)
    f = Formula(c)
    return write(f, *f.operands[:inputs])


def _softplus(f: Formula, x: Tensor) -> list[Value]:
    """log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|)): no exponential overflows."""
    decay = f("EXP", f("NEG", f("ABS", x)))
    return f.finish("ADD", f("RELU", x), f("LOG", f("ADD", decay, 1)))


def _selu(f: Formula, x: Tensor) -> list[Value]:
    """scale * x above zero, scale * alpha * (exp(x) - 1) below, of ELU and RELU."""
    curved = f("MUL", f("ELU", x), _SELU_SCALE * _SELU_ALPHA)
    return f.finish("ADD", curved, f("MUL", f("RELU", x), _SELU_SCALE * (1 - _SELU_ALPHA)))


def _divide_no_nan(f: Formula, x: Tensor, y: Tensor) -> list[Value]:
    """x / y, and 0 where y is 0; the divisor is replaced so that no infinity is ever there."""
    zero = f("EQUAL", y, 0)
    quotient = f("DIV", x, f("SELECT_V2", zero, 1, y))
    return f.finish("SELECT_V2", zero, 0, quotient)


def _pow(c: NodeContext) -> list[Value]:
    """Pow(x, y): by an op that int8 has where y is one of a few numbers."""
    c.require(2)
    f, exponent = Formula(c), c.value(1)
    x, y = f.operands
    if is_known(exponent) and y.size == 1 and len(y.shape) <= len(x.shape) and x.dtype == "float32":
        power = float(c.array(1).reshape(()))
        if power == 1:
            return [c.value(0)]
        if power in _POWERS:
            return _POWERS[power](f, x)
    return f.finish("POW", x, y)


_POWERS: dict[float, Callable[[Formula, Tensor], list[Value]]] = {
    2.0: lambda f, x: f.finish("SQUARE", x),
    3.0: lambda f, x: f.finish("MUL", f("SQUARE", x), x),
    0.5: lambda f, x: f.finish("SQRT", x),
    -0.5: lambda f, x: f.finish("RSQRT", x),
    -1.0: lambda f, x: f.finish("DIV", 1, x),
}


def _hyperbolic(kind: str, f: Formula, x: Tensor) -> list[Value]:
    """(exp(x) - exp(-x)) / 2, or the sum."""
    return f.finish("MUL", f(kind, f("EXP", x), f("EXP", f("NEG", x))), 0.5)


def _atan(f: Formula, y: Tensor, x: Tensor | float) -> list[Value]:
    """The angle of (x, y); ATAN2 does not broadcast."""
    if not isinstance(x, Tensor):
        ones = np.broadcast_to(NUMPY_DTYPES[y.dtype].type(x), y.shape)
        x = f.c.importer.operand(ones, f"{f.c.name}/value")
    return f.finish("ATAN2", y, x)


def _leg(f: Formula, x: Tensor) -> Tensor:
    """sqrt(1 - x^2)"""
    return f("SQRT", f("SUB", 1, f("SQUARE", x)))


def _asinh(f: Formula, x: Tensor) -> list[Value]:
    """sign(x) * log(|x| + sqrt(x^2 + 1)): nothing cancels."""
    root = f("SQRT", f("ADD", f("SQUARE", x), 1))
    return f.finish("MUL", f("SIGN", x), f("LOG", f("ADD", f("ABS", x), root)))


def _acosh(f: Formula, x: Tensor) -> list[Value]:
    """log(x + sqrt(x^2 - 1))"""
    return f.finish("LOG", f("ADD", x, f("SQRT", f("SUB", f("SQUARE", x), 1))))


def _atanh(f: Formula, x: Tensor) -> list[Value]:
    """log((1 + x) / (1 - x)) / 2"""
    return f.finish("MUL", f("LOG", f("DIV", f("ADD", x, 1), f("SUB", 1, x))), 0.5)


def _bitcast(c: NodeContext) -> list[Value]:
    """Floats as the integers with the same bits."""
    if c.attr("T") != "DT_FLOAT" or c.attr("type") != "DT_INT32":
        raise UnsupportedError(f"Bitcast of {c.attr('T')} to {c.attr('type')} is not supported")
    return c.unary("FLOAT_BITS")


def _bitwise_and(c: NodeContext) -> list[Value]:
    """The sign bit alone, in which Keras looks for negative zeros."""
    c.require(2)
    mask = c.value(1)
    bits = mask.data.reshape(-1).tolist() if isinstance(mask, Constant) else []
    if mask.dtype != "int32" or bits != [_SIGN_BIT]:
        raise UnsupportedError("BitwiseAnd is supported on the sign bit only")
    f = Formula(c)
    return f.finish("SELECT_V2", f("LESS", f.operands[0], 0), f.operands[1], 0)


def _select(c: NodeContext) -> list[Value]:
    """SelectV2(condition, x, y); y where x stands for a negative zero."""
    c.require(3)
    if _marks_negative_zeros(c):
        return [c.value(2)]
    f = Formula(c)
    return f.finish("SELECT_V2", *f.operands[:3])


def _marks_negative_zeros(c: NodeContext) -> bool:
    """Whether the node puts the smallest negative number where y is a negative zero.

    So Keras tells the zeros of both signs apart before it searches; no kernel does.
    """
    condition, marker, y = c.inputs[:3]
    if not (isinstance(condition, Computed) and isinstance(y, Computed)):
        return False
    if not isinstance(marker, Constant) or marker.data.size != 1 or marker.data.ndim > len(y.shape):
        return False
    both = condition.tensor.producer
    if both is None or both.kind != "LOGICAL_AND":
        return False
    tests = [t.producer for t in both.inputs if t is not None]
    is_zero = any(
        op is not None
        and op.kind == "EQUAL"
        and op.operand(0) is y.tensor
        and op.operand(1).data is not None
        and not op.operand(1).value().any()
        for op in tests
    )
    return is_zero and abs(float(marker.data.reshape(()))) <= np.finfo(np.float32).tiny


FORMULAS: Table = {
    "Acos": partial(_formula, 1, lambda f, x: _atan(f, _leg(f, x), x)),
    "Acosh": partial(_formula, 1, _acosh),
    "Asin": partial(_formula, 1, lambda f, x: _atan(f, x, _leg(f, x))),
    "Asinh": partial(_formula, 1, _asinh),
    "Atan": partial(_formula, 1, lambda f, x: _atan(f, x, 1)),
    "Atanh": partial(_formula, 1, _atanh),
    "Bitcast": _bitcast,
    "BitwiseAnd": _bitwise_and,
    "ClipByValue": partial(
        _formula, 3, lambda f, x, low, high: f.finish("MINIMUM", f("MAXIMUM", x, low), high)
    ),
    "Cosh": partial(_formula, 1, partial(_hyperbolic, "ADD")),
    "DivNoNan": partial(_formula, 2, _divide_no_nan),
    "Erfc": partial(_formula, 1, lambda f, x: f.finish("SUB", 1, f("ERF", x))),
    "Expm1": partial(_formula, 1, lambda f, x: f.finish("SUB", f("EXP", x), 1)),
    "Inv": partial(_formula, 1, lambda f, x: f.finish("DIV", 1, x)),
    "IsFinite": partial(_formula, 1, lambda f, x: f.finish("LESS", f("ABS", x), np.inf)),
    "IsInf": partial(_formula, 1, lambda f, x: f.finish("EQUAL", f("ABS", x), np.inf)),
    "IsNan": partial(_formula, 1, lambda f, x: f.finish("NOT_EQUAL", x, x)),
    "Log1p": partial(_formula, 1, lambda f, x: f.finish("LOG", f("ADD", x, 1))),
    "Pow": _pow,
    "Reciprocal": partial(_formula, 1, lambda f, x: f.finish("DIV", 1, x)),
    "Rint": partial(_formula, 1, lambda f, x: f.finish("ROUND", x)),
    "SelectV2": _select,
    "Selu": partial(_formula, 1, _selu),
    "Sinh": partial(_formula, 1, partial(_hyperbolic, "SUB")),
    "Softplus": partial(_formula, 1, _softplus),
    "Softsign": partial(_formula, 1, lambda f, x: f.finish("DIV", x, f("ADD", f("ABS", x), 1))),
    "Tan": partial(_formula, 1, lambda f, x: f.finish("DIV", f("SIN", x), f("COS", x))),
    "TruncateDiv": partial(_formula, 2, lambda f, x, y: f.finish("DIV", x, y)),
}
"""Converters by node op."""
