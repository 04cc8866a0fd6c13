from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from graphs import normal
from test_raising import check_raising

from qfrewrite.ir import Array, Tensor
from qfrewrite.ops.build import GraphBuilder

SHAPE = (1, 3, 3, 4)
SLOPES = normal(1, 1, 4, scale=0.3)
Form = Callable[[GraphBuilder, Tensor, Array], Tensor]


def const(b: GraphBuilder, value: Array | float) -> Tensor:
    return b.const("c", np.asarray(value, "f4"))


def keras(b: GraphBuilder, x: Tensor, a: Array) -> Tensor:
    negative = b.op("MUL", b.op("NEG", const(b, a)), b.op("RELU", b.op("NEG", x)))
    return b.op("ADD", b.op("RELU", x), negative)


def subtracted(b: GraphBuilder, x: Tensor, a: Array) -> Tensor:
    inner = b.op("RELU", b.op("MUL", const(b, -2), x))
    return b.op("SUB", b.op("RELU", x), b.op("MUL", inner, const(b, a / 2)))


def with_abs(b: GraphBuilder, x: Tensor, a: Array) -> Tensor:
    negative = b.op("MUL", const(b, a), b.op("SUB", x, b.op("ABS", x)))
    return b.op("ADD", b.op("MUL", negative, const(b, 0.5)), b.op("RELU", x))


def with_minimum(b: GraphBuilder, x: Tensor, a: Array) -> Tensor:
    negative = b.op("NEG", b.op("MUL", b.op("MINIMUM", const(b, 0), x), const(b, -a)))
    return b.op("ADD", b.op("RELU", x), negative)


def with_maximum(b: GraphBuilder, x: Tensor, a: Array) -> Tensor:
    return b.op("MAXIMUM", b.op("MUL", const(b, np.abs(a)), x), x)


FORMS = [keras, subtracted, with_abs, with_minimum, with_maximum]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("slope", [SLOPES, normal(3, 3, 4, scale=0.3), np.float32(0.2)])
def test_a_slope_below_zero_is_one_op(form: Form, slope: Array) -> None:
    b = GraphBuilder()
    x = b.op("TANH", b.input("x", SHAPE))
    graph = b.finish(b.op("EXP", form(b, x, slope), name="y"))
    kind = "PRELU" if np.size(slope) > 1 else "LEAKY_RELU"
    check_raising(graph, ["TANH", kind, "EXP"])


def test_as_a_graph_output() -> None:
    b = GraphBuilder()
    x = b.input("x", SHAPE)
    check_raising(b.finish(keras(b, x, SLOPES)), ["PRELU"])


def test_a_positive_part_that_others_read_stays() -> None:
    b = GraphBuilder()
    x = b.input("x", SHAPE)
    y = keras(b, x, SLOPES)
    positive = b.graph.ops_of("RELU")[1].output
    graph = b.finish(b.op("CONCATENATION", y, positive, attrs={"axis": 3}, name="y"))
    check_raising(graph, ["RELU", "PRELU", "CONCATENATION"])


OTHER: list[tuple[Form, list[str]]] = [
    (lambda b, x, a: b.op("ADD", b.op("RELU", x), b.op("MUL", b.op("RELU", b.op("NEG", b.op(
        "EXP", x))), const(b, a))), ["EXP", "NEG", "RELU", "MUL", "RELU", "ADD"]),
    (lambda b, x, a: b.op("ADD", b.op("RELU", x), b.op("RELU", b.op("MUL", x, const(b, a)))),
     ["RELU", "MUL", "RELU", "ADD"]),  # slopes of both signs
    (lambda b, x, a: b.op("MAXIMUM", x, b.op("MUL", x, const(b, a + 2))), ["MUL", "MAXIMUM"]),
    (lambda b, x, a: b.op("SUB", b.op("MINIMUM", x, const(b, 0)), b.op("RELU", x)),
     ["MINIMUM", "RELU", "SUB"]),
    (lambda b, x, a: b.op("ADD", b.op("RELU", x), b.op("MINIMUM", x, const(b, 0.1))),
     ["RELU", "MINIMUM", "ADD"]),
]  # fmt: skip


@pytest.mark.parametrize(("form", "kinds"), OTHER)
def test_what_is_no_slope_stays(form: Form, kinds: list[str]) -> None:
    b = GraphBuilder()
    graph = b.finish(form(b, b.input("x", SHAPE), SLOPES))
    assert sorted(op.kind for op in graph.ops) == sorted(kinds)
    check_raising(graph, [op.kind for op in graph.ops])
