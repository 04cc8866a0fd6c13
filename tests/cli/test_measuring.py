"""bench, eval, sweep and inspect --cost from the command line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from networks import mobilenet_v1
from PIL import Image

import qfrewrite as qf
from qfrewrite.cli.main import run
from qfrewrite.ir import Model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = Model([mobilenet_v1(0.25)], source="graphdef")
    qf.run_passes(made, "calibrate")
    return qf.save(made, tmp_path / "net.tflite").path


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """--data and --labels of six images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    table = folder / "labels.csv"
    table.write_text("".join(f"{i}.png,{i}\n" for i in range(6)))
    return ["--data", str(folder), "--labels", str(table)]


def test_bench(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(model), str(model), "--runs", "5"]) == 0
    said = capsys.readouterr().out
    assert said.count("net") == 2
    assert "1.000" in said


def test_bench_per_layer(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(model), "--per-layer", "--runs", "5"]) == 0
    said = capsys.readouterr().out
    assert "GMAC/s" in said
    assert "ms as the sum of" in said
    assert run(["bench", str(model), "--per-layer", "--runs", "3", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["whole_ms"] > 0
    assert {"name", "ms", "share", "macs", "gmacs", "flags"} <= set(found["layers"][0])


def test_bench_score(model: Path, images: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(model), "--score", "--runs", "3", *images]) == 0
    assert "within budget" in capsys.readouterr().out


def test_eval(model: Path, images: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", str(model), str(model), *images]) == 0
    said = capsys.readouterr().out
    assert "95 % of top-1" in said
    assert "+0.00 points" in said
    assert run(["eval", str(model), *images, "--limit", "3", "--format", "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["samples"] == "3"
    assert run(["eval", str(model), str(model), *images, "--format", "csv"]) == 0
    first, second = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (first["paired"], second["top1"]) == ("", first["top1"])
    assert second["paired"].startswith("+0.00 points")


def test_sweep(
    model: Path, images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "sweep.png"
    assert run(["sweep", str(model), "--sizes", "32,64", "--runs", "3", "--plot", str(picture),
                *images]) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "maps not x8" in said
    assert "top-1" in said
    assert picture.read_bytes()[1:4] == b"PNG"


def test_costs(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(model), "--cost"]) == 0
    said = capsys.readouterr().out
    assert "activations at their peak" in said
    assert run(["inspect", str(model), "--cost", "--format", "json", "--top", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["ops"]) == 2
    assert found["peak_int8_arena_bytes"] > 0


@pytest.mark.parametrize(("args", "code", "words"), [
    (["bench", "absent.tflite"], 3, "absent.tflite"),
    (["bench", "{model}", "--score"], 2, "--data and --labels"),
    (["eval", "{model}"], 2, "needs images"),
    (["eval", "{model}", "--data", "nowhere", "--labels", "x.csv"], 6, "no such folder"),
    (["sweep", "{model}", "--sizes", "ten"], 2, "no list of sizes"),
    (["sweep", "{model}", "--sizes", "32", "--data", "x"], 2, "go together"),
])  # fmt: skip
def test_errors_are_one_line(
    model: Path, args: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([a.format(model=model) for a in args]) == code
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert words in said[0]
