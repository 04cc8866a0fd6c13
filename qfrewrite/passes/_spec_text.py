"""Passes as text: `name(key=value, ...)`, separated by commas; parses back from `str(pass)`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qfrewrite.errors import PassError

_NAME = re.compile(r"\s*(@[A-Za-z][A-Za-z0-9_-]*|[A-Za-z_][A-Za-z0-9_]*)\s*")
_PAIRS = {"(": ")", "[": "]"}


@dataclass(frozen=True)
class PassText:
    """One pass of a list: its name and its parameters as written, with their quotes."""

    name: str
    params: tuple[tuple[str, str], ...] = ()


def parse_list(text: str) -> list[PassText]:
    """Split `a,b(k=v),c(k="x,y")` into passes; raises PassError naming what is wrong.

    Values run to the next comma outside quotes and brackets.
    """
    items = _split(text)
    if not any(item.strip() for item in items):
        raise PassError("the pass list is empty", remedy="`qfrewrite passes` lists them")
    return [_parse_one(item) for item in items]


def quote(value: str) -> str:
    """`value` as it stands in a list: quoted where it holds a separator, or reads as nothing."""
    special = re.search(r"[,()=\s\[\]]", value) or value.lower() in ("", "none")
    return f'"{value}"' if special else value


def unquoted(text: str) -> str:
    """A value without the quotes around it."""
    return text.strip("\"'")


def _split(text: str) -> list[str]:
    """Parts between commas that are outside quotes and brackets."""
    parts, start, quoted = [], 0, ""
    stack: list[str] = []
    for i, char in enumerate(text):
        if quoted:
            quoted = "" if char == quoted else quoted
        elif char in "\"'":
            quoted = char
        elif char in _PAIRS:
            stack.append(_PAIRS[char])
        elif char in _PAIRS.values():
            if not stack or stack.pop() != char:
                raise PassError(f"'{char}' closes nothing", where=f"pass list '{text}'")
        elif char == "," and not stack:
            parts.append(text[start:i])
            start = i + 1
    if stack or quoted:
        raise PassError(
            f"'{stack[-1] if stack else quoted}' is missing", where=f"pass list '{text}'"
        )
    return [*parts, text[start:]]


def _parse_one(item: str) -> PassText:
    match = _NAME.match(item)
    if match is None:
        raise PassError(
            "expected a pass name", where=f"pass list at '{item.strip()}'",
            remedy="write name or name(key=value)",
        )  # fmt: skip
    name, rest = match.group().strip(), item[match.end() :].strip()
    if not rest:
        return PassText(name)
    if not (rest.startswith("(") and rest.endswith(")")):
        raise PassError(f"unexpected '{rest}'", where=name, remedy="write name(key=value)")
    params = []
    for pair in _split(rest[1:-1]):
        if not pair.strip():
            continue
        key, equals, value = pair.partition("=")
        if not equals:
            raise PassError(f"'{pair.strip()}' is not key=value", where=name)
        params.append((key.strip(), value.strip()))
    return PassText(name, tuple(params))
