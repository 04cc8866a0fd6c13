"""`qfrewrite check`, and the options that say how to write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from quantizing import quantized
from test_schemes import network

from qfrewrite.cli.main import run
from qfrewrite.formats.tflite.read import read_tflite
from qfrewrite.formats.tflite.write import write_tflite
from qfrewrite.ir import Model, Quant

DIGITS = str(ROOT / "examples" / "digits" / "digits_mobilenet.pb")


@pytest.fixture
def int8(tmp_path: Path) -> Path:
    graph, _, _ = quantized(network())
    write_tflite(Model([graph]), tmp_path / "m.tflite")
    return tmp_path / "m.tflite"


def test_a_sound_model(int8: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(int8)]) == 0
    assert capsys.readouterr().out == f"{int8}: nothing found\n"
    assert run(["check", str(int8), "--target", "litert"]) == 0


def test_a_line_per_violation(int8: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = read_tflite(int8)
    (softmax,) = model.graph.ops_of("LOGISTIC")
    quant = Quant(np.array([0.5], "f4"), np.array([0]))
    model.graph.set_type(softmax.output, softmax.output.dtype, quant)
    model.graph.set_type(
        model.graph.inputs[0], model.graph.inputs[0].dtype, Quant(-quant.scale, quant.zero_point)
    )
    write_tflite(model, int8)
    assert run(["check", str(int8)]) == 8
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2
    assert lines[0] == "tensor 'x': has the scale -0.5, needs a positive finite number [tensor]"
    assert "'scores' has scale 0.5, zero point 0, needs scale 0.00390625" in lines[-1]
    assert run(["check", str(int8), "--format", "json"]) == 8
    found = json.loads(capsys.readouterr().out)
    assert found[0] == {
        "rule": "tensor", "where": "tensor 'x'",
        "what": "has the scale -0.5, needs a positive finite number",
    }  # fmt: skip


def test_what_a_target_lacks(int8: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(int8), "--target", "hexagon-dsp"]) == 8
    out = capsys.readouterr().out
    assert "'depthwise' (DEPTHWISE_CONV_2D): needs a filter 3 wide" in out


@pytest.mark.parametrize(("args", "code", "text"), [
    (["check", "nowhere.tflite"], 3, "nowhere.tflite"),
    (["check", DIGITS], 2, "is no .tflite"),
    (["check", DIGITS, "--target", "toaster"], 2, "toaster"),
    ([DIGITS, "-p", "calibrate", "--scheme", "dynamic", "--io", "int8"], 2, "leave out io"),
    ([DIGITS, "-p", "calibrate", "--keep-float", "nothing*"], 2, "'nothing*' names no op"),
])  # fmt: skip
def test_errors_are_one_line(
    args: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(args) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("qfrewrite: error: ")
    assert text in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "scheme", ["int8", "uint8", "int16x8", "dynamic", "weight-only", "float16"]
)
def test_every_scheme_from_the_command_line(
    scheme: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([DIGITS, "-p", "calibrate", "--scheme", scheme, "--target", "tflm"]) == 0
    out = capsys.readouterr().out
    assert f"digits_mobilenet_{scheme}.tflite" in out
    assert ("not mapped" in out) == (scheme in ("uint8", "dynamic"))
    assert run(["check", f"digits_mobilenet_{scheme}.tflite"]) == 0


def test_dequantize(
    int8: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([str(int8), "--dequantize", "-o", "float.tflite"]) == 0
    assert {t.dtype for t in read_tflite(tmp_path / "float.tflite").graph.inputs} == {"float32"}
    assert "is quantized already" in capsys.readouterr().err
    assert run([str(int8), "-p", "calibrate", "-o", "again.tflite"]) == 0
    assert "start from the float model" in capsys.readouterr().err
    assert run(["check", "again.tflite"]) == 0
    assert run([str(int8), "-o", "same.tflite"]) == 0
    assert (tmp_path / "same.tflite").stat().st_size == int8.stat().st_size


def test_sensitivity(capsys: pytest.CaptureFixture[str]) -> None:
    calib = str(ROOT / "examples" / "digits" / "calib")
    args = ["sensitivity", DIGITS, "--data", calib, "--samples", "40", "--weights", "per-tensor"]
    assert run([*args, "--top", "3"]) == 0
    out = capsys.readouterr().out
    assert "alone, dB" in out
    assert "all layers: SQNR" in out
    assert run([*args, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["layers"] if isinstance(found, dict) else found) > 10


def test_auto_from_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    calib = str(ROOT / "examples" / "digits" / "calib")
    args = [DIGITS, "--data", calib, "--samples", "60", "--weights", "per-tensor"]
    assert run([*args, "-p", "@auto", "--max-drop", "1"]) == 0
    out = capsys.readouterr().out
    assert "@fast: SQNR" in out
    assert run(["check", "digits_mobilenet_int8.tflite"]) == 0
    assert run([*args, "-p", "calibrate", "--max-drop", "1"]) == 2
    assert "goes with -p @auto" in capsys.readouterr().err
    assert run(["passes", "@per-tensor"]) == 0
    assert "equalize" in capsys.readouterr().out


def test_the_names_that_options_take_are_all_there_are() -> None:
    from qfrewrite.cli import options
    from qfrewrite.lower.scheme import SCHEMES
    from qfrewrite.saving import WEIGHTS
    from qfrewrite.targets.table import TARGETS

    assert set(options.TARGETS) == set(TARGETS)
    assert tuple(SCHEMES) == options.SCHEMES
    assert options.WEIGHTS == WEIGHTS
