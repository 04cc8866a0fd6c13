"""Gathering, scattering and other moves by index, and sums along an axis."""

from __future__ import annotations

import numpy as np

from qfrewrite.ir import Array, Op
from qfrewrite.ops.elementwise import same_shape
from qfrewrite.ops.features import reads
from qfrewrite.ops.spec import (
    FLOAT_ONLY,
    INT8,
    INT8_INT16,
    OpSpec,
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
    weight,
)


def _gather_nd_shape(op: Op) -> list[Shape]:
    x, indices = shape_of(op, 0), shape_of(op, 1)
    if not indices or indices[-1] > len(x):
        raise shape_error(op, f"indices {list(indices)} do not fit {list(x)}")
    return [(*indices[:-1], *x[indices[-1] :])]


def _gather_nd(op: Op, x: list[Array | None]) -> list[Array]:
    indices = operand_value(x, 1)
    return [operand_value(x, 0)[tuple(np.moveaxis(indices, -1, 0))]]


def _scatter_nd_shape(op: Op) -> list[Shape]:
    return [const_ints(op, 2)]


def _scatter_nd(op: Op, x: list[Array | None]) -> list[Array]:
    indices, updates = operand_value(x, 0), operand_value(x, 1)
    y = np.zeros(const_ints(op, 2), updates.dtype)
    np.add.at(y, tuple(np.moveaxis(indices, -1, 0)), updates)
    return [y]


def _broadcast_to_shape(op: Op) -> list[Shape]:
    x, shape = shape_of(op, 0), const_ints(op, 1)
    try:
        fits = np.broadcast_shapes(x, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise shape_error(op, f"cannot broadcast {list(x)} to {list(shape)}")
    return [shape]


def _reverse(op: Op, x: list[Array | None]) -> list[Array]:
    return [np.flip(operand_value(x, 0), const_ints(op, 1))]


def _cumsum(op: Op, x: list[Array | None]) -> list[Array]:
    v = operand_value(x, 0)
    axis = normal_axis(op, const_ints(op, 1)[0], v.ndim)
    v = np.flip(v, axis) if attr(op, "reverse") else v
    y = np.cumsum(v, axis, dtype=np.float64 if v.dtype.kind == "f" else v.dtype)
    if attr(op, "exclusive"):
        y = np.roll(y, 1, axis)
        np.moveaxis(y, axis, 0)[0] = 0
    y = np.flip(y, axis) if attr(op, "reverse") else y
    return [y.astype(v.dtype)]


def _update(op: Op, x: list[Array | None]) -> list[Array]:
    y, part, start = (
        operand_value(x, 0).copy(),
        operand_value(x, 1),
        operand_value(x, 2).reshape(-1),
    )
    # The part is moved inside where it would leave.
    first = [int(np.clip(s, 0, d - p)) for s, d, p in zip(start, y.shape, part.shape, strict=True)]
    y[tuple(slice(a, a + p) for a, p in zip(first, part.shape, strict=True))] = part
    return [y]


def _lookup_shape(op: Op) -> list[Shape]:
    return [(shape_of(op, 0)[0], *shape_of(op, 1)[1:])]


def _reverse_sequence(op: Op, x: list[Array | None]) -> list[Array]:
    v, lengths = operand_value(x, 0), operand_value(x, 1)
    rows = np.moveaxis(v, (attr(op, "batch_dim"), attr(op, "seq_dim")), (0, 1)).copy()
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = row[:length][::-1]
    return [np.moveaxis(rows, (0, 1), (attr(op, "batch_dim"), attr(op, "seq_dim")))]


_X = act("x")
_Y = (act("y"),)

rows(
    OpSpec(
        "GATHER_ND", (_X, param("indices")), _Y, _gather_nd_shape, _gather_nd, "GatherNdOptions",
        graphdef="GatherNd", same_scale=True, versions={"int16": 3},
    ),
    OpSpec(
        "SCATTER_ND", (param("indices"), act("updates"), param("shape")), _Y, _scatter_nd_shape,
        _scatter_nd, "ScatterNdOptions", graphdef="ScatterNd", same_scale=True, symmetric=True,
        kernels=INT8,
    ),
    OpSpec(
        "BROADCAST_TO", (_X, param("shape")), _Y, _broadcast_to_shape,
        lambda op, x: [np.broadcast_to(operand_value(x, 0), const_ints(op, 1))],
        "BroadcastToOptions", graphdef="BroadcastTo", same_scale=True,
        # No runtime has version 1.
        versions={"int8": 3, "int16": 3}, since=((lambda op: True, 2),),
        kernels=INT8_INT16,
    ),
    OpSpec(
        "REVERSE_V2", (_X, param("axes")), _Y, same_shape, _reverse, "ReverseV2Options",
        graphdef="ReverseV2", same_scale=True, versions={"int8": 3},
    ),
    OpSpec(
        "REVERSE_SEQUENCE", (_X, param("lengths")), _Y, same_shape, _reverse_sequence,
        "ReverseSequenceOptions", {"seq_dim": 0, "batch_dim": 0}, kernels=FLOAT_ONLY,
        graphdef="ReverseSequence",
        graphdef_attrs={"seq_dim": "seq_dim", "batch_dim": "batch_dim"},
    ),
    OpSpec(
        "CUMSUM", (_X, param("axis")), _Y, same_shape, _cumsum, "CumsumOptions",
        {"exclusive": False, "reverse": False}, kernels=FLOAT_ONLY, graphdef="Cumsum",
        graphdef_attrs={"exclusive": "exclusive", "reverse": "reverse"},
    ),
    OpSpec(
        "DYNAMIC_UPDATE_SLICE", (_X, act("update"), param("start")), _Y, same_shape, _update,
        "DynamicUpdateSliceOptions", same_scale=True, versions={"int16": 4},
        since=((reads(2, "int64"), 2),),
    ),
    OpSpec(
        "EMBEDDING_LOOKUP", (param("indices"), weight("table", 0)), _Y, _lookup_shape,
        lambda op, x: [operand_value(x, 1)[operand_value(x, 0)]], None, kernels=FLOAT_ONLY,
        hybrid=True,
    ),
)  # fmt: skip
