"""Functions and version 1 frames of a GraphDef that are refused, or that no TensorFlow writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphdefs import FLOAT, Nodes

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.graphdef.emit import Kind
from qfrewrite.formats.graphdef.read import parse_graphdef
from qfrewrite.formats.graphdef.schema import AttrValue, FunctionDef
from qfrewrite.ir import Model
from qfrewrite.runtime.session import Runner

BOOL = Kind("DT_BOOL")


def function(name: str) -> Any:
    attr = AttrValue()
    attr.func.name = name
    return attr


def define(g: Nodes, name: str, *nodes: tuple[str, str, list[str], dict[str, Any]]) -> None:
    """A function of `a` that gives output 0 of its last node."""
    definition = FunctionDef()
    definition.signature.name = name
    definition.signature.input_arg.add(name="a", type=1)
    definition.signature.output_arg.add(name="b", type=1)
    inner = Nodes()
    for op, node, inputs, attrs in nodes:
        inner.add(op, node, inputs, **attrs)
    definition.node_def.extend(inner.message.node)
    definition.ret["b"] = f"{nodes[-1][1]}:output:0"
    g.message.library.function.add().CopyFrom(definition)


def call(node: str, reads: str, name: str) -> tuple[str, str, list[str], dict[str, Any]]:
    return "PartitionedCall", node, [reads], {"f": function(name)}


def graph_of_calls(name: str) -> Nodes:
    g = Nodes()
    g.placeholder("x", (1, 4))
    g.add("PartitionedCall", "y", ["x"], f=function(name))
    return g


def run(model: Model, *inputs: Any) -> list[Any]:
    return Runner.of(model, threads=1).run([np.asarray(i, np.float32) for i in inputs])


def test_a_function_that_calls_itself_is_refused_by_name() -> None:
    g = graph_of_calls("f")
    define(g, "f", call("n", "a", "g"))
    define(g, "g", call("n", "a", "f"))
    with pytest.raises(UnsupportedError, match=r"'f' calls itself \(f -> g -> f\)"):
        parse_graphdef(g.bytes())


def test_functions_that_double_at_each_level_are_refused() -> None:
    g = graph_of_calls("f0")
    for i in range(40):
        inner = f"f{i + 1}"
        define(g, f"f{i}", call("n", "a", inner), call("m", "n:output:0", inner))
    define(g, "f40", ("Relu", "n", ["a"], {}))
    with pytest.raises(UnsupportedError, match="expand to more than"):
        parse_graphdef(g.bytes())


def test_a_function_that_is_not_in_the_file_is_named() -> None:
    with pytest.raises(ModelFileError, match="'lost', which is not in the file"):
        parse_graphdef(graph_of_calls("lost").bytes())


def test_attributes_of_the_call_reach_the_nodes_of_the_function() -> None:
    """Fails where a placeholder attribute is read as its default: LeakyRelu with alpha 0.2."""
    g = Nodes()
    g.placeholder("x", (1, 2))
    g.add("PartitionedCall", "y", ["x"], f=function("leaky"), slope=0.5)
    hole = AttrValue(placeholder="slope")
    define(g, "leaky", ("LeakyRelu", "n", ["a"], {"alpha": hole}))
    (y,) = run(parse_graphdef(g.bytes()), [[-2.0, 2.0]])
    np.testing.assert_array_equal(y, [[-1.0, 2.0]])


def test_a_node_may_be_called_like_its_function() -> None:
    g = Nodes()
    g.placeholder("x", (1, 2))
    g.add("twice", "y", ["x"])
    define(g, "twice", ("Add", "n", ["a", "a"], {}))
    (y,) = run(parse_graphdef(g.bytes()), [[-2.0, 2.0]])
    np.testing.assert_array_equal(y, [[-4.0, 4.0]])


def loop(g: Nodes, frame: str, start: str, limit: float, body: str) -> str:
    """A version 1 loop that runs `body` while the maximum is below `limit`; gives its Exit."""
    enter = g.add("Enter", f"{frame}/Enter", [start], frame_name=frame)
    g.add("Merge", f"{frame}/Merge", [enter, f"{frame}/Next"])
    g.const(f"{frame}/limit", np.float32(limit))
    g.const(f"{frame}/axes", np.array([0, 1], np.int32))
    g.add("Max", f"{frame}/top", [f"{frame}/Merge", f"{frame}/axes"], Tidx=Kind("DT_INT32"))
    g.add("Less", f"{frame}/Less", [f"{frame}/top", f"{frame}/limit"])
    g.add("LoopCond", f"{frame}/LoopCond", [f"{frame}/Less"], T=BOOL)
    g.add("Switch", f"{frame}/Switch", [f"{frame}/Merge", f"{frame}/LoopCond"])
    g.add("NextIteration", f"{frame}/Next", [body])
    return g.add("Exit", f"{frame}/Exit", [f"{frame}/Switch"])


def test_a_loop_without_functions_becomes_while() -> None:
    g = Nodes()
    g.placeholder("x", (1, 2))
    exit_name = loop(g, "w", "x", 10.0, "w/double")
    g.add("Add", "w/double", ["w/Switch:1", "w/Switch:1"])
    g.add("Identity", "y", [exit_name])
    model = parse_graphdef(g.bytes())
    assert [op.kind for op in model.graph.ops] == ["WHILE"]
    for x, y in (([[1.0, 3.0]], [[4.0, 12.0]]), ([[11.0, 1.0]], [[11.0, 1.0]])):
        np.testing.assert_array_equal(run(model, x)[0], y)


def test_what_grows_in_a_loop_is_refused() -> None:
    g = Nodes()
    g.placeholder("x", (1, 2))
    exit_name = loop(g, "w", "x", 10.0, "w/joined")
    g.const("w/axis", np.int32(1))
    g.add("ConcatV2", "w/joined", ["w/Switch:1", "w/Switch:1", "w/axis"])
    g.add("Identity", "y", [exit_name])
    with pytest.raises(UnsupportedError, match=r"\[1, 2\] and then \[1, 4\].*full size"):
        parse_graphdef(g.bytes())


def test_a_loop_that_never_ends_is_refused() -> None:
    g = Nodes()
    g.placeholder("x", (1, 2))
    loop(g, "w", "x", 10.0, "w/double")
    g.add("Add", "w/double", ["w/Switch:1", "w/Switch:1"])
    g.const("always", np.array(True))
    condition = next(n for n in g.message.node if n.name == "w/LoopCond")
    condition.input[0] = "always"
    with pytest.raises(UnsupportedError, match="never ends"):
        parse_graphdef(g.bytes())


@pytest.mark.parametrize(("node", "slot"), [("w/Switch", 1), ("w/Next", 0), ("w/Merge", 1)])
def test_a_broken_loop_is_an_error(node: str, slot: int) -> None:
    g = Nodes()
    g.placeholder("x", (1, 2))
    g.add("Identity", "y", [loop(g, "w", "x", 10.0, "w/double")])
    g.add("Add", "w/double", ["w/Switch:1", "w/Switch:1"])
    broken = next(n for n in g.message.node if n.name == node)
    broken.input[slot] = "x"
    with pytest.raises((ModelFileError, UnsupportedError)):
        parse_graphdef(g.bytes())


def condition(g: Nodes, predicate: str) -> None:
    """y = relu(x) where the predicate holds, else x + x."""
    g.add("Switch", "split", ["x", predicate])
    g.add("Relu", "then", ["split:1"])
    g.add("Add", "otherwise", ["split", "split"])
    g.add("Merge", "y", ["otherwise", "then"])


@pytest.mark.parametrize("name", ["keras_learning_phase", "net/is_training_1", "phase_train"])
def test_a_switch_to_training_is_off(name: str) -> None:
    g = Nodes()
    g.placeholder("x", (1, 2))
    g.placeholder(name, (), "DT_BOOL")
    condition(g, name)
    model = parse_graphdef(g.bytes())
    assert [t.name for t in model.graph.inputs] == ["x"]
    assert [op.kind for op in model.graph.ops] == ["ADD"]
    assert [one for one in model.diagnostics if name in one.text]


def test_a_switch_of_another_name_is_an_input() -> None:
    g = Nodes()
    g.placeholder("x", (1, 2))
    g.placeholder("mirror", (), "DT_BOOL")
    g.message.versions.producer = 100  # before 22 a shape without dimensions was an unknown one
    condition(g, "mirror")
    model = parse_graphdef(g.bytes())
    assert [t.name for t in model.graph.inputs] == ["x", "mirror"]
    assert [op.kind for op in model.graph.ops] == ["IF"]
    runner = Runner.of(model, threads=1)
    x = np.array([[-2.0, 2.0]], np.float32)
    for chosen, y in ((True, [[0.0, 2.0]]), (False, [[-4.0, 4.0]])):
        np.testing.assert_array_equal(runner.run([x, np.array(chosen)])[0], y)


def test_a_list_that_grows_is_refused() -> None:
    g = Nodes()
    g.placeholder("x", (1, 2))
    g.const("size", np.int32(0))
    g.add("TensorArrayV3", "list", ["size"], dtype=FLOAT, dynamic_size=True)
    g.add("TensorArrayWriteV3", "write", ["list", "size", "x", "list:1"])
    g.add("TensorArrayGatherV3", "y", ["list", "size", "write"])
    with pytest.raises(UnsupportedError, match="list of 0"):
        parse_graphdef(g.bytes())


def test_random_numbers_that_matter_are_refused() -> None:
    g = Nodes()
    g.placeholder("x", (1, 2))
    g.const("shape", np.array([1, 2], np.int32))
    g.add("RandomUniform", "noise", ["shape"], dtype=FLOAT)
    g.add("Add", "y", ["x", "noise"])
    with pytest.raises(UnsupportedError, match="random numbers"):
        parse_graphdef(g.bytes())


@pytest.mark.parametrize(("rate", "passes"), [(0.0, True), (0.1, False)])
def test_a_dropout_is_dropped_at_rate_0_only(rate: float, passes: bool) -> None:
    g = Nodes()
    g.placeholder("x", (1, 2))
    g.const("shape", np.array([1, 2], np.int32))
    g.const("rate", np.float32(rate))
    g.add("RandomUniform", "noise", ["shape"], dtype=FLOAT)
    g.add("GreaterEqual", "keep", ["noise", "rate"])
    g.add("Cast", "mask", ["keep"], SrcT=BOOL, DstT=FLOAT)
    g.add("Mul", "dropped", ["x", "mask"])
    g.add("Relu", "y", ["dropped"])
    if passes:
        assert [op.kind for op in parse_graphdef(g.bytes()).graph.ops] == ["RELU"]
    else:
        with pytest.raises(UnsupportedError, match="random numbers"):
            parse_graphdef(g.bytes())
