"""Views of linear ops: what other values compute, against the ops' own references."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import normal

from qfrewrite.errors import VerifyError
from qfrewrite.ir import Array, ChannelFacts, Graph, Normal, TrainedRange
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.spec import computed
from qfrewrite.rewrite.linear import LinearView, linear_views
from qfrewrite.rewrite.rewriter import Rewriter

X = {"CONV_2D": (1, 5, 5, 4), "DEPTHWISE_CONV_2D": (1, 5, 5, 4), "FULLY_CONNECTED": (3, 4)}
W = {"CONV_2D": (6, 3, 3, 4), "DEPTHWISE_CONV_2D": (1, 3, 3, 8), "FULLY_CONNECTED": (6, 4)}
SHAPES = [(kind, X[kind], W[kind]) for kind in X]


def one_layer(kind: str, x: tuple[int, ...], w: tuple[int, ...], *, bias: bool = True) -> Graph:
    b = GraphBuilder()
    attrs = {} if kind == "FULLY_CONNECTED" else {"padding": "VALID"}
    outputs = w[-1] if kind == "DEPTHWISE_CONV_2D" else w[0]
    operands = [b.const("w", normal(*w)), b.const("b", normal(outputs)) if bias else None]
    return b.finish(b.op(kind, b.input("x", x), *operands, name="layer", attrs=attrs))


def result(graph: Graph, x: Array) -> Array:
    (op,) = graph.ops
    return computed(op, [x, *(None if t is None else t.data for t in op.inputs[1:])])[0]


@pytest.mark.parametrize(("kind", "x", "w"), SHAPES)
def test_views_scale_and_shift_what_an_op_gives(
    kind: str, x: tuple[int, ...], w: tuple[int, ...]
) -> None:
    """Fails where the scale goes to another axis of the weights, or is not applied to the bias."""
    graph, value = one_layer(kind, x, w), normal(*x)
    (view,) = linear_views(graph)
    before, (s, t) = result(graph, value), normal(2, view.outputs).astype("f8")
    Rewriter(graph).set_linear(view.scaled(s).shifted(t))
    np.testing.assert_allclose(result(graph, value), before * s + t, rtol=1e-4, atol=1e-5)


def test_what_is_known_of_outputs_moves_with_them() -> None:
    """Fails where a fact keeps its old value, or where correcting a bias moves one."""
    graph = one_layer("FULLY_CONNECTED", (3, 4), (6, 4))
    (view,) = linear_views(graph)
    mean, std = normal(2, 6).astype("f8")
    graph.set_channels(view.output, ChannelFacts(Normal(mean, np.abs(std)), mean - 1))
    s, t = np.array([-2.0, 0, 1, 3, 0.5, 1]), np.arange(6.0)
    (view,) = linear_views(graph)
    Rewriter(graph).set_linear(view.scaled(s).shifted(t).corrected(t + 1))
    facts = view.output.channels
    assert facts.normal is not None
    np.testing.assert_allclose(facts.normal, [mean * s + t, np.abs(std * s)])
    np.testing.assert_allclose(facts.mean, (mean - 1) * s + t)


@pytest.mark.parametrize(("kind", "x", "w"), SHAPES)
def test_views_take_in_what_happens_to_the_input(
    kind: str, x: tuple[int, ...], w: tuple[int, ...]
) -> None:
    """Fails where each input channel of a depthwise op is not repeated for all of its outputs."""
    graph, value = one_layer(kind, x, w, bias=False), normal(*x)
    (view,) = linear_views(graph)
    s, t = normal(2, 4).astype("f8")
    wanted = result(graph, (value * s + t).astype("f4"))
    Rewriter(graph).set_linear(view.reading(s, t))
    np.testing.assert_allclose(result(graph, value), wanted, rtol=1e-4, atol=1e-4)


def test_a_view_does_not_outlive_the_weights_it_shows() -> None:
    """Two edits of one layer, both from the same view: the second would undo the first."""
    graph = one_layer(*SHAPES[0])
    (view,) = linear_views(graph)
    rw = Rewriter(graph)
    rw.set_linear(view.shifted(np.ones(6)))
    with pytest.raises(VerifyError, match=r"'layer'.*other weights"):
        rw.set_linear(view.shifted(np.ones(6)))
    assert LinearView.of(view.op).bias == pytest.approx(view.bias + 1, rel=1e-6)


def test_a_trained_range_is_scaled_with_the_weights_and_goes_with_them() -> None:
    graph = one_layer(*SHAPES[2])
    w = graph.ops[0].operand(1)
    trained = TrainedRange(np.asarray(-1.0), np.asarray(2.0))
    graph.set_trained(w, trained)
    (view,) = linear_views(graph)
    scaled = view.scaled(np.array([1, 2, -1, 1, 1, 1.0])).trained
    assert scaled.axis == 0
    assert scaled.low.tolist() == [-1, -2, -2, -1, -1, -1]
    assert view.shifted(np.ones(6)).trained is trained
    assert view.with_weights(view.weights * 3).trained is None


def test_ops_that_are_not_linear_say_so() -> None:
    b = GraphBuilder()
    graph = b.finish(b.op("RELU", b.input("x", (1, 4)), name="relu"))
    assert str(LinearView.of(graph.op("relu"))) == "'relu' is RELU, needs a linear op"
    assert list(linear_views(graph)) == []
