"""Ops cut out of a graph."""

from __future__ import annotations

import numpy as np

from qfrewrite.ir import Tensor
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.runtime.session import Session
from qfrewrite.runtime.units import cut_out, units


def test_ops_cut_out_compute_what_they_do_in_their_graph() -> None:
    """Also an op that reads one tensor twice; the graph stays as it is."""
    b = GraphBuilder()
    x = b.op("NEG", b.input("x", (1, 2)))
    y = b.op("ADD", b.op("MUL", x, x, name="square"), b.const("c", np.array([1, -9], "f4")))
    graph = b.finish(b.op("RELU", y))
    before = [op.kind for op in graph.ops]
    small, twins = cut_out(graph.ops[1:3], lambda t: Tensor(t.name, t.shape, t.dtype, t.data))
    assert [op.kind for op in small.ops] == ["MUL", "ADD"]
    assert small.inputs == (twins[x],)
    assert twins[x] is not x
    (value,) = Session(small, small.outputs, threads=1).run({x.name: np.array([[2, 3]], "f4")})
    np.testing.assert_array_equal(value, [[5, 0]])
    assert [op.kind for op in graph.ops] == before


def test_a_unit_takes_other_weights_and_a_bias_that_it_lacks() -> None:
    b = GraphBuilder()
    w = b.const("w", np.ones((1, 2), "f4"))
    graph = b.finish(b.op("RELU", b.op("FULLY_CONNECTED", b.input("x", (1, 2)), w)))
    (unit,) = units(graph)
    other, bias = np.array([[2, 0]], "f4"), np.array([-1], "f4")
    session = unit.session(unit.results, threads=1, weights=other, bias=bias)
    np.testing.assert_array_equal(session.run({"x": np.array([[3, 7]], "f4")})[0], [[5]])
