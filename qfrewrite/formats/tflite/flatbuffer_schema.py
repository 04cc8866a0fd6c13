"""What a flatbuffer's tables look like, found out from the classes that `flatc` generated.

Generated Python knows its schema only as code: `XAddField` functions that call a builder and
getters that read through `_tab`. Both are run here against stand-ins that write down what was
asked of them, so that one codec can serve every table, those of later schemas included.
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


@dataclass(frozen=True, eq=False)
class FieldSpec:
    """One field of a table.

    kind: `scalar`, `string`, `table`, `union`, or a vector: `scalars`, `strings`, `tables`.
    code: struct's letter of a scalar, of a vector's elements, or `I` for an offset to the rest.
    table: what `table` and `tables` hold. names: number -> name where the scalar is an enum, or
    number -> table where the field is a union (whose number is the field `<name>_type`).
    align: what a vector's data are aligned to. bulk: a vector only ever looked at in place.
    """

    name: str
    slot: int
    kind: str
    code: str
    default: Any = None
    table: str = ""
    names: Mapping[int, str] = field(default_factory=dict)
    align: int = 1
    bulk: bool = False

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
    """A table: its fields by slot, how many slots the schema knows, and every default."""

    name: str
    slots: int
    fields: tuple[FieldSpec, ...]
    defaults: Mapping[str, Any]

    @cached_property
    def by_name(self) -> Mapping[str, FieldSpec]:
        """The fields by name."""
        return MappingProxyType({f.name: f for f in self.fields})


@dataclass
class Schema:
    """The tables of one package of generated classes.

    `enums` maps (table, field) or ("*", field) to the name of an enum class, `unions` maps
    (table, field) to one, `align` gives vectors whose data need more than their element's size,
    `bulk` those that are only looked at in place (so that tables may share them without bound).
    """

    package: str
    enums: Mapping[tuple[str, str], str] = field(default_factory=dict)
    unions: Mapping[tuple[str, str], str] = field(default_factory=dict)
    align: Mapping[tuple[str, str], int] = field(default_factory=dict)
    bulk: frozenset[tuple[str, str]] = frozenset()
    _tables: dict[str, TableSpec] = field(default_factory=dict, repr=False)
    _enums: dict[str, Mapping[int, str]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, tables: Iterable[TableSpec]) -> Schema:
        """A schema of these tables, for which there are no generated classes."""
        return cls("", {}, _tables={table.name: table for table in tables})

    def table(self, name: str) -> TableSpec:
        """The layout of table `name`; raises KeyError where the package has none."""
        spec = self._tables.get(name)
        if spec is None:
            spec = self._tables[name] = self._inspect(name)
        return spec

    def enum(self, name: str) -> Mapping[int, str]:
        """Number -> name of an enum or union class."""
        names = self._enums.get(name)
        if names is None:
            members = vars(getattr(self._module(name), name))
            names = {v: k for k, v in members.items() if isinstance(v, int)}
            self._enums[name] = names = MappingProxyType(names)
        return names

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
        fields.sort(key=lambda f: f.slot)
        return TableSpec(
            name,
            builder.slots,
            tuple(fields),
            MappingProxyType({f.name: f.default for f in fields}),
        )

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
    tab = _RecordingTab()
    takes_index = getter.__code__.co_argcount > 1
    stand_in = _StandIn(tab)
    result = getter(stand_in, 0) if takes_index else getter(stand_in)
    many = "s" if takes_index else ""
    if tab.read == "scalar":
        return "scalars", tab.code, ""
    if tab.read in ("string", "union"):
        return tab.read + many, "I", ""
    return "table" + many, "I", type(result).__name__


class _StandIn:
    """In place of a table object: all that generated getters use is `_tab`."""

    def __init__(self, tab: _RecordingTab) -> None:
        self._tab = tab


class _RecordingTab:
    """In place of `flatbuffers.table.Table`: every field is present; the last read is kept."""

    def __init__(self) -> None:
        self.Bytes = bytearray(8)
        self.Pos = 0
        self.read = ""
        self.code = ""

    def Offset(self, slot: int) -> int:  # noqa: N802 - flatbuffers' own names, here and below
        return 4

    def Vector(self, offset: int) -> int:  # noqa: N802
        return 0

    def Indirect(self, offset: int) -> int:  # noqa: N802
        self.read = "table"
        return 0

    def Get(self, flags: Any, offset: int) -> int:  # noqa: N802
        self.read, self.code = "scalar", flags.packer_type.format.lstrip("<")
        return 0

    def String(self, offset: int) -> bytes:  # noqa: N802
        self.read = "string"
        return b""

    def Union(self, table: Any, offset: int) -> None:  # noqa: N802
        self.read = "union"


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
