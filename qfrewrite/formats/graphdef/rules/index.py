"""Reading nodes that search and pick by index: arguments of extremes, gathers, one-hot, rolls."""

from __future__ import annotations

from functools import partial

import numpy as np

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.graphdef.importer import MAX_FOLDED, NodeContext
from qfrewrite.formats.graphdef.rules.arith import Table, element_type
from qfrewrite.formats.graphdef.values import Constant, Value, identity_perm, is_known, ranked
from qfrewrite.ir import Tensor

# What kernels take as indices.
_INDEX_TYPES = ("int32", "int64")


def _indices(c: NodeContext, slot: int) -> Tensor:
    """The indices in `slot`, int32 where they are known, in a type that kernels take."""
    value = c.value(slot)
    if isinstance(value, Constant):
        return c.operand(c.array(slot), "indices", slot)
    tensor = c.plain(slot)
    if tensor.dtype in _INDEX_TYPES:
        return tensor
    types = {"in_data_type": tensor.dtype.upper(), "out_data_type": "INT32"}
    return c.part("CAST", [tensor], "indices", dtype="int32", **types)


def _arg(kind: str, c: NodeContext) -> list[Value]:
    """ArgMax(x, axis), ArgMin(x, axis)."""
    perm = c.perm(0)
    axis = c.axis(c.integer(1), len(perm))
    operands = [c.stored(0, perm), c.operand(perm[axis], "axis", 1)]
    attrs = {"output_type": element_type(c.attr("output_type", "DT_INT64")).upper()}
    left = ranked([p for i, p in enumerate(perm) if i != axis])
    return c.emit(kind, operands, attrs, perm=left)


def _gather(c: NodeContext) -> list[Value]:
    """GatherV2(x, indices, axis), Gather(x, indices)."""
    shape, picked = c.shape(0), c.shape(1)
    batch = int(c.attr("batch_dims", 0))
    batch += len(picked) if batch < 0 else 0
    axis = c.axis(c.integer(2) if len(c.inputs) > 2 else 0, len(shape))
    indices = _indices(c, 1)
    known = indices.data
    if known is not None and known.size and not 0 <= known.min() <= known.max() < shape[axis]:
        raise ModelFileError(f"gathers indices outside axis {axis} of {list(shape)}")
    # Where one axis takes the place of another, the layout of the rest does not count.
    keeps = len(picked) == 1 and not batch
    perm = c.perm(0) if keeps else identity_perm(len(shape))
    attrs = {"axis": perm[axis], "batch_dims": batch}
    return c.emit("GATHER", [c.stored(0, perm), indices], attrs, perm=perm if keeps else None)


def _one_hot(c: NodeContext) -> list[Value]:
    """OneHot(indices, depth, on, off)."""
    c.require(4)
    operands = [_indices(c, 0), c.operand(c.integer(1), "depth", 1), c.plain(2), c.plain(3)]
    return c.emit("ONE_HOT", operands, {"axis": int(c.attr("axis", -1))})


def _roll(c: NodeContext) -> list[Value]:
    """Roll(x, shift, axis): along each axis the two parts change places."""
    shifts, axes = c.ints(1), c.ints(2)
    if len(shifts) != len(axes):
        raise ModelFileError(f"rolls axes {list(axes)} by {list(shifts)}")
    shape, perm, value = c.shape(0), c.perm(0), c.value(0)
    total = dict.fromkeys(range(len(shape)), 0)
    for shift, axis in zip(shifts, axes, strict=True):
        total[c.axis(axis, len(shape))] += shift
    moves = [(perm[a], s % shape[a]) for a, s in total.items() if shape[a] and s % shape[a]]
    if not moves:
        return [value]
    x = c.stored(0, perm)
    for axis, shift in moves[:-1]:
        x = c.part("CONCATENATION", _halves(c, x, axis, shift), "roll", axis=axis)
    axis, shift = moves[-1]
    return c.emit("CONCATENATION", _halves(c, x, axis, shift), {"axis": axis}, perm=perm)


def _halves(c: NodeContext, x: Tensor, axis: int, shift: int) -> list[Tensor]:
    """The last `shift` entries of `x` along `axis`, then the others."""
    kept = x.shape[axis] - shift
    return [sliced(c, x, axis, kept, shift, "last"), sliced(c, x, axis, 0, kept, "first")]


def sliced(c: NodeContext, x: Tensor, axis: int, first: int, count: int, suffix: str) -> Tensor:
    """`count` entries of `x` along `axis`, from `first` on."""
    begin, size = [0] * len(x.shape), list(x.shape)
    begin[axis], size[axis] = first, count
    bounds = [c.operand(begin, f"{suffix}/begin"), c.operand(size, f"{suffix}/size")]
    return c.part("SLICE", [x, *bounds], suffix)


def _bounded(c: NodeContext, slot: int) -> int:
    """The integer in `slot`; it is known too where it is computed between two equal bounds."""
    value = c.value(slot)
    bounds = []
    tensor = None if isinstance(value, Constant) else value.tensor
    for kind in ("MINIMUM", "MAXIMUM"):
        op = None if tensor is None else tensor.producer
        if op is None or op.kind != kind:
            break
        known = [t for t in op.inputs if t is not None and t.is_const]
        tensor = next((t for t in op.inputs if t is not None and not t.is_const), None)
        bounds += [int(t.value().reshape(-1)[0]) for t in known if t.size == 1]
    if len(bounds) == 2 and bounds[0] == bounds[1]:
        return bounds[0]
    return c.integer(slot)


def _bincount(c: NodeContext) -> list[Value]:
    """DenseBincount(x [n] or [batch, n], size, weights []): how often each number is there.

    binary_output: whether it is there at all.
    """
    c.require(3)
    size, dtype = _bounded(c, 1), element_type(c.attr("T", "DT_FLOAT"))
    if 0 not in c.shape(2):
        raise UnsupportedError("DenseBincount is supported without weights only")
    on, off = c.number(1, dtype, "on"), c.number(0, dtype, "off")
    operands = [_indices(c, 0), c.operand(size, "size"), on, off]
    hits = c.part("ONE_HOT", operands, "hits", dtype=dtype, axis=-1)
    axes = c.operand([len(hits.shape) - 2], "axes")
    kind = "REDUCE_MAX" if c.attr("binary_output", False) else "SUM"
    return c.emit(kind, [hits, axes], {"keep_dims": False})


def _band_part(c: NodeContext) -> list[Value]:
    """MatrixBandPart(x [..., M, N], lower, upper): zero outside the band."""
    lower, upper, shape = c.integer(1), c.integer(2), c.shape(0)
    if len(shape) < 2:
        raise ModelFileError(f"takes the band of shape {list(shape)}")
    down = np.subtract.outer(np.arange(shape[-2]), np.arange(shape[-1]))
    band = ((lower < 0) | (down <= lower)) & ((upper < 0) | (-down <= upper))
    value = c.value(0)
    if is_known(value):
        return [Constant(c.name, np.where(band, value.data, value.data.dtype.type(0)))]
    x = c.plain(0)
    mask, zero = c.importer.operand(band, f"{c.name}/band"), c.number(0, x.dtype, "zero")
    return c.emit("SELECT_V2", [mask, x, zero], dtype=x.dtype)


def _main_diagonal(c: NodeContext, slot: int) -> None:
    """Raise UnsupportedError where the diagonals in `slot` are not the main one."""
    if any(c.ints(slot)):
        raise UnsupportedError(f"diagonals {list(c.ints(slot))} are not supported, only the main")


def _diagonal_matrix(c: NodeContext) -> list[Value]:
    """MatrixDiagV3(diagonal, k, rows, columns, padding) of a constant."""
    _main_diagonal(c, 1)
    diagonal = c.array(0)
    n = diagonal.shape[-1]
    rows, columns = (n if d < 0 else d for d in (c.integer(2), c.integer(3)))
    if min(rows, columns) != n or rows * columns * diagonal.size > MAX_FOLDED**2:
        raise ModelFileError(f"makes {rows} x {columns} of {n} values")
    y = np.full((*diagonal.shape[:-1], rows, columns), c.array(4).reshape(()), diagonal.dtype)
    y[..., range(n), range(n)] = diagonal
    return [Constant(c.name, y)]


def _with_diagonal(c: NodeContext) -> list[Value]:
    """MatrixSetDiagV3(x, diagonal, k) of constants."""
    _main_diagonal(c, 2)
    y, diagonal = c.array(0).copy(), c.array(1)
    n = min(y.shape[-2:])
    y[..., range(n), range(n)] = diagonal
    return [Constant(c.name, y)]


def _diagonal(c: NodeContext) -> list[Value]:
    """MatrixDiagPartV3(x [..., M, N], k, padding): rows and columns as one axis, then a gather."""
    _main_diagonal(c, 1)
    x = c.plain(0)
    if len(x.shape) < 2:
        raise ModelFileError(f"takes the diagonal of shape {list(x.shape)}")
    *outer, rows, columns = x.shape
    x = c.reshaped(x, [*outer, rows * columns], "flat")
    picked = c.operand(np.arange(min(rows, columns)) * (columns + 1), "indices")
    return c.emit("GATHER", [x, picked], {"axis": len(outer)})


def _update(c: NodeContext) -> list[Value]:
    """XlaDynamicUpdateSlice(x, part, start)."""
    return c.emit("DYNAMIC_UPDATE_SLICE", [c.plain(0), c.plain(1), _indices(c, 2)])


INDEX: Table = {
    "ArgMax": partial(_arg, "ARG_MAX"),
    "ArgMin": partial(_arg, "ARG_MIN"),
    "DenseBincount": _bincount,
    "Gather": _gather,
    "GatherV2": _gather,
    "MatrixBandPart": _band_part,
    "MatrixDiagPartV3": _diagonal,
    "MatrixDiagV3": _diagonal_matrix,
    "MatrixSetDiagV3": _with_diagonal,
    "OneHot": _one_hot,
    "Roll": _roll,
    "XlaDynamicUpdateSlice": _update,
}
"""Converters by node op."""
