"""Element by element: arithmetic with broadcasting, activations, casts."""

from __future__ import annotations

from collections.abc import Callable
from math import erf, inf, sqrt
from typing import Any

import numpy as np

from qfrewrite.ir import NUMPY_DTYPES, Array, Op
from qfrewrite.ops.features import broadcasts_above, multiplies_up
from qfrewrite.ops.spec import (
    FLOAT_ONLY,
    INT8,
    INT8_INT16,
    INT8_UINT8,
    OpSpec,
    Reference,
    Shape,
    act,
    attr,
    rows,
    shape_error,
    shape_of,
    step_of_product,
)

_INT8 = {"int8": 2}
_INT8_INT16 = {"int8": 2, "int16": 3}
_INT16_TOO = {"int8": 2, "int16": 2}
_EXTREMES = {"int8": 2, "int16": 4}
# In int16 the scales of sums are free only where this is false.
_SUM_ATTRS = {"fused_activation_function": "NONE", "pot_scale_int16": True}


def same_shape(op: Op) -> list[Shape]:
    """The output has the shape of the first input."""
    return [shape_of(op, 0)]


def broadcast_shape(op: Op) -> list[Shape]:
    """Numpy broadcasting of the first two inputs."""
    a, b = shape_of(op, 0), shape_of(op, 1)
    try:
        return [tuple(int(d) for d in np.broadcast_shapes(a, b))]
    except ValueError:
        raise shape_error(op, f"shapes {list(a)} and {list(b)} do not broadcast") from None


def _unary(f: Callable[[Array], Any]) -> Reference:
    def reference(op: Op, x: list[Array | None]) -> list[Array]:
        assert x[0] is not None
        # Kernels give NaN and infinity, and no error.
        with np.errstate(all="ignore"):
            return [np.asarray(f(x[0]), x[0].dtype)]

    return reference


def _binary(f: Callable[[Array, Array], Any]) -> Reference:
    def reference(op: Op, x: list[Array | None]) -> list[Array]:
        assert x[0] is not None
        assert x[1] is not None
        with np.errstate(all="ignore"):
            return [np.asarray(f(x[0], x[1]), x[0].dtype)]

    return reference


def _leaky_relu(op: Op, x: list[Array | None]) -> list[Array]:
    assert x[0] is not None
    return [np.where(x[0] >= 0, x[0], x[0] * attr(op, "alpha")).astype(x[0].dtype)]


def _prelu(op: Op, x: list[Array | None]) -> list[Array]:
    assert x[0] is not None
    assert x[1] is not None
    return [np.where(x[0] >= 0, x[0], x[0] * x[1]).astype(x[0].dtype)]


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(erf, otypes=[np.float64])(x))


def _gelu(op: Op, x: list[Array | None]) -> list[Array]:
    assert x[0] is not None
    v = x[0].astype(np.float64)
    if attr(op, "approximate"):
        cdf = 0.5 * (1 + np.tanh(sqrt(2 / np.pi) * (v + 0.044715 * v**3)))
    else:
        cdf = 0.5 * (1 + _erf(v / sqrt(2)))
    return [(v * cdf).astype(x[0].dtype)]


def _cast(op: Op, x: list[Array | None]) -> list[Array]:
    assert x[0] is not None
    return [x[0].astype(NUMPY_DTYPES[op.output.dtype])]


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return a / b
    # Integers are divided as in C: towards zero.
    whole = np.abs(a) // np.maximum(np.abs(b), 1)
    return np.where((a < 0) == (b < 0), whole, -whole)


def _modulo(a: Array, b: Array) -> Array:
    return np.mod(a, b) if a.dtype.kind == "f" else np.mod(a, np.where(b == 0, 1, b))


def _floor_divide(a: Array, b: Array) -> Array:
    return np.floor(a / b) if a.dtype.kind == "f" else a // np.where(b == 0, 1, b)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def _binary_row(
    kind: str, options: str | None, graphdef: str, f: Callable[[Array, Array], Any], **kw: Any
) -> OpSpec:
    fused = {"fused_activation_function": "NONE"} if kw.get("fuses") else {}
    return OpSpec(
        kind,
        (act("a"), act("b")),
        (act("y"),),
        broadcast_shape,
        _binary(f),
        options,
        graphdef=graphdef,
        combines=True,
        **{"versions": _INT8, "attrs": fused, **kw},
    )


def _unary_row(
    kind: str, f: Callable[[Array], Any], graphdef: str | None = None, **kw: Any
) -> OpSpec:
    y = act("y", fixed=kw.pop("fixed", None))
    return OpSpec(
        kind,
        (act("x"),),
        (y,),
        same_shape,
        kw.pop("reference", _unary(f)),
        graphdef=graphdef,
        **{"versions": _INT8, "channelwise": True, **kw},
    )


rows(
    _binary_row(
        "ADD",
        "AddOptions",
        "AddV2",
        np.add,
        fuses=True,
        attrs=_SUM_ATTRS,
        versions={"int8": 2, "int16": 3},
        neutral=(0.0, (0, 1)),
    ),
    _binary_row(
        "SUB",
        "SubOptions",
        "Sub",
        np.subtract,
        fuses=True,
        attrs=_SUM_ATTRS,
        versions={"int8": 2, "int16": 5},
        since=((broadcasts_above(4), 3),),
        neutral=(0.0, (1,)),
    ),
    _binary_row(
        "MUL",
        "MulOptions",
        "Mul",
        np.multiply,
        fuses=True,
        versions={"int8": 2, "int16": 4},
        since=((multiplies_up, 3),),
        least_step=step_of_product,
        neutral=(1.0, (0, 1)),
    ),
    _binary_row(
        "DIV",
        "DivOptions",
        "RealDiv",
        _divide,
        fuses=True,
        kernels=FLOAT_ONLY,
        versions={},
        since=((broadcasts_above(4), 2),),
        divides=True,
        neutral=(1.0, (1,)),
    ),
    _binary_row(
        "MAXIMUM",
        "MaximumMinimumOptions",
        "Maximum",
        np.maximum,
        same_scale=True,
        versions=_EXTREMES,
        since=((broadcasts_above(4), 3),),
    ),
    _binary_row(
        "MINIMUM",
        "MaximumMinimumOptions",
        "Minimum",
        np.minimum,
        same_scale=True,
        versions=_EXTREMES,
        since=((broadcasts_above(4), 3),),
    ),
    _binary_row(
        "SQUARED_DIFFERENCE",
        "SquaredDifferenceOptions",
        "SquaredDifference",
        lambda a, b: (a - b) * (a - b),
        kernels=INT8,
        least_step=lambda scales: max(scales) ** 2 * 2.0**-11,
    ),
)

rows(
    *(
        _binary_row(
            kind, options, graphdef, f, kernels=FLOAT_ONLY, versions=versions, divides=divides
        )
        for kind, options, graphdef, f, versions, divides in (
            ("POW", "PowOptions", "Pow", np.power, {}, True),
            ("FLOOR_DIV", "FloorDivOptions", "FloorDiv", _floor_divide, {"float32": 2}, True),
            ("FLOOR_MOD", "FloorModOptions", "FloorMod", _modulo, {}, True),
            ("ATAN2", "ATan2Options", "Atan2", np.arctan2, {}, False),
        )
    ),
    *(
        _unary_row(kind, f, graphdef, options=options, kernels=FLOAT_ONLY, versions={})
        for kind, options, graphdef, f in (
            ("FLOOR", None, "Floor", np.floor),
            ("CEIL", None, "Ceil", np.ceil),
            ("ROUND", None, "Round", np.rint),
            ("SIGN", "SignOptions", "Sign", np.sign),
            ("SIN", None, "Sin", np.sin),
            ("COS", "CosOptions", "Cos", np.cos),
            # Ours: TFLite has no error function. Written as what `lower_erf` makes of it.
            ("ERF", None, "Erf", _erf),
        )
    ),
)

rows(
    _unary_row("RELU", lambda x: np.maximum(x, 0), "Relu", fusible=True,
               versions={"int8": 2, "uint8": 2, "int16": 3}, clips=True, bounds=(0.0, inf),
               homogeneous=True, activation=True),
    _unary_row("RELU6", lambda x: np.clip(x, 0, 6), "Relu6", fusible=True,
               versions=_INT8_INT16, clips=True, bounds=(0.0, 6.0), homogeneous=True,
               activation=True),
    _unary_row(
        "RELU_N1_TO_1", lambda x: np.clip(x, -1, 1), fusible=True, versions={},
        kernels=INT8_UINT8, clips=True, bounds=(-1.0, 1.0), activation=True,
    ),
    _unary_row("RELU_0_TO_1", lambda x: np.clip(x, 0, 1), versions={}, kernels=INT8_UINT8,
               clips=True, bounds=(0.0, 1.0), activation=True),
    _unary_row(
        "ELU", lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), "Elu", versions={},
        kernels=INT8, activation=True,
    ),
    _unary_row("LOGISTIC", sigmoid, "Sigmoid", fixed=(1 / 256, -128), versions=_INT8_INT16,
               bounds=(0.0, 1.0), activation=True, scores="probabilities"),
    _unary_row(
        "TANH", np.tanh, "Tanh", fixed=(1 / 128, 0), fusible=True, versions=_INT8_INT16,
        bounds=(-1.0, 1.0), activation=True,
    ),
    _unary_row(
        "HARD_SWISH", lambda x: x * np.clip(x + 3, 0, 6) / 6, options="HardSwishOptions",
        versions={}, kernels=INT8_UINT8, least_step=lambda scales: scales[0] / 127, activation=True,
    ),
    _unary_row("ABS", np.abs, "Abs", options="AbsOptions",
               versions=_INT8_INT16, kernels=INT8_INT16),
    _unary_row("NEG", np.negative, "Neg", options="NegOptions", versions={}, kernels=FLOAT_ONLY),
    _unary_row("EXP", np.exp, "Exp", options="ExpOptions", versions=_INT16_TOO, kernels=INT8_INT16),
    _unary_row("LOG", np.log, "Log", versions=_INT16_TOO, kernels=INT8, channelwise=False),
    _unary_row("SQRT", np.sqrt, "Sqrt", versions=_INT16_TOO, kernels=INT8_INT16),
    _unary_row("RSQRT", lambda x: 1 / np.sqrt(x), "Rsqrt", versions=_INT8_INT16, kernels=INT8,
               channelwise=False),
    _unary_row(
        "SQUARE", np.square, "Square", options="SquareOptions", kernels=FLOAT_ONLY, versions={},
    ),
    _unary_row(
        "LEAKY_RELU", np.abs, "LeakyRelu", reference=_leaky_relu, options="LeakyReluOptions",
        attrs={"alpha": 0.2}, graphdef_attrs={"alpha": "alpha"}, versions={"int16": 2},
        homogeneous=True, activation=True,
    ),
    _unary_row(
        "GELU", np.abs, reference=_gelu, options="GeluOptions", attrs={"approximate": False},
        versions={"int8": 2, "uint8": 2}, activation=True,
    ),
    _unary_row(
        "CAST", np.abs, reference=_cast, options="CastOptions", kernels=FLOAT_ONLY,
        attrs={"in_data_type": "FLOAT32", "out_data_type": "FLOAT32"}, versions={}, converts=True,
    ),
    OpSpec(
        "ADD_N", (act("x", variadic=True),), (act("y"),), same_shape,
        lambda op, x: [np.sum([v for v in x if v is not None], 0, dtype=op.output.dtype)],
        "AddNOptions", kernels=FLOAT_ONLY,
    ),
    OpSpec(
        "PRELU", (act("x"), act("slope")), (act("y"),), broadcast_shape, _prelu,
        kernels=INT8_UINT8, combines=True, homogeneous=True,
    ),
)  # fmt: skip
