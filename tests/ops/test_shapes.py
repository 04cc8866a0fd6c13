"""Dimensions that a file leaves open: what follows from the inputs' sizes, and what does not."""

from __future__ import annotations

import numpy as np
import pytest

from qfrewrite.errors import VerifyError
from qfrewrite.ir import Graph, Op, Tensor, constant
from qfrewrite.lower.canonical import canonicalise
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.check import verify_graph, verify_op
from qfrewrite.ops.shapes import settle_shapes, unsettled


def flattened_rows(height: int) -> tuple[Graph, Tensor]:
    """x [1, height?, 6] reshaped to [height?, 6] by a computed shape, as converters write it."""
    graph = Graph()
    x = Tensor("x", (1, height, 6), shape_signature=(1, -1, 6), has_rank=True)
    graph.set_io([x])
    sizes = Tensor("sizes", (3,), "int32")
    rows = Tensor("rows", (), "int32", has_rank=True)
    target = Tensor("target", (2,), "int32")
    y = Tensor("y", (1, 1), shape_signature=(-1, -1))
    ints = [constant(f"c{i}", np.array([i], "i4")) for i in (1, 2)]
    graph.add_op(Op("SHAPE", [x], [sizes]))
    graph.add_op(Op("STRIDED_SLICE", [sizes, ints[0], ints[1], ints[0]], [rows],
                    {"shrink_axis_mask": 1}))  # fmt: skip
    six = constant("six", np.array(6, "i4"))
    graph.add_op(Op("PACK", [rows, six], [target], {"axis": 0, "values_count": 2}))
    graph.add_op(Op("RESHAPE", [x, target], [y], {"new_shape": ()}))
    graph.set_io(outputs=[y])
    return graph, y


@pytest.mark.parametrize("height", [1, 5])
def test_sizes_that_are_computed_from_shapes_follow(height: int) -> None:
    graph, y = flattened_rows(height)
    settle_shapes(graph)
    assert y.shape == (height, 6)
    assert y.shape_signature == (-1, -1)
    assert not unsettled(graph)
    verify_graph(graph)


def test_a_reshape_with_two_open_dimensions_keeps_its_computed_shape() -> None:
    """A constant shape in its place would be that of one size of input only."""
    graph, y = flattened_rows(1)
    canonicalise(graph)
    reshape = y.producer
    assert reshape is not None
    assert not reshape.operand(1).is_const


def test_what_depends_on_data_is_unknown_and_so_is_what_follows() -> None:
    graph = Graph()
    x = Tensor("x", (1, 8))
    graph.set_io([x])
    found = Tensor("found", (1, 2), "int64", shape_signature=(-1, 2), has_rank=True)
    doubled = Tensor("doubled", (1, 2), "int64", shape_signature=(-1, 2))
    unranked, other = Tensor("unranked", (), "int64"), Tensor("other", (1, 8))
    graph.add_op(Op("WHERE", [x], [found]))
    graph.add_op(Op("ADD", [found, found], [doubled]))
    graph.add_op(Op("CUSTOM", [found], [unranked], {"custom_code": "c"}))
    graph.add_op(Op("RELU", [x], [other]))
    graph.set_io(outputs=[doubled, unranked, other])
    assert unsettled(graph) == {found, doubled, unranked}


def test_placeholders_of_unknown_sizes_prove_nothing() -> None:
    """[1, 1] is no operand of a dense layer over 4 inputs; where the sizes are known, it fails."""
    graph = Graph()
    x = Tensor("x", (1, 8))
    graph.set_io([x])
    rows = Tensor("rows", (1, 1), shape_signature=(-1, -1))
    y = Tensor("y", (1, 3), shape_signature=(-1, 3))
    graph.add_op(Op("CUSTOM", [x], [rows], {"custom_code": "c"}))
    dense = Op("FULLY_CONNECTED", [rows, constant("w", np.ones((3, 4), "f4")), None], [y])
    graph.add_op(dense)
    graph.set_io(outputs=[y])
    verify_graph(graph)
    with pytest.raises(VerifyError, match="does not fit"):
        verify_op(dense)


def test_results_of_new_ops_are_as_open_as_their_operands() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    b.graph.set_signature(x, (-1, 4))
    assert b.op("RELU", x).shape_signature == (-1, 4)
    assert b.op("MEAN", x, b.const("axes", np.array([1], "i4"))).shape_signature == (-1,)
    assert b.op("MEAN", x, b.const("axes", np.array([0], "i4"))).shape_signature is None
