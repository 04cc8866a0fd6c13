"""Errors with a place and a remedy.

Every error that a user can cause is a `QfError`. Its text is one line that names the file, op or
tensor, what was expected and what to do; its class fixes the exit code of the command line.
"""

from __future__ import annotations

from typing import ClassVar


class QfError(Exception):
    """Base of every error this package raises on purpose.

    `what` says what is wrong, `where` names the file, op or tensor, `remedy` says what to do.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what = _one_line(what)
        self.where = _one_line(where) if where else None
        self.remedy = _one_line(remedy) if remedy else None
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; {self.remedy}" if self.remedy else text

    def at(self, where: str) -> QfError:
        """This error with `where` put before the place it already names."""
        place = f"{where}: {self.where}" if self.where else where
        return type(self)(self.what, where=place, remedy=self.remedy)


class UsageError(QfError):
    """The command line or an argument of the API is wrong."""

    exit_code = 2


class ModelFileError(QfError):
    """A model file is missing, unreadable, damaged or not a model."""

    exit_code = 3


class UnsupportedError(QfError):
    """The model holds something that this version cannot represent or write."""

    exit_code = 4


class PassError(QfError):
    """A pass is unknown, has a wrong parameter, or cannot run on this graph."""

    exit_code = 5


class DataError(QfError):
    """Calibration or evaluation data is missing or unusable."""

    exit_code = 6


class OutputError(QfError):
    """The result cannot be written."""

    exit_code = 7


class VerifyError(QfError):
    """A graph breaks a rule of the IR, or a rewrite changed what it must keep."""

    exit_code = 8


class RunError(QfError):
    """The runtime refused or failed to run a graph."""

    exit_code = 9


def _one_line(text: str) -> str:
    return " ".join(text.split())


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with one line that says what became of the work so far."""
