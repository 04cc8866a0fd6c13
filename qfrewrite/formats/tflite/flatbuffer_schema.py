"""The layout of a flatbuffer's tables, from the classes that `flatc` generated.

Generated Python knows its schema only as code: `XAddField` functions that call a builder and
getters that read through `_tab`. The functions are run here against a stand-in that writes down
what was asked of it, and the getters tell by the names in them what they read. So one codec can
serve every table, those of later schemas included.
"""

from __future__ import annotations

import importlib
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from flatbuffers import number_types

# The builder's `Prepend<name>Slot` -> struct's format letter.
_SCALARS = {
    "Bool": "?",
    "Byte": "B",
    "Int8": "b",
    "Uint8": "B",
    "Int16": "h",
    "Uint16": "H",
    "Int32": "i",
    "Uint32": "I",
    "Int64": "q",
    "Uint64": "Q",
    "Float32": "f",
    "Float64": "d",
}
_OFFSET = "UOffsetTRelative"
_NO_NAMES: Mapping[int, str] = MappingProxyType({})


FIELD_KINDS = ("scalar", "string", "table", "union", "scalars", "strings", "tables")
"""What a field may hold; the last three are vectors."""


@dataclass(frozen=True, eq=False)
class FieldSpec:
    """One field of a table."""

    name: str
    """The name of the field."""
    slot: int
    """The slot of the field in its table."""
    kind: str
    """One of FIELD_KINDS."""
    code: str
    """struct's letter of a scalar or of a vector's elements; `I` for an offset to the rest."""
    default: Any = None
    """The value where the field is absent."""
    table: str = ""
    """What `table` and `tables` hold."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Number -> name where the scalar is an enum; number -> table where the field is a union
    (whose number is the field `<name>_type`)."""
    align: int = 1
    """What a vector's data are aligned to."""
    bulk: bool = False
    """Whether a vector is only ever looked at in place."""

    @cached_property
    def packer(self) -> struct.Struct:
        """How the field stands in its table: the value itself, or an offset to it."""
        return struct.Struct("<" + (self.code if self.kind == "scalar" else "I"))

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """Name -> number, the inverse of `names`."""
        return MappingProxyType({name: number for number, name in self.names.items()})

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Element type of a vector of scalars."""
        return np.dtype("<" + self.code)


@dataclass(frozen=True, eq=False)
class TableSpec:
    """A table."""

    name: str
    """The name of the table."""
    slots: int
    """How many slots the schema knows."""
    fields: tuple[FieldSpec, ...]
    """The fields, by slot."""

    @cached_property
    def defaults(self) -> Mapping[str, Any]:
        """Every default by the field's name."""
        return MappingProxyType({f.name: f.default for f in self.fields})

    @cached_property
    def by_name(self) -> Mapping[str, FieldSpec]:
        """The fields by name."""
        return MappingProxyType({f.name: f for f in self.fields})


@dataclass
class Schema:
    """The tables of one package of generated classes."""

    package: str
    """The name of the package."""
    enums: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(table, field) or ("*", field) -> the name of an enum class."""
    unions: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(table, field) -> the name of a union class."""
    align: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """What the data of a vector are aligned to, where it is more than their element's size."""
    bulk: frozenset[tuple[str, str]] = frozenset()
    """Vectors that are only looked at in place, so that tables may share them without bound."""
    _tables: dict[str, TableSpec] = field(default_factory=dict, repr=False)
    _enums: dict[str, Mapping[int, str]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, tables: Iterable[TableSpec]) -> Schema:
        """A schema of these tables, for which there are no generated classes."""
        return cls("", {}, _tables={table.name: table for table in tables})

    def table(self, name: str) -> TableSpec:
        """The layout of table `name`; raises KeyError where the package has none."""
        if name not in self._tables:
            self._tables[name] = self._inspect(name)
        return self._tables[name]

    def enum(self, name: str) -> Mapping[int, str]:
        """Number -> name of an enum or union class."""
        if name not in self._enums:
            members = vars(getattr(self._module(name), name))
            numbers = {v: k for k, v in members.items() if isinstance(v, int)}
            self._enums[name] = MappingProxyType(numbers)
        return self._enums[name]

    def _module(self, name: str) -> Any:
        try:
            return importlib.import_module(f"{self.package}.{name}")
        except ModuleNotFoundError:
            raise KeyError(name) from None

    def _inspect(self, name: str) -> TableSpec:
        module = self._module(name)
        builder = _RecordingBuilder()
        getattr(module, f"{name}Start")(builder)
        fields = []
        prefix = f"{name}Add"
        for key, add in vars(module).items():
            if key.startswith(prefix):
                add(builder, 1)
                getter = getattr(getattr(module, name), key[len(prefix) :])
                fields.append(self._field(name, _snake(key[len(prefix) :]), getter, builder.last))
        return TableSpec(name, builder.slots, tuple(sorted(fields, key=lambda f: f.slot)))

    def _field(
        self, table: str, name: str, getter: Callable[..., Any], call: tuple[str, int, Any]
    ) -> FieldSpec:
        type_name, slot, default = call
        if type_name != _OFFSET:
            code = _SCALARS[type_name]
            enum = self.enums.get((table, name)) or self.enums.get(("*", name))
            if enum is None and name.endswith("_type"):
                enum = self.unions.get((table, name.removesuffix("_type")))
            names = self.enum(enum) if enum else _NO_NAMES
            if code == "?":
                default = bool(default)
            return FieldSpec(name, slot, "scalar", code, names.get(default, default), "", names)
        kind, code, target = _offset_kind(getter)
        names = self.enum(self.unions[table, name]) if kind == "union" else _NO_NAMES
        align, bulk = self.align.get((table, name), 1), (table, name) in self.bulk
        return FieldSpec(name, slot, kind, code, None, target, names, align, bulk)


def _snake(camel: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", camel).lower()


def _offset_kind(getter: Callable[..., Any]) -> tuple[str, str, str]:
    """Kind, element code and table of an offset field, from what its getter reads."""
    code = getter.__code__
    many, names = "s" if code.co_argcount > 1 else "", code.co_names
    if "String" in names or "Union" in names:
        return ("string" if "String" in names else "union") + many, "I", ""
    if "Indirect" in names:
        # The getter imports the table's class from a module of that name.
        return "table" + many, "I", next(n for n in names if f"tflite.{n}" in names)
    flags = next(n for n in reversed(names) if n.endswith("Flags"))
    return "scalars", getattr(number_types, flags).packer_type.format.lstrip("<"), ""


class _RecordingBuilder:
    """In place of `flatbuffers.Builder`: keeps the last `Prepend...Slot` call."""

    slots = 0
    last: tuple[str, int, Any] = ("", 0, None)

    def StartObject(self, slots: int) -> None:  # noqa: N802
        self.slots = slots

    def __getattr__(self, name: str) -> Callable[[int, Any, Any], None]:
        type_name = name.removeprefix("Prepend").removesuffix("Slot")

        def record(slot: int, value: Any, default: Any) -> None:
            self.last = (type_name, slot, default)

        return record
