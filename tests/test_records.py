"""Reports as dictionaries for JSON, and their short repr."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from networks import mobilenet_v1

import qfrewrite as qf
from qfrewrite.ir import Model
from qfrewrite.records import Record

MODEL = ROOT / "examples" / "digits" / "digits_mobilenet.pb"


@dataclass(frozen=True)
class Row(Record):
    name: str
    sqnr_db: float
    shape: tuple[int, ...] = (1, 2)
    hidden: Any = field(default=None, repr=False)


@dataclass(repr=False)
class Table(Record):
    rows: list[Row]
    path: Path
    values: Any = None
    by_name: dict[str, Any] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        return super().figures() | {"count": len(self.rows)}


def test_a_dictionary_holds_what_json_can_hold() -> None:
    table = Table(
        [Row("a", inf), Row("b", np.float32(1.5), hidden=object())],
        Path("x/y"),
        np.array([[1.0, nan]]),
        {"row": Row("c", -inf), "n": np.int64(3)},
    )
    assert table.to_dict() == {
        "rows": [
            {"name": "a", "sqnr_db": None, "shape": [1, 2]},
            {"name": "b", "sqnr_db": 1.5, "shape": [1, 2]},
        ],
        "path": "x/y",
        "values": [[1.0, None]],
        "by_name": {"row": {"name": "c", "sqnr_db": None, "shape": [1, 2]}, "n": 3},
        "count": 2,
    }
    assert json.loads(json.dumps(table.to_dict(), allow_nan=False)) == table.to_dict()


def test_figures_stay_what_they_are() -> None:
    """Tables show an infinite ratio as `exact`: it must not have become None before."""
    assert Row("a", inf).figures()["sqnr_db"] == inf


def test_the_repr_counts_values() -> None:
    assert repr(Table([Row("a", 1.0)], Path("x"))) == "<Table: 1 rows, path x>"
    assert repr(Row("a", 1.0)) == "Row(name='a', sqnr_db=1.0, shape=(1, 2))"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    model = Model([mobilenet_v1(0.25)], source="graphdef")
    calibrated = model.clone()
    qf.run_passes(calibrated, "calibrate")
    saved = qf.save(calibrated, tmp_path_factory.mktemp("reports") / "int8.tflite")
    int8 = qf.load(saved.path)
    return {
        "compare": qf.compare_models(model, int8),
        "inspect": qf.inspect_model(int8),
        "cost": qf.model_cost(int8),
        "ranges": qf.calibrate(model, np.zeros((2, 32, 32, 3), "f4")),
        "bench": qf.bench_models([int8], runs=3),
        "layers": qf.bench_layers(int8, runs=3),
        "sweep": qf.sweep(model, [32], runs=3),
    }


@pytest.mark.parametrize(
    "name", ["compare", "inspect", "cost", "ranges", "bench", "layers", "sweep"]
)
def test_every_report_has_both_forms(reports: dict[str, Any], name: str) -> None:
    report = reports[name]
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False)) == report.to_dict()
    assert len(repr(report)) < 200
    assert "\n" not in repr(report)


def test_what_is_said_without_data_is_in_the_report(reports: dict[str, Any]) -> None:
    """The figure of the outputs is left out, and why stands in the diagnostics."""
    comparison = reports["compare"]
    assert [(one.severity, one.code) for one in comparison.diagnostics] == [("notice", "no-data")]
    assert comparison.output is None
    assert comparison.to_dict()["output_sqnr_db"] is None
    sensitivity = qf.sensitivity(MODEL)
    assert [one.code for one in sensitivity.diagnostics] == ["no-data"]
    assert sensitivity.to_dict()["whole_sqnr_db"] is None
    assert len(sensitivity.to_dict()["layers"]) > 10
