"""`.tflite` in and out: nothing is lost, nothing is added, and LiteRT computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared_path
from tflite_models import (
    RNG,
    SYNTHETIC,
    branching_model,
    conv_model,
    random_inputs,
    rich_model,
    run,
    said,
    stateful_model,
    touched,
)

from qfrewrite.formats.tflite.flatbuffer import Decoder
from qfrewrite.formats.tflite.read import parse_tflite, read_tflite
from qfrewrite.formats.tflite.schema import CODES, SCHEMA
from qfrewrite.formats.tflite.write import chunks, serialize
from qfrewrite.ir import Graph, Model, Op, Tensor
from qfrewrite.ir.verify import verify_structure

REAL = [
    "kws_ref_model_float32.tflite",
    "mobilenet_v1_0.25_224_glasses2_toco_float.tflite",
    "vww_96_float.tflite",
]


@pytest.mark.parametrize("name", REAL)
def test_real_models_come_back(name: str) -> None:
    path = shared_path(f"models/{name}")
    data = path.read_bytes()
    model = read_tflite(path)
    written = serialize(model)
    assert said(written) == said(data)
    assert serialize(parse_tflite(written)) == written
    inputs = random_inputs(model)
    for before, after in zip(run(data, inputs), run(written, inputs), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", REAL)
def test_real_models_have_no_fused_activation_and_no_copied_weights(name: str) -> None:
    model = read_tflite(shared_path(f"models/{name}"))
    assert not model.edited
    for op in model.graph.ops:
        assert op.attrs.get("fused_activation_function", "NONE") == "NONE"
    for tensor in model.graph.tensors:
        if tensor.data is not None:
            assert tensor.data.shape == tensor.shape
            assert not tensor.data.flags.writeable
            assert tensor.data.base is not None


@pytest.mark.parametrize("make", SYNTHETIC)
def test_synthetic_models_come_back(make: Any) -> None:
    written = serialize(make())
    model = parse_tflite(written)
    assert serialize(model) == written
    assert said(serialize(touched(model)))["subgraphs"] == said(written)["subgraphs"]


@pytest.mark.parametrize("make", [conv_model, rich_model])
def test_data_behind_the_flatbuffer(make: Any, tmp_path: Path) -> None:
    model = make()
    data = b"".join(bytes(chunk) for chunk in chunks(model, most_inline=10))
    assert data != serialize(model)
    back = parse_tflite(data)
    assert serialize(back) == serialize(parse_tflite(serialize(model)))
    if make is conv_model:
        inputs = random_inputs(model)
        np.testing.assert_array_equal(run(data, inputs)[0], run(serialize(model), inputs)[0])


def test_numbers_of_branches_and_states() -> None:
    data = serialize(branching_model())
    x = np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(run(data, [np.array([True]), x])[0], x + 3)
    np.testing.assert_array_equal(run(data, [np.array([False]), x])[0], x * 3)
    written = serialize(stateful_model())
    x = RNG.normal(size=(1, 3)).astype(np.float32)
    again = serialize(parse_tflite(written))
    np.testing.assert_array_equal(run(written, [x])[0], run(again, [x])[0])
    op = parse_tflite(written).graph.ops[0]
    assert op.attrs["fused_activation_function"] == "RELU"  # it acts inside the cell


def test_everything_of_a_rich_model_is_in_the_ir() -> None:
    model, given = parse_tflite(serialize(rich_model())), rich_model()
    assert model.description == "all sorts"
    assert model.signatures == given.signatures
    assert model.metadata == given.metadata
    assert [g.name for g in model.graphs] == ["main", "other"]
    assert model.graphs[1].meta == {"debug_metadata_index": 2}
    graph = model.graph
    for tensor in given.graph.tensors:
        back = graph.tensor(tensor.name)
        assert (back.shape, back.dtype) == (tensor.shape, tensor.dtype)
        assert back.shape_signature == tensor.shape_signature
        if tensor.data is not None and tensor.name not in ("w", "w_again"):
            np.testing.assert_array_equal(back.value(), tensor.value())
    assert graph.tensor("w").data is graph.tensor("w_again").data
    quant = graph.tensor("w").quant
    assert quant is not None
    want = given.graph.tensor("w").quant
    assert want is not None
    np.testing.assert_array_equal(quant.scale, want.scale)
    np.testing.assert_array_equal(quant.zero_point, want.zero_point)
    assert quant.axis == want.axis
    assert quant.extra["max"].tolist() == [1.0] * 5
    assert graph.tensor("ranged").quant is None
    assert graph.tensor("ranged").meta["quantization"]["max"].tolist() == [1.0]
    assert (graph.tensor("state").is_variable, graph.tensor("state").has_rank) == (True, True)
    dense, custom = graph.ops
    assert dense.inputs[2] is None
    assert dense.attrs["keep_num_dims"] is True
    assert custom.attrs == {"custom_code": "MyOp", "custom_options": b"\x00\xffopts"}
    assert custom.meta["mutating_variable_inputs"] == (False, True)
    assert custom.meta["debug_metadata_index"] == 4
    assert custom.intermediates == (graph.tensor("ranged"),)
    assert [t.name for t in graph.outputs] == ["z", "y", "z"]


def test_shared_arrays_share_a_buffer() -> None:
    file = Decoder(SCHEMA, memoryview(serialize(rich_model()))).root("Model")
    tensors = {t["name"]: t["buffer"] for t in file["subgraphs"][0]["tensors"]}
    assert tensors["w"] == tensors["w_again"] != 0
    assert tensors["x"] == 0
    assert file["buffers"][0]["data"] is None


def test_sparse_constants_stay_bytes() -> None:
    sparsity = {
        "traversal_order": [0, 1],
        "dim_metadata": [
            {"format": "DENSE", "dense_size": 2},
            {
                "format": "SPARSE_CSR",
                "array_segments_type": "Uint8Vector",
                "array_segments": {"values": [0, 1, 2]},
                "array_indices_type": "Uint8Vector",
                "array_indices": {"values": [3, 0]},
            },
        ],
    }
    graph = Graph()
    values = np.array([1.5, -2.5], np.float32).view(np.uint8)
    sparse = Tensor("s", (2, 4), "float32", values, sparsity=sparsity)
    x, dense, y = Tensor("x", (2, 4)), Tensor("d", (2, 4)), Tensor("y", (2, 4))
    graph.set_io([x])
    graph.add_op(Op("DENSIFY", [sparse], [dense]))
    graph.add_op(Op("ADD", [x, dense], [y]))
    graph.set_io(outputs=[y])
    data = serialize(Model([graph]))
    model = parse_tflite(data)
    verify_structure(model.graph)
    assert said(serialize(model)) == said(data)
    expected = [[0, 0, 0, 1.5], [-2.5, 0, 0, 0]]
    zero = np.zeros((2, 4), np.float32)
    np.testing.assert_array_equal(run(serialize(model), [zero])[0], expected)


def test_op_codes_are_written_for_old_readers_and_once() -> None:
    graph = Graph()
    ends = [Tensor(f"t{i}", (2,)) for i in range(4)]
    graph.set_io(ends[:1])
    graph.add_op(Op("GELU", [ends[0]], [ends[1]]))
    graph.add_op(Op("GELU", [ends[1]], [ends[2]]))
    graph.add_op(Op("NEG", [ends[2]], [ends[3]]))
    graph.set_io(outputs=ends[3:])
    codes = Decoder(SCHEMA, memoryview(serialize(Model([graph])))).root("Model")["operator_codes"]
    assert [(c["deprecated_builtin_code"], c["builtin_code"]) for c in codes] == [
        (127, CODES["GELU"]),
        (CODES["NEG"], CODES["NEG"]),
    ]


def test_strided_weights_are_written_in_order() -> None:
    model = conv_model()
    w = model.graph.tensor("w")
    turned = np.ascontiguousarray(w.value().transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)
    model.graph.set_data(w, turned)
    back = parse_tflite(serialize(model)).graph.tensor("w")
    np.testing.assert_array_equal(back.value(), turned)


def test_a_fused_activation_is_an_op_and_is_fused_again() -> None:
    data = serialize(conv_model())
    assert len(said(data)["subgraphs"][0]["operators"]) == 1
    graph = parse_tflite(data).graph
    assert [op.kind for op in graph.ops] == ["CONV_2D", "RELU6"]
    between = graph.ops[0].output
    assert between.name == "y/pre_relu6"
    assert between.fused
    assert graph.ops[0].attrs["fused_activation_function"] == "NONE"


@pytest.mark.parametrize("keep", ["reader", "output", "own"])
def test_an_activation_that_stands_alone_stays_so(keep: str) -> None:
    model = conv_model()
    graph = model.graph
    between = graph.ops[0].output
    if keep == "reader":
        graph.add_op(Op("NEG", [between], [Tensor("n", between.shape)]))
    elif keep == "output":
        graph.set_io(outputs=[*graph.outputs, between])
    else:
        graph.set_fused(between, False)
    kinds = {op["code"] for op in said(serialize(model))["subgraphs"][0]["operators"]}
    assert CODES["RELU6"] in kinds


def test_fusing_keeps_the_numbers() -> None:
    model = conv_model()
    inputs = random_inputs(model)
    fused = run(serialize(model), inputs)[0]
    model.graph.set_fused(model.graph.ops[0].output, False)
    np.testing.assert_array_equal(fused, run(serialize(model), inputs)[0])
    assert fused.max() > 0


def test_sign_bit_stays_an_attribute() -> None:
    model = conv_model()
    op = model.graph.ops[0]
    model.graph.set_fused(op.output, False)
    model.graph.set_attrs(op, fused_activation_function="SIGN_BIT")
    back = parse_tflite(serialize(model)).graph.ops[0]
    assert back.attrs["fused_activation_function"] == "SIGN_BIT"
