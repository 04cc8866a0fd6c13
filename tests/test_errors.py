"""Errors and diagnostics as one line, and the diagnostics of a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from graphs import separable
from hypothesis import given
from hypothesis import strategies as st

import qfrewrite as qf
from qfrewrite.cli.main import run
from qfrewrite.errors import Diagnostic, Diagnostics, UsageError
from qfrewrite.ir import Model

WORDS = st.text("abc :;'", max_size=8).map(str.strip)


@given(WORDS.filter(bool), WORDS, WORDS)
def test_a_diagnostic_reads_as_an_error_does(text: str, where: str, remedy: str) -> None:
    error = UsageError(text, where=where or None, remedy=remedy or None)
    assert " ".join(str(Diagnostic("note", "x", text, where, remedy)).split()) == str(error)


def test_places_are_nested_from_the_outside() -> None:
    one = Diagnostic("warning", "x", "is odd", remedy="look").at("tensor 'y'").at("calibrate")
    assert str(one) == "calibrate: tensor 'y': is odd; look"
    assert (one.severity, one.code, one.text) == ("warning", "x", "is odd")


def test_each_thing_is_said_once_and_in_order() -> None:
    found = Diagnostics()
    for _ in range(2):
        found.note("b", "second")
        found.warn("a", "first")
        found.notice("b", "second")
    assert [(one.severity, one.code) for one in found] == [
        ("note", "b"), ("warning", "a"), ("notice", "b"),
    ]  # fmt: skip
    assert [one.code for one in found.of("warning", "notice")] == ["a", "b"]


@pytest.mark.parametrize("with_data", [False, True])
def test_the_report_holds_what_stderr_shows(
    with_data: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the same order: of the model, the data, the passes and the result; notes are not there.

    Fails if the report leaves out the data (few samples) or the passes (no data), or if it holds
    the notes of passes (ranges from ...).
    """
    path, out = tmp_path / "m.tflite", tmp_path / "q.tflite"
    qf.save(Model([separable()]), path)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(9, 6, 6, 4)).astype("f4"))
    data = str(tmp_path / "x.npy") if with_data else None
    report = qf.quantize(path, out, passes="relu6_to_relu(force=true),calibrate", data=data)
    argv = [str(path), "-p", "relu6_to_relu(force=true),calibrate", "-o", str(out)]
    assert run([*argv, *(["--data", data] if data else [])]) == 0
    shown = [line for line in capsys.readouterr().err.splitlines() if line]
    assert shown == [f"{one.severity}: {one}" for one in report.diagnostics]
    codes = [one.code for one in report.diagnostics]
    assert codes[0] == ("few-samples" if with_data else "no-data")
    assert [one.code for one in report.warnings] == [c for c in codes if c != "no-data"]


def test_a_report_is_one_line_and_json(tmp_path: Path) -> None:
    path, out = tmp_path / "m.tflite", tmp_path / "q.tflite"
    qf.save(Model([separable()]), path)
    report = qf.quantize(path, out, passes="calibrate")
    assert repr(report) == f"<QuantizeReport {str(out)!r}: 0 warnings>"
    assert repr(report.saved) == f"<SaveReport {str(out)!r}: {report.saved.size} bytes>"
    held = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert held["saved"]["size"] == out.stat().st_size
    assert [one["code"] for one in held["diagnostics"]] == ["no-data"]
    assert held["fidelity"] is None


def test_a_model_is_three_lines() -> None:
    """Whatever it holds: fails if a graph or metadata are shown whole."""
    model = Model([separable(), separable()], metadata=[("TFLITE_METADATA", bytes(100_000))])
    first, inputs, outputs = repr(model).splitlines()
    assert first.startswith("<Model 'model' (tflite): ")
    assert first.endswith(" ops in 2 graphs")
    assert inputs == "  inputs   x float32[1, 6, 6, 4]"
    assert outputs.startswith("  outputs  ")
    assert outputs.endswith(">")
