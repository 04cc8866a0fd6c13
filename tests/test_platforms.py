"""What only one system has is not relied on: the ways round it, on whatever system this runs."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import qfrewrite as qf
from qfrewrite.runtime import session
from qfrewrite.runtime.session import Runner, default_threads

DIGITS = ROOT / "examples/digits/digits_mobilenet.pb"
# Modules of the standard library that some systems lack.
BOUND = {"fcntl", "grp", "msvcrt", "posix", "pwd", "resource", "syslog", "termios", "winreg"}


def written(folder: Path) -> Path:
    return qf.save(qf.load(DIGITS), folder / "float.tflite").path


def run(runner: Runner) -> np.ndarray:
    return runner.run([np.ones(spec.shape, np.float32) for spec in runner.inputs])[0].copy()


@pytest.mark.parametrize("path", sorted((ROOT / "qfrewrite").rglob("*.py")), ids=lambda p: p.stem)
def test_no_module_of_one_system_is_imported(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not BOUND & {str(name).partition(".")[0] for name in names}


def test_threads_without_processor_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS and Windows do not say which processors a process may use."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert default_threads() == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_threads() == 1


def test_models_run_where_stderr_has_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A windowed program on Windows has none, so the runtime's messages cannot be kept off it."""
    expected = run(Runner(written(tmp_path), threads=1))

    def none(number: int) -> int:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "dup", none)
    np.testing.assert_array_equal(run(Runner(written(tmp_path), threads=1)), expected)


def test_files_are_read_whole_where_mapped_ones_are_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a file that was just judged could not take its name."""
    path = written(tmp_path)
    monkeypatch.setattr(session, "_MAPPED_FILES_ARE_LOCKED", True)
    runner = Runner(path, threads=1)
    # Bytes that change in a mapped file change in the model.
    path.write_bytes(bytes(path.stat().st_size))
    assert np.isfinite(run(runner)).all()
    assert run(runner).any()
