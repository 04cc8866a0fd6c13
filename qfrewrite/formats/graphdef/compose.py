"""Writing ops that TensorFlow has no node for, as the nodes that compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import pi, sqrt
from typing import Any

import numpy as np

from qfrewrite.formats.graphdef.emit import Emitter
from qfrewrite.ir import NUMPY_DTYPES, Op
from qfrewrite.ops.spec import attr

Writer = Callable[[Emitter, Op], None]


class _Formula:
    """Arithmetic on references: each call is a node of `op`, `finish` its last one."""

    def __init__(self, e: Emitter, op: Op) -> None:
        self.e, self.op = e, op
        self.x = e.ref(op.operand(0))

    def __call__(self, kind: str, *refs: str, **attrs: Any) -> str:
        return self.e.inner(self.op, kind, refs, attrs)

    def finish(self, kind: str, *refs: str, **attrs: Any) -> None:
        self.e.finish(self.op, kind, refs, attrs)

    def number(self, value: float) -> str:
        """A scalar of the result's element type."""
        scalar = np.array(value, NUMPY_DTYPES[self.op.output.dtype])
        return self.e.const(scalar, f"{self.e.main_name(self.op)}/value")


def _clip(low: float, high: float) -> Writer:
    """Given y = CLIP(x);  Result y = Minimum(Maximum(x, low), high)."""

    def write(e: Emitter, op: Op) -> None:
        f = _Formula(e, op)
        f.finish("Minimum", f("Maximum", f.x, f.number(low)), f.number(high))

    return write


def _hard_swish(e: Emitter, op: Op) -> None:
    """x * Relu6(x + 3) * (1 / 6), the form that TensorFlow's converter recognises."""
    f = _Formula(e, op)
    gate = f("Relu6", f("AddV2", f.x, f.number(3)))
    f.finish("Mul", f("Mul", f.x, gate), f.number(1 / 6))


def _prelu(e: Emitter, op: Op) -> None:
    """Relu(x) + -slope * Relu(-x), the form in which Keras writes it."""
    f = _Formula(e, op)
    below = f("Mul", f("Neg", e.ref(op.operand(1))), f("Relu", f("Neg", f.x)))
    f.finish("AddV2", f("Relu", f.x), below)


def _gelu(e: Emitter, op: Op) -> None:
    """x * P(X <= x): by Erf, or by the tanh approximation (Hendrycks 2016, arXiv:1606.08415)."""
    f = _Formula(e, op)
    if attr(op, "approximate"):
        cube = f("Mul", f("Mul", f("Square", f.x), f.x), f.number(0.044715))
        inner = f("Tanh", f("Mul", f("AddV2", f.x, cube), f.number(sqrt(2 / pi))))
    else:
        inner = f("Erf", f("Mul", f.x, f.number(sqrt(0.5))))
    half = f("Mul", f.x, f.number(0.5))
    f.finish("Mul", half, f("AddV2", inner, f.number(1)))


def _l2_normalization(e: Emitter, op: Op) -> None:
    """x * Rsqrt(max(sum of squares, 1e-12)) along the last axis, as TFLite's kernel bounds it."""
    f = _Formula(e, op)
    squares = f("Sum", f("Square", f.x), e.ints(op, [-1], "axis"), keep_dims=True)
    f.finish("Mul", f.x, f("Rsqrt", f("Maximum", squares, f.number(1e-12))))


def pooling(op: Op) -> dict[str, Any]:
    """The attributes of a pooling node but its type."""
    return {
        "padding": attr(op, "padding"),
        "data_format": "NHWC",
        "ksize": [1, attr(op, "filter_height"), attr(op, "filter_width"), 1],
        "strides": [1, attr(op, "stride_h"), attr(op, "stride_w"), 1],
    }


def _l2_pool(e: Emitter, op: Op) -> None:
    """Sqrt(AvgPool(Square(x))): both leave out what lies beyond the border."""
    f = _Formula(e, op)
    f.finish("Sqrt", f("AvgPool", f("Square", f.x), **pooling(op)))


def _softmax(e: Emitter, op: Op) -> None:
    f, beta = _Formula(e, op), attr(op, "beta")
    f.finish("Softmax", f.x if beta == 1 else f("Mul", f.x, f.number(beta)))


def _batch_norm(e: Emitter, op: Op) -> None:
    """FusedBatchNormV3 of four dimensions, where what is missing of the statistics is filled in;
    of other ranks x * gain + (beta - mean * gain), gain = Rsqrt(variance + epsilon) * gamma."""
    f = _Formula(e, op)
    x, epsilon = op.operand(0), float(attr(op, "epsilon"))
    parts = []
    for slot, (name, fill) in enumerate(
        (("gamma", 1), ("beta", 0), ("mean", 0), ("variance", 1)), 1
    ):
        given = op.input(slot)
        filled = np.full(x.shape[-1], fill, NUMPY_DTYPES[x.dtype])
        parts.append(e.const(filled, f"{op.name}/{name}") if given is None else e.ref(given))
    if len(x.shape) == 4:
        attrs = {"epsilon": epsilon, "is_training": False, "data_format": "NHWC"}
        f.finish("FusedBatchNormV3", f.x, *parts, **attrs)
        return
    gamma, beta, mean, variance = parts
    gain = f("Mul", f("Rsqrt", f("AddV2", variance, f.number(epsilon))), gamma)
    f.finish("AddV2", f("Mul", f.x, gain), f("Sub", beta, f("Mul", mean, gain)))


def _gather(e: Emitter, op: Op, x: int, indices: int, axis: int, batch_dims: int) -> None:
    axis_ref = e.ints(op, axis, "axis")
    refs = [e.ref(op.operand(x)), e.ref(op.operand(indices)), axis_ref]
    e.finish(op, "GatherV2", refs, {"batch_dims": batch_dims})


def _dequantize(e: Emitter, op: Op) -> None:
    """Values of half precision; quantized ones have no form in a GraphDef."""
    e.finish(op, "Cast", [e.ref(op.operand(0))], {})


COMPOSED: Mapping[str, Writer] = {
    "BATCH_NORM": _batch_norm,
    "DEQUANTIZE": _dequantize,
    "EMBEDDING_LOOKUP": lambda e, op: _gather(e, op, 1, 0, 0, 0),
    "GATHER": lambda e, op: _gather(e, op, 0, 1, attr(op, "axis"), attr(op, "batch_dims")),
    "GELU": _gelu,
    "HARD_SWISH": _hard_swish,
    "L2_NORMALIZATION": _l2_normalization,
    "L2_POOL_2D": _l2_pool,
    "PRELU": _prelu,
    "RELU_0_TO_1": _clip(0, 1),
    "RELU_N1_TO_1": _clip(-1, 1),
    "SOFTMAX": _softmax,
}
"""Writers by op kind."""
