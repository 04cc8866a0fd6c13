"""The main job: what is asked for is checked first, and whoever watches is told in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from graphs import separable

import qfrewrite as qf
from qfrewrite.cli.main import run
from qfrewrite.conversion import Job, Watcher, convert
from qfrewrite.errors import Diagnostic, OutputError, UsageError
from qfrewrite.ir import Model
from qfrewrite.passes import Pass, make_passes


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "m.tflite"
    qf.save(Model([separable()]), path)
    return path


class Events(Watcher):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def loaded(self, model: Model) -> None:
        self.seen.append(f"loaded {model.name}")

    def say(self, *diagnostics: Diagnostic) -> None:
        self.seen += [one.code for one in diagnostics]

    def progress(self, label: str, total: int | None) -> Callable[[int], None]:
        self.seen.append(label)
        return lambda done: None

    def status(self, label: str) -> None:
        self.seen.append(label)

    def after(self, one: Pass, model: Model) -> None:
        self.seen.append(f"after {one}")


@pytest.mark.parametrize(("passes", "given", "scheme"), [
    (None, {}, None), ("fold_bn", {}, None), ("fold_bn,calibrate", {}, "int8"),
    ("calibrate", {"scheme": "uint8"}, "uint8"), (None, {"scheme": "float16"}, "float16"),
])  # fmt: skip
def test_passes_that_give_ranges_ask_for_integers(
    passes: str | None, given: dict[str, str], scheme: str | None
) -> None:
    job = Job(passes=make_passes(passes) if passes else None, saving=given)
    assert job.saving["scheme"] == scheme
    assert replace(job, samples=3).saving["scheme"] == scheme


def test_a_wrong_name_fails_before_the_work() -> None:
    with pytest.raises(UsageError, match="weights='coarse'"):
        Job(passes=None, saving={"weights": "coarse"})


def test_who_watches_is_told_in_order(source: Path, tmp_path: Path) -> None:
    events = Events()
    job = Job(passes=make_passes("fold_bn,calibrate"), output=tmp_path / "q.tflite", threads=1)
    convert(qf.load(source), job, events)
    assert [e for e in events.seen if e != "calibrating"] == [
        "loaded m", "after fold_bn", "after calibrate", "writing",
        "comparing the result with the float model",
    ]  # fmt: skip


def test_the_command_line_and_the_api_write_the_same(source: Path, tmp_path: Path) -> None:
    ways = [tmp_path / "api.tflite", tmp_path / "cli.tflite"]
    qf.quantize(source, ways[0], passes="fold_bn,calibrate", weights="per-tensor")
    argv = [str(source), "-p", "fold_bn,calibrate", "--weights", "per-tensor", "-q"]
    assert run([*argv, "-o", str(ways[1])]) == 0
    assert ways[0].read_bytes() == ways[1].read_bytes()


@pytest.mark.parametrize(("name", "words"), [
    ("m.tflite", "is the model itself"), ("q.onnx", "names no format"),
    ("none/q.tflite", "folder does not exist"),
])  # fmt: skip
def test_an_output_that_cannot_be_fails_first(name: str, words: str, source: Path) -> None:
    events = Events()
    job = Job(passes=make_passes("fold_bn"), output=source.parent / name)
    before = source.read_bytes()
    with pytest.raises(OutputError, match=words):
        convert(qf.load(source), job, events)
    assert events.seen == []
    assert source.read_bytes() == before
