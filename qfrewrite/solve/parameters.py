"""Parameters of passes: what values their types allow, read from text and checked."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal

from qfrewrite.errors import UsageError


@dataclass(frozen=True)
class Within:
    """The bounds of a number: `samples: Annotated[int, Within(1)] = 200`."""

    low: float = -math.inf
    """The least value."""
    high: float = math.inf
    """The largest value."""
    above: bool = False
    """Whether `low` itself is left out."""

    def check(self, name: str, value: Any) -> None:
        """Raise UsageError for a number outside, and for NaN."""
        if not (self.low < value if self.above else self.low <= value) or not value <= self.high:
            raise UsageError(f"{name}={value}", remedy=f"give {self}")

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"more than {self.low:g}" if self.above else f"{self.low:g} or more"
        return f"{'above ' if self.above else ''}{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Reads:
    """What a text must be read by: `size: Annotated[str, Reads(parse_size, "236 or 320x240")]`."""

    read: Callable[[str], Any]
    """Raises UsageError for a text that it cannot read."""
    form: str
    """What such a text looks like."""

    def check(self, name: str, value: str) -> None:
        """Raise UsageError for another text."""
        self.read(value)

    def __str__(self) -> str:
        return self.form


@dataclass(frozen=True)
class Parameter:
    """One parameter of a pass, as its field is annotated."""

    name: str
    """What it is called in lists."""
    kinds: tuple[type, ...]
    """The types of its values; None for no value is not among them."""
    default: Any
    """MISSING where it must be given."""
    choices: tuple[Any, ...] = ()
    """All its values, the default first; empty where they are not a few."""
    limits: tuple[Within | Reads, ...] = ()
    """What else holds of its values."""
    optional: bool = False
    """Whether it may be none."""

    def __str__(self) -> str:
        """Its values, for people."""
        if self.choices:
            return " | ".join(map(shown, self.choices))
        text = " or ".join(kind.__name__ for kind in self.kinds)
        if self.limits:
            text += f" ({', '.join(map(str, self.limits))})"
        return f"{text} or none" if self.optional else text

    def check(self, value: Any, where: str) -> None:
        """Raise UsageError for a value that the pass `where` does not take."""
        if value is None and self.optional:
            return
        if self.choices and value not in self.choices:
            remedy = f"use one of {', '.join(map(shown, sorted(self.choices)))}"
            raise UsageError(f"{self.name}={value}", where=where, remedy=remedy)
        for limit in self.limits:
            try:
                limit.check(self.name, value)
            except UsageError as error:
                raise UsageError(error.what, where=where, remedy=error.remedy) from None

    def read(self, text: str, *, quoted: bool, where: str) -> Any:
        """`text` as a value, which `check` has yet to look at; raises UsageError.

        quoted: what stood in quotes is text, also the word none.
        """
        if self.optional and (not text or (text.lower() == "none" and not quoted)):
            return None
        if self.choices:
            return next((one for one in self.choices if shown(one) == text), text)
        for kind in self.kinds:
            if kind is bool and text.lower() in _BOOLS:
                return _BOOLS[text.lower()]
            if kind in (int, float, str):
                try:
                    return kind(text)
                except ValueError:
                    continue
        wanted = " or ".join(kind.__name__ for kind in self.kinds)
        raise UsageError(f"{self.name}={text} is not a valid {wanted}", where=where)


_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def shown(value: Any) -> str:
    """A value as lists of passes write it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@cache
def parameters(cls: type) -> tuple[Parameter, ...]:
    """The parameters of a pass, in the order of its fields."""
    own = fields(cls)
    hints = typing.get_type_hints(cls, include_extras=True) if own else {}
    return tuple(_parameter(f.name, hints[f.name], f.default) for f in own)


def _parameter(name: str, hint: Any, default: Any) -> Parameter:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    parts = typing.get_args(hint) if is_union else (hint,)
    kinds: list[type] = []
    choices: tuple[Any, ...] = ()
    limits: tuple[Within | Reads, ...] = ()
    for part in parts:
        if typing.get_origin(part) is Annotated:
            part, *more = typing.get_args(part)
            limits += tuple(one for one in more if isinstance(one, (Within, Reads)))
        if typing.get_origin(part) is Literal:
            choices += typing.get_args(part)
        elif part is not type(None):
            kinds.append(part)
    first = sorted(choices, key=lambda one: one != default)
    optional = type(None) in parts
    return Parameter(name, tuple(kinds), default, tuple(first), limits, optional)
