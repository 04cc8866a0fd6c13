"""What subgraphs share has one type: else the runtime writes outside its memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from state_models import handle, smoothing

import qfrewrite as qf
from qfrewrite.errors import QfError, RunError, VerifyError
from qfrewrite.formats.tflite.read import parse_tflite
from qfrewrite.formats.tflite.write import serialize, write_tflite
from qfrewrite.ir import Graph, Model, Op, Tensor
from qfrewrite.ops.build import append_op
from qfrewrite.ops.subgraphs import keeps_state, variables, verify_subgraphs
from qfrewrite.runtime.session import Runner

ONES = np.ones((1, 8), np.float32)


def loop(body_type: str = "float32", *, handed: bool = False) -> Model:
    """A WHILE over one value; handed: its body gets a variable's handle instead of making it."""
    graph, cond, body = Graph("main"), Graph("cond"), Graph("body")
    x, y = Tensor("x", (1, 8)), Tensor("y", (1, 8))
    graph.set_io([x])
    passed, out = [x], [y]
    if handed:
        passed.append(handle(graph))
        out.append(Tensor("same", (), "resource"))
    attrs = {"cond_subgraph_index": 1, "body_subgraph_index": 2}
    graph.add_op(Op("WHILE", passed, out, attrs, name="loop"))
    graph.set_io(outputs=[y])
    for one in (cond, body):
        inputs = [Tensor("i", (1, 8), body_type)]
        one.set_io([*inputs, *[Tensor("h", (), "resource")] * handed])
    end = Tensor("end", (1,), "bool")
    axes = Tensor("axes", (1,), "int32", np.zeros(1, np.int32))
    bits = Tensor("b", (8,), "bool", np.zeros(8, bool))
    cond.add_op(Op("REDUCE_ANY", [bits, axes], [end], {"keep_dims": True}))
    cond.set_io(outputs=[end])
    next_one = append_op(body, "ABS", [body.inputs[0]], name="next").output
    if handed:
        body.add_op(Op("ASSIGN_VARIABLE", [body.inputs[1], next_one], [], name="assign"))
    body.set_io(outputs=[next_one, *body.inputs[1:]])
    return Model([graph, cond, body])


def test_what_agrees() -> None:
    for model in (smoothing(ONES), loop(), loop(handed=True)):
        verify_subgraphs(model.graphs)
    (variable,) = variables(smoothing(ONES).graphs)
    assert [use.op.kind for use in variable.uses] == [
        "READ_VARIABLE", "ASSIGN_VARIABLE", "ASSIGN_VARIABLE",
    ]  # fmt: skip
    assert variable.name == "state"
    assert keeps_state(smoothing(ONES).graph)
    assert not keeps_state(loop().graph)
    assert keeps_state(loop(handed=True).graph)


def test_a_handle_is_followed_into_a_loop() -> None:
    (variable,) = variables(loop(handed=True).graphs)
    assert [(use.graph.name, use.op.name) for use in variable.uses] == [("body", "assign")]


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (smoothing(np.ones((1, 8), np.int8)), r"'state': is float32 in .*'main' and is int8 in"),
        (smoothing(ONES[:, :1], read=(1, 8)), r"'state': has the shape \[1, 8\] .* has \[1, 1\]"),
        (loop("int8"), r"\(WHILE\): 'x' is float32 and 'i', which takes its value, is int8"),
        (Model(loop().graphs[:1]), "runs subgraph 1 of 1"),
    ],
)
def test_what_does_not_agree_is_not_run(model: Model, text: str, tmp_path: Path) -> None:
    """Each of the first two ends the process in the runtime's allocator if it is run."""
    with pytest.raises(VerifyError, match=text):
        verify_subgraphs(model.graphs)
    with pytest.raises(RunError, match=f"cannot be run safely: .*{text}"):
        Runner(serialize(model))
    path = tmp_path / "bad.tflite"
    write_tflite(model, path)
    with pytest.raises(RunError, match=r"bad\.tflite: cannot be run safely"):
        Runner(path)
    assert [v.code for v in qf.check(path)] == ["subgraphs"]
    with pytest.raises(QfError, match=text):
        qf.run_passes(qf.load(path), "calibrate")


def test_a_subgraph_that_runs_itself() -> None:
    model = loop()
    graph = model.graphs[2]
    graph.add_op(Op("CALL_ONCE", [], [], {"init_subgraph_index": 2}))
    with pytest.raises(VerifyError, match=r"subgraph .*'body': runs itself"):
        verify_subgraphs(model.graphs)


def test_a_variable_that_nothing_names() -> None:
    graph: Any = Graph()
    given = Tensor("given", (), "resource")
    graph.set_io([given])
    graph.add_op(Op("READ_VARIABLE", [given], [Tensor("y", (1,))], name="read"))
    with pytest.raises(VerifyError, match=r"'read' .*no VAR_HANDLE names"):
        verify_subgraphs([graph])


def test_a_file_with_variables_reads_back() -> None:
    model = parse_tflite(serialize(smoothing(ONES)))
    verify_subgraphs(model.graphs)
    assert len(variables(model.graphs)[0].uses) == 3
