"""TFLite's model metadata: what a `.tflite` says of its inputs and outputs for people and apps.

It is a flatbuffer of its own (identifier `M001`) in the metadata entry `TFLITE_METADATA`. Layout:
metadata_schema.fbs of TensorFlow Lite Support, version 1.5. The codec is that of `.tflite`, so
what is decoded can be changed and encoded again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from qfrewrite.errors import ModelFileError
from qfrewrite.formats.flatbuffer import Decoder, Encoder, Values
from qfrewrite.formats.flatbuffer_schema import FieldSpec, Schema, TableSpec
from qfrewrite.ir import Model

ENTRY = "TFLITE_METADATA"
"""The name of the metadata entry."""
IDENTIFIER = b"M001"

# Fields in the order of their slots; a union takes two (`<field>_type` before it).
_TABLES = {
    "ModelMetadata": "name:string description:string version:string "
    "subgraph_metadata:[SubGraphMetadata] author:string license:string "
    "associated_files:[AssociatedFile] min_parser_version:string",
    "SubGraphMetadata": "name:string description:string input_tensor_metadata:[TensorMetadata] "
    "output_tensor_metadata:[TensorMetadata] associated_files:[AssociatedFile] "
    "input_process_units:[ProcessUnit] output_process_units:[ProcessUnit] "
    "input_tensor_groups:[TensorGroup] output_tensor_groups:[TensorGroup] "
    "custom_metadata:[CustomMetadata]",
    "TensorMetadata": "name:string description:string dimension_names:[string] content:Content "
    "process_units:[ProcessUnit] stats:Stats associated_files:[AssociatedFile]",
    "TensorGroup": "name:string tensor_names:[string]",
    "CustomMetadata": "name:string data:[ubyte]",
    "AssociatedFile": "name:string description:string type:byte locale:string version:string",
    "Content": "content_properties:ContentProperties range:ValueRange",
    "ValueRange": "min:int max:int",
    "FeatureProperties": "",
    "ImageProperties": "color_space:byte default_size:ImageSize",
    "ImageSize": "width:uint height:uint",
    "BoundingBoxProperties": "index:[uint] type:byte coordinate_type:byte",
    "AudioProperties": "sample_rate:uint channels:uint",
    "Stats": "max:[float] min:[float]",
    "ProcessUnit": "options:ProcessUnitOptions",
    "NormalizationOptions": "mean:[float] std:[float]",
    "ScoreCalibrationOptions": "score_transformation:byte default_score:float",
    "ScoreThresholdingOptions": "global_score_threshold:float",
    "BertTokenizerOptions": "vocab_file:[AssociatedFile]",
    "SentencePieceTokenizerOptions": "sentencePiece_model:[AssociatedFile] "
    "vocab_file:[AssociatedFile]",
    "RegexTokenizerOptions": "delim_regex_pattern:string vocab_file:[AssociatedFile]",
}
_UNIONS = {
    "ContentProperties": (
        "NONE", "FeatureProperties", "ImageProperties", "BoundingBoxProperties", "AudioProperties",
    ),
    "ProcessUnitOptions": (
        "NONE", "NormalizationOptions", "ScoreCalibrationOptions", "ScoreThresholdingOptions",
        "BertTokenizerOptions", "SentencePieceTokenizerOptions", "RegexTokenizerOptions",
    ),
}  # fmt: skip
# `force_align` of the schema.
_ALIGN = {("CustomMetadata", "data"): 16}
_SCALARS = {"byte": "b", "ubyte": "B", "int": "i", "uint": "I", "float": "f"}


def _table(name: str, text: str) -> TableSpec:
    fields: list[FieldSpec] = []
    for item in text.split():
        field, kind = item.split(":")
        if kind in _UNIONS:
            members = MappingProxyType(dict(enumerate(_UNIONS[kind])))
            fields.append(
                FieldSpec(f"{field}_type", len(fields), "scalar", "B", "NONE", "", members)
            )
            fields.append(FieldSpec(field, len(fields), "union", "I", names=members))
        else:
            fields.append(_field(field, len(fields), kind, _ALIGN.get((name, field), 1)))
    defaults = MappingProxyType({f.name: f.default for f in fields})
    return TableSpec(name, len(fields), tuple(fields), defaults)


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


SCHEMA = Schema.of(_table(name, text) for name, text in _TABLES.items())
"""The tables of the metadata."""


@dataclass(frozen=True)
class Normalization:
    """How an input is made of pixels or other raw values: (x - mean) / std.

    One value each, or one for every channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


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
    described = (graphs[0]["input_tensor_metadata"] if graphs else None) or []
    if len(described) != len(model.graph.inputs):
        return {}
    units = (_normalization(one["process_units"] or []) for one in described)
    return {
        tensor.name: unit
        for tensor, unit in zip(model.graph.inputs, units, strict=True)
        if unit is not None
    }


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
