"""The examples run as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.mark.parametrize(
    ("script", "argument", "written", "said"),
    [
        ("my_pass.py", "logits.tflite", ["logits.tflite"], "strip_softmax: 1 edits"),
        ("pipeline.py", "out", ["out/digits_mobilenet_int8.tflite", "out/digits_fake_quant.pb"],
         "int8 against float"),
    ],
)  # fmt: skip
def test_example(script: str, argument: str, written: list[str], said: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / script), argument]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said in result.stdout
    assert all((tmp_path / name).is_file() for name in written)


@pytest.mark.slow
def test_the_demo_shows_collapse_and_cure(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), "--out", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.rsplit(maxsplit=2) for line in result.stdout.splitlines() if line.endswith("%")]
    percent = {row[0].strip(): float(row[1]) for row in rows if row[1].replace(".", "").isdigit()}
    title = "int8, remove_dw_bn,relu6_to_relu,calibrate"
    assert percent["float"] > 99
    assert percent[f"{title}, per-channel"] > 99
    assert percent["int8, calibrate only, per-tensor"] < 30
    assert percent[f"{title}, per-tensor"] > 97
    assert (tmp_path / "digits_mobilenet_int8.tflite").is_file()
