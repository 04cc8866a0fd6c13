"""The error function: part of a GELU, which TFLite has, or written by means of one."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import numpy as np
import numpy.typing as npt

from qfrewrite.ir import Array, Op, Tensor, constant
from qfrewrite.ops.build import append_op
from qfrewrite.ops.spec import computed
from qfrewrite.rewrite.match import NoMatch, sole_user
from qfrewrite.rewrite.rewriter import Rewriter

Float64 = npt.NDArray[np.float64]

# The ops that a GELU is written with.
_PARTS = frozenset({"ADD", "SUB", "MUL", "DIV", "NEG", "SQUARE", "POW", "ERF", "TANH"})
# How many ops may lie before and after the ERF or TANH.
_BEFORE, _AFTER = 8, 4
# A formula is GELU where it agrees here, to what constants with seven digits leave.
_PROBES = np.linspace(-9, 9, 145)
_TOLERANCE = 4e-6


def raise_gelu(rw: Rewriter) -> None:
    """Given  y = x * 0.5 * (1 + ERF(x / sqrt(2))), or its approximation by TANH, in any order
    Result y = GELU(x).

    The formula is recognised by its values, so it does not matter how it is written.
    """
    for op in rw.graph.ops_of("ERF", "TANH"):
        if op in rw.graph:
            match = _gelu_around(op)
            if match is not None:
                last, x, approximate = match
                new = append_op(
                    rw.graph,
                    "GELU",
                    [x],
                    name=last.name,
                    attrs={"approximate": approximate},
                    anchor=last,
                )
                rw.replace(last, new, action="raised", detail=f"{op.kind} and {last.kind} -> GELU")


def lower_erf(rw: Rewriter) -> None:
    """Given  y = ERF(x)
    Result y = SIGN(x) * (GELU(sqrt(2) * u) / (u / sqrt(2)) - 1), u = max(|x|, 1e-20).

    From GELU(v) = v / 2 * (1 + erf(v / sqrt(2))).
    """
    graph = rw.graph
    for op in graph.ops_of("ERF"):

        def add(kind: str, *operands: Tensor | float, op: Op = op) -> Op:
            inputs = [
                o
                if isinstance(o, Tensor)
                else constant(graph.unique_name(f"{op.name}/value"), np.float32(o))
                for o in operands
            ]
            return append_op(graph, kind, inputs, name=f"{op.name}/{kind.lower()}", anchor=op)

        x = op.operand(0)
        size = add("MAXIMUM", add("ABS", x).output, 1e-20).output
        gelu = add("GELU", add("MUL", size, sqrt(2)).output).output
        above = add("SUB", add("DIV", gelu, add("MUL", size, sqrt(0.5)).output).output, 1)
        last = add("MUL", above.output, add("SIGN", x).output)
        rw.replace(op, last, action="lowered", detail="ERF by GELU")


def _gelu_around(op: Op) -> tuple[Op, Tensor, bool] | None:
    """The last op of the GELU that `op` is part of, what it is of, and whether by TANH."""
    sources = list(_upstream(op))
    for last in _downstream(op):
        for x in sources:
            if last.output.shape != x.shape or x.dtype != "float32":
                continue
            y = _on_probes(last, x)
            form = None if y is None else _form(y)
            if form is not None:
                return last, x, form
    return None


def _downstream(op: Op) -> Iterator[Op]:
    """The products that follow from `op` alone, nearest first."""
    for _ in range(_AFTER):
        after = sole_user(op.output)
        if isinstance(after, NoMatch) or after.kind not in _PARTS:
            return
        op = after
        if op.kind == "MUL":
            yield op


def _upstream(op: Op) -> Iterator[Tensor]:
    """The computed tensors that `op` follows from, nearest first."""
    queue, seen = [op], {op}
    for before in queue:
        for tensor in before.inputs:
            if tensor is None or tensor.is_const:
                continue
            yield tensor
            source = tensor.producer
            near = source is not None and source.kind in _PARTS and len(queue) < _BEFORE
            if source is not None and near and source not in seen:
                seen.add(source)
                queue.append(source)


def _on_probes(last: Op, x: Tensor) -> Float64 | None:
    """What `last` gives for x = `_PROBES`; None where it follows from more than x and numbers."""
    values: dict[Tensor, Float64] = {x: _PROBES}
    stack = [last]
    for _ in range(4 * (_BEFORE + _AFTER)):
        if not stack:
            break
        op = stack[-1]
        waiting: list[Op] = []
        for tensor in op.inputs:
            if tensor is None or tensor in values:
                continue
            if tensor.data is not None:
                if tensor.size != 1:
                    return None
                values[tensor] = tensor.data.astype(np.float64).reshape(())
                continue
            source = tensor.producer
            if source is None or source.kind not in _PARTS:
                return None
            waiting.append(source)
        if waiting:
            stack += waiting
            continue
        operands: list[Array | None] = [None if t is None else values[t] for t in op.inputs]
        values[op.output] = np.asarray(computed(op, operands)[0], np.float64)
        stack.pop()
    return values.get(last.output)


def _form(y: Float64) -> bool | None:
    """Whether `y` is the approximation by TANH of GELU, or GELU itself; None where neither."""
    probe = Tensor("probe", _PROBES.shape)
    for approximate in (False, True):
        op = Op("GELU", (probe,), (probe,), {"approximate": approximate})
        if np.abs(computed(op, [_PROBES])[0] - y).max() <= _TOLERANCE:
            return approximate
    return None
