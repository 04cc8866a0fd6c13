"""The table codec, against flatc's generated classes and flatbuffers' own builder."""

from __future__ import annotations

import contextlib
import importlib
import math
import pkgutil
import struct
from typing import Any

import flatbuffers
import numpy as np
import pytest
import tflite
from hypothesis import given, settings
from hypothesis import strategies as st

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.tflite.flatbuffer import UNKNOWN, Decoder, Encoder
from qfrewrite.formats.tflite.flatbuffer_schema import FieldSpec
from qfrewrite.formats.tflite.schema import (
    CODES,
    IDENTIFIER,
    SCHEMA,
    default_attrs,
    options_table,
)

OPTION_TABLES = sorted(
    name
    for union in ("BuiltinOptions", "BuiltinOptions2")
    for name in SCHEMA.enum(union).values()
    if name != "NONE"
)


def encode(table: str, values: dict[str, Any]) -> bytes:
    encoder = Encoder(SCHEMA)
    encoder.finish(encoder.table(SCHEMA.table(table), values), IDENTIFIER)
    return b"".join(bytes(chunk) for chunk in encoder.chunks())


def decode(table: str, data: bytes) -> dict[str, Any]:
    return Decoder(SCHEMA, memoryview(data)).root(table)


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list) else value


def scalars(field: FieldSpec) -> st.SearchStrategy[Any]:
    if field.names:
        return st.sampled_from(sorted(field.names.values()))
    if field.code == "?":
        return st.booleans()
    if field.code in "fd":
        return st.floats(width=32 if field.code == "f" else 64, allow_nan=False)
    low, high = np.iinfo(field.dtype).min, np.iinfo(field.dtype).max
    return st.integers(int(low), int(high))


def values_of(field: FieldSpec) -> st.SearchStrategy[Any]:
    if field.kind == "scalar":
        return scalars(field)
    if field.kind == "string":
        return st.text(max_size=8)
    assert field.kind == "scalars", field
    return st.lists(scalars(field), max_size=5)


@st.composite
def options(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from(OPTION_TABLES))
    fields = SCHEMA.table(name).fields
    return name, {f.name: draw(values_of(f)) for f in fields if draw(st.booleans())}


def generated(table: str, data: bytes) -> Any:
    return getattr(importlib.import_module(f"tflite.{table}"), table).GetRootAs(data, 0)


def camel(name: str) -> str:
    return "".join(part[0].upper() + part[1:] for part in name.split("_"))


@settings(max_examples=300, deadline=None)
@given(options())
def test_options_come_back(case: tuple[str, dict[str, Any]]) -> None:
    table, values = case
    result = plain(decode(table, encode(table, values)))
    assert result == {**SCHEMA.table(table).defaults, **values}


@settings(max_examples=300, deadline=None)
@given(options())
def test_generated_classes_read_what_we_write(case: tuple[str, dict[str, Any]]) -> None:
    table, values = case
    reader = generated(table, encode(table, values))
    for field in SCHEMA.table(table).fields:
        getter, value = camel(field.name), values.get(field.name, field.default)
        if field.kind == "scalar":
            expected = field.numbers[value] if field.names else value
            assert getattr(reader, getter)() == expected
        elif field.kind == "string":
            read = getattr(reader, getter)()
            assert (None if read is None else read.decode()) == value
        else:
            assert getattr(reader, getter + "Length")() == len(value or ())
            if value:
                assert getattr(reader, getter + "AsNumpy")().tolist() == value


def test_every_table_of_the_package_is_understood() -> None:
    tables = 0
    for module in pkgutil.iter_modules(tflite.__path__):
        code = importlib.import_module(f"tflite.{module.name}")
        if hasattr(code, f"{module.name}Start"):
            spec = SCHEMA.table(module.name)
            slots = [f.slot for f in spec.fields]
            assert slots == sorted(set(slots))
            assert all(slot < spec.slots for slot in slots)
            tables += 1
    assert tables > 150


def test_every_options_table_belongs_to_a_kind() -> None:
    assert {options_table(kind) for kind in CODES} - {None} == set(OPTION_TABLES)


def test_default_attributes_hold_names_and_empty_vectors() -> None:
    assert default_attrs("SQUEEZE") == {"squeeze_dims": ()}
    assert default_attrs("ADD") == {"fused_activation_function": "NONE", "pot_scale_int16": True}
    assert default_attrs("RELU") == {}


def test_a_table_written_by_flatbuffers_is_read() -> None:
    builder = flatbuffers.Builder(0)
    builder.StartVector(4, 2, 4)
    builder.PrependInt32(7)
    builder.PrependInt32(-1)
    shape = builder.EndVector()
    name = builder.CreateString("größe")
    tflite.TensorStart(builder)
    tflite.TensorAddShape(builder, shape)
    tflite.TensorAddType(builder, 9)
    tflite.TensorAddBuffer(builder, 3)
    tflite.TensorAddName(builder, name)
    tflite.TensorAddHasRank(builder, True)
    builder.Finish(tflite.TensorEnd(builder), IDENTIFIER)
    values = plain(decode("Tensor", bytes(builder.Output())))
    expected = {"shape": [-1, 7], "type": "INT8", "buffer": 3, "name": "größe", "has_rank": True}
    assert values == {**SCHEMA.table("Tensor").defaults, **expected}


def test_bulk_data_are_aligned_and_equal_vtables_shared() -> None:
    data = [np.arange(n, dtype=np.uint8) for n in (3, 16, 5)]
    file = encode("Model", {"version": 3, "buffers": [{"data": d} for d in data]})
    assert len(file) % 16 == 0
    tables = []
    for n, array in enumerate(data):
        buffer = generated("Model", file).Buffers(n)
        assert buffer.DataAsNumpy().tolist() == array.tolist()
        at = buffer._tab.Vector(buffer._tab.Offset(4))
        assert at % 16 == 0
        tables.append(buffer._tab.Pos - struct.unpack_from("<i", file, buffer._tab.Pos)[0])
    assert len(set(tables)) == 1


def test_strided_arrays_are_written_in_order() -> None:
    array = np.arange(24, dtype="<f4").reshape(2, 3, 4).transpose(2, 0, 1)
    back = decode("Buffer", encode("Buffer", {"data": array}))["data"]
    assert back.tobytes() == array.tobytes()


def test_negative_zero_is_no_default() -> None:
    back = decode("LeakyReluOptions", encode("LeakyReluOptions", {"alpha": -0.0}))
    assert math.copysign(1, back["alpha"]) == -1


def test_unions_and_subtables() -> None:
    values = {
        "traversal_order": [0, 1],
        "dim_metadata": [
            {"format": "DENSE", "dense_size": 4},
            {
                "format": "SPARSE_CSR",
                "array_segments_type": "Uint8Vector",
                "array_segments": {"values": [0, 2]},
                "array_indices_type": "Int32Vector",
                "array_indices": {"values": [1, 3]},
            },
        ],
    }
    back = plain(decode("SparsityParameters", encode("SparsityParameters", values)))
    assert back["dim_metadata"][1] == {**back["dim_metadata"][1], **values["dim_metadata"][1]}
    assert back["dim_metadata"][0]["array_segments"] is None


@pytest.mark.parametrize(
    ("table", "values", "says"),
    [
        ("Conv2DOptions", {"stride_w": 2**40}, "Conv2DOptions.stride_w"),
        ("Conv2DOptions", {"padding": "FULL"}, "Conv2DOptions.padding"),
        ("Conv2DOptions", {"strides": 1}, "'strides'"),
        ("ReshapeOptions", {"new_shape": [2**33]}, "ReshapeOptions.new_shape"),
        ("Metadata", {"name": 3}, "Metadata.name"),
        ("Operator", {"builtin_options_type": "Nope", "builtin_options": {}}, "builtin_options"),
        ("Tensor", {UNKNOWN: ["Tensor field 12"]}, "Tensor field 12"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    table: str, values: dict[str, Any], says: str
) -> None:
    with pytest.raises(UnsupportedError, match=says):
        encode(table, values)


def test_fields_of_a_newer_schema_are_noted() -> None:
    builder = flatbuffers.Builder(0)
    builder.StartObject(9)
    builder.PrependInt32Slot(8, 5, 0)
    builder.Finish(builder.EndObject(), IDENTIFIER)
    values = decode("Conv2DOptions", bytes(builder.Output()))
    assert values[UNKNOWN] == ["Conv2DOptions field 8"]


def test_withdrawn_fields_are_said() -> None:
    builder = flatbuffers.Builder(0)
    builder.StartObject(4)
    builder.PrependInt32Slot(0, 5, 0)
    builder.Finish(builder.EndObject(), IDENTIFIER)
    decoder = Decoder(SCHEMA, memoryview(bytes(builder.Output())))
    assert UNKNOWN not in decoder.root("ResizeBilinearOptions")
    assert "ResizeBilinearOptions" in str(decoder.diagnostics[0])


def test_text_that_is_not_utf8_is_escaped_and_said() -> None:
    data = encode("Metadata", {"name": "abc"}).replace(b"abc", b"a\xffc")
    decoder = Decoder(SCHEMA, memoryview(data))
    assert decoder.root("Metadata")["name"] == "a\\xffc"
    assert "UTF-8" in str(decoder.diagnostics[0])


def test_a_file_that_names_one_table_over_and_over_is_refused() -> None:
    encoder = Encoder(SCHEMA)
    one = encoder.table(SCHEMA.table("Tensor"), {"name": "t"})
    root = encoder.table(SCHEMA.table("SubGraph"), {"tensors": [one] * 20_000})
    encoder.finish(root, IDENTIFIER)
    data = b"".join(bytes(chunk) for chunk in encoder.chunks())
    with pytest.raises(ModelFileError, match="over and over"):
        decode("SubGraph", data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_a_model_file_error_or_a_table(data: bytes) -> None:
    for table in ("Model", "Operator", "QuantizationParameters"):
        with contextlib.suppress(ModelFileError):
            decode(table, data)
