"""Activations recognised in their formulas, and the error function where it is part of none."""

from __future__ import annotations

from collections.abc import Callable
from math import erf, sqrt

import numpy as np
import pytest
from graphs import Samples, normal
from test_raising import check_raising

from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Array, Graph, Model, Tensor
from qfrewrite.lower.model import lower_float, lower_model
from qfrewrite.lower.scheme import SCHEMES, QuantOptions
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.check import verify_graph
from qfrewrite.passes import Dataset, PassContext, run_passes
from qfrewrite.rewrite.raising import raise_graph
from qfrewrite.runtime.session import Runner, Session
from qfrewrite.testing import largest_difference, outputs_of


class Formula:
    """y of x, written with scalars."""

    def __init__(self) -> None:
        self.b = GraphBuilder()
        self.x = self.b.input("x", (2, 5, 8))

    def __call__(self, kind: str, *operands: Tensor | float) -> Tensor:
        tensors = [
            o if isinstance(o, Tensor) else self.b.const("number", np.float32(o)) for o in operands
        ]
        return self.b.op(kind, *tensors)

    def finish(self, kind: str, *operands: Tensor | float) -> Graph:
        return self.b.finish(self(kind, *operands))


def by_erf(factor: float = sqrt(0.5), half: float = 0.5, one: float = 1) -> Graph:
    f = Formula()
    return f.finish("MUL", f("MUL", f.x, half), f("ADD", f("ERF", f("MUL", f.x, factor)), one))


def by_complement() -> Graph:
    """As TensorFlow writes it: 0.5 * x * erfc(-x * sqrt(0.5))."""
    f = Formula()
    below = f("SUB", 1, f("ERF", f("MUL", f("NEG", f.x), sqrt(0.5))))
    return f.finish("MUL", f("MUL", 0.5, f.x), below)


def halved_last() -> Graph:
    f = Formula()
    return f.finish("MUL", f("MUL", f.x, f("ADD", 1, f("ERF", f("DIV", f.x, sqrt(2))))), 0.5)


def halved_first() -> Graph:
    f = Formula()
    return f.finish("MUL", f("MUL", f("ADD", 1, f("ERF", f("DIV", f.x, sqrt(2)))), 0.5), f.x)


def by_tanh(cube: str = "POW") -> Graph:
    f = Formula()
    third = f("POW", f.x, 3) if cube == "POW" else f("MUL", f("SQUARE", f.x), f.x)
    inner = f("MUL", f("ADD", f.x, f("MUL", 0.044715, third)), 0.7978845608)
    return f.finish("MUL", f.x, f("MUL", 0.5, f("ADD", 1, f("TANH", inner))))


def by_tanh_factored() -> Graph:
    """0.5 * x * (1 + tanh(0.79788 * x * (1 + 0.044715 * x * x)))."""
    f = Formula()
    factor = f("ADD", 1, f("MUL", f("MUL", 0.044715, f.x), f.x))
    inner = f("TANH", f("MUL", f("MUL", f.x, 0.7978845608), factor))
    return f.finish("MUL", f("MUL", 0.5, f.x), f("ADD", inner, 1))


@pytest.mark.parametrize(
    ("graph", "approximate"),
    [(by_erf(), False), (by_complement(), False), (halved_last(), False), (halved_first(), False),
     (by_tanh(), True), (by_tanh("MUL"), True), (by_tanh_factored(), True)],
)  # fmt: skip
def test_every_formula_of_gelu_is_recognised(graph: Graph, approximate: bool) -> None:
    before, name = outputs_of(graph), graph.outputs[0].name
    raise_graph(graph)
    verify_graph(graph)
    (op,) = graph.ops
    assert (op.kind, op.attrs["approximate"]) == ("GELU", approximate)
    assert graph.outputs[0].name == name
    assert largest_difference(before, outputs_of(graph)) <= 1e-6


@pytest.mark.parametrize(
    "graph", [by_erf(0.7), by_erf(half=0.51), by_erf(one=1.001), by_erf(-sqrt(0.5))]
)
def test_what_only_looks_like_gelu_is_left(graph: Graph) -> None:
    """Catches a match by shape of the formula alone, and a tolerance that is too wide."""
    raise_graph(graph)
    assert not graph.ops_of("GELU")


def test_a_gelu_whose_parts_are_read_elsewhere_keeps_them() -> None:
    f = Formula()
    half = f("MUL", f.x, 0.5)
    inner = f("ERF", f("MUL", f.x, sqrt(0.5)))
    graph = f.b.finish(f("MUL", half, f("ADD", inner, 1)), half)
    raise_graph(graph)
    assert [op.kind for op in graph.ops] == ["MUL", "GELU"]


@pytest.mark.parametrize(
    "values",
    [
        normal(2, 5, 8) * 3,
        np.zeros((2, 5, 8), np.float32),
        np.linspace(-50, 50, 80).reshape(2, 5, 8).astype(np.float32),
    ],
)
def test_the_error_function_alone_is_exact_to_float32(values: np.ndarray) -> None:
    """Catches 0 / 0 at zero, and an overflow far out."""
    f = Formula()
    graph = f.finish("ERF", f.x)
    lower_float(graph)
    (y,) = Session(graph, graph.outputs, threads=1).run({"x": values})
    np.testing.assert_allclose(y, np.vectorize(erf)(values), atol=3e-7)


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_every_scheme_writes_the_error_function(scheme: str) -> None:
    """Catches a way to a file on which ERF, which TFLite has not, is not lowered."""
    f = Formula()
    graph = f.finish("ERF", f.x)
    model = Model([graph], source="graphdef")
    samples = Samples([{"x": normal(2, 5, 8)}])
    run_passes(model, "calibrate", PassContext(Dataset(samples), threads=1))
    runner = Runner(serialize(lower_model(model, QuantOptions(scheme))[0]), threads=1)
    (y,) = runner.run(samples[0])
    np.testing.assert_allclose(y, np.vectorize(erf)(samples[0]["x"]), atol=0.04)


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
    # The same as RELU at 1 and -1, and nowhere else.
    (lambda b, x, a: b.op("ADD", b.op("RELU", x), b.op("SUB", b.op("MUL", x, x), b.op("ABS", x))),
     ["RELU", "MUL", "ABS", "SUB", "ADD"]),
]  # fmt: skip


@pytest.mark.parametrize(("form", "kinds"), OTHER)
def test_what_is_no_slope_stays(form: Form, kinds: list[str]) -> None:
    b = GraphBuilder()
    graph = b.finish(form(b, b.input("x", SHAPE), SLOPES))
    assert sorted(op.kind for op in graph.ops) == sorted(kinds)
    check_raising(graph, [op.kind for op in graph.ops])
