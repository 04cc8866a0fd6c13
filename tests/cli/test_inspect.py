"""`inspect`, `compare` and `ranges` on the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from qfrewrite.calibration.range_table import RangeTable
from qfrewrite.cli.main import run

DIGITS = ROOT / "examples" / "digits"
MODEL = str(DIGITS / "digits_mobilenet.pb")
CALIB = str(DIGITS / "calib")
DATA = ["--data", CALIB, "--samples", "20"]

Output = pytest.CaptureFixture[str]


def test_a_table_with_advice(capsys: Output) -> None:
    assert run(["inspect", MODEL]) == 0
    said = capsys.readouterr().out
    assert "gain max" in said
    assert "26" not in said.splitlines()[0]
    assert "remove_dw_bn" in said
    assert "dead channels" in said
    assert "observed" not in said  # columns without figures are left out


def test_json_csv_and_markdown_agree(capsys: Output) -> None:
    outputs = {}
    for how in ("json", "csv", "markdown"):
        assert run(["inspect", MODEL, *DATA, "--format", how, "-q"]) == 0
        outputs[how] = capsys.readouterr().out
    rows = json.loads(outputs["json"])["layers"]
    lines = list(csv.DictReader(io.StringIO(outputs["csv"])))
    assert [r["name"] for r in rows] == [r["name"] for r in lines]
    assert float(lines[0]["scale"]) == rows[0]["scale"]
    assert len(outputs["markdown"].splitlines()) == len(rows) + 2


def test_sorting_filtering_and_top(capsys: Output) -> None:
    args = ["inspect", MODEL, "--format", "json", "--filter", "DEPTHWISE*", "--sort", "gain_max"]
    assert run([*args, "--top", "3"]) == 0
    rows = json.loads(capsys.readouterr().out)["layers"]
    gains = [r["gain_max"] for r in rows]
    assert len(rows) == 3
    assert gains == sorted(gains, reverse=True)
    assert run(["inspect", MODEL, "--format", "json", "--flagged"]) == 0
    assert all(r["flags"] for r in json.loads(capsys.readouterr().out)["layers"])


def test_one_layer_with_bars(capsys: Output) -> None:
    assert run(["inspect", MODEL, *DATA, "--layer", "dw1"]) == 0
    said = capsys.readouterr().out
    assert "█" in said
    assert "largest weight per channel" in said
    assert "quantization loss" in said
    assert run(["inspect", MODEL, "--layer", "nothing like it"]) == 2
    assert "no such layer" in capsys.readouterr().err


def test_ranges_are_saved_merged_shown_and_replayed(tmp_path: Path, capsys: Output) -> None:
    parts = []
    for seed in (1, 2):
        out = tmp_path / f"{seed}.json"
        parts.append(str(out))
        args = [MODEL, "-p", "calibrate", *DATA, "--seed", str(seed), "--save-ranges", str(out)]
        assert run([*args, "-o", str(tmp_path / "x.tflite"), "-q"]) == 0
    both = tmp_path / "both.json"
    assert run(["ranges", "merge", *parts, "-o", str(both), "--method", "greedy"]) == 0
    assert "40 samples" in capsys.readouterr().out
    table, first = RangeTable.load(both), RangeTable.load(parts[0])
    assert table.samples == 40
    # Inputs and scores keep all they were seen to hold.
    assert {row.method for row in table if not row.whole} == {"greedy"}
    assert {row.method for row in table if row.whole} == {"minmax"}
    assert all(row.stats.high >= first[row.name].stats.high for row in table)  # type: ignore[union-attr]
    assert run(["ranges", "show", str(both)]) == 0
    assert "sat. loss" in capsys.readouterr().out
    replay = f"calibrate(ranges={both})"
    assert run([MODEL, "-p", replay, "-o", str(tmp_path / "y.tflite")]) == 0
    assert f"ranges from {both}" in capsys.readouterr().out
    assert run(["inspect", MODEL, "--ranges", str(both), "--top", "2"]) == 0
    assert "observed" in capsys.readouterr().out


def test_compare(tmp_path: Path, capsys: Output) -> None:
    out = str(tmp_path / "x.tflite")
    assert run([MODEL, "-p", "calibrate", *DATA, "-o", out, "--weights", "per-tensor", "-q"]) == 0
    assert run(["compare", MODEL, out, *DATA]) == 0
    said = capsys.readouterr().out
    assert "SQNR dB" in said
    assert "quality first drops at" in said
    assert run(["compare", MODEL, out, "--format", "json", "-q"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert held["layers"][0]["sqnr_db"] <= held["layers"][-1]["sqnr_db"]


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["inspect", "missing.pb"], 3, "missing.pb"),
        (["inspect", MODEL, "--ranges", "missing.json"], 6, "missing.json"),
        (["inspect", MODEL, "--ranges", "x", "--data", "y"], 2, "exclude"),
        (["inspect", MODEL, "--data", CALIB, "--method", "best"], 2, "no such method"),
        (["inspect", MODEL, "--sort", "beauty"], 2, "beauty"),
        (["compare", MODEL, "missing.tflite"], 3, "missing.tflite"),
        (["ranges", "merge", MODEL, "-o", "x.json"], 6, "digits_mobilenet.pb"),
        ([MODEL, "-p", "calibrate(ranges=missing.json)"], 6, "missing.json"),
        ([MODEL, "-p", "fold_bn", "--save-ranges", "x.json"], 2, "no ranges to save"),
    ],
)
def test_errors_are_one_line(
    args: list[str], code: int, text: str, capsys: Output, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(args) == code
    [line] = [x for x in capsys.readouterr().err.splitlines() if x.startswith("qfrewrite: error")]
    assert text in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to a process")
def test_an_interrupted_calibration_is_resumed(tmp_path: Path) -> None:
    """The same file comes out, whether or not Ctrl-C came in between."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.uniform(-1, 1, (4000, 32, 32, 3)).astype("f4"))
    command = [
        sys.executable, "-m", "qfrewrite", MODEL, "-p", "calibrate(method=greedy)",
        "--data", str(tmp_path / "x.npy"), "--samples", "4000", "--threads", "1", "-q",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen([*command, "-o", "a.tflite"], cwd=tmp_path, env=env,
                           stderr=subprocess.PIPE, text=True)  # fmt: skip
    time.sleep(2.0)
    job.send_signal(signal.SIGINT)
    error = job.communicate(timeout=60)[1]
    if job.returncode == 0:
        pytest.skip("the calibration was done before the interrupt came")
    assert job.returncode == 130
    assert not (tmp_path / "a.tflite").exists()
    if (tmp_path / "a.partial.json").exists():
        assert "statistics are in a.partial.json: --resume" in error
        assert RangeTable.load(tmp_path / "a.partial.json").samples < 4000
    else:
        assert "nothing was written" in error  # it came before the first sample
    for extra, out in ((["--resume"], "a.tflite"), ([], "b.tflite")):
        subprocess.run([*command, *extra, "-o", out], cwd=tmp_path, env=env, check=True)
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()
    assert not (tmp_path / "a.partial.json").exists()
