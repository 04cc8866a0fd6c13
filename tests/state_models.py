"""Models with variables that a second subgraph initialises."""

from __future__ import annotations

import numpy as np

from qfrewrite.ir import Array, Graph, Model, Op, Tensor, constant
from qfrewrite.ops.build import append_op

_VARIABLE = {"container": "", "shared_name": "state"}


def handle(graph: Graph) -> Tensor:
    """A VAR_HANDLE of the one variable."""
    out = Tensor(graph.unique_name("handle"), (), "resource")
    graph.add_op(Op("VAR_HANDLE", [], [out], _VARIABLE))
    return out


def initialiser(value: Array) -> Graph:
    """A subgraph that assigns a constant to the variable."""
    graph = Graph("init")
    graph.add_op(Op("ASSIGN_VARIABLE", [handle(graph), constant("first", value)], []))
    return graph


def smoothing(first: Array, *, read: tuple[int, ...] | None = None) -> Model:
    """y = state = (state + |x|) / 2, and z = RELU(y): one inference depends on those before it.

    first: what the second subgraph assigns; read: the shape that the main graph reads, if it
    is another one.
    """
    graph = Graph("main")
    x = Tensor("x", (1, 8))
    graph.set_io([x])
    graph.add_op(Op("CALL_ONCE", [], [], {"init_subgraph_index": 1}, name="init"))
    state, resource = Tensor("state", read or first.shape), handle(graph)
    graph.add_op(Op("READ_VARIABLE", [resource], [state], name="read"))
    size = append_op(graph, "ABS", [x], name="abs").output
    total = append_op(graph, "ADD", [size, state], name="sum").output
    half = graph.add_tensor(constant("half", np.float32(0.5).reshape(1)))
    y = append_op(graph, "MUL", [total, half], name="y").output
    graph.add_op(Op("ASSIGN_VARIABLE", [resource, y], [], name="assign"))
    z = append_op(graph, "RELU", [y], name="z").output
    graph.set_io(outputs=[z])
    return Model([graph, initialiser(first)])
