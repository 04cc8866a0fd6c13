"""Reading nodes that search and pick by index: arguments of extremes, gathers, one-hot, rolls."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.graphdef.importer import MAX_FOLDED, NodeContext
from qfrewrite.formats.graphdef.rules.arith import Table, element_type
from qfrewrite.formats.graphdef.values import Constant, Value, identity_perm
from qfrewrite.ir import Tensor, constant

# What kernels take as indices.
_INDEX_TYPES = ("int32", "int64")


def _indices(c: NodeContext, slot: int) -> Tensor:
    """The indices in `slot`, int32 where they are known, in a type that kernels take."""
    value = c.value(slot)
    if isinstance(value, Constant):
        return c.operand(c.array(slot), slot, "indices")
    tensor = c.plain(slot)
    if tensor.dtype in _INDEX_TYPES:
        return tensor
    attrs = {"in_data_type": tensor.dtype.upper(), "out_data_type": "INT32"}
    return c.importer.add("CAST", [tensor], attrs, name=f"{c.name}/indices", dtype="int32")[0]


def _arg(kind: str) -> Callable[[NodeContext], list[Value]]:
    """ArgMax(x, axis), ArgMin(x, axis)."""

    def convert(c: NodeContext) -> list[Value]:
        perm, axes = c.perm(0), c.ints(1)
        if len(axes) != 1:
            raise ModelFileError(f"searches along axes {list(axes)}")
        axis = c.axis(axes[0], len(perm))
        operand = c.operand(perm[axis], 1, "axis")
        dtype = element_type(c.attr("output_type", "DT_INT64"))
        left = [p for i, p in enumerate(perm) if i != axis]
        return c.emit(
            kind,
            [c.stored(0, perm), operand],
            {"output_type": dtype.upper()},
            perm=tuple(sorted(left).index(p) for p in left),
        )

    return convert


def _gather(c: NodeContext) -> list[Value]:
    """GatherV2(x, indices, axis), Gather(x, indices)."""
    shape, taken = c.shape(0), c.shape(1)
    batch = int(c.attr("batch_dims", 0))
    batch += len(taken) if batch < 0 else 0
    axis = c.axis(c.ints(2)[0] if len(c.inputs) > 2 else 0, len(shape))
    indices = _indices(c, 1)
    known = indices.data
    if known is not None and known.size and not 0 <= known.min() <= known.max() < shape[axis]:
        raise ModelFileError(f"gathers indices outside axis {axis} of {list(shape)}")
    # Where one axis takes the place of another, the layout of the rest does not count.
    keeps = len(taken) == 1 and not batch
    perm = c.perm(0) if keeps else identity_perm(len(shape))
    return c.emit(
        "GATHER",
        [c.stored(0, perm), indices],
        {"axis": perm[axis], "batch_dims": batch},
        perm=perm if keeps else None,
    )


def _one_hot(c: NodeContext) -> list[Value]:
    """OneHot(indices, depth, on, off)."""
    c.require(4)
    depth = c.ints(1)
    if len(depth) != 1:
        raise ModelFileError(f"has the depths {list(depth)}")
    operands = [_indices(c, 0), c.operand(depth[0], 1, "depth"), c.plain(2), c.plain(3)]
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
        x = c.importer.add(
            "CONCATENATION", _halves(c, x, axis, shift), {"axis": axis}, name=f"{c.name}/roll"
        )[0]
    axis, shift = moves[-1]
    return c.emit("CONCATENATION", _halves(c, x, axis, shift), {"axis": axis}, perm=perm)


def _halves(c: NodeContext, x: Tensor, axis: int, shift: int) -> list[Tensor]:
    """The last `shift` entries of `x` along `axis`, then the others."""
    first = x.shape[axis] - shift
    bounds = ((first, shift, "last"), (0, first, "first"))
    return [
        c.importer.add(
            "SLICE",
            [
                x,
                c.importer.ints(
                    [b if i == axis else 0 for i in range(len(x.shape))], f"{c.name}/{part}/begin"
                ),
                c.importer.ints(
                    [n if i == axis else d for i, d in enumerate(x.shape)], f"{c.name}/{part}/size"
                ),
            ],
            {},
            name=f"{c.name}/{part}",
        )[0]
        for b, n, part in bounds
    ]


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
    return c.ints(slot)[0]


def _bincount(c: NodeContext) -> list[Value]:
    """DenseBincount(x [n] or [batch, n], size, weights []): how often each number is there.

    binary_output: whether it is there at all.
    """
    c.require(3)
    size, dtype = _bounded(c, 1), element_type(c.attr("T", "DT_FLOAT"))
    if 0 not in c.shape(2):
        raise UnsupportedError("DenseBincount is supported without weights only")
    on, off = (c.importer.number(v, dtype, f"{c.name}/{n}") for v, n in ((1, "on"), (0, "off")))
    operands = [_indices(c, 0), c.importer.ints(size, f"{c.name}/size"), on, off]
    hits = c.importer.add("ONE_HOT", operands, {"axis": -1}, name=f"{c.name}/hits", dtype=dtype)[0]
    axes = c.importer.ints([len(hits.shape) - 2], f"{c.name}/axes")
    kind = "REDUCE_MAX" if c.attr("binary_output", False) else "SUM"
    return c.emit(kind, [hits, axes], {"keep_dims": False})


def _band_part(c: NodeContext) -> list[Value]:
    """MatrixBandPart(x [..., M, N], lower, upper): zero outside the band."""
    (lower,), (upper,), shape = c.ints(1), c.ints(2), c.shape(0)
    if len(shape) < 2:
        raise ModelFileError(f"takes the band of shape {list(shape)}")
    down = np.subtract.outer(np.arange(shape[-2]), np.arange(shape[-1]))
    band = ((lower < 0) | (down <= lower)) & ((upper < 0) | (-down <= upper))
    value = c.value(0)
    if isinstance(value, Constant) and value.fake_quant is None:
        return [Constant(c.name, np.where(band, value.data, value.data.dtype.type(0)))]
    x = c.plain(0)
    mask = constant(c.importer.graph.unique_name(f"{c.name}/band"), band)
    zero = c.importer.number(0, x.dtype, f"{c.name}/zero")
    return c.emit("SELECT_V2", [mask, x, zero], dtype=x.dtype)


def _main_diagonal(c: NodeContext, slot: int) -> None:
    """Raise UnsupportedError where the diagonals in `slot` are not the main one."""
    if any(c.ints(slot)):
        raise UnsupportedError(f"diagonals {list(c.ints(slot))} are not supported, only the main")


def _diagonal_matrix(c: NodeContext) -> list[Value]:
    """MatrixDiagV3(diagonal, k, rows, columns, padding) of a constant."""
    _main_diagonal(c, 1)
    diagonal, (rows,), (columns,) = c.array(0), c.ints(2), c.ints(3)
    n = diagonal.shape[-1]
    rows, columns = (n if d < 0 else d for d in (rows, columns))
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
    x = c.importer.reshaped(x, [*outer, rows * columns], f"{c.name}/flat")
    picked = c.importer.ints(np.arange(min(rows, columns)) * (columns + 1), f"{c.name}/indices")
    return c.emit("GATHER", [x, picked], {"axis": len(outer), "batch_dims": 0})


def _update(c: NodeContext) -> list[Value]:
    """XlaDynamicUpdateSlice(x, part, start)."""
    return c.emit("DYNAMIC_UPDATE_SLICE", [c.plain(0), c.plain(1), _indices(c, 2)])


INDEX: Table = {
    "ArgMax": _arg("ARG_MAX"),
    "ArgMin": _arg("ARG_MIN"),
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
