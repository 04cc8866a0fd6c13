"""Ops without a quantized kernel that others with one compute just as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from qfrewrite.ir import Array, Graph, Op, Tensor, constant


@dataclass(frozen=True)
class Substitute:
    """Another op for the same value: its kind, and its operands from those of the old one.

    operands gives None where the substitute does not fit.
    """

    kind: str
    operands: Callable[[Op], list[Tensor | Array] | None]


def _reciprocal(op: Op) -> list[Tensor | Array] | None:
    divisor = op.operand(1).data
    if divisor is None or not (np.isfinite(divisor).all() and divisor.all()):
        return None
    return [op.operand(0), (1.0 / divisor.astype(np.float64)).astype(np.float32)]


def _pair(op: Op) -> list[Tensor | Array] | None:
    operands: list[Tensor | Array] = [t for t in op.inputs if t is not None]
    return operands if len(operands) == 2 else None


SUBSTITUTES: Mapping[str, Substitute] = {
    "NEG": Substitute("MUL", lambda op: [op.operand(0), np.full((), -1, np.float32)]),
    "SQUARE": Substitute("MUL", lambda op: [op.operand(0), op.operand(0)]),
    "DIV": Substitute("MUL", _reciprocal),
    "ADD_N": Substitute("ADD", _pair),
}
"""By the kind that has no quantized kernel."""


def substitute(graph: Graph) -> None:
    """Put substitutes in, in place; float32 ops only."""
    for op in graph.ops_of(*SUBSTITUTES):
        if op.output.dtype != "float32":
            continue
        operands = SUBSTITUTES[op.kind].operands(op)
        if operands is None:
            continue
        tensors = [
            o if isinstance(o, Tensor) else constant(graph.unique_name(f"{op.name}/factor"), o)
            for o in operands
        ]
        attrs = {k: v for k, v in op.attrs.items() if k == "fused_activation_function"}
        kind = SUBSTITUTES[op.kind].kind
        graph.update_op(op, kind=kind, inputs=tensors, attrs=attrs, meta={})
