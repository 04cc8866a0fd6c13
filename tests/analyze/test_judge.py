"""A result that is of no use is not reported as a success."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from graphs import normal

import qfrewrite as qf
from qfrewrite.analyze.compare import compare_models
from qfrewrite.analyze.judge import is_poor
from qfrewrite.cli.main import run
from qfrewrite.errors import VerifyError
from qfrewrite.formats.tflite.write import write_tflite
from qfrewrite.ir import Model
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.runtime.metrics import Fidelity

MODEL = str(ROOT / "examples" / "digits" / "digits_mobilenet.pb")
CALIB = str(ROOT / "examples" / "digits" / "calib")

Output = pytest.CaptureFixture[str]


CLIPPED = "calibrate(per_layer=relu3:percentile(80))"


def network(path: Path, count: int = 6) -> Path:
    """A chain of 1x1 convolutions, written to `path`."""
    b = GraphBuilder()
    y = b.input("x", (1, 4, 4, 8))
    for k in range(count):
        w = normal(8, 1, 1, 8, seed=k, scale=0.35)
        y = b.op("CONV_2D", y, b.const(f"w{k}", w), b.const(f"b{k}", normal(8, seed=k)),
                 name=f"conv{k}")  # fmt: skip
        y = b.op("RELU6", y, name=f"relu{k}")
    write_tflite(Model([b.finish(y)]), path)
    return path


def samples(count: int = 24) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(1, 4, 4, 8)).astype("f4") for _ in range(count)]


@pytest.mark.parametrize(("db", "agreement", "poor"), [
    (10.0, None, False), (9.9, None, True), (20.0, 0.5, False), (20.0, 0.49, True),
])  # fmt: skip
def test_where_the_bounds_lie(db: float, agreement: float | None, poor: bool) -> None:
    assert is_poor(Fidelity(db, agreement, 10)) == poor


def test_the_layer_that_loses_most_is_named_first(tmp_path: Path) -> None:
    """The range of relu3 cuts off most of it.

    The layers behind it are as bad, and later ones may be worse: they are not to blame. Fails
    where layers are ranked by their SQNR alone.
    """
    source, out = network(tmp_path / "m.tflite"), tmp_path / "q.tflite"
    report = qf.quantize(source, out, passes=CLIPPED, data=samples(), samples=16)
    assert report.fidelity is not None
    assert report.fidelity.sqnr_db < 10
    (warning,) = map(str, report.about_result)
    assert "most is lost in 'relu3' (" in warning
    assert "-p @per-channel" in warning
    better = qf.quantize(source, out, passes="calibrate", data=samples(), samples=16)
    assert better.about_result == []


@pytest.mark.parametrize(("saving", "passes", "words"), [
    ({}, CLIPPED, ["-p @per-channel", "--keep-int16 'relu3'"]),
    ({"weights": "per-tensor"}, CLIPPED,
     ["--weights per-channel", "-p @per-tensor", "--keep-float 'relu3'"]),
    ({"scheme": "uint8"}, CLIPPED, ["--scheme int8", "--keep-float 'relu3'"]),
])  # fmt: skip
def test_what_is_advised_follows_from_the_options(
    saving: dict[str, str], passes: str, words: list[str], tmp_path: Path
) -> None:
    report = qf.quantize(
        network(tmp_path / "m.tflite"), tmp_path / "q.tflite", passes=passes, data=samples(),
        samples=16, **saving,
    )  # fmt: skip
    (warning,) = map(str, report.about_result)
    for word in words:
        assert word in warning
    assert ("--weights per-channel" in warning) == ("weights" in saving)


def test_what_a_layer_loses_is_counted_from_what_enters_it(tmp_path: Path) -> None:
    source, out = network(tmp_path / "m.tflite"), tmp_path / "q.tflite"
    qf.quantize(source, out, passes=CLIPPED, data=samples(), samples=16)
    made = [{"x": s} for s in samples(4)]
    found = compare_models(qf.load(source), qf.load(out), made)
    rows = {row.order: row for row in found.layers}
    lost = [rows[k].lost_db for k in sorted(rows)]
    assert np.argmax(lost) == 3
    assert lost[3] == pytest.approx(min(rows[2].sqnr_db, 30) - rows[3].sqnr_db)
    assert lost[5] == pytest.approx(max(min(rows[4].sqnr_db, 30) - rows[5].sqnr_db, 0))


def test_what_is_named_can_be_pasted(tmp_path: Path, capsys: Output) -> None:
    source, out = network(tmp_path / "m.tflite"), tmp_path / "q.tflite"
    np.save(tmp_path / "x.npy", np.concatenate(samples()))
    data = ["--data", str(tmp_path / "x.npy"), "--samples", "16"]
    argv = [str(source), "-p", CLIPPED, *data, "-o", str(out)]
    assert run(argv) == 0
    (warning,) = (x for x in capsys.readouterr().err.splitlines() if "far from" in x)
    options = re.findall(r"(--keep-int16) '([^']*)'", warning)
    assert options
    assert run([*argv, "-q", *(word for pair in options for word in pair)]) == 0
    assert run([*argv, "-q", "-p", "@per-channel"]) == 0


def test_a_good_result_is_not_warned_about(tmp_path: Path, capsys: Output) -> None:
    out = str(tmp_path / "x.tflite")
    assert run([MODEL, "-p", "calibrate", "--data", CALIB, "--samples", "60", "-o", out]) == 0
    assert "far from" not in capsys.readouterr().err


# -- outputs that say nothing ---------------------------------------------------------------


@pytest.mark.parametrize("data", [True, False])
def test_an_output_that_became_constant_is_an_error(data: bool, tmp_path: Path) -> None:
    """Its range is a million times too wide: all that is left of it is zero."""
    source, out = network(tmp_path / "m.tflite"), tmp_path / "q.tflite"
    table = qf.calibrate(source, samples(), samples=16)
    values = samples() if data else None
    replay = f"calibrate(ranges={table.save(tmp_path / 'r.json')})"
    assert qf.quantize(source, out, passes=replay, data=values, samples=16).path == out
    out.unlink()
    table.rows["relu5"] = replace(table["relu5"], range=(-1e7, 1e7))
    table.save(tmp_path / "r.json")
    with pytest.raises(VerifyError, match=r"'relu5'.*is the same for all"):
        qf.quantize(source, out, passes=replay, data=values, samples=16)
    assert {p.name for p in tmp_path.iterdir()} == {"m.tflite", "r.json"}


def test_an_output_that_hardly_varies_may_become_constant(tmp_path: Path) -> None:
    """Probabilities of many classes lie below one step of a SOFTMAX: that is no broken model."""
    b = GraphBuilder()
    w = b.const("w", normal(500, 4, scale=0.05))
    y = b.op("SOFTMAX", b.op("FULLY_CONNECTED", b.input("x", (1, 4)), w), name="scores")
    source = tmp_path / "m.tflite"
    write_tflite(Model([b.finish(y)]), source)
    report = qf.quantize(source, tmp_path / "q.tflite", passes="calibrate")
    assert report.path.exists()
