"""Reading shapes: reshapes, slices, and the arithmetic on shapes that is done while reading."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from qfrewrite.errors import ModelFileError
from qfrewrite.formats.graphdef.importer import MAX_FOLDED, NodeContext
from qfrewrite.formats.graphdef.rules.arith import Table, element_type
from qfrewrite.formats.graphdef.rules.slice import with_known_ends
from qfrewrite.formats.graphdef.values import (
    Constant,
    Layout,
    Perm,
    Value,
    identity_perm,
    moves_units_only,
    ranked,
)
from qfrewrite.ir import NUMPY_DTYPES, Tensor

_MASKS = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")


def _reshaped(c: NodeContext, shape: tuple[int, ...]) -> list[Value] | None:
    """A constant in another shape: laid out when it is read."""
    value = c.value(0)
    if not isinstance(value, Constant):
        return None
    if prod(shape) != value.data.size:
        raise ModelFileError(f"cannot reshape {list(value.shape)} to {list(shape)}")
    return [value.moved(Layout(shape=shape), c.name)]


def _unordered(c: NodeContext) -> Tensor:
    """Input 0 for an op that only regroups elements: their order counts, not their axes."""
    perm = c.perm(0)
    stored = c.stored(0, perm)
    return stored if moves_units_only(perm, stored.shape) else c.plain(0)


def _reshape(c: NodeContext) -> list[Value]:
    target, whole = list(c.ints(1)), prod(c.shape(0))
    if target.count(-1) == 1:
        known = -prod(target)
        target[target.index(-1)] = whole // known if known > 0 else -1
    if min(target, default=0) < 0 or prod(target) != whole:
        raise ModelFileError(f"cannot reshape {list(c.shape(0))} to {list(c.ints(1))}")
    done = _reshaped(c, tuple(target))
    return done or c.emit("RESHAPE", [_unordered(c), c.operand(c.array(1), "shape", 1)])


def _squeeze(c: NodeContext) -> list[Value]:
    shape, perm = c.shape(0), c.perm(0)
    dims = {c.axis(d, len(shape)) for d in c.attr("squeeze_dims", c.attr("axis", ()))}
    dims = dims or {i for i, d in enumerate(shape) if d == 1}
    if any(shape[d] != 1 for d in dims):
        raise ModelFileError(f"cannot squeeze {sorted(dims)} of {list(shape)}")
    left = [i for i in range(len(shape)) if i not in dims]
    done = _reshaped(c, tuple(shape[i] for i in left))
    attrs = {"squeeze_dims": tuple(sorted(perm[d] for d in dims))}
    out_perm = ranked([perm[i] for i in left])
    return done or c.emit("SQUEEZE", [c.stored(0, perm)], attrs, perm=out_perm)


def _expand_dims(c: NodeContext) -> list[Value]:
    shape = c.shape(0)
    axis = c.axis(c.integer(1), len(shape) + 1)
    done = _reshaped(c, (*shape[:axis], 1, *shape[axis:]))
    return done or c.emit("EXPAND_DIMS", [c.plain(0), c.operand(c.array(1), "axis", 1)])


def _pack(c: NodeContext) -> list[Value]:
    rank = len(c.shape(0))
    if any(v.shape != c.shape(0) for v in c.inputs):
        raise ModelFileError(f"cannot stack {[list(v.shape) for v in c.inputs]}")
    attrs = {"axis": c.axis(c.attr("axis", 0), rank + 1), "values_count": len(c.inputs)}
    return c.emit("PACK", [c.plain(i) for i in range(len(c.inputs))], attrs)


def _strided_slice(c: NodeContext) -> list[Value]:
    if not all(c.known(i) for i in (1, 2, 3)):
        c = with_known_ends(c)
    begin, end, strides = (list(c.ints(i)) for i in (1, 2, 3))
    masks = {m: int(c.attr(m, 0)) for m in _MASKS}
    if not len(begin) == len(end) == len(strides) or len(begin) > 32:
        raise ModelFileError(f"slices from {begin} to {end} by {strides}")
    if masks["ellipsis_mask"]:
        begin, end, strides, masks = _without_ellipsis(len(c.shape(0)), begin, end, strides, masks)
    perm, rank = c.perm(0), len(c.shape(0))
    moves = masks["new_axis_mask"] or masks["shrink_axis_mask"] or len(begin) != rank
    if not moves and perm != identity_perm(rank):
        order = [perm.index(i) for i in range(rank)]
        begin, end, strides = ([v[i] for i in order] for v in (begin, end, strides))
        masks = {
            m: sum(1 << j for j, i in enumerate(order) if v >> i & 1) for m, v in masks.items()
        }
    out_perm: Perm | None = None if moves else perm
    x = c.plain(0) if moves else c.stored(0, perm)
    bounds = {"begin": begin, "end": end, "strides": strides}
    operands = [c.operand(v, name, slot) for slot, (name, v) in enumerate(bounds.items(), 1)]
    return c.emit("STRIDED_SLICE", [x, *operands], masks, perm=out_perm)


def _without_ellipsis(
    rank: int, begin: list[int], end: list[int], strides: list[int], masks: dict[str, int]
) -> tuple[list[int], list[int], list[int], dict[str, int]]:
    """The same slice with `...` written out as whole axes."""
    at = (masks["ellipsis_mask"] & -masks["ellipsis_mask"]).bit_length() - 1
    if masks["ellipsis_mask"] != 1 << at or at >= len(begin):
        raise ModelFileError(f"ellipsis_mask {masks['ellipsis_mask']} is wrong")
    new_axes = masks["new_axis_mask"].bit_count() - (masks["new_axis_mask"] >> at & 1)
    whole = rank - (len(begin) - 1 - new_axes)
    if whole < 0:
        raise ModelFileError(f"slices {len(begin)} axes of rank {rank}")

    def widen(values: list[int], fill: int) -> list[int]:
        return [*values[:at], *[fill] * whole, *values[at + 1 :]]

    def shift(mask: int, fill: int) -> int:
        low, high = mask & ((1 << at) - 1), mask >> (at + 1)
        return low | fill * ((1 << whole) - 1) << at | high << (at + whole)

    fills = {"begin_mask": 1, "end_mask": 1}
    moved = {m: shift(v, fills.get(m, 0)) for m, v in masks.items()} | {"ellipsis_mask": 0}
    return widen(begin, 0), widen(end, 0), widen(strides, 1), moved


# -- known while reading -----------------------------------------------------------------------


def _of_shape(measure: Callable[[tuple[int, ...]], Any], c: NodeContext) -> list[Value]:
    """Shape, ShapeN, Size: what `measure` makes of the shape of each input."""
    dtype = NUMPY_DTYPES[element_type(c.attr("out_type", "DT_INT32"))]
    c.require(1)
    return [
        Constant(f"{c.name}:{i}" if i else c.name, np.array(measure(v.shape), dtype), True)
        for i, v in enumerate(c.inputs)
    ]


def _rank(c: NodeContext) -> list[Value]:
    return [Constant(c.name, np.array(len(c.shape(0)), np.int32), from_shape=True)]


def _fill(c: NodeContext) -> list[Value]:
    shape, value = c.ints(0), c.constant(1)
    if min(shape, default=0) < 0 or prod(shape) > 1 << 26:
        raise ModelFileError(f"fills the impossible shape {list(shape)}")
    view = np.broadcast_to(value.data.reshape(()), shape)
    return [Constant(c.name, view, from_shape=value.data.dtype.kind in "iub")]


def _like(value: int, c: NodeContext) -> list[Value]:
    dtype = element_type(c.attr("T", "DT_FLOAT"))
    return [Constant.filled(c.name, value, dtype, c.shape(0), from_shape=True)]


def _range(c: NodeContext) -> list[Value]:
    start, limit, step = (c.array(i).reshape(()) for i in range(3))
    count = np.ceil((limit - start) / step) if step else np.inf
    if not 0 <= count <= MAX_FOLDED:
        raise ModelFileError(f"counts from {start} to {limit} by {step}")
    values = (start + step * np.arange(int(count))).astype(start.dtype)
    return [Constant(c.name, values, from_shape=True)]


def _broadcast_args(c: NodeContext) -> list[Value]:
    """BroadcastArgs(a, b): the shape that values of the shapes a and b broadcast to."""
    shape = np.broadcast_shapes(c.ints(0), c.ints(1))
    return [Constant(c.name, np.array(shape, c.array(0).dtype), from_shape=True)]


SHAPE: Table = {
    "BroadcastArgs": _broadcast_args,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "ExpandDims": _expand_dims,
    "Pack": _pack,
    "StridedSlice": _strided_slice,
    "Shape": partial(_of_shape, tuple),
    "ShapeN": partial(_of_shape, tuple),
    "Size": partial(_of_shape, prod),
    "Rank": _rank,
    "Fill": _fill,
    "ZerosLike": partial(_like, 0),
    "OnesLike": partial(_like, 1),
    "Range": _range,
}
