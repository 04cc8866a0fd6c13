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

# (table or *, field) -> enum class. A field that is not listed stays a number.
_ENUMS = {
    ("*", "padding"): "Padding",
    ("*", "fused_activation_function"): "ActivationFunctionType",
    ("*", "quantized_bias_type"): "TensorType",
    ("*", "output_type"): "TensorType",
    ("*", "in_data_type"): "TensorType",
    ("*", "out_data_type"): "TensorType",
    ("*", "out_type"): "TensorType",
    ("*", "idx_out_type"): "TensorType",
    ("*", "key_dtype"): "TensorType",
    ("*", "value_dtype"): "TensorType",
    ("Tensor", "type"): "TensorType",
    ("VariantSubType", "type"): "TensorType",
    ("LSHProjectionOptions", "type"): "LSHProjectionType",
    ("*", "combiner"): "CombinerType",
    ("*", "kernel_type"): "LSTMKernelType",
    ("*", "weights_format"): "FullyConnectedOptionsWeightsFormat",
    ("*", "mode"): "MirrorPadMode",
    ("*", "custom_options_format"): "CustomOptionsFormat",
    ("*", "composite_attributes_format"): "CustomOptionsFormat",
    ("*", "comparison_direction"): "StablehloComparisonDirection",
    ("*", "compare_type"): "StablehloComparisonType",
    ("*", "algorithm"): "RngAlgorithm",
    ("*", "reduce_function"): "ReduceWindowFunction",
    ("DimensionMetadata", "format"): "DimensionType",
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
BITS: Mapping[str, int] = MappingProxyType(
    {
        "bool": 8, "int4": 4, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16, "float16": 16,
        "bfloat16": 16, "int32": 32, "uint32": 32, "float32": 32, "int64": 64, "uint64": 64,
        "float64": 64, "complex64": 64, "complex128": 128,
    }
)  # fmt: skip

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
