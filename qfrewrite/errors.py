"""Errors and diagnostics, with a place and a remedy.

Every error that a user can cause is a `QfError`. Its text is one line that names the file, op or
tensor, what was expected and what to do; its class fixes the exit code of the command line. What
the user should know although nothing failed is a `Diagnostic`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

from qfrewrite.records import Record

Severity: TypeAlias = Literal["note", "notice", "warning"]


@dataclass(frozen=True)
class Diagnostic(Record):
    """Something a user should know about a model, a pass or a result."""

    severity: Severity
    """`note`: in the summary only. `notice`: on stderr. `warning`: must not be overlooked."""
    code: str
    """What kind of thing this is, in words with hyphens; it stays when the text is improved."""
    text: str
    """What is the case."""
    where: str = ""
    """The pass, op, tensor or signature that this is about."""
    remedy: str = ""
    """What to do about it."""

    def __str__(self) -> str:
        return _line(self.text, self.where, self.remedy)

    def at(self, where: str) -> Diagnostic:
        """This one with `where` put before the place it already names."""
        return replace(self, where=f"{where}: {self.where}" if self.where else where)


class Diagnostics(list[Diagnostic]):
    """Diagnostics in the order in which they were found, each once."""

    def add(self, *diagnostics: Diagnostic | None) -> None:
        """Append those that are not there yet."""
        for one in diagnostics:
            if one is not None and one not in self:
                self.append(one)

    def note(self, code: str, text: str, *, where: str = "", remedy: str = "") -> None:
        """Add something for the summary."""
        self.add(Diagnostic("note", code, text, where, remedy))

    def notice(self, code: str, text: str, *, where: str = "", remedy: str = "") -> None:
        """Add something for stderr."""
        self.add(Diagnostic("notice", code, text, where, remedy))

    def warn(self, code: str, text: str, *, where: str = "", remedy: str = "") -> None:
        """Add something that must not be overlooked."""
        self.add(Diagnostic("warning", code, text, where, remedy))

    def of(self, *severities: Severity) -> list[Diagnostic]:
        """Those of some severities."""
        return [one for one in self if one.severity in severities]


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
        return _line(self.what, self.where, self.remedy)

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


def _line(text: str, where: str | None, remedy: str | None) -> str:
    text = f"{where}: {text}" if where else text
    return f"{text}; {remedy}" if remedy else text


def _one_line(text: str) -> str:
    return " ".join(text.split())


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with one line that says what became of the work so far."""
