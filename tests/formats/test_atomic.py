"""Files appear whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from qfrewrite.errors import OutputError, RunError
from qfrewrite.formats.atomic import staged, write_atomic


def test_bytes_and_chunks(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"one")
    write_atomic(str(tmp_path / "b"), iter([b"t", memoryview(b"wo")]))
    assert (tmp_path / "a").read_bytes() == b"one"
    assert (tmp_path / "b").read_bytes() == b"two"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_permissions_are_those_of_any_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "new", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "plain").chmod(0o640)
    write_atomic(tmp_path / "plain", b"y")
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o640


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "model.tflite"
    target.write_bytes(b"old")

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(target, broken())
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    def full() -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"a\.tflite: cannot be written \(No space left"):
        write_atomic(tmp_path / "a.tflite", full())
    assert os.listdir(tmp_path) == []


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"there is no folder .*nowhere; create it first"):
        write_atomic(tmp_path / "nowhere" / "a", b"x")


def test_a_file_as_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file/a"):
        write_atomic(tmp_path / "file" / "a", b"x")


def test_a_folder_as_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder; name a file in it"):
        write_atomic(tmp_path, b"x")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            write_atomic(tmp_path / "a", b"x")
    finally:
        tmp_path.chmod(0o700)


def test_no_permission_as_anyone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        write_atomic(tmp_path / "a", b"x")


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="no /dev/null")
def test_a_device_is_written_to_not_replaced() -> None:
    write_atomic("/dev/null", b"gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_what_is_staged_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "model.tflite"
    with staged(target) as path:
        assert path.suffix == ".tflite"
        write_atomic(path, b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_what_is_staged_goes_when_the_rest_fails(tmp_path: Path) -> None:
    """The error names the file that was asked for, and an older file stays as it was."""
    target = tmp_path / "model.tflite"
    target.write_bytes(b"old")

    def write() -> None:
        with staged(target) as path:
            write_atomic(path, b"new")
            raise RunError("cannot be run", where=str(path), remedy="do this")

    with pytest.raises(RunError, match=r"^\S*/model\.tflite: cannot be run; do this$"):
        write()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_nothing_is_staged_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"), staged(tmp_path / "a" / "b"):
        pytest.fail("the block ran")


def test_what_is_no_file_is_written_to_directly() -> None:
    with staged("/dev/null") as path:
        assert path == Path("/dev/null")
