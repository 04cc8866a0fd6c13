from __future__ import annotations

import numpy as np
import pytest
from graphs import normal

from qfrewrite.errors import VerifyError
from qfrewrite.formats.tflite.read import parse_tflite
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import ChannelFacts, Graph, Model, constant
from qfrewrite.lower.model import lower_model
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.ops.build import GraphBuilder, append_op
from qfrewrite.ops.check import verify_graph
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.rewrite.rewriter import Rewriter
from qfrewrite.testing import largest_difference, outputs_of


def by_one(source: str) -> Graph:
    """y = MUL(a, 1); `a` is also an input, an output, a constant, or none of these."""
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    a = b.const("a", normal(1, 4)) if source == "constant" else x
    if source in ("output", "inside"):
        a = b.op("RELU", x, name="a")
    y = b.op("MUL", a, b.const("one", np.ones(1, "f4")), name="y")
    return b.finish(*([a] if source == "output" else []), y)


@pytest.mark.parametrize("source", ["inside", "input", "output", "constant"])
def test_bypassing_keeps_the_names_of_outputs(source: str) -> None:
    """Outputs (a, y) became (a, a), and y = MUL(x, 1) became x."""
    graph = by_one(source)
    before, names = outputs_of(graph), [t.name for t in graph.outputs]
    rw = Rewriter(graph)
    rw.bypass(graph.op("y"))
    verify_graph(graph)
    assert [t.name for t in graph.outputs] == names
    assert [op.kind for op in graph.ops if op.kind != "RELU"] == (
        [] if source == "inside" else ["IDENTITY"]
    )
    assert [str(e) for e in rw.log.edits] == ["removed y: MUL"]
    assert largest_difference(before, outputs_of(graph)) == 0
    # An IDENTITY that is needed stays, and says nothing: a second run changes nothing.
    if source != "inside":
        rw.bypass(graph.op("y"))
        assert len(rw.log.edits) == 1
        assert len(set(graph.outputs)) == len(names)


def test_an_output_of_another_shape_is_not_bypassed() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    graph = b.finish(b.op("ADD", x, b.const("zero", np.zeros((3, 4), "f4")), name="y"))
    with pytest.raises(VerifyError, match=r"output 'y' is float32\[3, 4\], 'x' is float32\[1, 4\]"):
        Rewriter(graph).bypass(graph.op("y"))
    assert [op.kind for op in graph.ops] == ["ADD"]


def test_a_graph_refuses_to_rename_its_outputs() -> None:
    graph = by_one("output")
    a, y = graph.outputs
    for old, new in ((y, a), (y, graph.inputs[0])):
        with pytest.raises(VerifyError, match="cannot become output 'y'"):
            graph.replace_uses(old, new)
    assert [t.name for t in graph.outputs] == ["a", "y"]


def test_an_input_that_is_an_output_stays_both() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    graph = b.finish(x, b.op("RELU", x, name="y"))
    Rewriter(graph).insert_after(x, "ABS", {}, suffix="abs")
    assert [t.name for t in graph.outputs] == ["x", "y"]
    assert graph.outputs[0] is graph.inputs[0]
    assert [op.kind for op in graph.ops] == ["ABS", "RELU"]


@pytest.mark.parametrize("source", ["input", "output"])
def test_trained_ranges_at_outputs_keep_their_names(source: str) -> None:
    """Taking FAKE_QUANT(a) -> y out for int8 made y the tensor a."""
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    a = b.op("RELU", x, name="a") if source == "output" else x
    attrs = {"min": -2.0, "max": 2.0, "num_bits": 8}
    graph = b.finish(*([a] if source == "output" else []),
                     b.op("FAKE_QUANT", a, name="y", attrs=attrs))  # fmt: skip
    names = [t.name for t in graph.outputs]
    lowered, _ = lower_model(Model([graph], source="graphdef"), QuantOptions())
    back = parse_tflite(serialize(lowered)).graph
    assert [t.name for t in back.outputs] == names
    assert len(set(back.outputs)) == len(names)


@pytest.mark.parametrize("folded", [True, False])
def test_what_takes_the_place_of_a_value_has_its_facts(folded: bool) -> None:
    """Fails where the facts stay behind, or are those of the layer without the factor."""
    b = GraphBuilder()
    y = b.op("CONV_2D", b.input("x", (1, 3, 3, 4)), b.const("w", normal(2, 1, 1, 4)), name="conv")
    b.graph.set_channels(y, ChannelFacts(mean=np.array([1.0, 2.0])))
    y = b.op("MUL", y, b.const("factor", np.array([3.0, 4.0], "f4")), name="scaled")
    b.graph.set_channels(y, ChannelFacts(mean=np.array([3.0, 8.0])))
    graph, rw = b.finish(y), Rewriter(b.graph)
    view = LinearView.of(graph.op("conv"))
    assert isinstance(view, LinearView)
    if folded:
        rw.replace(graph.op("scaled"), view.scaled(np.array([3.0, 4.0])), action="folded")
    else:
        new = append_op(graph, "DIV", [view.output, constant("d", np.array([1 / 3, 1 / 4], "f4"))])
        rw.replace(graph.op("scaled"), new, action="replaced")
    found = graph.tensor("scaled").channels.mean
    assert found is not None
    assert found.tolist() == [3, 8]
