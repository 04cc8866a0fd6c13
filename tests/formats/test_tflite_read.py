"""Files of a newer schema, odd ones and damaged ones."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import shared_path
from tflite_models import SYNTHETIC, conv_model, encoded, said

from qfrewrite.errors import ModelFileError, QfError, UnsupportedError
from qfrewrite.formats.tflite.flatbuffer import Encoder
from qfrewrite.formats.tflite.read import parse_tflite, read_tflite
from qfrewrite.formats.tflite.schema import CODES, SCHEMA
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Signature


def raw_model(operator: dict[str, Any], tensors: list[dict[str, Any]], **more: Any) -> bytes:
    encoder = Encoder(SCHEMA)
    for field in ("builtin_options", "builtin_options2"):
        if isinstance(operator.get(f"{field}_type"), int):
            operator[field] = encoder.table(SCHEMA.table("AbsOptions"), {})
    code = {"builtin_code": operator.pop("code"), "deprecated_builtin_code": 127}
    op = encoder.table(SCHEMA.table("Operator"), {"inputs": [0], "outputs": [1], **operator})
    graph = {"tensors": tensors, "inputs": [0], "outputs": [1], "operators": [op]}
    values = {"version": 3, "operator_codes": [code], "subgraphs": [graph], "buffers": [{}]}
    return encoded("Model", values | more, encoder)


TWO = [{"name": "a", "shape": [2]}, {"name": "b", "shape": [2]}]


def test_an_op_of_a_newer_schema_is_kept() -> None:
    data = raw_model({"code": 777, "custom_options": b"zz"}, TWO)
    model = parse_tflite(data)
    assert model.graph.ops[0].kind == "UNKNOWN_777"
    assert said(serialize(model)) == said(data)


def test_options_of_a_newer_schema_load_but_are_not_written() -> None:
    for field in ("builtin_options", "builtin_options2"):
        model = parse_tflite(raw_model({"code": 777, f"{field}_type": 199}, TWO))
        with pytest.raises(UnsupportedError, match=f"op 'b' .UNKNOWN_777.: .*{field} of type 199"):
            serialize(model)


def test_an_element_type_of_a_newer_schema_is_kept() -> None:
    tensors = [{**t, "type": 99, "buffer": 0} for t in TWO]
    data = raw_model({"code": CODES["ABS"], "builtin_options_type": "AbsOptions",
                      "builtin_options": {}}, tensors)  # fmt: skip
    model = parse_tflite(data)
    assert model.graph.inputs[0].dtype == "unknown_99"
    assert said(serialize(model)) == said(data)


def test_options_of_another_op_are_kept() -> None:
    operator = {"code": CODES["ABS"], "builtin_options_type": "GatherOptions",
                "builtin_options": {"axis": 3}}  # fmt: skip
    data = raw_model(operator, TWO)
    assert said(serialize(parse_tflite(data))) == said(data)


def test_a_signature_of_inner_tensors_loses_them_with_a_notice() -> None:
    signature = {
        "signature_key": "s",
        "inputs": [{"name": "in", "tensor_index": 0}, {"name": "odd", "tensor_index": 1}],
        "outputs": [{"name": "out", "tensor_index": 1}],
    }
    model = parse_tflite(raw_model({"code": CODES["ABS"]}, TWO, signature_defs=[signature]))
    assert model.signatures == [Signature("s", 0, (("in", 0),), (("out", 0),))]
    assert "'odd' is left out" in str(model.diagnostics[0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tensors": [{"name": "a", "shape": [2], "buffer": 7}]}, "tensor 'a'.*no buffer 7"),
        ({"tensors": [{"name": "a", "shape": [-2]}]}, r"tensor 'a': has the shape \[-2\]"),
        ({"tensors": [{"name": "a", "shape": [3], "buffer": 1}]}, "holds 8 bytes where float32"),
        ({"tensors": [{"name": "a", "shape": [10**9] * 9, "buffer": 1}]}, "holds 8 bytes"),
        ({"inputs": [4]}, "graph inputs: there is no tensor 4"),
        ({"operators": [{"outputs": [-1]}]}, r"op 0 \(ABS\): there is no tensor -1"),
        ({"operators": [{"opcode_index": 9}]}, "op 0 has no op code"),
        ({"operators": [{"inputs": [0], "outputs": [0]}]}, "writes 'a'"),
        ({"operators": [{"inputs": [1], "outputs": [2]}, {"inputs": [0], "outputs": [1]}]},
         r"op 1 \(ABS\): writes 'b', which is a graph input or was read before"),
        ({"operators": [{"inputs": [0], "outputs": [1]}, {"inputs": [0], "outputs": [1]}]},
         "'b' has a value from elsewhere"),
        ({"tensors": [{"shape": [2], "quantization": {"scale": [1.0, 2.0],
          "zero_point": [0] * 3}}]}, "2 scales but 3 zero points"),
        ({"tensors": [{"shape": [2, 5], "quantization": {"scale": [1.0, 2.0],
          "zero_point": [0, 0], "quantized_dimension": 1}}]}, "2 scales along dimension 1"),
    ],
)  # fmt: skip
def test_a_damaged_graph_is_refused_with_its_place(change: dict[str, Any], says: str) -> None:
    graph = {
        "tensors": [*TWO, {"name": "c", "shape": [2]}],
        "inputs": [0],
        "operators": [{"inputs": [0], "outputs": [1]}],
    } | change
    values = {
        "version": 3,
        "operator_codes": [{"builtin_code": CODES["ABS"]}],
        "subgraphs": [graph],
        "buffers": [{}, {"data": bytes(8)}],
    }
    with pytest.raises(ModelFileError, match=says):
        parse_tflite(encoded("Model", values), Path("m.tflite"))


def test_files_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="No such file"):
        read_tflite(tmp_path / "none.tflite")
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_tflite(tmp_path)
    (tmp_path / "empty.tflite").write_bytes(b"")
    with pytest.raises(ModelFileError, match="is empty"):
        read_tflite(tmp_path / "empty.tflite")
    for data in (b"", b"PK\x03\x04", bytes(100), b"\xff" * 4 + b"TFL3" + b"\xff" * 90):
        with pytest.raises(ModelFileError, match=r"^model: "):
            parse_tflite(data)


def test_every_truncation_is_refused_or_loads() -> None:
    data = serialize(conv_model())
    for size in range(len(data)):
        with contextlib.suppress(ModelFileError):
            parse_tflite(data[:size])


def mutated(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(out) - 4)
        word = rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, rng.randrange(2**16), rng.randrange(256)))
        if rng.random() < 0.5:
            out[at] = word & 255
        else:
            out[at : at + 4] = word.to_bytes(4, "little")
    return bytes(out)


@pytest.mark.parametrize("make", SYNTHETIC)
def test_damage_gives_a_qf_error_or_a_model(make: Any) -> None:
    survives(serialize(make()), seconds=0.6, seed=11)


def test_damage_to_a_real_model() -> None:
    data = shared_path("models/kws_ref_model_float32.tflite").read_bytes()
    survives(data, seconds=0.6, seed=5)


def survives(data: bytes, *, seconds: float, seed: int) -> None:
    """Damage the file over and over: a QfError or a model that can be written, within reason."""
    rng, end, count = random.Random(seed), time.monotonic() + seconds, 0
    said_lines: list[str] = []
    while time.monotonic() < end or count < 20:
        began = time.monotonic()
        try:
            written = serialize(parse_tflite(mutated(rng, data)))
            assert serialize(parse_tflite(written)) == written
        except QfError as error:
            said_lines.append(str(error))
        assert time.monotonic() - began < 5
        count += 1
    assert not any("\n" in line for line in said_lines)
