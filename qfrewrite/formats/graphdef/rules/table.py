"""How each op of a GraphDef is read: one table from node op to converter.

Ops that correspond one to one to a row of the op table (`OpSpec.graphdef`) are converted from that
row; the tables of the `graphdef_ops_*` modules hold those whose forms differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qfrewrite.formats.graphdef.importer import NodeContext
from qfrewrite.formats.graphdef.rules.arith import ARITHMETIC
from qfrewrite.formats.graphdef.rules.control import CONTROL
from qfrewrite.formats.graphdef.rules.einsum import EINSUM
from qfrewrite.formats.graphdef.rules.formula import FORMULAS
from qfrewrite.formats.graphdef.rules.fourier import FOURIER
from qfrewrite.formats.graphdef.rules.index import INDEX
from qfrewrite.formats.graphdef.rules.linear import LINEAR
from qfrewrite.formats.graphdef.rules.lists import LISTS
from qfrewrite.formats.graphdef.rules.quant import QUANT
from qfrewrite.formats.graphdef.rules.random import DRAWS
from qfrewrite.formats.graphdef.rules.shape import ON_SHAPES, SHAPE
from qfrewrite.formats.graphdef.rules.window import WINDOW
from qfrewrite.formats.graphdef.values import Value
from qfrewrite.ops import OPS
from qfrewrite.ops.elementwise import broadcast_shape, same_shape
from qfrewrite.ops.spec import OpSpec

Converter = Callable[[NodeContext], list[Value]]


def _from_row(spec: OpSpec) -> Converter:
    """The converter of an op that has the same operands in the same slots."""

    def attrs(c: NodeContext) -> dict[str, Any]:
        found = {ours: c.attr(theirs) for ours, theirs in spec.graphdef_attrs.items()}
        return {ours: value for ours, value in found.items() if value is not None}

    def unary(c: NodeContext) -> list[Value]:
        return c.unary(spec.kind, attrs(c))

    def binary(c: NodeContext) -> list[Value]:
        return c.binary(spec.kind)

    def as_laid_out(c: NodeContext) -> list[Value]:
        c.require(spec.min_inputs())
        operands = []
        for slot in range(len(c.inputs)):
            port = spec.input_port(slot)
            if port is not None and port.role == "param" and c.holds_ints(slot):
                operands.append(c.operand(c.array(slot), slot, port.name))
            else:
                operands.append(c.plain(slot))
        return c.emit(spec.kind, operands, attrs(c))

    if spec.infer is same_shape and len(spec.inputs) == 1:
        return unary
    return binary if spec.infer is broadcast_shape else as_laid_out


def _rows() -> Mapping[str, Converter]:
    return {spec.graphdef: _from_row(spec) for spec in OPS.values() if spec.graphdef}


def _either(on_shapes: Converter, row: Converter | None) -> Converter:
    """On shapes computed here and now; else an op, where there is a row for it."""
    if row is None:
        return on_shapes
    return lambda c: (on_shapes if c.fold else row)(c)


def _arithmetic() -> Mapping[str, Converter]:
    others = {**_rows(), **FORMULAS}
    return {name: _either(convert, others.get(name)) for name, convert in ON_SHAPES.items()}


TABLES: tuple[Mapping[str, Converter], ...] = (
    ARITHMETIC, FORMULAS, SHAPE, INDEX, WINDOW, LINEAR, EINSUM, FOURIER, QUANT, CONTROL, LISTS,
    DRAWS,
)  # fmt: skip
"""Converters by node op, a table per family; no op is in two of them."""

CONVERTERS: Mapping[str, Converter] = {
    **_rows(),
    **{node_op: convert for table in TABLES for node_op, convert in table.items()},
    **_arithmetic(),
}
"""Converters by node op."""
