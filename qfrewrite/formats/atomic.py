"""Write a file whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from qfrewrite.errors import OutputError, QfError


def write_atomic(path: str | Path, data: bytes | Iterable[Any]) -> int:
    """Write bytes, or chunks with the buffer protocol, to `path`; returns how many bytes.

    They go to a temporary file beside the target, which then takes the target's name: a run that
    fails leaves the target as it was and nothing besides. A link is followed; what is no regular
    file (a pipe, `/dev/stdout`) is written to directly. Raises OutputError.
    """
    chunks: Iterable[Any] = [data] if isinstance(data, bytes) else data
    where = str(path)
    try:
        target = os.path.realpath(path)
        mode = _mode(target)
        _check(target, mode, where)
        if mode is not None and not stat.S_ISREG(mode):
            with open(target, "wb") as file:
                return _write(file, chunks)
        return _replace(target, mode, chunks)
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise OutputError(what, where=where) from None


@contextmanager
def staged(path: str | Path) -> Iterator[Path]:
    """A path beside `path`, with its suffix: what is written there becomes `path` at the end.

    If the block fails, `path` stays as it was and nothing is left. What is no regular file is
    given as it is. Errors name `path`. Raises OutputError.
    """
    path = Path(path)
    target = os.path.realpath(path)
    mode = _mode(target)
    _check(target, mode, str(path))
    if mode is not None and not stat.S_ISREG(mode):
        yield path
        return
    name = f".qfrewrite-{secrets.token_hex(8)}{path.suffix}"
    temporary = Path(os.path.dirname(target), name)
    try:
        yield temporary
        if mode is not None:
            os.chmod(temporary, stat.S_IMODE(mode))
        os.replace(temporary, target)
    except QfError as error:
        where = error.where.replace(str(temporary), str(path)) if error.where else None
        raise type(error)(error.what, where=where, remedy=error.remedy) from None
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise OutputError(what, where=str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def _mode(target: str) -> int | None:
    try:
        return os.stat(target).st_mode
    except FileNotFoundError:
        return None


def _check(target: str, mode: int | None, where: str) -> None:
    folder = os.path.dirname(target)
    if mode is not None and stat.S_ISDIR(mode):
        raise OutputError("is a folder", where=where, remedy="name a file in it")
    if not os.path.isdir(folder):
        raise OutputError(f"there is no folder {folder}", where=where, remedy="create it first")


def _write(file: BinaryIO, chunks: Iterable[Any]) -> int:
    return sum(file.write(chunk) for chunk in chunks)


def _replace(target: str, mode: int | None, chunks: Iterable[Any]) -> int:
    temporary = os.path.join(os.path.dirname(target), f".qfrewrite-{secrets.token_hex(8)}.tmp")
    # 0o666 less the user's umask, as for any new file; an old one keeps its own permissions.
    number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
    try:
        with open(number, "wb") as file:
            size = _write(file, chunks)
        if mode is not None:
            os.chmod(temporary, stat.S_IMODE(mode))
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    return size


_BINARY = getattr(os, "O_BINARY", 0)  # Windows translates line ends without it
