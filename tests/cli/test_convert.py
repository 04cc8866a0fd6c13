"""What the main command says of its result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT

import qfrewrite as qf
from qfrewrite.cli.main import run

MODEL = str(ROOT / "examples" / "digits" / "digits_mobilenet.pb")
CALIB = str(ROOT / "examples" / "digits" / "calib")
TITLE = "remove_dw_bn,relu6_to_relu,calibrate"

Output = pytest.CaptureFixture[str]


def test_without_data_there_is_no_figure_of_fidelity(tmp_path: Path, capsys: Output) -> None:
    out = str(tmp_path / "x.tflite")
    assert run([MODEL, "-p", TITLE, "-o", out]) == 0
    said = capsys.readouterr()
    assert "float vs result  not measured: no data" in said.out
    assert "agreement" not in said.out + said.err
    assert "not measured" in next(x for x in said.out.splitlines() if x.startswith(" calibrate"))
    report = qf.quantize(MODEL, out, passes=TITLE)
    assert report.fidelity is None
    assert report.measured_on == "not measured: no data"
    assert all(one.fidelity is None for one in report.passes.passes)


def test_a_replayed_ranges_file_is_compared_on_data_alone(tmp_path: Path, capsys: Output) -> None:
    ranges, out = tmp_path / "r.json", str(tmp_path / "x.tflite")
    assert run([MODEL, "-p", "calibrate", "--data", CALIB, "--save-ranges", str(ranges), "-q",
                "--samples", "40", "-o", out]) == 0  # fmt: skip
    replay = f"calibrate(ranges={ranges})"
    assert run([MODEL, "-p", replay, "-o", out]) == 0
    assert "SQNR" not in capsys.readouterr().out
    assert run([MODEL, "-p", replay, "-o", out, "--data", CALIB, "--samples", "40"]) == 0
    said = capsys.readouterr().out
    assert "float vs result  SQNR" in said
    assert "of calib/" in said


@pytest.mark.parametrize("command", ["compare", "sensitivity"])
def test_layers_are_ranked_without_data_and_the_output_is_not_judged(
    command: str, tmp_path: Path, capsys: Output
) -> None:
    out = str(tmp_path / "x.tflite")
    assert run([MODEL, "-p", "calibrate", "-o", out, "-q"]) == 0
    models = [MODEL, out] if command == "compare" else [MODEL]
    assert run([command, *models]) == 0
    said = capsys.readouterr()
    assert "dw1" in said.out
    assert "agreement" not in said.out
    assert "give --data" in said.err
    assert run([command, *models, "--format", "json", "-q"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert held["layers"]
    assert all(v is None for k, v in held.items() if "output" in k or "whole" in k)
