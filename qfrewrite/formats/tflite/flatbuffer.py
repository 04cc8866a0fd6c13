"""Flatbuffer tables to dicts and back: one codec for every table of a schema.

A table becomes a dict with every field of the schema: scalars as Python numbers (enums as their
names), strings as str, sub-tables as dicts, vectors of scalars as read-only arrays over the
file's own bytes, vectors of tables as lists. An absent string, table or vector is None. Of a
union, `<field>_type` names the table and `<field>` is its dict. Fields that the schema does not
know stand under `UNKNOWN`, so that nobody loses them without noticing.

Source: the FlatBuffers internals page (binary layout).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from qfrewrite.errors import Diagnostics, ModelFileError, UnsupportedError
from qfrewrite.formats.tflite.flatbuffer_schema import FIELD_KINDS, FieldSpec, Schema, TableSpec
from qfrewrite.ir import Array

UNKNOWN = "?"
Values: TypeAlias = dict[str, Any]

# More tables than this no reader of TFLite accepts either (its verifier's own limit).
_MOST_TABLES = 1_000_000
# A sound file holds each table and vector about once. One that points to the same bytes again and
# again, to be huge once decoded, is refused.
_MOST_REUSE = 4
_TABLE_COST = 64  # a table of 4 bytes still becomes a dict

_REMEDY = "the file is damaged or cut short"
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_U16X2 = struct.Struct("<HH")


class Decoder:
    """Reads tables out of one buffer; every offset and length is checked before it is used.

    `diagnostics` collects what was read but cannot be kept.
    """

    def __init__(self, schema: Schema, buf: memoryview) -> None:
        self.schema = schema
        self.buf = buf
        self.size = len(buf)
        self.diagnostics = Diagnostics()
        self._tables_left = _MOST_TABLES
        self._bytes_left = _MOST_REUSE * self.size + 65536
        self._vtables: dict[int, tuple[tuple[int, ...], int]] = {}

    def root(self, name: str) -> Values:
        """The root table, of type `name`."""
        return self.table(self.schema.table(name), self._u32(0, name))

    def table(self, spec: TableSpec, at: int) -> Values:
        """The table of type `spec` at byte `at`."""
        self._tables_left -= 1
        if self._tables_left < 0:
            raise ModelFileError(f"holds more than {_MOST_TABLES} tables", remedy=_REMEDY)
        slots, size = self._vtable(spec, at)
        self._spend(_TABLE_COST + size)
        if at + size > self.size:
            raise _outside(spec.name)
        values = dict(spec.defaults)
        known = len(slots)
        for field in spec.fields:
            offset = slots[field.slot] if field.slot < known else 0
            if offset:
                if offset + field.packer.size > size:
                    raise _outside(f"{spec.name}.{field.name}")
                values[field.name] = _READ[field.kind](self, spec, field, at + offset, values)
        if known > spec.slots or len(spec.fields) < spec.slots:
            self._note_others(spec, slots, values)
        return values

    def copy(self, view: Any) -> bytes:
        """The bytes of a vector; counted, for copies cost memory where views do not."""
        self._spend(len(view))
        return bytes(view)

    def view(self, dtype: np.dtype[Any], count: int, at: int, what: str) -> Any:
        """`count` elements at byte `at` as a read-only array over the buffer."""
        if at + count * dtype.itemsize > self.size:
            raise _outside(what)
        return np.frombuffer(self.buf, dtype, count, at)

    # -- parts of a table ------------------------------------------------------------------

    def _vtable(self, spec: TableSpec, at: int) -> tuple[tuple[int, ...], int]:
        """Offsets of the fields within the table, by slot, and the table's size in bytes."""
        if at + 4 > self.size:
            raise _outside(spec.name)
        where: int = at - _I32.unpack_from(self.buf, at)[0]
        if where not in self._vtables:
            if not 0 <= where <= self.size - 4:
                raise _outside(spec.name)
            size, table_size = _U16X2.unpack_from(self.buf, where)
            if size < 4 or size % 2 or where + size > self.size or table_size < 4:
                raise _outside(spec.name)
            self._spend(size)
            slots = struct.unpack_from(f"<{(size - 4) // 2}H", self.buf, where + 4)
            self._vtables[where] = slots, table_size
        return self._vtables[where]

    def _scalar(self, spec: TableSpec, field: FieldSpec, at: int, values: Values) -> Any:
        value = field.packer.unpack_from(self.buf, at)[0]
        return field.names.get(value, value) if field.names else value

    def _string(self, spec: TableSpec, field: FieldSpec, at: int, values: Values) -> str:
        at, count = self._vector(spec, field, at, 1)
        data = self.buf[at : at + count]
        self._spend(count)
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            self.diagnostics.notice(
                "not-utf8", f"{spec.name}.{field.name} is not UTF-8; its other bytes are escaped"
            )
            return str(data, "utf-8", "backslashreplace")

    def _strings(self, spec: TableSpec, field: FieldSpec, at: int, values: Values) -> list[str]:
        at, count = self._vector(spec, field, at, 4)
        self._spend(4 * count)
        return [self._string(spec, field, at + 4 * i, values) for i in range(count)]

    def _scalars(self, spec: TableSpec, field: FieldSpec, at: int, values: Values) -> Any:
        at, count = self._vector(spec, field, at, field.dtype.itemsize)
        if not field.bulk:
            self._spend(count * field.dtype.itemsize)
        return np.frombuffer(self.buf, field.dtype, count, at)

    def _table(self, spec: TableSpec, field: FieldSpec, at: int, values: Values) -> Values:
        return self.table(self.schema.table(field.table), self._target(spec, field, at))

    def _tables(self, spec: TableSpec, field: FieldSpec, at: int, values: Values) -> list[Values]:
        start, count = self._vector(spec, field, at, 4)
        self._spend(4 * count)
        table = self.schema.table(field.table)
        offsets = struct.unpack_from(f"<{count}I", self.buf, start)
        return [self.table(table, start + 4 * i + offset) for i, offset in enumerate(offsets)]

    def _union(self, spec: TableSpec, field: FieldSpec, at: int, values: Values) -> Values | None:
        member = values[f"{field.name}_type"]
        if member == "NONE":
            return None
        if isinstance(member, int):
            values.setdefault(UNKNOWN, []).append(f"{field.name} of type {member}")
            return None
        return self.table(self.schema.table(member), self._target(spec, field, at))

    def _note_others(self, spec: TableSpec, slots: tuple[int, ...], values: Values) -> None:
        """Say which fields are there that the schema has withdrawn or does not know yet."""
        named = {f.slot for f in spec.fields}
        for slot, offset in enumerate(slots):
            if offset and slot >= spec.slots:
                values.setdefault(UNKNOWN, []).append(f"{spec.name} field {slot}")
            elif offset and slot not in named:
                self.diagnostics.notice(
                    "withdrawn-field",
                    "a field that TFLite has withdrawn is left out",
                    where=spec.name,
                )

    # -- bytes -----------------------------------------------------------------------------

    def _u32(self, at: int, what: str) -> int:
        if at + 4 > self.size:
            raise _outside(what)
        value: int = _U32.unpack_from(self.buf, at)[0]
        return value

    def _target(self, spec: TableSpec, field: FieldSpec, at: int) -> int:
        offset: int = _U32.unpack_from(self.buf, at)[0]
        if not 0 < offset < self.size - at:
            raise _outside(f"{spec.name}.{field.name}")
        return at + offset

    def _vector(self, spec: TableSpec, field: FieldSpec, at: int, width: int) -> tuple[int, int]:
        """Start and length of the vector that the offset at byte `at` leads to."""
        start = self._target(spec, field, at)
        count = self._u32(start, f"{spec.name}.{field.name}")
        if start + 4 + count * width > self.size:
            raise _outside(f"{spec.name}.{field.name}")
        return start + 4, count

    def _spend(self, size: int) -> None:
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise ModelFileError("refers to the same bytes over and over", remedy=_REMEDY)


_READ: dict[str, Callable[..., Any]] = {kind: getattr(Decoder, f"_{kind}") for kind in FIELD_KINDS}


def _outside(what: str) -> ModelFileError:
    return ModelFileError(f"{what} points outside the file", remedy=_REMEDY)


class Encoder:
    """Writes tables, last one first, as a list of byte chunks.

    A vector of bytes may be given as an array of any type, whose elements are taken as they lie,
    and a table as the position that writing it returned.
    Positions are counted from the end of the flatbuffer, which grows towards its front. Large
    vectors are kept as they are given and only copied when the chunks are written.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.size = 0
        self._chunks: list[Any] = []
        self._vtables: dict[bytes, int] = {}
        self._align = 4

    def finish(self, root: int, identifier: bytes) -> None:
        """Put the header before the root table that stands at `root`."""
        self._pad(self._align, 8)
        self._push(identifier)
        self._push(_U32.pack(self.size + 4 - root))

    def chunks(self) -> Iterator[Any]:
        """The flatbuffer from its first byte on, as objects with the buffer protocol."""
        for chunk in reversed(self._chunks):
            yield as_bytes(chunk) if isinstance(chunk, np.ndarray) else chunk

    def table(self, spec: TableSpec, values: Mapping[str, Any]) -> int:
        """Write one table and all it refers to; fields that are missing get their defaults.

        Raises UnsupportedError for a value that does not fit, a field the table lacks, and
        whatever a decoder left under UNKNOWN.
        """
        for name in values:
            if name not in spec.by_name:
                raise _refusal(spec, name, values)
        present: list[tuple[FieldSpec, Any]] = []
        for field in spec.fields:
            value = values.get(field.name, field.default)
            if value is None:
                continue
            try:
                packed = _WRITE[field.kind](self, field, value, values)
            except (struct.error, TypeError, ValueError, OverflowError, KeyError) as error:
                place = f"{spec.name}.{field.name}"
                raise UnsupportedError(f"{place} cannot be {_short(value)} ({error})") from None
            if packed is not None:
                present.append((field, packed))
        return self._object(spec, present)

    # -- values of fields ------------------------------------------------------------------

    def _scalar(self, field: FieldSpec, value: Any, values: Mapping[str, Any]) -> bytes | None:
        data = field.packer.pack(_number(field, value))
        if field.default is not None and data == field.packer.pack(_number(field, field.default)):
            return None
        return data

    def _string(self, field: FieldSpec, value: str, values: Mapping[str, Any]) -> int:
        data = str.encode(value, "utf-8")
        self._pad(4, len(data) + 1)
        self._push(data + b"\0")
        return self._push(_U32.pack(len(data)))

    def _strings(self, field: FieldSpec, value: Sequence[str], values: Mapping[str, Any]) -> int:
        return self._offsets([self._string(field, item, values) for item in value])

    def _scalars(self, field: FieldSpec, value: Any, values: Mapping[str, Any]) -> int:
        if field.code == "B" and isinstance(value, (bytes, np.ndarray)):
            array = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
        else:
            array = np.asarray(value, None if len(value) else field.dtype)
            cast = array.astype(field.dtype)
            if field.code not in "fd" and not np.array_equal(cast, array):
                raise ValueError("out of range")
            array = cast
        self._pad(max(4, field.align, field.dtype.itemsize), array.nbytes)
        self._push(array)
        return self._push(_U32.pack(array.nbytes // field.dtype.itemsize))

    def _table(self, field: FieldSpec, value: Values | int, values: Mapping[str, Any]) -> int:
        if isinstance(value, int):
            return value
        return self.table(self.schema.table(field.table), value)

    def _tables(self, field: FieldSpec, value: Sequence[Values | int], values: Any) -> int:
        return self._offsets([self._table(field, item, values) for item in value])

    def _union(self, field: FieldSpec, value: Values | int, values: Mapping[str, Any]) -> int:
        if isinstance(value, int):
            return value
        return self.table(self.schema.table(values[f"{field.name}_type"]), value)

    # -- bytes -----------------------------------------------------------------------------

    def _object(self, spec: TableSpec, present: list[tuple[FieldSpec, Any]]) -> int:
        """The table itself: its fields from wide to narrow, so that none needs padding."""
        present.sort(key=lambda item: -item[0].packer.size)
        length = sum(field.packer.size for field, _ in present)
        self._pad(max([4, *(field.packer.size for field, _ in present)]), length)
        top = self.size + length
        slots = [0] * (1 + max((field.slot for field, _ in present), default=-1))
        data, at = [], 0
        for field, value in present:
            slots[field.slot] = 4 + at
            data.append(value if isinstance(value, bytes) else _U32.pack(top - at - value))
            at += field.packer.size
        vtable = struct.pack(f"<{2 + len(slots)}H", 4 + 2 * len(slots), 4 + length, *slots)
        place = top + 4
        known = self._vtables.get(vtable)
        self._push(b"".join(data))
        self._push(_I32.pack(len(vtable) if known is None else known - place))
        if known is None:
            self._vtables[vtable] = self._push(vtable)
        return place

    def _offsets(self, targets: list[int]) -> int:
        self._pad(4, 4 * len(targets))
        top = self.size + 4 * len(targets)
        places = np.arange(top, self.size, -4, dtype=np.int64)
        self._push((places - np.array(targets, np.int64)).astype("<u4").tobytes())
        return self._push(_U32.pack(len(targets)))

    def _push(self, data: Any) -> int:
        self._chunks.append(data)
        self.size += data.nbytes if isinstance(data, np.ndarray) else len(data)
        return self.size

    def _pad(self, align: int, ahead: int) -> None:
        """Zeros, so that what follows `ahead` more bytes starts at a multiple of `align`."""
        self._align = max(self._align, align)
        missing = -(self.size + ahead) % align
        if missing:
            self._push(bytes(missing))


_WRITE: dict[str, Callable[..., Any]] = {kind: getattr(Encoder, f"_{kind}") for kind in FIELD_KINDS}


def as_bytes(array: Array) -> Array:
    """The array's elements in order as bytes [n]; copied only where they are strided."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _number(field: FieldSpec, value: Any) -> Any:
    return field.numbers[value] if isinstance(value, str) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _refusal(spec: TableSpec, name: str, values: Mapping[str, Any]) -> UnsupportedError:
    if name == UNKNOWN:
        what = f"holds what this version does not know: {', '.join(values[UNKNOWN])}"
        return UnsupportedError(what, remedy="update the 'tflite' package")
    return UnsupportedError(f"{spec.name} has no field '{name}'")
