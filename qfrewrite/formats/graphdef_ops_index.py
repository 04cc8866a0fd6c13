"""Reading nodes that search and pick by index: arguments of extremes, gathers, one-hot, rolls."""

from __future__ import annotations

from collections.abc import Callable

from qfrewrite.errors import ModelFileError
from qfrewrite.formats.graphdef_import import NodeContext
from qfrewrite.formats.graphdef_ops_arith import Table, element_type
from qfrewrite.formats.graphdef_values import Constant, Value, identity_perm
from qfrewrite.ir import Tensor

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
            kind, [c.stored(0, perm), operand], {"output_type": dtype.upper()},
            perm=tuple(sorted(left).index(p) for p in left),
        )  # fmt: skip

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
        "GATHER", [c.stored(0, perm), indices], {"axis": perm[axis], "batch_dims": batch},
        perm=perm if keeps else None,
    )  # fmt: skip


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
                c.importer.ints([b if i == axis else 0 for i in range(len(x.shape))],
                                f"{c.name}/{part}/begin"),
                c.importer.ints([n if i == axis else d for i, d in enumerate(x.shape)],
                                f"{c.name}/{part}/size"),
            ],
            {}, name=f"{c.name}/{part}",
        )[0]
        for b, n, part in bounds
    ]  # fmt: skip


INDEX: Table = {
    "ArgMax": _arg("ARG_MAX"),
    "ArgMin": _arg("ARG_MIN"),
    "Gather": _gather,
    "GatherV2": _gather,
    "OneHot": _one_hot,
    "Roll": _roll,
}
"""Converters by node op."""
