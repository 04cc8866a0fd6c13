"""Which nodes are taken for outputs, and what the outputs are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphdefs import Nodes

import qfrewrite as qf
from qfrewrite.formats.graphdef.emit import Kind
from qfrewrite.formats.graphdef.frames import structured
from qfrewrite.formats.graphdef.functions import Library
from qfrewrite.formats.graphdef.nodes import index_nodes
from qfrewrite.formats.graphdef.read import parse_graphdef
from qfrewrite.formats.graphdef.schema import DATA_TYPES, AttrValue
from qfrewrite.formats.graphdef.select import find_outputs
from qfrewrite.formats.tflite.read import parse_tflite
from qfrewrite.ir import Array, Graph
from qfrewrite.runtime.session import Session

RNG = np.random.default_rng(8)


def names(g: Nodes, **kw: list[str]) -> list[str]:
    return [t.name for t in parse_graphdef(g.bytes(), **kw).graph.outputs]


def run(graph: Graph, x: Array) -> list[Array]:
    return [v.copy() for v in Session(graph, graph.outputs, threads=1).run({"x": x})]


def nchw() -> Nodes:
    g = Nodes()
    g.placeholder("x", (1, 3, 6, 6))
    g.const("w", RNG.normal(size=(3, 3, 3, 4)))
    g.add("Conv2D", "Conv2D", ["x", "w"], strides=[1, 1, 1, 1], padding="SAME", data_format="NCHW")
    return g


def test_an_output_in_nchw_keeps_its_name(tmp_path: Path) -> None:
    """The tensor inside, which lies in NHWC, had the name and the output got another."""
    path = tmp_path / "m.pb"
    path.write_bytes(nchw().bytes())
    model = qf.load(path)
    qf.run_passes(model, "calibrate")
    graph = parse_tflite(qf.save(model, tmp_path / "m.tflite").path.read_bytes()).graph
    assert [(t.name, t.shape) for t in graph.outputs] == [("Conv2D", (1, 4, 6, 6))]


def test_an_inner_value_and_its_activation_are_both_outputs() -> None:
    g = nchw()
    g.add("Relu", "act", ["Conv2D"])
    graph = parse_graphdef(g.bytes(), outputs=["Conv2D", "act"]).graph
    assert [t.name for t in graph.outputs] == ["Conv2D", "act"]
    first, second = run(graph, RNG.normal(size=(1, 3, 6, 6)).astype(np.float32))
    np.testing.assert_allclose(np.maximum(first, 0), second, atol=1e-6)


def test_a_sorted_value_gives_both_outputs() -> None:
    g = Nodes()
    g.placeholder("x", (1, 9))
    g.const("k", np.int32(3))
    g.add("TopKV2", "top", ["x", "k"])
    graph = parse_graphdef(g.bytes()).graph
    assert [(t.name, t.dtype) for t in graph.outputs] == [("top", "float32"), ("top:1", "int32")]
    x = RNG.normal(size=(1, 9)).astype(np.float32)
    found, places = run(graph, x)
    np.testing.assert_array_equal(found, x[:, places[0]])


def test_two_names_of_one_value_are_two_outputs() -> None:
    g = Nodes()
    g.placeholder("x", (1, 4))
    g.add("Relu", "hidden", ["x"])
    g.add("Identity", "first", ["hidden"])
    g.add("Identity", "second", ["hidden"])
    graph = parse_graphdef(g.bytes()).graph
    assert [t.name for t in graph.outputs] == ["first", "second"]
    assert len(set(graph.outputs)) == 2


def test_a_constant_that_is_an_output_keeps_its_name() -> None:
    g = nchw()
    g.const("anchors", RNG.normal(size=(2, 4)))
    assert names(g, outputs=["Conv2D", "anchors"]) == ["Conv2D", "anchors"]


@pytest.mark.parametrize("through", [0, 2])
def test_the_end_of_an_assertion_is_no_output(through: int) -> None:
    """A Merge of both sides of a Switch that switches its own condition."""
    g = Nodes()
    g.placeholder("x", (1, 4))
    g.const("ten", np.float32(10))
    g.add("Less", "less", ["x", "ten"])
    g.const("axes", np.array([0, 1], np.int32))
    g.add("All", "all", ["less", "axes"])
    truth = Kind("DT_BOOL")
    g.add("Switch", "switch", ["all", "all"], T=truth)
    g.add("Identity", "no", ["switch"], T=truth)
    g.add("Identity", "yes", ["switch:1"], T=truth)
    g.add("Assert", "assert", ["no"])
    end = g.add("Merge", "merge", ["no", "yes", "^assert"], N=2, T=truth)
    for i in range(through):
        end = g.add("Identity", f"end{i}", [end], T=truth)
    g.add("Relu", "y", ["x", f"^{end}"])
    assert names(g) == ["y"]


def test_a_branch_that_gives_a_value_is_an_output() -> None:
    """The same Merge of values is a result."""
    g = Nodes()
    g.placeholder("x", (1, 4))
    g.placeholder("on", (), "DT_BOOL")
    g.add("Switch", "switch", ["x", "on"])
    g.add("Neg", "neg", ["switch"])
    g.add("Merge", "merge", ["neg", "switch:1"], N=2)
    g.add("Relu", "y", ["x"])
    nodes = structured(index_nodes(g.message), Library())
    assert [str(r) for r in find_outputs(nodes)] == ["merge", "y"]


def test_rings_of_identities_end() -> None:
    g = Nodes()
    g.placeholder("x", (1, 4))
    g.add("Identity", "a", ["b"])
    g.add("Identity", "b", ["a"])
    g.add("Merge", "merge", ["a", "x"], N=2)
    assert [str(r) for r in find_outputs(index_nodes(g.message))] == ["merge"]


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lowered", [True, False])
def test_assertions_of_tensorflow_are_no_outputs(lowered: bool) -> None:
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    def checked(x: Any) -> Any:
        tf.debugging.assert_less(x, 10.0)
        tf.debugging.assert_equal(tf.reduce_sum(x) > 0, True)
        return tf.nn.relu(x * 2)

    made = tf.function(checked).get_concrete_function(tf.TensorSpec((1, 4), tf.float32, name="x"))
    frozen = convert_to_constants.convert_variables_to_constants_v2(
        made, lower_control_flow=lowered
    )
    graph = parse_graphdef(frozen.graph.as_graph_def().SerializeToString()).graph
    assert [t.name for t in graph.outputs] == ["Identity"]
    assert [op.kind for op in graph.ops] == ["MUL", "RELU"]


def test_the_results_of_a_call_are_all_outputs() -> None:
    g = Nodes()
    g.placeholder("x", (1, 4))
    types = AttrValue()
    types.list.type.extend([DATA_TYPES["DT_FLOAT"], DATA_TYPES["DT_INT32"]])
    g.add("PartitionedCall", "call", ["x"], Tout=types)
    g.add("PartitionedCall", "nothing", ["x"], Tout=AttrValue(list={}), Tin=Kind("DT_FLOAT"))
    assert [str(r) for r in find_outputs(index_nodes(g.message))] == ["call", "call:1"]
