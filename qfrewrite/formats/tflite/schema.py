"""TFLite's names: ops, element types, option tables and enums, from the `tflite` package.

Importing this module imports `tflite` (about 70 ms), so other modules do it inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from qfrewrite.formats.tflite.flatbuffer_schema import Schema
from qfrewrite.ir.kinds import register_kinds
from qfrewrite.ops import OPS

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3

# Enum class -> the fields that hold its numbers: `table.field`, or the name in all tables. A field
# that is not listed stays a number.
_ENUM_FIELDS = {
    "ActivationFunctionType": "fused_activation_function",
    "CombinerType": "combiner",
    "CustomOptionsFormat": "custom_options_format composite_attributes_format",
    "DimensionType": "DimensionMetadata.format",
    "FullyConnectedOptionsWeightsFormat": "weights_format",
    "LSHProjectionType": "LSHProjectionOptions.type",
    "LSTMKernelType": "kernel_type",
    "MirrorPadMode": "mode",
    "Padding": "padding",
    "ReduceWindowFunction": "reduce_function",
    "RngAlgorithm": "algorithm",
    "StablehloComparisonDirection": "comparison_direction",
    "StablehloComparisonType": "compare_type",
    "TensorType": "quantized_bias_type output_type in_data_type out_data_type out_type idx_out_type"
    " key_dtype value_dtype Tensor.type VariantSubType.type",
}
_ENUMS = {
    (table or "*", field): enum
    for enum, places in _ENUM_FIELDS.items()
    for table, _, field in (place.rpartition(".") for place in places.split())
}
_UNIONS = {
    ("Operator", "builtin_options"): "BuiltinOptions",
    ("Operator", "builtin_options2"): "BuiltinOptions2",
    ("QuantizationParameters", "details"): "QuantizationDetails",
    ("DimensionMetadata", "array_segments"): "SparseIndexVector",
    ("DimensionMetadata", "array_indices"): "SparseIndexVector",
}
# `force_align` of the schema, which the generated Python leaves out.
_ALIGN = {
    ("Buffer", "data"): 16,
    ("CustomQuantization", "custom"): 16,
    ("Uint16Vector", "values"): 4,
    ("Uint8Vector", "values"): 4,
}

SCHEMA = Schema("tflite", _ENUMS, _UNIONS, _ALIGN, frozenset({("Buffer", "data")}))

KINDS: Mapping[int, str] = SCHEMA.enum("BuiltinOperator")
"""Builtin code -> op kind."""
register_kinds(KINDS.values())

CODES: Mapping[str, int] = MappingProxyType({kind: code for code, kind in KINDS.items()})
"""Op kind -> builtin code."""

# The last code that fits the field of old files; later ones leave this number there.
PLACEHOLDER_CODE = CODES["PLACEHOLDER_FOR_GREATER_OP_CODES"]

DTYPES: Mapping[int, str] = MappingProxyType(
    {number: name.lower() for number, name in SCHEMA.enum("TensorType").items()}
)
"""Tensor type -> our name of it (TFLite's in lower case)."""

# Bits of one element where the number is fixed; a size that is not listed is not checked.
_TYPES_BY_BITS = {
    4: "int4",
    8: "bool int8 uint8",
    16: "int16 uint16 float16 bfloat16",
    32: "int32 uint32 float32",
    64: "int64 uint64 float64 complex64",
    128: "complex128",
}
BITS: Mapping[str, int] = MappingProxyType(
    {name: bits for bits, names in _TYPES_BY_BITS.items() for name in names.split()}
)

# Option tables that are not named after their op, of ops without a definition.
_OPTIONS_BY_KIND = {
    "UNIDIRECTIONAL_SEQUENCE_RNN": "SequenceRNNOptions",
    "RANDOM_STANDARD_NORMAL": "RandomOptions",
    "RANDOM_UNIFORM": "RandomOptions",
    "MULTINOMIAL": "RandomOptions",
}


@cache
def _tables_by_letters() -> Mapping[str, str]:
    tables = (*SCHEMA.enum("BuiltinOptions").values(), *SCHEMA.enum("BuiltinOptions2").values())
    return {name.upper(): name for name in tables}


@cache
def options_table(kind: str) -> str | None:
    """The table that holds the attributes of `kind`; None where it has none."""
    spec = OPS.get(kind)
    if spec is not None and spec.options is not None:
        return spec.options
    if kind in _OPTIONS_BY_KIND:
        return _OPTIONS_BY_KIND[kind]
    return _tables_by_letters().get(kind.replace("_", "") + "OPTIONS")


@cache
def default_attrs(kind: str) -> Mapping[str, Any]:
    """Every attribute of `kind` with the schema's default; an absent vector is an empty one."""
    table = options_table(kind)
    fields = SCHEMA.table(table).fields if table else ()
    empty = {f.name: b"" if f.code == "B" else () for f in fields if f.kind == "scalars"}
    return MappingProxyType({f.name: empty.get(f.name, f.default) for f in fields})
