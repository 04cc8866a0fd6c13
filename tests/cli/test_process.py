"""Pipes that close, Ctrl-C and SIGTERM: the work is finished, or cleaned up and named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from qfrewrite.calibration.range_table import RangeTable
from qfrewrite.cli.main import run
from qfrewrite.data.items import ImageItems
from qfrewrite.ir import Array

MODEL = str(ROOT / "examples" / "digits" / "digits_mobilenet.pb")
CALIB = str(ROOT / "examples" / "digits" / "calib")

Output = pytest.CaptureFixture[str]
posix = pytest.mark.skipif(sys.platform == "win32", reason="sends a signal to itself")


@pytest.mark.parametrize("both", [False, True])
def test_a_pipe_that_closes_does_not_end_the_work(both: bool, tmp_path: Path) -> None:
    out = tmp_path / "x.tflite"
    argv = [
        sys.executable,
        "-m",
        "qfrewrite",
        MODEL,
        "-p",
        "calibrate",
        "--explain",
        "-o",
        str(out),
    ]
    job = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT if both else subprocess.PIPE,
    )  # fmt: skip
    assert job.stdout is not None
    assert job.stdout.readline().startswith(b"digits_mobilenet.pb")
    job.stdout.close()
    error = b"" if job.stderr is None else job.stderr.read()
    if job.stderr is not None:
        job.stderr.close()
    assert job.wait(60) == 0
    assert out.stat().st_size > 40_000
    assert [p.name for p in tmp_path.iterdir()] == ["x.tflite"]
    assert b"Traceback" not in error
    assert b"Broken" not in error


def test_a_pipe_that_stays_open_gets_it_all() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qfrewrite", "passes"], capture_output=True, check=True
    )
    assert b"@per-tensor" in done.stdout
    wrong = subprocess.run([sys.executable, "-m", "qfrewrite", "no.pb"], capture_output=True)
    assert wrong.stderr.startswith(b"qfrewrite: error: no.pb")
    assert wrong.returncode == 3


pytestmark = pytest.mark.usefixtures("interruptible")


def send_while_loading(monkeypatch: pytest.MonkeyPatch, number: int, at: int) -> None:
    """Send this process a signal when it loads image number `at`."""
    load, loaded = ImageItems.load, []

    def spied(self: ImageItems, index: int) -> dict[str, Array]:
        loaded.append(index)
        if len(loaded) == at:
            os.kill(os.getpid(), number)
        return load(self, index)

    monkeypatch.setattr(ImageItems, "load", spied)


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_an_interruption_leaves_is_named(
    number: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    argv = [MODEL, "-p", "calibrate", "--data", CALIB, "-o", str(tmp_path / "x.tflite"),
            "--samples", "60"]  # fmt: skip
    with monkeypatch.context() as patch:
        # The first 60 are those that the preprocessing is judged on.
        send_while_loading(patch, number, 90)
        assert run(argv) == code
    partial = tmp_path / "x.partial.json"
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"their statistics are in {partial}: --resume goes on from there" in error
    assert "nothing was written" not in error
    assert list(tmp_path.iterdir()) == [partial]
    assert 0 < RangeTable.load(partial).samples < 60
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert run([*argv, "--resume", "-q"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["x.tflite"]
    again = (tmp_path / "x.tflite").read_bytes()
    assert run([*argv, "-q"]) == 0
    assert (tmp_path / "x.tflite").read_bytes() == again


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_while_the_result_is_compared_leaves_nothing(
    number: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    from qfrewrite.analyze import judge as judging

    def interrupted(*_: object) -> None:
        assert len(list(tmp_path.iterdir())) == 1  # the temporary file
        os.kill(os.getpid(), number)

    monkeypatch.setattr(judging, "_check_outputs", interrupted)
    assert run([MODEL, "-p", "calibrate", "-o", str(tmp_path / "x.tflite")]) == code
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
