"""Gathering, scattering and other moves by index, and sums along an axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from qfrewrite.ir import Array, Op
from qfrewrite.ops.features import reads
from qfrewrite.ops.spec import (
    AS_KIND,
    FLOAT_ONLY,
    INT8,
    INT8_INT16,
    OpSpec,
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
    values_alone,
    weight,
)


def _gather_nd_shape(op: Op) -> list[Shape]:
    x, indices = shape_of(op, 0), shape_of(op, 1)
    if not indices or indices[-1] > len(x):
        raise shape_error(op, f"indices {list(indices)} do not fit {list(x)}")
    return [(*indices[:-1], *x[indices[-1] :])]


def _gather_nd(op: Op, x: Array, indices: Array) -> Array:
    return np.asarray(x[tuple(np.moveaxis(indices, -1, 0))])


def _scatter_nd(op: Op, indices: Array, updates: Array, _: Array) -> Array:
    y = np.zeros(const_ints(op, 2), updates.dtype)
    np.add.at(y, tuple(np.moveaxis(indices, -1, 0)), updates)
    return y


def _broadcast_to_shape(op: Op) -> list[Shape]:
    x, shape = shape_of(op, 0), const_ints(op, 1)
    if broadcast(op, x, shape) != shape:
        raise shape_error(op, f"cannot broadcast {list(x)} to {list(shape)}")
    return [shape]


def _broadcast_to(op: Op, x: Array, _: Array) -> Array:
    return np.broadcast_to(x, const_ints(op, 1))


def _reverse(op: Op, x: Array, _: Array) -> Array:
    return np.flip(x, const_ints(op, 1))


def _cumsum(op: Op, x: Array, _: Array) -> Any:
    axis = normal_axis(op, const_ints(op, 1)[0], x.ndim)
    x = np.flip(x, axis) if attr(op, "reverse") else x
    y = np.cumsum(x, axis, dtype=np.float64 if x.dtype.kind == "f" else x.dtype)
    if attr(op, "exclusive"):
        y = np.roll(y, 1, axis)
        np.moveaxis(y, axis, 0)[0] = 0
    return np.flip(y, axis) if attr(op, "reverse") else y


def _update(op: Op, x: Array, part: Array, start: Array) -> Array:
    y = np.array(x)
    # The part is moved inside where it would leave.
    sizes = zip(start.reshape(-1), y.shape, part.shape, strict=True)
    first = [int(np.clip(s, 0, d - p)) for s, d, p in sizes]
    y[tuple(slice(a, a + p) for a, p in zip(first, part.shape, strict=True))] = part
    return y


def _lookup_shape(op: Op) -> list[Shape]:
    return [(shape_of(op, 0)[0], *shape_of(op, 1)[1:])]


def _reverse_sequence(op: Op, x: Array, lengths: Array) -> Array:
    axes = (attr(op, "batch_dim"), attr(op, "seq_dim"))
    y = np.moveaxis(x, axes, (0, 1)).copy()
    for one, length in zip(y, lengths, strict=True):
        one[:length] = one[:length][::-1]
    return np.moveaxis(y, (0, 1), axes)


_MOVES = OpSpec(graphdef=AS_KIND, same_scale=True)
_FLOAT = OpSpec(graphdef=AS_KIND, kernels=FLOAT_ONLY)
_SCATTERED = (param("indices"), act("updates"), param("shape"))

define(
    _MOVES.op("GATHER_ND", (X, param("indices")), _gather_nd_shape, _gather_nd).since(int16=3),
    _MOVES.op("SCATTER_ND", _SCATTERED, lambda op: [const_ints(op, 2)], _scatter_nd).facets(
        "symmetric", kernels=INT8
    ),
    _MOVES.op("BROADCAST_TO", (X, param("shape")), _broadcast_to_shape, _broadcast_to)
    .facets(kernels=INT8_INT16)
    # No runtime has version 1.
    .since({lambda op: True: 2}, int8=3, int16=3),
    _MOVES.op("REVERSE_V2", (X, param("axes")), reference=_reverse).since(int8=3),
    _FLOAT.op("REVERSE_SEQUENCE", (X, param("lengths")), reference=_reverse_sequence).shared(
        seq_dim=0, batch_dim=0
    ),
    _FLOAT.op("CUMSUM", (X, param("axis")), reference=_cumsum).shared(
        exclusive=False, reverse=False
    ),
    OpSpec("DYNAMIC_UPDATE_SLICE", (X, act("update"), param("start")), reference=_update)
    .facets("same_scale")
    .since({reads(2, "int64"): 2}, int16=4),
    OpSpec("EMBEDDING_LOOKUP", (param("indices"), weight("table", axis=0)), _lookup_shape)
    .facets("hybrid", kernels=FLOAT_ONLY)
    .facets(reference=values_alone(lambda indices, table: table[indices])),
)
