"""Activations with a slope below zero, written as arithmetic."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qfrewrite.ir import Graph, Op, Tensor, constant
from qfrewrite.ops.build import append_op
from qfrewrite.rewrite.match import operand_orders
from qfrewrite.rewrite.rewriter import Rewriter

Float64 = npt.NDArray[np.float64]


def raise_leaky(rw: Rewriter) -> None:
    """Given  y = RELU(x) + a * min(x, 0), a constant; or y = max(x, a * x), a constant from 0 to 1
    Result y = PRELU(x, a), or LEAKY_RELU(x) where a is a single number.

    a * min(x, 0) is also recognised as -a * RELU(-x), which Keras writes, and a * (x - |x|) / 2.
    """
    graph = rw.graph
    for op in graph.ops_of("ADD", "SUB", "MAXIMUM"):
        match = _maximum(op) if op.kind == "MAXIMUM" else _sum(graph, op)
        if match is None:
            continue
        x, slope = match
        if op.output.shape == x.shape and x.dtype == "float32":
            _put(rw, op, x, slope)


def _put(rw: Rewriter, op: Op, x: Tensor, slope: Float64) -> None:
    graph = rw.graph
    if slope.size == 1:
        attrs = {"alpha": float(np.float32(slope.reshape(-1)[0]))}
        new = append_op(graph, "LEAKY_RELU", [x], name=op.name, attrs=attrs, anchor=op)
    else:
        name = graph.unique_name(f"{op.name}/slope")
        operand = constant(name, slope.astype(np.float32))
        new = append_op(graph, "PRELU", [x, operand], name=op.name, anchor=op)
    rw.replace(op, new, action="raised", detail=f"{op.kind} -> {new.kind}")


def _sum(graph: Graph, op: Op) -> tuple[Tensor, Float64] | None:
    """x and the slope where `op` is RELU(x) + slope * min(x, 0)."""
    a, b = op.operand(0), op.operand(1)
    for positive, other in [(a, b), (b, a)] if op.kind == "ADD" else [(a, b)]:
        relu = positive.producer
        if relu is None or relu.kind != "RELU":
            continue
        x = relu.operand(0)
        slope = _of_negative_part(graph, other, x)
        if slope is not None:
            return x, slope if op.kind == "ADD" else -slope
    return None


def _maximum(op: Op) -> tuple[Tensor, Float64] | None:
    """x and the slope where `op` is max(x, slope * x), slope from 0 to 1."""
    for x, other in operand_orders(op):
        mul = other.producer
        for factor, value in operand_orders(mul) if mul is not None and mul.kind == "MUL" else ():
            slope = _constant(factor)
            if value is x and slope is not None and ((slope >= 0) & (slope <= 1)).all():
                return x, slope
    return None


def _of_negative_part(graph: Graph, tensor: Tensor, x: Tensor) -> Float64 | None:
    """k where `tensor` is k * min(x, 0); None where it is no such thing."""
    op = tensor.producer
    if op is None:
        return None
    if op.kind == "RELU":
        slope = _multiple(op.operand(0), x)
        return slope if slope is not None and (slope < 0).all() else None
    if op.kind == "NEG":
        inner = _of_negative_part(graph, op.operand(0), x)
        return None if inner is None else -inner
    if op.kind == "SUB" and op.operand(0) is x:
        taken = op.operand(1).producer
        known = {"ABS": 2.0, "RELU": 1.0}.get(taken.kind) if taken is not None else None
        fits = taken is not None and taken.operand(0) is x and known is not None
        return np.full((), known) if fits else None
    for value, other in operand_orders(op) if op.kind in ("MUL", "MINIMUM") else ():
        factor = _constant(other)
        if factor is None:
            continue
        if op.kind == "MINIMUM":
            return np.ones(()) if value is x and not factor.any() else None
        inner = _of_negative_part(graph, value, x)
        return None if inner is None else inner * factor
    return None


def _multiple(tensor: Tensor, x: Tensor) -> Float64 | None:
    """k where `tensor` is k * x, computed by NEG or MUL."""
    op = tensor.producer
    if op is None:
        return None
    if op.kind == "NEG":
        return np.full((), -1.0) if op.operand(0) is x else None
    if op.kind == "MUL":
        return next((_constant(c) for v, c in operand_orders(op) if v is x and c.is_const), None)
    return None


def _constant(tensor: Tensor) -> Float64 | None:
    if tensor.data is None or tensor.dtype != "float32" or not np.isfinite(tensor.data).all():
        return None
    return tensor.data.astype(np.float64)
