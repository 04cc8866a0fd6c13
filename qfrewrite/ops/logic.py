"""Comparing, choosing and searching: outputs that are not values, or values picked from others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qfrewrite.ir import NUMPY_DTYPES, Array, Op
from qfrewrite.ops.elementwise import broadcast_shape
from qfrewrite.ops.features import rank_above, reads
from qfrewrite.ops.spec import (
    AS_KIND,
    FLOAT_ONLY,
    INT8_UINT8,
    INT32,
    TRUTH,
    OpSpec,
    Port,
    Reference,
    Shape,
    X,
    act,
    attr,
    broadcast,
    const_ints,
    define,
    normal_axis,
    param,
    shape_error,
    shape_of,
    unknown_shape,
    values_alone,
)


def _select_shape(op: Op) -> list[Shape]:
    condition, a, b = (shape_of(op, i) for i in range(3))
    if op.kind == "SELECT":
        if a != b or condition not in (a, a[:1], (1,), ()):
            raise shape_error(op, f"cannot select by {list(condition)} of {list(a)}, {list(b)}")
        return [a]
    return [broadcast(op, condition, a, b)]


def _select(op: Op, condition: Array, a: Array, b: Array) -> Array:
    if op.kind == "SELECT" and condition.ndim == 1 and a.ndim > 1 and condition.size > 1:
        condition = condition.reshape(-1, *[1] * (a.ndim - 1))
    return np.where(condition, a, b)


def _arg_shape(op: Op) -> list[Shape]:
    x = shape_of(op, 0)
    axis = normal_axis(op, const_ints(op, 1)[0], len(x))
    return [(*x[:axis], *x[axis + 1 :])]


def _arg(function: Callable[..., Any]) -> Reference:
    def reference(op: Op, x: Array, _: Array) -> Array:
        indices = np.asarray(function(x, axis=const_ints(op, 1)[0]))
        return indices.astype(NUMPY_DTYPES[attr(op, "output_type").lower()])

    return reference


def _bucketize(op: Op, x: Array) -> Array:
    return np.searchsorted(attr(op, "boundaries"), x, side="right").astype(np.int32)


def _top_k_shape(op: Op) -> list[Shape]:
    x, k = shape_of(op, 0), const_ints(op, 1)[0]
    if not x or not 0 <= k <= x[-1]:
        raise shape_error(op, f"cannot take the {k} largest of {list(x)}")
    return [(*x[:-1], k)] * 2


def _top_k(op: Op, x: Array, _: Array) -> list[Array]:
    order = np.argsort(-x, axis=-1, kind="stable")[..., : const_ints(op, 1)[0]]
    return [np.take_along_axis(x, order, -1), order.astype(np.int32)]


def _one_hot_shape(op: Op) -> list[Shape]:
    indices, depth = shape_of(op, 0), const_ints(op, 1)[0]
    axis = normal_axis(op, attr(op, "axis"), len(indices) + 1)
    return [(*indices[:axis], depth, *indices[axis:])]


def _one_hot(op: Op, indices: Array, _: Array, on: Array, off: Array) -> Array:
    axis = normal_axis(op, attr(op, "axis"), indices.ndim + 1)
    steps = np.arange(const_ints(op, 1)[0]).reshape(-1, *[1] * (indices.ndim - axis))
    return np.where(np.expand_dims(indices, axis) == steps, on, off)


def _fill(op: Op, _: Array, value: Array) -> Array:
    return np.full(const_ints(op, 0), value.reshape(-1)[0])


def _range_shape(op: Op) -> list[Shape]:
    parts = [op.operand(i) for i in range(3)]
    if any(t.data is None for t in parts):
        return unknown_shape(op)
    start, limit, delta = (float(t.value().reshape(-1)[0]) for t in parts)
    if delta == 0:
        raise shape_error(op, "counts in steps of 0")
    return [(max(int(np.ceil((limit - start) / delta)), 0),)]


def _range(op: Op, *x: Array) -> Array:
    start, _, delta = (v.reshape(-1)[0] for v in x)
    return np.asarray(start + np.arange(_range_shape(op)[0][0]) * delta)


_COMPARISON = OpSpec(graphdef=AS_KIND, outputs=TRUTH, kernels=INT8_UINT8).since(int8=2)
_LOGICAL = OpSpec(graphdef=AS_KIND, outputs=TRUTH, kernels=FLOAT_ONLY)
_AB = (act("a"), act("b"))
_TRUTHS = (param("a"), param("b"))
_SELECT = OpSpec(graphdef=AS_KIND, same_scale=True)
_CHOICE = (param("condition"), act("a"), act("b"))
_INDEX = OpSpec(outputs=(param("y", dtype="int64"),), kernels=INT8_UINT8).since(int8=2)
_FLOAT = OpSpec(kernels=FLOAT_ONLY)


def _compare(kind: str, function: Callable[[Array, Array], Any]) -> OpSpec:
    return _COMPARISON.op(kind, _AB, broadcast_shape, values_alone(function))


define(
    _compare("EQUAL", np.equal).since(int16=5),
    _compare("NOT_EQUAL", np.not_equal).since(int16=4),
    _compare("GREATER", np.greater),
    _compare("GREATER_EQUAL", np.greater_equal).since(int16=3),
    _compare("LESS", np.less).since(int16=3),
    _compare("LESS_EQUAL", np.less_equal),
    _LOGICAL.op("LOGICAL_AND", _TRUTHS, broadcast_shape, values_alone(np.logical_and)),
    _LOGICAL.op("LOGICAL_OR", _TRUTHS, broadcast_shape, values_alone(np.logical_or)),
    _LOGICAL.op("LOGICAL_NOT", (param("x"),), reference=values_alone(np.logical_not)),
    _SELECT.op("SELECT", _CHOICE, _select_shape, _select).since({rank_above(4): 3}),
    _SELECT.op("SELECT_V2", _CHOICE, _select_shape, _select),
    _INDEX.op("ARG_MAX", (X, param("axis")), _arg_shape, _arg(np.argmax))
    .attributes(output_type="INT64")
    .facets(scores="ranks"),
    _INDEX.op("ARG_MIN", (X, param("axis")), _arg_shape, _arg(np.argmin)).attributes(
        output_type="INT64"
    ),
    _FLOAT.op("BUCKETIZE", reference=_bucketize, outputs=INT32)
    .shared(boundaries=())
    .facets(graphdef="Bucketize"),
    # Ours: the bits of float32 as int32. TFLite's BITCAST gets the shape wrong, and what reads it
    # looks for negative zeros, which the reader of GraphDefs leaves out.
    _FLOAT.op("FLOAT_BITS", (Port("x", "any"),), outputs=INT32),
    OpSpec("TOPK_V2", (X, param("k")), _top_k_shape, _top_k, same_scale=True)
    .facets(outputs=(act("values"), param("indices", dtype="int32")), scores="ranks")
    .facets(graphdef="TopKV2")
    .since(int8=2, int16=3),
    OpSpec(
        "ONE_HOT",
        (param("indices"), param("depth"), act("on"), act("off")),
        _one_hot_shape,
        _one_hot,
    )
    .attributes(axis=-1)
    .facets("same_scale"),
    _FLOAT.op("WHERE", (param("condition"),), unknown_shape, outputs=(param("y", dtype="int64"),)),
    OpSpec("FILL", (param("dims"), act("value")), lambda op: [const_ints(op, 0)], _fill)
    .facets("same_scale")
    .since({reads(1, "int8", "int16"): 3}),
    _FLOAT.op("RANGE", (act("start"), act("limit"), act("delta")), _range_shape, _range),
)
