"""TFLite's model metadata: what a `.tflite` says of its inputs and outputs for people and apps.

It is a flatbuffer of its own (identifier `M001`) in the metadata entry `TFLITE_METADATA`. Layout:
metadata_schema.fbs of TensorFlow Lite Support, version 1.5. The codec is that of `.tflite`, so
what is decoded can be changed and encoded again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType

import numpy as np

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.tflite.flatbuffer import UNKNOWN, Decoder, Encoder, Values
from qfrewrite.formats.tflite.flatbuffer_schema import FieldSpec, Schema, TableSpec
from qfrewrite.ir import Graph, Model, Quant
from qfrewrite.ir.quant import ACTIVATION_CODES, quantize

ENTRY = "TFLITE_METADATA"
"""The name of the metadata entry."""
IDENTIFIER = b"M001"

# `force_align` of the schema.
_ALIGN = {("CustomMetadata", "data"): 16}
_SCALARS = {"byte": "b", "ubyte": "B", "int": "i", "uint": "I", "float": "f"}


def _schema() -> Schema:
    """The tables that `metadata_schema.txt` lists."""
    text = files(__package__).joinpath("metadata_schema.txt").read_text("ascii")
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    unions = {name: members for sort, name, *members in lines if sort == "union"}
    tables = {name: fields for sort, name, *fields in lines if sort == "table"}
    return Schema.of(_table(name, fields, unions) for name, fields in tables.items())


def _table(name: str, stated: Sequence[str], unions: Mapping[str, Sequence[str]]) -> TableSpec:
    fields: list[FieldSpec] = []
    for field, kind in (item.split(":") for item in stated):
        slot = len(fields)
        if kind in unions:
            members = MappingProxyType(dict(enumerate(unions[kind])))
            fields.append(FieldSpec(f"{field}_type", slot, "scalar", "B", "NONE", "", members))
            fields.append(FieldSpec(field, slot + 1, "union", "I", names=members))
        else:
            fields.append(_field(field, slot, kind, _ALIGN.get((name, field), 1)))
    return TableSpec(name, len(fields), tuple(fields))


def _field(name: str, slot: int, kind: str, align: int) -> FieldSpec:
    inner = re.sub(r"[\[\]]", "", kind)
    many = "s" if inner != kind else ""
    if inner in _SCALARS:
        code = _SCALARS[inner]
        zero = 0.0 if code == "f" else 0
        return FieldSpec(name, slot, f"scalar{many}", code, None if many else zero, align=align)
    if inner == "string":
        return FieldSpec(name, slot, f"string{many}", "I")
    return FieldSpec(name, slot, f"table{many}", "I", table=inner)


SCHEMA = _schema()
"""The tables of the metadata."""


@dataclass(frozen=True)
class Normalization:
    """How an input is computed from raw values, as pixels are: (x - mean) / std."""

    mean: tuple[float, ...]
    """What is subtracted: one value, or one for every channel."""
    std: tuple[float, ...]
    """What the difference is divided by: one value, or one for every channel."""


def parse_metadata(content: bytes) -> Values:
    """The `ModelMetadata` table; raises ModelFileError where it is damaged."""
    if content[4:8] != IDENTIFIER:
        raise ModelFileError("is no model metadata", where=ENTRY)
    try:
        return Decoder(SCHEMA, memoryview(content)).root("ModelMetadata")
    except ModelFileError as error:
        raise error.at(ENTRY) from None


def metadata_bytes(values: Values) -> bytes:
    """The flatbuffer of a `ModelMetadata` table."""
    encoder = Encoder(SCHEMA)
    encoder.finish(encoder.table(SCHEMA.table("ModelMetadata"), values), IDENTIFIER)
    return b"".join(bytes(chunk) for chunk in encoder.chunks())


def normalizations(model: Model) -> Mapping[str, Normalization]:
    """What the metadata says of the main graph's inputs, by the tensors' names.

    Inputs are matched by their place, as the format prescribes. Empty where there is no metadata,
    where it is damaged, or where it describes another number of inputs.
    """
    content = next((value for name, value in model.metadata if name == ENTRY), None)
    if content is None:
        return {}
    try:
        graphs = parse_metadata(content)["subgraph_metadata"] or []
    except ModelFileError:
        return {}
    tables = (graphs[0]["input_tensor_metadata"] if graphs else None) or []
    if len(tables) != len(model.graph.inputs):
        return {}
    units = (_normalization(table["process_units"] or []) for table in tables)
    return {
        tensor.name: unit
        for tensor, unit in zip(model.graph.inputs, units, strict=True)
        if unit is not None and {len(unit.mean), len(unit.std)} <= {1, *tensor.shape[-1:]}
    }


@dataclass(frozen=True)
class TensorType:
    """How an input or output stores its values."""

    dtype: str
    """Its element type."""
    quant: Quant | None
    """How its values stand for real ones."""

    def real(self, value: float) -> float:
        """What a value of this element type stands for."""
        if self.quant is None or self.dtype not in ACTIVATION_CODES:
            return value
        return (value - float(self.quant.zero_point[0])) * float(self.quant.scale[0])

    def stored(self, value: float) -> float:
        """The value of this element type that stands for `value`."""
        if self.quant is None or self.dtype not in ACTIVATION_CODES:
            return value
        return float(quantize(np.array(value), self.quant, self.dtype))


Interface = Mapping[str, tuple[TensorType, ...]]
"""The types of a graph's inputs and outputs, under `input` and `output`."""


def interface(graph: Graph) -> Interface:
    """How the inputs and outputs of a graph store their values."""
    sides = {"input": graph.inputs, "output": graph.outputs}
    return {side: tuple(TensorType(t.dtype, t.quant) for t in ts) for side, ts in sides.items()}


def with_converted_stats(content: bytes, before: Interface, after: Interface) -> bytes:
    """The metadata with their stats converted from the types `before` to those `after`.

    `stats` give the least and largest values of a tensor in its own element type: 0 and 255 of a
    uint8 image that was -1 and 1 in float. Normalization is by definition that of the real values
    and stays. If the number of inputs (or outputs) changed, the descriptions of that side are
    dropped: they go by place. What is damaged, or newer than the schema, stays as it is.
    """
    try:
        values = parse_metadata(content)
        graphs = values["subgraph_metadata"] or []
        changed = [
            _convert_stats(graph, side, before[side], after[side])
            for graph in graphs[:1]
            for side in before
        ]
        return metadata_bytes(values) if any(changed) and not _has_unknown(values) else content
    except (ModelFileError, UnsupportedError):
        return content


def _convert_stats(
    graph: Values, side: str, before: tuple[TensorType, ...], after: tuple[TensorType, ...]
) -> bool:
    """Convert one side of `graph`, in place; returns whether anything changed."""
    tables = graph[f"{side}_tensor_metadata"]
    if not tables or len(tables) != len(before):
        return False
    if len(before) != len(after):
        graph[f"{side}_tensor_metadata"] = graph[f"{side}_tensor_groups"] = None
        return True
    changed = False
    for table, old, new in zip(tables, before, after, strict=True):
        # Both are linear: equal in two places is equal.
        same = old.dtype == new.dtype and all(old.real(v) == new.real(v) for v in (0.0, 1.0))
        stats = {} if same else table["stats"] or {}
        for key in stats.keys() & {"max", "min"}:
            if stats[key] is not None and np.isfinite(stats[key]).all():
                converted = [new.stored(old.real(float(v))) for v in stats[key]]
                changed = changed or not np.array_equal(converted, stats[key])
                stats[key] = np.array(converted, np.float32)
    return changed


def _has_unknown(values: object) -> bool:
    if isinstance(values, dict):
        return UNKNOWN in values or any(map(_has_unknown, values.values()))
    return isinstance(values, list) and any(map(_has_unknown, values))


def _normalization(units: list[Values]) -> Normalization | None:
    """The unit that scales, if its numbers make sense."""
    for unit in units:
        if unit["options_type"] == "NormalizationOptions" and unit["options"] is not None:
            mean, std = (unit["options"][name] for name in ("mean", "std"))
            sizes = {0 if mean is None else len(mean), 0 if std is None else len(std)}
            if 0 in sizes or len(sizes - {1}) > 1:
                return None
            if not np.isfinite([*mean, *std]).all() or min(std) <= 0:
                return None
            return Normalization(tuple(map(float, mean)), tuple(map(float, std)))
    return None
