from __future__ import annotations

import numpy as np
import pytest
from graphs import normal
from test_raising import check_raising

from qfrewrite.ir import Array, Tensor
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.rewrite.raising import raise_graph

SHAPE = (1, 3, 3, 4)


def silu(b: GraphBuilder, x: Tensor, beta: Array) -> Tensor:
    scaled = b.op("MUL", b.const("beta", beta), x)
    return b.op("MUL", x, b.op("LOGISTIC", scaled))


def test_silu_loses_its_multiplication_by_one() -> None:
    b = GraphBuilder()
    y = silu(b, b.op("ABS", b.input("x", SHAPE)), np.float32(1))
    check_raising(b.finish(b.op("ABS", y, name="y")), ["ABS", "LOGISTIC", "MUL", "ABS"])


@pytest.mark.parametrize(
    ("kind", "constant", "swapped", "goes"),
    [
        ("MUL", np.ones(4, "f4"), True, True),
        ("MUL", np.array([1, 1, 1, 2], "f4"), False, False),
        ("MUL", np.ones((2, 1, 1, 1), "f4"), False, False),  # broadcasts
        ("DIV", np.float32(1), False, True),
        ("DIV", np.float32(1), True, False),
        ("ADD", np.zeros((3, 3, 4), "f4"), True, True),
        ("SUB", np.float32(0), False, True),
        ("SUB", np.float32(0), True, False),
    ],
)
def test_neutral_constants(kind: str, constant: Array, swapped: bool, goes: bool) -> None:
    b = GraphBuilder()
    x = b.op("EXP", b.input("x", SHAPE))
    operands = (b.const("c", constant), x) if swapped else (x, b.const("c", constant))
    graph = b.finish(b.op("TANH", b.op(kind, *operands), name="y"))
    check_raising(graph, ["EXP", "TANH"] if goes else ["EXP", kind, "TANH"])


def test_outputs_stay_tensors_of_their_own() -> None:
    b = GraphBuilder()
    x = b.input("x", SHAPE)
    one = b.const("one", np.float32(1))
    y = b.op("EXP", x)
    outputs = [b.op("MUL", x, one, name="same"), y, b.op("MUL", y, one, name="copy"),
               b.op("EXP", x, name="again")]  # fmt: skip
    check_raising(b.finish(*outputs), ["EXP", "IDENTITY", "IDENTITY", "EXP"])


def test_an_output_takes_the_place_of_what_it_multiplied() -> None:
    b = GraphBuilder()
    y = b.op("EXP", b.input("x", SHAPE), name="inner")
    graph = b.finish(b.op("MUL", y, b.const("one", np.float32(1)), name="y"))
    check_raising(graph, ["EXP"])


def test_equal_subexpressions_are_computed_once() -> None:
    """As NASNet begins each of its branches: one more activation of the same tensor."""
    b = GraphBuilder()
    y = b.op("EXP", b.input("x", SHAPE))
    w = normal(4, 1, 1, 4)
    branches = [
        b.op("CONV_2D", b.op("RELU", y), b.const("w", w.copy()), b.const("b", normal(4)))
        for _ in range(3)
    ]
    other = b.op("CONV_2D", b.op("RELU", y), b.const("v", -w), b.const("b", normal(4)))
    joined = b.op("CONCATENATION", *branches, other, attrs={"axis": 3}, name="y")
    check_raising(b.finish(joined), ["EXP", "RELU", "CONV_2D", "CONV_2D", "CONCATENATION"])


@pytest.mark.parametrize("position", [0, 1])
def test_an_equal_output_keeps_its_name(position: int) -> None:
    b = GraphBuilder()
    x = b.input("x", SHAPE)
    twins = [b.op("EXP", x, name=name) for name in ("one", "two")]
    last = b.op("TANH", twins[1 - position], name="y")
    graph = b.finish(twins[position], last)
    check_raising(graph, ["EXP", "TANH"])


def test_other_attributes_operands_or_ranges_stay_apart() -> None:
    b = GraphBuilder()
    x = b.input("x", SHAPE)
    leaky = [b.op("LEAKY_RELU", x, attrs={"alpha": a}) for a in (0.1, 0.2)]
    order = [b.op("SUB", *pair) for pair in (leaky, leaky[::-1])]
    relus = [b.op("FAKE_QUANT", b.op("RELU", x), attrs={"min": 0.0, "max": m}) for m in (1.0, 2.0)]
    graph = b.finish(b.op("CONCATENATION", *order, *relus, attrs={"axis": 3}, name="y"))
    before = [op.kind for op in graph.ops]
    raise_graph(graph)
    assert [op.kind for op in graph.ops] == before


def test_equal_ranges_do_not_keep_ops_apart() -> None:
    b = GraphBuilder()
    x = b.input("x", SHAPE)
    relus = [b.op("FAKE_QUANT", b.op("RELU", x), attrs={"min": 0.0, "max": 2.0}) for _ in "ab"]
    graph = b.finish(b.op("CONCATENATION", *relus, attrs={"axis": 3}, name="y"))
    check_raising(graph, ["RELU", "FAKE_QUANT", "CONCATENATION"])


@pytest.mark.parametrize("alike", [True, False])
def test_layers_with_a_bias_or_batch_norm_of_their_own_stay(alike: bool) -> None:
    """What follows can then be folded into each; without anything of their own they are one."""
    b = GraphBuilder()
    x, w = b.input("x", SHAPE), b.const("w", normal(4, 1, 1, 4))
    layers = [b.op("CONV_2D", x, w) for _ in "ab"]
    if not alike:
        layers = [b.op("MUL", y, b.const("s", normal(4, seed=i))) for i, y in enumerate(layers)]
    graph = b.finish(b.op("CONCATENATION", *layers, attrs={"axis": 3}, name="y"))
    kinds = ["CONV_2D"] if alike else ["CONV_2D", "CONV_2D", "BATCH_NORM", "BATCH_NORM"]
    check_raising(graph, [*kinds, "CONCATENATION"])


@pytest.mark.parametrize(
    ("before", "between", "clip", "goes"),
    [
        ("RELU", None, "RELU", True),
        ("RELU6", None, "RELU", True),
        ("RELU6", "MAX_POOL_2D", "RELU6", True),
        ("LOGISTIC", None, "RELU6", True),
        ("TANH", None, "RELU_N1_TO_1", True),
        ("RELU", None, "RELU6", False),
        ("RELU", "TANH", "RELU", False),  # only kinds count, not signs
        ("TANH", None, "RELU", False),
        ("ABS", None, "RELU", False),
    ],
)
def test_a_clip_that_never_clips_goes(
    before: str, between: str | None, clip: str, goes: bool
) -> None:
    """Inputs reach 6 and more, so a RELU6 that goes by mistake changes the numbers."""
    b = GraphBuilder()
    x = b.op("MUL", b.input("x", SHAPE), b.const("c", np.float32(9)))
    y = b.op(before, x)
    kinds = ["MUL", before]
    if between is not None:
        pool = {"filter_height": 2, "filter_width": 2, "stride_h": 1, "stride_w": 1}
        y = b.op(between, y, attrs=pool if between == "MAX_POOL_2D" else {})
        kinds.append(between)
    graph = b.finish(b.op("SIN", b.op(clip, y), name="y"))
    check_raising(graph, [*kinds, "SIN"] if goes else [*kinds, clip, "SIN"])
