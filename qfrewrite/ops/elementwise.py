"""Element by element: arithmetic with broadcasting, activations, casts."""

from __future__ import annotations

from collections.abc import Callable
from math import erf, inf, sqrt
from typing import Any

import numpy as np

from qfrewrite.ir import NUMPY_DTYPES, Array, Op
from qfrewrite.ops.features import broadcasts_above, multiplies_up
from qfrewrite.ops.spec import (
    AS_KIND,
    FLOAT_ONLY,
    INT8,
    INT8_INT16,
    INT8_UINT8,
    OpSpec,
    Shape,
    X,
    act,
    attr,
    broadcast,
    define,
    shape_of,
    step_of_product,
    values_alone,
)


def broadcast_shape(op: Op) -> list[Shape]:
    """Numpy broadcasting of the first two inputs."""
    return [broadcast(op, shape_of(op, 0), shape_of(op, 1))]


def _leaky_relu(op: Op, x: Array) -> Array:
    return np.where(x >= 0, x, x * attr(op, "alpha"))


def _prelu(op: Op, x: Array, slope: Array) -> Array:
    return np.where(x >= 0, x, x * slope)


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(erf, otypes=[np.float64])(x))


def _gelu(op: Op, x: Array) -> Array:
    x = x.astype(np.float64)
    if attr(op, "approximate"):
        return x * (0.5 * (1 + np.tanh(sqrt(2 / np.pi) * (x + 0.044715 * x**3))))
    return x * (0.5 * (1 + _erf(x / sqrt(2))))


def _cast(op: Op, x: Array) -> Array:
    return x.astype(NUMPY_DTYPES[op.output.dtype])


def _sum(op: Op, *x: Array | None) -> Any:
    return np.sum([v for v in x if v is not None], 0, dtype=op.output.dtype)


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


_BINARY = OpSpec(graphdef=AS_KIND, combines=True)
_FUSING = _BINARY.facets("fuses").attributes(fused_activation_function="NONE")
# In int16 the scales of sums are free only where the second one is false.
_SUMS = _FUSING.attributes(fused_activation_function="NONE", pot_scale_int16=True)
_EXTREMES = _BINARY.facets("same_scale", options="MaximumMinimumOptions").since(
    {broadcasts_above(4): 3}, int8=2, int16=4
)
_BINARY_FLOAT = _BINARY.facets(kernels=FLOAT_ONLY)
_UNARY = OpSpec(graphdef=AS_KIND, channelwise=True)
_UNARY_FLOAT = _UNARY.facets(kernels=FLOAT_ONLY)
_ACTIVATION = _UNARY.facets("activation")
_AB = (act("a"), act("b"))


def _binary(of: OpSpec, kind: str, function: Callable[[Array, Array], Any]) -> OpSpec:
    return of.op(kind, _AB, broadcast_shape, values_alone(function))


def _unary(of: OpSpec, kind: str, function: Callable[[Array], Any]) -> OpSpec:
    return of.op(kind, reference=values_alone(function))


define(
    _binary(_SUMS, "ADD", np.add)
    .facets(graphdef="AddV2", neutral=(0.0, (0, 1)))
    .since(int8=2, int16=3),
    _binary(_SUMS, "SUB", np.subtract)
    .facets(neutral=(0.0, (1,)))
    .since({broadcasts_above(4): 3}, int8=2, int16=5),
    _binary(_FUSING, "MUL", np.multiply)
    .facets(neutral=(1.0, (0, 1)), least_step=step_of_product)
    .since({multiplies_up: 3}, int8=2, int16=4),
    _binary(_FUSING, "DIV", _divide)
    .facets("divides", graphdef="RealDiv", neutral=(1.0, (1,)), kernels=FLOAT_ONLY)
    .since({broadcasts_above(4): 2}),
    _binary(_EXTREMES, "MAXIMUM", np.maximum),
    _binary(_EXTREMES, "MINIMUM", np.minimum),
    _binary(_BINARY, "SQUARED_DIFFERENCE", lambda a, b: (a - b) * (a - b))
    .facets(kernels=INT8, least_step=lambda scales: max(scales) ** 2 * 2.0**-11)
    .since(int8=2),
    _binary(_BINARY_FLOAT, "POW", np.power).facets("divides"),
    _binary(_BINARY_FLOAT, "FLOOR_DIV", _floor_divide).facets("divides").since(float32=2),
    _binary(_BINARY_FLOAT, "FLOOR_MOD", _modulo).facets("divides"),
    _binary(_BINARY_FLOAT, "ATAN2", np.arctan2),
    _unary(_UNARY_FLOAT, "FLOOR", np.floor),
    _unary(_UNARY_FLOAT, "CEIL", np.ceil),
    _unary(_UNARY_FLOAT, "ROUND", np.rint),
    _unary(_UNARY_FLOAT, "SIGN", np.sign),
    _unary(_UNARY_FLOAT, "SIN", np.sin),
    _unary(_UNARY_FLOAT, "COS", np.cos),
    # Ours: TFLite has no error function. Written as what `lower_erf` makes of it.
    _unary(_UNARY_FLOAT, "ERF", _erf),
    _unary(_ACTIVATION, "RELU", lambda x: np.maximum(x, 0))
    .facets("fusible clips homogeneous", bounds=(0.0, inf))
    .since(int8=2, uint8=2, int16=3),
    _unary(_ACTIVATION, "RELU6", lambda x: np.clip(x, 0, 6))
    .facets("fusible clips homogeneous", bounds=(0.0, 6.0))
    .since(int8=2, int16=3),
    _unary(_ACTIVATION, "RELU_N1_TO_1", lambda x: np.clip(x, -1, 1))
    .facets("fusible clips", bounds=(-1.0, 1.0))
    .facets(graphdef=None, kernels=INT8_UINT8),
    _unary(_ACTIVATION, "RELU_0_TO_1", lambda x: np.clip(x, 0, 1))
    .facets("clips", bounds=(0.0, 1.0))
    .facets(graphdef=None, kernels=INT8_UINT8),
    _unary(_ACTIVATION, "ELU", lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))).facets(
        kernels=INT8
    ),
    _unary(_ACTIVATION, "LOGISTIC", sigmoid)
    .facets(graphdef="Sigmoid", bounds=(0.0, 1.0), scores="probabilities")
    .facets(outputs=(act("y", fixed=(1 / 256, -128)),))
    .since(int8=2, int16=3),
    _unary(_ACTIVATION, "TANH", np.tanh)
    .facets("fusible", bounds=(-1.0, 1.0), outputs=(act("y", fixed=(1 / 128, 0)),))
    .since(int8=2, int16=3),
    _unary(_ACTIVATION, "HARD_SWISH", lambda x: x * np.clip(x + 3, 0, 6) / 6)
    .facets(least_step=lambda scales: scales[0] / 127)
    .facets(graphdef=None, kernels=INT8_UINT8),
    _unary(_UNARY, "ABS", np.abs).facets(kernels=INT8_INT16).since(int8=2, int16=3),
    _unary(_UNARY_FLOAT, "NEG", np.negative),
    _unary(_UNARY, "EXP", np.exp).facets(kernels=INT8_INT16).since(int8=2, int16=2),
    _unary(_UNARY, "LOG", np.log).facets(kernels=INT8, channelwise=False).since(int8=2, int16=2),
    _unary(_UNARY, "SQRT", np.sqrt).facets(kernels=INT8_INT16).since(int8=2, int16=2),
    _unary(_UNARY, "RSQRT", lambda x: 1 / np.sqrt(x))
    .facets(kernels=INT8, channelwise=False)
    .since(int8=2, int16=3),
    _unary(_UNARY_FLOAT, "SQUARE", np.square),
    _ACTIVATION.op("LEAKY_RELU", reference=_leaky_relu, homogeneous=True)
    .shared(alpha=0.2)
    .since(int16=2),
    _ACTIVATION.op("GELU", reference=_gelu, graphdef=None)
    .attributes(approximate=False)
    .since(int8=2, uint8=2),
    _UNARY_FLOAT.op("CAST", reference=_cast, graphdef=None, converts=True).attributes(
        in_data_type="FLOAT32", out_data_type="FLOAT32"
    ),
    OpSpec("ADD_N", (act("x", variadic=True),), reference=_sum, kernels=FLOAT_ONLY),
    OpSpec("PRELU", (X, act("slope")), broadcast_shape, _prelu).facets(
        "combines homogeneous", kernels=INT8_UINT8
    ),
)
