from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from graphs import separable

from qfrewrite.calibration.data import open_data
from qfrewrite.errors import UsageError, VerifyError
from qfrewrite.ir import Graph, Model
from qfrewrite.passes import Pass, PassContext, PassRewriter, run_passes
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
        graph.update_tensor(graph.outputs[0], shape=(1, 2))


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
        Model([separable()]), "relu6_to_relu(force=true)", PassContext(data)
    ).passes
    assert report.fidelity is not None
    assert report.fidelity.samples == 2
