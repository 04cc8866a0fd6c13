from __future__ import annotations

import json
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
from qfrewrite.passes import (
    Dataset,
    Pass,
    PassContext,
    PassRewriter,
    all_passes,
    make_passes,
    run_passes,
)
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


@dataclass(frozen=True)
class Rename(Pass):
    """Rename the output of each graph, or give it another shape."""

    name: ClassVar[str] = "rename"
    exact: ClassVar[bool] = True

    declared: bool = False
    only_body: bool = False

    @property
    def keeps_interface(self) -> bool:
        return not self.declared

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        if not (rw.main and self.only_body):
            graph.rename(graph.outputs[0], "renamed")


@pytest.mark.parametrize("only_body", [False, True])
def test_an_interface_changes_only_where_the_pass_says_so(only_body: bool) -> None:
    """Of any graph; fails if only shapes are compared, or only the main graph."""
    model = with_body(housekeeping())
    before = [graph_text(g) for g in model.graphs]
    with pytest.raises(VerifyError, match=r"pass rename: changes the interface.*'renamed'.*was '"):
        run_passes(model, [Rename(only_body=only_body)])
    assert [graph_text(g) for g in model.graphs] == before
    run_passes(model, [Rename(declared=True, only_body=only_body)])
    assert model.graphs[1].outputs[0].name == "renamed"


def test_the_passes_that_change_the_interface_are_these() -> None:
    shipped = [c for c in all_passes().values() if c.__module__.startswith("qfrewrite.")]
    assert {c.name for c in shipped if c.changes_interface} == {"resize_input", "strip_postprocess"}
    lists = ("round_geometry", "round_geometry(what=all)", "set_nms(iou=0.5)",
             "set_nms(max_detections=3)")  # fmt: skip
    assert [make_passes(text)[0].keeps_interface for text in lists] == [True, False, True, False]


@dataclass(frozen=True)
class TryOnACopy(Pass):
    """Run passes on a copy, then on the graph itself."""

    name: ClassVar[str] = "try_on_a_copy"
    exact: ClassVar[bool] = False
    gives_ranges: ClassVar[bool] = True

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        copy = graph.clone()[0]
        log = rw.run_nested("calibrate", copy)
        assert rw.ranges is None
        assert not rw.log.edits
        assert not graph.ops_of("FAKE_QUANT")
        assert len(copy.ops_of("FAKE_QUANT")) == sum(e.action == "inserted" for e in log.edits)
        assert not copy.ops_of("BATCH_NORM")
        rw.run_nested("calibrate")


def test_passes_run_inside_a_pass_and_a_trial_leaves_no_trace() -> None:
    """What is required is established there too; ranges of the graph itself are in the report."""
    graph = housekeeping()
    data = Dataset(synthetic(input_specs(graph), 8))
    report = run_passes(Model([graph]), [TryOnACopy()], PassContext(data, threads=1))
    assert [p.name for p in report.passes] == ["try_on_a_copy"]
    assert set(report.ranges) == {None}
    assert set(report.ranges[None].rows) >= {"x"}
    actions = {entry.action for entry in report.passes[0].log.edits}
    assert {"folded", "inserted"} <= actions
    assert not graph.ops_of("BATCH_NORM")


def test_reports_are_short_to_look_at_and_whole_as_json() -> None:
    graph = separable()
    data = Dataset(synthetic(input_specs(graph), 8))
    report = run_passes(Model([graph]), "relu6_to_relu(force=true)", PassContext(data, threads=1))
    assert "\n" not in repr(report)
    assert repr(report).endswith("relu6_to_relu(force=true) 1 edits>")
    held = json.loads(json.dumps(report.to_dict(), allow_nan=False))["passes"][-1]
    one = report.passes[-1]
    assert held["name"] == one.name
    assert [e["where"] for e in held["edits"]] == [e.where for e in one.log.edits]
    assert [d["code"] for d in held["diagnostics"]] == [d.code for d in one.log.diagnostics]
    assert held["fidelity"]["samples"] == 8
    assert set(held["layers"][0]) == set(one.log.layers[0])
