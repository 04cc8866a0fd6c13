"""How each op of a GraphDef is read: one table from node op to converter.

Ops that correspond one to one to an op definition (`OpSpec.graphdef`) are converted by that; the
tables of the other modules here hold those whose forms differ.
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
from qfrewrite.formats.graphdef.rules.shape import SHAPE
from qfrewrite.formats.graphdef.rules.window import WINDOW
from qfrewrite.formats.graphdef.values import Value
from qfrewrite.ops import OPS
from qfrewrite.ops.elementwise import broadcast_shape
from qfrewrite.ops.spec import OpSpec, same_shape

Converter = Callable[[NodeContext], list[Value]]


def _by_definition(spec: OpSpec) -> Converter:
    """The converter of an op that has the same operands in the same slots."""

    def attrs(c: NodeContext) -> dict[str, Any]:
        stated = {ours: c.attr(theirs) for ours, theirs in spec.graphdef_attrs.items()}
        return {ours: value for ours, value in stated.items() if value is not None}

    def as_laid_out(c: NodeContext) -> list[Value]:
        c.require(spec.min_inputs())
        operands = []
        for slot in range(len(c.inputs)):
            port = spec.input_port(slot)
            if port is not None and port.role == "param" and c.holds_ints(slot):
                operands.append(c.operand(c.array(slot), port.name, slot))
            else:
                operands.append(c.plain(slot))
        return c.emit(spec.kind, operands, attrs(c))

    if spec.infer is same_shape and len(spec.inputs) == 1:
        return lambda c: c.unary(spec.kind, attrs(c))
    return (lambda c: c.binary(spec.kind)) if spec.infer is broadcast_shape else as_laid_out


TABLES: tuple[Mapping[str, Converter], ...] = (
    *(ARITHMETIC, FORMULAS, SHAPE, INDEX, WINDOW, LINEAR),
    *(EINSUM, FOURIER, QUANT, CONTROL, LISTS, DRAWS),
)
"""Converters by node op, a table per family; no op is in two of them."""

CONVERTERS: Mapping[str, Converter] = {
    **{spec.graphdef: _by_definition(spec) for spec in OPS.values() if spec.graphdef},
    **{node_op: convert for table in TABLES for node_op, convert in table.items()},
}
"""Converters by node op."""
