from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from graphs import batch_norm, normal, separable

from qfrewrite.data.source import open_data, synthetic
from qfrewrite.errors import UsageError, VerifyError
from qfrewrite.ir import Array, Graph, Model, Signature
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.check import verify_model
from qfrewrite.ops.text import graph_text
from qfrewrite.passes import Dataset, Pass, PassContext, PassRewriter, run_passes
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.runtime.session import input_specs


@dataclass(frozen=True)
class Spoil(Pass):
    """Change weights and call it exact."""

    name: ClassVar[str] = "spoil"
    exact: ClassVar[bool] = True

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        for op in graph.ops_of("CONV_2D"):
            rw.set_constant(op, 1, np.array(op.operand(1).value() * 1.1))
            rw.edit("spoiled", op)


@dataclass(frozen=True)
class Break(Pass):
    """Leave a shape that is wrong."""

    name: ClassVar[str] = "break"
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        graph.set_shape(graph.outputs[0], (1, 2))


@dataclass(frozen=True)
class BreakLate(Pass):
    """Edit both graphs and the outputs, then fail."""

    name: ClassVar[str] = "break_late"
    exact: ClassVar[bool] = False
    requires: ClassVar[str | None] = "canonical"

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        assert not graph.ops_of("BATCH_NORM")
        rw.replace_kind(graph.op("flat"), "RESHAPE")
        if rw.main:
            graph.set_io(outputs=[graph.op("flat").operand(0), *graph.outputs])
        else:
            graph.set_shape(graph.outputs[0], (1, 2))


def test_numeric_verification_catches_a_pass_that_is_not_exact() -> None:
    model = Model([separable()])
    with pytest.raises(VerifyError, match=r"spoil.*declared exact"):
        run_passes(model, [Spoil()], verify="numeric")
    run_passes(model, "fold_bn", verify="numeric")


def test_structure_is_verified_after_every_pass_and_the_model_restored() -> None:
    model = Model([separable()])
    with pytest.raises(VerifyError, match="pass break"):
        run_passes(model, [Break()])
    assert model.graph.outputs[0].shape == (1, 6, 6, 3)


def housekeeping() -> Graph:
    """What canonical form changes: a BatchNorm, an IDENTITY, a SQUEEZE, a dead op, no bias."""
    b = GraphBuilder()
    x = b.input("x", (1, 4, 4, 3))
    y = b.op("CONV_2D", x, b.const("w", normal(5, 3, 3, 3)), name="conv")
    y = b.op("IDENTITY", batch_norm(b, y, "bn"), name="same")
    b.op("TANH", y, name="dead")
    y = b.op("RESHAPE", y, b.const("shape", [1, 16, 5], "int32"), name="flat")
    return b.finish(y)


def test_housekeeping_is_a_step_of_its_own_and_measured() -> None:
    """`correct_bias` reported 0 edits while BATCH_NORM and IDENTITY went, and nothing was
    measured."""
    model = Model([housekeeping()])
    context = PassContext(Dataset(synthetic(input_specs(model.graph), 8)))
    report = run_passes(model, "correct_bias", context, verify="numeric")
    assert [p.name for p in report.passes] == ["canonical", "correct_bias"]
    step = report["canonical"]
    assert [str(e) for e in step.log.edits] == [
        "folded bn: into CONV_2D 'conv'", "removed same: IDENTITY",
        "removed dead: TANH that no output needs",
    ]  # fmt: skip
    assert step.exact
    assert step.fidelity is not None
    assert 130 < step.fidelity.sqnr_db < 150  # measured: 138.3
    assert step.measured_on == context.judged_on.description
    again = run_passes(model, "correct_bias", context, verify="numeric")
    assert [p.name for p in again.passes] == ["correct_bias"]


@pytest.mark.parametrize("passes", ["fold_bn", "correct_bias", "calibrate"])
def test_numeric_verification_does_not_share_the_defect_it_looks_for(
    passes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides were measured as they would be written, that is, folded by the same code."""

    def wrong(view: LinearView, scale: Array) -> LinearView:
        return view.with_weights(view.weights, view.bias * scale)

    monkeypatch.setattr(LinearView, "scaled", wrong)
    with pytest.raises(VerifyError, match="declared exact and changed the outputs"):
        run_passes(Model([housekeeping()]), passes, verify="numeric")


def test_raising_a_file_is_a_step_of_its_own() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    y = b.op("FULLY_CONNECTED", x, b.const("w", normal(3, 4)), name="dense")
    graph = b.finish(b.op("MUL", y, b.const("s", normal(3)), name="y"))
    report = run_passes(Model([graph]), "fold_bn", verify="numeric")
    assert [(p.name, p.edits) for p in report.passes] == [("raise", 1), ("fold_bn", 1)]


def with_body(graph: Graph) -> Model:
    """A model whose main graph has `graph`'s twin for a subgraph."""
    return Model([graph, housekeeping()], source="tflite")


@pytest.mark.parametrize("verify", ["structure", "numeric"])
def test_a_failed_pass_leaves_one_truth(verify: str) -> None:
    """The list of graphs was restored, the caller's graph and the bodies of loops were not."""
    model = with_body(housekeeping())
    model.signatures = [Signature("main", 0, (("x", 0),), (("y", 0),))]
    model.mark_loaded()
    graph, body, before = model.graph, model.graphs[1], [graph_text(g) for g in model.graphs]
    context = PassContext(seed=3)
    with pytest.raises(VerifyError, match="pass break_late"):
        run_passes(model, [BreakLate()], context, verify=verify)
    assert model.graph is graph
    assert model.graphs[1] is body
    assert graph.bodies == (body,)
    assert [graph_text(g) for g in model.graphs] == before
    assert graph.inputs[0] in graph
    assert [s.key for s in model.signatures] == ["main"]
    # It is still the file as it was read.
    assert not model.edited
    verify_model(model)
    # And it goes on from there.
    run_passes(model, "fold_bn", context)
    assert not any(g.ops_of("BATCH_NORM") for g in (graph, body))


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(UsageError, match="verify"):
        run_passes(Model([separable()]), "fold_bn", verify="hard")


def test_what_a_pass_costs_is_not_measured_on_synthetic_inputs() -> None:
    for verify in ("structure", "numeric"):
        (report,) = run_passes(
            Model([separable()]), "relu6_to_relu(force=true)", verify=verify
        ).passes
        assert report.edits
        assert (report.fidelity, report.measured_on) == (None, None)
    samples = [{"x": np.full((1, 6, 6, 4), v, "f4")} for v in (1.0, 2.0)]
    data = open_data(samples, input_specs(separable())).split(2)[0]
    (report,) = run_passes(
        Model([separable()]), "relu6_to_relu(force=true)", PassContext(Dataset(data))
    ).passes
    assert report.fidelity is not None
    assert report.fidelity.samples == 2
