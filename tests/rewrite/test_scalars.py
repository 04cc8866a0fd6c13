"""Constants of rank 0 stay constants of rank 0, whatever a rewrite does with them.

`np.ascontiguousarray` gives every array at least one axis: each of these tests fails where it is
used in place of `np.asarray(..., order="C")`.
"""

from __future__ import annotations

import numpy as np
import pytest
from graphs import normal

from qfrewrite.formats.tflite.read import parse_tflite
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Graph, Model, Op, Quant, Tensor
from qfrewrite.lower.model import lower_float
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.check import verify_graph
from qfrewrite.rewrite.dequantize import dequantize_graph
from qfrewrite.rewrite.fold import fold_constants
from qfrewrite.rewrite.rewriter import Rewriter
from qfrewrite.runtime.session import Session


def scalar_factor(kind: str) -> Graph:
    """y = x * f, where f of rank 0 is stored in another form."""
    b = GraphBuilder()
    x = b.input("x", (2, 3))
    match kind:
        case "expression":
            factor = b.op("MUL", b.const("two", np.float32(2)), b.const("three", np.float32(3)))
        case "float16":
            half = b.const("half", np.float16(6), "float16")
            factor = b.op("DEQUANTIZE", half, dtype="float32")
        case "int8":
            codes = Tensor("codes", (), "int8", np.array(12, np.int8), Quant.per_tensor(0.5, 0))
            factor = b.op("DEQUANTIZE", b.graph.add_tensor(codes), dtype="float32")
        case "slice":
            rows = [b.const(n, np.array([v], np.int32)) for n, v in (("b", 1), ("e", 2), ("s", 1))]
            table = b.const("table", np.array([5, 6, 7], np.float32))
            factor = b.op("STRIDED_SLICE", table, *rows, attrs={"shrink_axis_mask": 1})
        case _:
            factor = b.op("SUM", b.const("parts", np.array([2, 4], np.float32)),
                          b.const("axes", np.array([0], np.int32)))  # fmt: skip
    return b.finish(b.op("MUL", x, factor, name="y"))


@pytest.mark.parametrize("kind", ["expression", "float16", "int8", "slice", "sum"])
def test_computed_scalars_stay_scalars(kind: str) -> None:
    graph = scalar_factor(kind)
    fold_constants(Rewriter(graph))
    verify_graph(graph)
    (op,) = graph.ops
    assert (op.operand(1).shape, op.operand(1).value().shape) == ((), ())
    x = normal(2, 3)
    (y,) = Session(graph, graph.outputs, threads=1).run({"x": x})
    np.testing.assert_allclose(y, x * 6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["expression", "float16", "int8", "slice", "sum"])
def test_scalars_come_back_from_a_file(kind: str) -> None:
    graph = scalar_factor(kind)
    lower_float(graph)
    (read,) = parse_tflite(serialize(Model([graph]))).graphs
    verify_graph(read)
    assert read.ops[0].operand(1).shape == ()


def test_a_scalar_put_into_a_slot_stays_one() -> None:
    graph = scalar_factor("expression")
    mul = graph.ops[-1]
    put = Rewriter(graph).set_constant(mul, 1, np.array(2.5))
    assert (put.shape, put.value().shape, put.dtype) == ((), (), "float32")
    Rewriter(graph).set_constant(mul, 1, np.array(3.5))
    assert mul.operand(1).value().shape == ()
    verify_graph(graph)


def test_a_quantized_scalar_becomes_a_float_one() -> None:
    graph = Graph()
    quant = Quant.per_tensor(0.5, 0)
    x = Tensor("x", (1, 4), "int8", quant=quant)
    y = Tensor("y", (1, 4), "int8", quant=quant)
    factor = Tensor("factor", (), "int8", np.array(3, np.int8), quant)
    graph.set_io([x])
    graph.add_op(Op("MUL", [x, factor], [y], {"fused_activation_function": "NONE"}))
    graph.set_io(outputs=[y])
    dequantize_graph(Rewriter(graph))
    verify_graph(graph)
    assert (factor.shape, factor.value().shape, float(factor.value())) == ((), (), 1.5)
