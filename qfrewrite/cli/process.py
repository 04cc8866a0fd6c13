"""The command line as a process: output into a pipe that closes, and signals that end it."""

from __future__ import annotations

import errno
import io
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TextIO

# Windows reports a closed pipe as an invalid argument.
_CLOSED = (errno.EPIPE, errno.ESHUTDOWN, errno.EINVAL)


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends the work as Ctrl-C does, so that nothing half done is left."""


class _Forgiving(io.FileIO):
    """A file descriptor that drops what is written after its other end was closed."""

    def write(self, data: Any) -> int:
        """Write, or drop the data if the pipe is closed."""
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in _CLOSED:
                raise
            return memoryview(data).nbytes


def keep_on_without_reader() -> None:
    """Let the work go on, and its file be written, when a pipe that takes its output closes."""
    sys.stdout, sys.stderr = _forgiving(sys.stdout), _forgiving(sys.stderr)


def _forgiving(stream: TextIO) -> TextIO:
    """The stream with another writer below it; terminals, and what is no file, stay as they are."""
    try:
        if stream.isatty():
            return stream
        raw = _Forgiving(stream.fileno(), "wb", closefd=False)
    except (AttributeError, OSError, ValueError):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        stream.encoding,
        stream.errors,
        line_buffering=stream is sys.stderr,
        write_through=stream is sys.stderr,
    )


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """While this lasts SIGTERM raises `Terminated` in the main thread."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:
    # Once is enough: a second one must not disturb what the first one cleans up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
