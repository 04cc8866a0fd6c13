"""Comparing, choosing and searching: outputs that are not values, or values picked from others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qfrewrite.ir import NUMPY_DTYPES, Array, Op
from qfrewrite.ops.elementwise import broadcast_shape, same_shape
from qfrewrite.ops.features import rank_above, reads
from qfrewrite.ops.spec import (
    FLOAT_ONLY,
    INT8_UINT8,
    OpSpec,
    Port,
    Reference,
    Shape,
    act,
    attr,
    const_ints,
    normal_axis,
    operand_value,
    param,
    rows,
    shape_error,
    shape_of,
    unknown_shape,
)


def _compare(f: Callable[[Array, Array], Any]) -> Reference:
    def reference(op: Op, x: list[Array | None]) -> list[Array]:
        return [np.asarray(f(operand_value(x, 0), operand_value(x, 1)), np.bool_)]

    return reference


def _select_shape(op: Op) -> list[Shape]:
    condition, a, b = (shape_of(op, i) for i in range(3))
    if op.kind == "SELECT":
        if a != b or condition not in (a, a[:1], (1,), ()):
            raise shape_error(op, f"cannot select by {list(condition)} of {list(a)}, {list(b)}")
        return [a]
    try:
        return [tuple(int(d) for d in np.broadcast_shapes(condition, a, b))]
    except ValueError:
        raise shape_error(
            op, f"shapes {list(condition)}, {list(a)} and {list(b)} do not broadcast"
        ) from None


def _select(op: Op, x: list[Array | None]) -> list[Array]:
    condition, a, b = (operand_value(x, i) for i in range(3))
    if op.kind == "SELECT" and condition.ndim == 1 and a.ndim > 1 and condition.size > 1:
        condition = condition.reshape(-1, *[1] * (a.ndim - 1))
    return [np.where(condition, a, b)]


def _arg_shape(op: Op) -> list[Shape]:
    x = shape_of(op, 0)
    axis = normal_axis(op, const_ints(op, 1)[0], len(x))
    return [(*x[:axis], *x[axis + 1 :])]


def _arg(f: Callable[..., Any]) -> Reference:
    def reference(op: Op, x: list[Array | None]) -> list[Array]:
        found = f(operand_value(x, 0), axis=const_ints(op, 1)[0])
        return [np.asarray(found, NUMPY_DTYPES[attr(op, "output_type").lower()])]

    return reference


def _bucketize(op: Op, x: list[Array | None]) -> list[Array]:
    found = np.searchsorted(attr(op, "boundaries"), operand_value(x, 0), side="right")
    return [np.asarray(found, np.int32)]


def _top_k_shape(op: Op) -> list[Shape]:
    x, k = shape_of(op, 0), const_ints(op, 1)[0]
    if not x or not 0 <= k <= x[-1]:
        raise shape_error(op, f"cannot take the {k} largest of {list(x)}")
    return [(*x[:-1], k)] * 2


def _top_k(op: Op, x: list[Array | None]) -> list[Array]:
    v, k = operand_value(x, 0), const_ints(op, 1)[0]
    order = np.argsort(-v, axis=-1, kind="stable")[..., :k]
    return [np.take_along_axis(v, order, -1), order.astype(np.int32)]


def _one_hot_shape(op: Op) -> list[Shape]:
    indices, depth = shape_of(op, 0), const_ints(op, 1)[0]
    axis = normal_axis(op, attr(op, "axis"), len(indices) + 1)
    return [(*indices[:axis], depth, *indices[axis:])]


def _one_hot(op: Op, x: list[Array | None]) -> list[Array]:
    indices, depth = operand_value(x, 0), const_ints(op, 1)[0]
    axis = normal_axis(op, attr(op, "axis"), indices.ndim + 1)
    steps = np.arange(depth).reshape(-1, *[1] * (indices.ndim - axis))
    hit = np.expand_dims(indices, axis) == steps
    return [np.where(hit, operand_value(x, 2), operand_value(x, 3))]


def _fill(op: Op, x: list[Array | None]) -> list[Array]:
    return [np.full(const_ints(op, 0), operand_value(x, 1).reshape(-1)[0])]


def _range_shape(op: Op) -> list[Shape]:
    parts = [op.operand(i) for i in range(3)]
    if any(t.data is None for t in parts):
        return unknown_shape(op)
    start, limit, delta = (float(t.value().reshape(-1)[0]) for t in parts)
    if delta == 0:
        raise shape_error(op, "counts in steps of 0")
    return [(max(int(np.ceil((limit - start) / delta)), 0),)]


def _range(op: Op, x: list[Array | None]) -> list[Array]:
    start, _, delta = (operand_value(x, i).reshape(-1)[0] for i in range(3))
    return [(start + np.arange(_range_shape(op)[0][0]) * delta).astype(operand_value(x, 0).dtype)]


def _logical(f: Callable[..., Any]) -> Reference:
    return lambda op, x: [np.asarray(f(*(operand_value(x, i) for i in range(len(x)))), np.bool_)]


_Y = (act("y"),)
_TRUTH = (param("y", dtype="bool"),)
_COMPARISONS: dict[str, tuple[Callable[[Array, Array], Any], str, str, dict[str, int]]] = {
    "EQUAL": (np.equal, "EqualOptions", "Equal", {"int8": 2, "int16": 5}),
    "NOT_EQUAL": (np.not_equal, "NotEqualOptions", "NotEqual", {"int8": 2, "int16": 4}),
    "GREATER": (np.greater, "GreaterOptions", "Greater", {"int8": 2}),
    "GREATER_EQUAL": (
        np.greater_equal,
        "GreaterEqualOptions",
        "GreaterEqual",
        {"int8": 2, "int16": 3},
    ),
    "LESS": (np.less, "LessOptions", "Less", {"int8": 2, "int16": 3}),
    "LESS_EQUAL": (np.less_equal, "LessEqualOptions", "LessEqual", {"int8": 2}),
}

rows(
    *(
        OpSpec(
            kind, (act("a"), act("b")), _TRUTH, broadcast_shape, _compare(f),
            options, graphdef=graphdef, versions=versions, kernels=INT8_UINT8,
        )
        for kind, (f, options, graphdef, versions) in _COMPARISONS.items()
    ),
    OpSpec(
        "LOGICAL_AND", (param("a"), param("b")), _TRUTH, broadcast_shape, _logical(np.logical_and),
        "LogicalAndOptions", graphdef="LogicalAnd", kernels=FLOAT_ONLY,
    ),
    OpSpec(
        "LOGICAL_OR", (param("a"), param("b")), _TRUTH, broadcast_shape, _logical(np.logical_or),
        "LogicalOrOptions", graphdef="LogicalOr", kernels=FLOAT_ONLY,
    ),
    OpSpec(
        "LOGICAL_NOT", (param("x"),), _TRUTH, same_shape, _logical(np.logical_not),
        "LogicalNotOptions", graphdef="LogicalNot", kernels=FLOAT_ONLY,
    ),
    OpSpec(
        "SELECT", (param("condition"), act("a"), act("b")), _Y, _select_shape, _select,
        "SelectOptions", graphdef="Select", same_scale=True, since=((rank_above(4), 3),),
    ),
    OpSpec(
        "SELECT_V2", (param("condition"), act("a"), act("b")), _Y, _select_shape, _select,
        "SelectV2Options", graphdef="SelectV2", same_scale=True,
    ),
    OpSpec(
        "ARG_MAX", (act("x"), param("axis")), (param("y", dtype="int64"),), _arg_shape,
        _arg(np.argmax), "ArgMaxOptions", {"output_type": "INT64"}, versions={"int8": 2},
        kernels=INT8_UINT8, scores="ranks",
    ),
    OpSpec(
        "ARG_MIN", (act("x"), param("axis")), (param("y", dtype="int64"),), _arg_shape,
        _arg(np.argmin), "ArgMinOptions", {"output_type": "INT64"}, versions={"int8": 2},
        kernels=INT8_UINT8,
    ),
    OpSpec(
        "BUCKETIZE", (act("x"),), (param("y", dtype="int32"),), same_shape, _bucketize,
        "BucketizeOptions", {"boundaries": ()}, kernels=FLOAT_ONLY, graphdef="Bucketize",
        graphdef_attrs={"boundaries": "boundaries"},
    ),
    # Ours: the bits of float32 as int32. TFLite's BITCAST gets the shape wrong, and what reads it
    # looks for negative zeros, which the reader of GraphDefs leaves out.
    OpSpec(
        "FLOAT_BITS", (Port("x", "any"),), (param("y", dtype="int32"),), same_shape,
        kernels=FLOAT_ONLY,
    ),
    OpSpec(
        "TOPK_V2", (act("x"), param("k")), (act("values"), param("indices", dtype="int32")),
        _top_k_shape, _top_k, "TopKV2Options", graphdef="TopKV2", same_scale=True,
        versions={"int8": 2, "int16": 3}, scores="ranks",
    ),
    OpSpec(
        "ONE_HOT", (param("indices"), param("depth"), act("on"), act("off")), _Y,
        _one_hot_shape, _one_hot, "OneHotOptions", {"axis": -1}, same_scale=True,
    ),
    OpSpec(
        "WHERE", (param("condition"),), (param("y", dtype="int64"),), unknown_shape, None,
        "WhereOptions", kernels=FLOAT_ONLY,
    ),
    OpSpec(
        "FILL", (param("dims"), act("value")), _Y, lambda op: [const_ints(op, 0)], _fill,
        "FillOptions", same_scale=True, since=((reads(1, "int8", "int16"), 3),),
    ),
    OpSpec(
        "RANGE", (act("start"), act("limit"), act("delta")), _Y, _range_shape, _range,
        "RangeOptions", kernels=FLOAT_ONLY,
    ),
)  # fmt: skip
