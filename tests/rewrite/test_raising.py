from __future__ import annotations

import numpy as np
import pytest
from graphs import normal

from qfrewrite.ir import Graph
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.check import verify_graph
from qfrewrite.rewrite.raising import raise_graph
from qfrewrite.testing import largest_difference, outputs_of


def check_raising(graph: Graph, kinds: list[str]) -> None:
    """Raising keeps numbers and output names, leaves these ops, and settles."""
    before, names = outputs_of(graph), [t.name for t in graph.outputs]
    raise_graph(graph)
    verify_graph(graph)
    assert [op.kind for op in graph.ops] == kinds
    assert [t.name for t in graph.outputs] == names
    assert largest_difference(before, outputs_of(graph)) <= 1e-5
    assert not raise_graph(graph).log.edits


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize("gamma", [True, False])
def test_decomposed_batch_norm_in_every_order(order: int, gamma: bool) -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 3, 3, 4))
    mean, beta = b.const("mean", normal(4)), b.const("beta", normal(4, seed=1))
    variance = b.const("variance", np.abs(normal(4, seed=2)) + 0.5)
    swap = (lambda p, q: (q, p)) if order & 1 else (lambda p, q: (p, q))
    factor = b.op("RSQRT", b.op("ADD", *swap(variance, b.const("eps", np.float32(1e-3)))))
    if gamma:
        factor = b.op("MUL", *swap(factor, b.const("gamma", normal(4, seed=3))))
    scaled, shift = (
        b.op("MUL", *swap(x, factor)),
        b.op("SUB", beta, b.op("MUL", *swap(mean, factor))),
    )
    y = b.op("ADD", *((shift, scaled) if order & 2 else (scaled, shift)), name="y")
    graph = b.finish(y)
    check_raising(graph, ["BATCH_NORM"])
    names = [None if t is None else t.name for t in graph.ops[0].inputs[1:]]
    assert names == ["gamma" if gamma else None, "beta", "mean", "variance"]


@pytest.mark.parametrize("shift", [True, False])
def test_scale_and_offset_after_a_convolution(shift: bool) -> None:
    b = GraphBuilder()
    y = b.op("CONV_2D", b.input("x", (1, 3, 3, 2)), b.const("w", normal(4, 1, 1, 2)))
    y = b.op("MUL", y, b.const("s", normal(4)))
    y = b.op("ADD", y, b.const("t", normal(1, 1, 1, 4))) if shift else y
    check_raising(b.finish(y), ["CONV_2D", "BATCH_NORM"])


@pytest.mark.parametrize("kind", ["ADD", "SUB"])
@pytest.mark.parametrize("bias", [True, False])
def test_constants_become_the_bias(kind: str, bias: bool) -> None:
    b = GraphBuilder()
    own = b.const("b", normal(4, seed=5)) if bias else None
    y = b.op("CONV_2D", b.input("x", (1, 3, 3, 2)), b.const("w", normal(4, 1, 1, 2)), own)
    check_raising(b.finish(b.op(kind, y, b.const("c", normal(4)), name="y")), ["CONV_2D"])


def test_a_residual_constant_is_no_bias() -> None:
    b = GraphBuilder()
    y = b.op("CONV_2D", b.input("x", (1, 3, 3, 2)), b.const("w", normal(4, 1, 1, 2)))
    graph = b.finish(b.op("ADD", y, b.const("map", normal(1, 3, 3, 4))))
    check_raising(graph, ["CONV_2D", "ADD"])


@pytest.mark.parametrize(
    ("pads", "crops", "kinds"),
    [
        ([[2, 2], [2, 2]], [[0, 0], [0, 0]], ["CONV_2D", "RELU"]),  # SAME for a 3x3 at rate 2
        ([[2, 3], [2, 3]], [[0, 1], [0, 1]], ["CONV_2D", "RELU"]),
        ([[0, 0], [0, 0]], [[0, 0], [0, 0]], ["CONV_2D", "RELU"]),  # VALID
        ([[1, 1], [0, 2]], [[0, 0], [0, 0]], ["PAD", "CONV_2D", "RELU"]),
    ],
)
def test_space_to_batch_is_a_dilation(pads: object, crops: object, kinds: list[str]) -> None:
    size = 8 if np.array(crops).any() is np.False_ or not np.array(crops).any() else 7
    b = GraphBuilder()
    x = b.input("x", (1, size, size, 2))
    block = b.const("block", np.array([2, 2], "i4"))
    y = b.op("SPACE_TO_BATCH_ND", x, block, b.const("pads", np.array(pads, "i4")))
    y = b.op("CONV_2D", y, b.const("w", normal(3, 3, 3, 2)), attrs={"padding": "VALID"})
    y = b.op("BATCH_TO_SPACE_ND", y, block, b.const("crops", np.array(crops, "i4")))
    graph = b.finish(b.op("RELU", y, name="y"))
    check_raising(graph, kinds)
    assert graph.ops_of("CONV_2D")[0].attrs["dilation_h_factor"] == 2


@pytest.mark.parametrize("axis", [1, 2, -2])
@pytest.mark.parametrize(
    ("pads", "crops", "kinds"),
    [
        ([[4, 4]], [[0, 0]], ["CONV_2D"]),  # SAME for 3 taps at rate 4
        ([[4, 6]], [[0, 2]], ["CONV_2D"]),  # SAME again, up to a multiple of 4
        ([[8, 0]], [[0, 0]], ["PAD", "CONV_2D"]),  # causal
    ],
)
def test_space_to_batch_of_one_dimension_is_a_dilation(
    axis: int, pads: list[list[int]], crops: list[list[int]], kinds: list[str]
) -> None:
    """As TensorFlow writes Conv1D with a dilation, bias and activation inside or behind."""
    b = GraphBuilder()
    x = b.input("x", (1, 16 - crops[0][1], 2))
    block = b.const("block", np.array([4], "i4"))
    y = b.op("SPACE_TO_BATCH_ND", x, block, b.const("pads", np.array(pads, "i4")))
    y = b.op("EXPAND_DIMS", y, b.const("axis", np.array(axis, "i4")))
    w = normal(3, *((1, 3) if axis == 1 else (3, 1)), 2)
    y = b.op("CONV_2D", y, b.const("w", w), attrs={"padding": "VALID"})
    y = b.op("SQUEEZE", y, attrs={"squeeze_dims": (axis,)})
    y = b.op("ADD", y, b.const("bias", normal(3)))
    y = b.op("BATCH_TO_SPACE_ND", y, block, b.const("crops", np.array(crops, "i4")))
    graph = b.finish(b.op("RELU", y, name="y"))
    check_raising(graph, ["EXPAND_DIMS", *kinds, "RELU", "SQUEEZE"])
    conv = graph.ops_of("CONV_2D")[0]
    rates = conv.attrs["dilation_h_factor"], conv.attrs["dilation_w_factor"]
    assert rates == ((1, 4) if axis == 1 else (4, 1))
    assert conv.input(2) is not None


def test_a_sum_inside_the_batches_is_no_dilation() -> None:
    b = GraphBuilder()
    block = b.const("block", np.array([2, 2], "i4"))
    none = b.const("none", np.zeros((2, 2), "i4"))
    y = b.op("SPACE_TO_BATCH_ND", b.input("x", (1, 8, 8, 2)), block, none)
    y = b.op("CONV_2D", y, b.const("w", normal(3, 3, 3, 2)), attrs={"padding": "VALID"})
    y = b.op("ADD", y, b.const("map", normal(4, 2, 2, 3)))
    graph = b.finish(b.op("BATCH_TO_SPACE_ND", y, block, none))
    check_raising(graph, [op.kind for op in graph.ops])
