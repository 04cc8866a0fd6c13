"""What functions find, as dataclasses with a dictionary for JSON and a repr of one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from math import isfinite
from pathlib import Path
from typing import Any


class Record:
    """Base of dataclasses that hold results.

    Fields declared with `repr=False` stay out of both forms. A dataclass declared with `repr=False`
    shows how many values a collection has, not the values.
    """

    def figures(self) -> dict[str, Any]:
        """The fields by name, and what follows from them."""
        return _shown(self)

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {name: json_value(value) for name, value in self.figures().items()}

    def __repr__(self) -> str:
        parts = [_brief(name, value) for name, value in _shown(self).items()]
        return f"<{type(self).__name__}: {', '.join(filter(None, parts))}>"


def json_value(value: Any) -> Any:
    """`value` as JSON holds it: numpy's values as Python's, None for what is not finite."""
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: json_value(one) for key, one in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [json_value(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not isfinite(value) else value


def _shown(record: Any) -> dict[str, Any]:
    return {f.name: getattr(record, f.name) for f in fields(record) if f.repr}


def _brief(name: str, value: Any) -> str:
    """One field in the repr; empty where there is nothing to say."""
    if isinstance(value, (list, tuple, Mapping)):
        return f"{len(value)} {name}" if value else ""
    return "" if value is None or value == "" else f"{name} {value}"
