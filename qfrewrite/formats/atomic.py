"""Write a file whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qfrewrite.errors import OutputError, QfError


def write_atomic(path: str | Path, data: bytes | Iterable[Any]) -> int:
    """Write bytes, or chunks with the buffer protocol, to `path`; returns how many bytes.

    They go to a temporary file beside the target, which then takes the target's name: a run that
    fails leaves the target as it was and nothing besides. A link is followed; what is no regular
    file (a pipe, `/dev/stdout`) is written to directly. Raises OutputError.
    """
    chunks: Iterable[Any] = [data] if isinstance(data, bytes) else data
    with staged(path) as place, open(place, "wb") as file:
        return sum(file.write(chunk) for chunk in chunks)


@contextmanager
def staged(path: str | Path) -> Iterator[Path]:
    """A path beside `path`, with its suffix: what is written there becomes `path` at the end.

    If the block fails, `path` stays as it was and nothing is left. What is no regular file is
    given as it is. Errors name `path`. Raises OutputError.
    """
    path, temporary = Path(path), None
    try:
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode if target.exists() else None
        if mode is not None and stat.S_ISDIR(mode):
            raise OutputError("is a folder", where=str(path), remedy="name a file in it")
        if not target.parent.is_dir():
            what = f"there is no folder {target.parent}"
            raise OutputError(what, where=str(path), remedy="create it first")
        if mode is not None and not stat.S_ISREG(mode):
            yield path
            return
        temporary = target.with_name(f".qfrewrite-{secrets.token_hex(8)}{path.suffix}")
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
        if temporary is not None:
            temporary.unlink(missing_ok=True)
