"""`.tflite` in and out: nothing is lost, nothing is added, and LiteRT computes the same."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared_path

from qfrewrite.errors import ModelFileError, QfError, UnsupportedError
from qfrewrite.formats.flatbuffer import Decoder, Encoder
from qfrewrite.formats.tflite_read import parse_tflite, read_tflite
from qfrewrite.formats.tflite_schema import CODES, IDENTIFIER, SCHEMA
from qfrewrite.formats.tflite_write import chunks, op_version, serialize, write_tflite
from qfrewrite.ir import Graph, Model, Op, Quant, Signature, Tensor, constant

REAL = [
    "kws_ref_model_float32.tflite",
    "mobilenet_v1_0.25_224_glasses2_toco_float.tflite",
    "vww_96_float.tflite",
]
RNG = np.random.default_rng(7)


# -- what a file says, with numbers of buffers and op codes replaced by what they stand for ------


def plain(value: Any) -> Any:
    """Decoded values in a form that compares; empty and absent are one."""
    if isinstance(value, str) and value == "NONE":
        return None
    if isinstance(value, np.ndarray):
        return value.tobytes() if value.dtype == np.uint8 else value.tolist()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if plain(v)}
    return [plain(v) for v in value] if isinstance(value, list) else value


def said(data: bytes) -> dict[str, Any]:
    """Everything that a file says."""
    file = Decoder(SCHEMA, memoryview(data)).root("Model")
    buffers = [plain(b["data"]) for b in file["buffers"]]
    codes = file["operator_codes"] or []
    for graph in file["subgraphs"]:
        for tensor in graph["tensors"] or []:
            tensor["buffer"] = buffers[tensor["buffer"]] if tensor["buffer"] else None
        for op in graph["operators"] or []:
            code = codes[op.pop("opcode_index")]
            op["code"] = max(code["builtin_code"], code["deprecated_builtin_code"])
            op["custom_code"], op["version"] = code["custom_code"], code["version"]
    for entry in file["metadata"] or []:
        entry["buffer"] = buffers[entry["buffer"]]
    del file["buffers"], file["operator_codes"]
    result: dict[str, Any] = plain(file)
    return result


def run(data: bytes, inputs: list[Any]) -> list[Any]:
    """The outputs of LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(d["index"]).copy() for d in interpreter.get_output_details()]


def random_inputs(model: Model) -> list[Any]:
    return [RNG.uniform(-1, 1, t.shape).astype(np.float32) for t in model.graph.inputs]


def touched(model: Model) -> Model:
    """The same model, as if a pass had edited it."""
    model.graph.update_op(model.graph.ops[0], name=model.graph.ops[0].name)
    assert model.edited
    return model


# -- models ------------------------------------------------------------------------------------


def conv_model(**fields: Any) -> Model:
    """x -> CONV_2D -> RELU6 -> y, as a `.tflite` reader leaves it; runs in LiteRT."""
    graph = Graph("net")
    x = Tensor("x", (1, 6, 6, 3))
    w = constant("w", RNG.normal(size=(4, 3, 3, 3)).astype(np.float32))
    b = constant("b", RNG.normal(size=4).astype(np.float32))
    between = Tensor("y/pre_relu6", (1, 3, 3, 4), meta={"virtual": True})
    y = Tensor("y", (1, 3, 3, 4))
    graph.set_io([x])
    graph.add_op(Op("CONV_2D", [x, w, b], [between], {"stride_w": 2, "stride_h": 2}))
    graph.add_op(Op("RELU6", [between], [y]))
    graph.set_io(outputs=[y])
    return Model([graph], **fields)


def rich_model() -> Model:
    """A bit of everything that a file can say."""
    graph = Graph("main")
    x = Tensor("x", (1, 8), "int8", quant=Quant.per_tensor(0.5, -3), shape_signature=(-1, 8))
    channels = Quant(np.linspace(0.1, 0.9, 5).astype(np.float32), np.zeros(5, np.int64), 0,
                     {"min": np.zeros(5, np.float32), "max": np.ones(5, np.float32)})  # fmt: skip
    w = constant("w", RNG.integers(-9, 9, (5, 8)).astype(np.int8))
    w = Tensor(w.name, w.shape, w.dtype, w.data, channels)
    again = Tensor("w_again", w.shape, w.dtype, w.data)
    nibbles = Tensor("int4", (3, 3), "int4", np.arange(5, dtype=np.uint8))
    halves = Tensor("bf16", (2,), "bfloat16", np.arange(4, dtype=np.uint8))
    words = Tensor("words", (1,), "string", np.arange(13, dtype=np.uint8))
    flags = constant("flags", np.array([True, False, True]))
    nothing = constant("nothing", np.zeros((0,), np.int32))
    scalar = constant("scalar", np.int64(-5))
    state = Tensor("state", (1, 5), meta={"is_variable": True, "has_rank": True})
    ranged = Tensor("ranged", (2,), meta={"quantization": {"min": [-1.0], "max": [1.0]}})
    handle = Tensor("handle", (), "resource", meta={"variant_tensors": ({"shape": (2,)},)})
    y = Tensor("y", (1, 5), "int8", quant=Quant.per_tensor(0.25, 0))
    z = Tensor("z", (1, 5), "int8")
    for t in (x, w, again, nibbles, halves, words, flags, nothing, scalar, ranged, handle):
        graph.add_tensor(t)
    graph.set_io([x])
    custom = {"custom_code": "MyOp", "custom_options": b"\x00\xffopts"}
    meta = {"mutating_variable_inputs": (False, True), "debug_metadata_index": 4}
    graph.add_op(Op("FULLY_CONNECTED", [x, w, None], [y], {"keep_num_dims": True}))
    graph.add_op(Op("CUSTOM", [y, state, None], [z], custom, intermediates=(ranged,), meta=meta))
    graph.set_io(outputs=[z, y, z])
    other = Graph("other")
    other.meta["debug_metadata_index"] = 2
    p, q = Tensor("p", (2,)), Tensor("q", (2,))
    other.set_io([p])
    other.add_op(Op("LEAKY_RELU", [p], [q], {"alpha": 0.1}))
    other.set_io(outputs=[q])
    return Model(
        [graph, other],
        description="all sorts",
        signatures=[
            Signature("first", 0, (("in", 0),), (("out", 1), ("z", 0))),
            Signature("second", 1, (("p", 0),), (("q", 0),)),
        ],
        metadata=[("min_runtime_version", b"2.3.0\0"), ("empty", b""), ("blob", bytes(range(256)))],
    )


def branching_model() -> Model:
    """IF over two subgraphs; runs in LiteRT."""
    main = Graph("main")
    flag, x, y = Tensor("flag", (1,), "bool"), Tensor("x", (4,)), Tensor("y", (4,))
    main.set_io([flag, x])
    main.add_op(Op("IF", [flag, x], [y], {"then_subgraph_index": 1, "else_subgraph_index": 2}))
    main.set_io(outputs=[y])
    branches = []
    for kind in ("ADD", "MUL"):
        branch = Graph(kind.lower())
        a, b = Tensor("a", (4,)), Tensor("b", (4,))
        branch.set_io([a])
        branch.add_op(Op(kind, [a, constant("c", np.full(4, 3, np.float32))], [b]))
        branch.set_io(outputs=[b])
        branches.append(branch)
    return Model([main, *branches])


def stateful_model() -> Model:
    """SVDF, whose state is a variable tensor; runs in LiteRT."""
    graph = Graph()
    x, y = Tensor("x", (1, 3)), Tensor("y", (1, 4))
    feature = constant("feature", RNG.normal(size=(4, 3)).astype(np.float32))
    in_time = constant("time", RNG.normal(size=(4, 2)).astype(np.float32))
    state = Tensor("state", (1, 8), meta={"is_variable": True})
    attrs = {"rank": 1, "fused_activation_function": "RELU"}
    graph.set_io([x])
    graph.add_op(Op("SVDF", [x, feature, in_time, None, state], [y], attrs))
    graph.set_io(outputs=[y])
    return Model([graph])


SYNTHETIC = [conv_model, rich_model, branching_model, stateful_model]


# -- round trips -------------------------------------------------------------------------------


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
    assert quant.same_as(given.graph.tensor("w").quant)
    assert quant.extra["max"].tolist() == [1.0] * 5
    assert graph.tensor("ranged").quant is None
    assert graph.tensor("ranged").meta["quantization"]["max"].tolist() == [1.0]
    assert graph.tensor("state").meta == {"is_variable": True, "has_rank": True}
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
    model.graph.update_tensor(w, data=turned)
    back = parse_tflite(serialize(model)).graph.tensor("w")
    np.testing.assert_array_equal(back.value(), turned)


# -- activations -------------------------------------------------------------------------------


def test_a_fused_activation_is_an_op_and_is_fused_again() -> None:
    data = serialize(conv_model())
    assert len(said(data)["subgraphs"][0]["operators"]) == 1
    graph = parse_tflite(data).graph
    assert [op.kind for op in graph.ops] == ["CONV_2D", "RELU6"]
    between = graph.ops[0].output
    assert between.name == "y/pre_relu6"
    assert between.meta["virtual"]
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
        graph.update_tensor(between, meta={})
    kinds = {op["code"] for op in said(serialize(model))["subgraphs"][0]["operators"]}
    assert CODES["RELU6"] in kinds


def test_fusing_keeps_the_numbers() -> None:
    model = conv_model()
    inputs = random_inputs(model)
    fused = run(serialize(model), inputs)[0]
    model.graph.update_tensor(model.graph.ops[0].output, meta={})
    np.testing.assert_array_equal(fused, run(serialize(model), inputs)[0])
    assert fused.max() > 0


def test_sign_bit_stays_an_attribute() -> None:
    model = conv_model()
    op = model.graph.ops[0]
    model.graph.update_tensor(op.output, meta={})
    model.graph.update_op(op, attrs={**op.attrs, "fused_activation_function": "SIGN_BIT"})
    back = parse_tflite(serialize(model)).graph.ops[0]
    assert back.attrs["fused_activation_function"] == "SIGN_BIT"


# -- what the writer adds, and when ------------------------------------------------------------


def test_an_edited_model_gets_a_signature_and_one_as_read_does_not() -> None:
    model = conv_model()
    model.mark_loaded()
    data = serialize(model)
    assert "signature_defs" not in said(data)
    assert "description" not in said(data)
    edited = said(serialize(touched(parse_tflite(data))))
    assert edited["description"] == "qfrewrite"
    (signature,) = parse_tflite(serialize(touched(parse_tflite(data)))).signatures
    assert signature == Signature("serving_default", 0, (("x", 0),), (("y", 0),))


def test_a_model_from_elsewhere_gets_a_runtime_version_and_ranks() -> None:
    model = parse_tflite(serialize(conv_model(source="graphdef")))
    assert model.metadata == [("min_runtime_version", b"1.5.0" + bytes(11))]
    assert all(t.meta["has_rank"] for t in model.graph.tensors if not t.meta.get("virtual"))


def test_versions_follow_the_element_type() -> None:
    model = rich_model()
    dense = model.graph.ops[0]
    assert op_version(dense) == 4
    model.graph.update_op(dense, meta={"version": 9, "read_as": "FULLY_CONNECTED"})
    assert op_version(dense) == 9
    model.graph.update_op(dense, meta={"version": 9, "read_as": "CONV_2D"})
    assert op_version(dense) == 4
    assert op_version(model.graph.ops[1]) == 1


def test_options_that_a_file_leaves_out_stay_out_until_they_are_changed() -> None:
    graph = Graph()
    x, y = Tensor("x", (2, 3)), Tensor("y", (6,))
    graph.set_io([x])
    shape = constant("s", np.array([6], np.int32))
    meta = {"version": 1, "read_as": "RESHAPE", "no_options": True}
    op = Op("RESHAPE", [x, shape], [y], {"new_shape": ()}, meta=meta)
    graph.add_op(op)
    graph.set_io(outputs=[y])
    written = serialize(Model([graph]))
    assert "builtin_options" not in said(written)["subgraphs"][0]["operators"][0]
    back = parse_tflite(written)
    assert back.graph.ops[0].attrs == {"new_shape": ()}
    back.graph.update_op(back.graph.ops[0], attrs={"new_shape": (6,)})
    options = said(serialize(back))["subgraphs"][0]["operators"][0]["builtin_options"]
    assert options == {"new_shape": [6]}


def test_fake_quant_has_one_range() -> None:
    graph = Graph()
    x, y = Tensor("x", (2,)), Tensor("y", (2,))
    attrs = {"min": np.float32(-1), "max": 2.5, "num_bits": 8, "narrow_range": True, "axis": None}
    graph.set_io([x])
    op = graph.add_op(Op("FAKE_QUANT", [x], [y], attrs))
    graph.set_io(outputs=[y])
    back = parse_tflite(serialize(Model([graph]))).graph.ops[0]
    assert back.attrs == {**attrs, "min": -1.0}
    graph.update_op(op, attrs={**attrs, "min": np.zeros(2), "max": np.ones(2), "axis": 0})
    with pytest.raises(UnsupportedError, match="'y' .*one range"):
        serialize(Model([graph]))


# -- refusals ----------------------------------------------------------------------------------


def test_what_tflite_has_not_is_refused_by_name(tmp_path: Path) -> None:
    def refused(says: str, change: Any) -> None:
        model = conv_model()
        change(model, model.graph)
        with pytest.raises(UnsupportedError, match=says):
            write_tflite(model, tmp_path / "m.tflite")
        assert not list(tmp_path.iterdir())

    def op(**fields: Any) -> Any:
        return lambda model, graph: graph.update_op(graph.ops[0], **fields)

    def w(**fields: Any) -> Any:
        return lambda model, graph: graph.update_tensor(graph.tensor("w"), **fields)

    refused(r"op 'y/pre_relu6' \(BATCH_NORM\): is no op", op(kind="BATCH_NORM", attrs={}))
    refused("CONV_2D.*has no field 'stride'", op(attrs={"stride": 1}))
    refused("CONV_2D.*Conv2DOptions.stride_w", op(attrs={"stride_w": 2.5}))
    refused(
        "CONV_2D.*builtin_options of type 99", op(meta={"unknown": ["builtin_options of type 99"]})
    )
    refused("tensor 'w': TFLite has no element type float8", w(dtype="float8"))
    refused(r"tensor 'w': holds float32\[4, 3, 3, 3\]", w(shape=(4, 3, 3, 1)))
    refused("tensor 'w': holds float64", w(data=np.zeros((4, 3, 3, 3))))
    refused("tensor 'w': .*int4", w(dtype="int4", data=np.zeros(3, np.uint8)))
    refused("tensor 'w': .*field 12", w(meta={"unknown": ["Tensor field 12"]}))
    sign = Signature("s", 0, (("x", 4),), ())
    refused("signature 's'.*number 4", lambda model, graph: model.signatures.append(sign))


# -- files of a newer schema -------------------------------------------------------------------


def raw_model(operator: dict[str, Any], tensors: list[dict[str, Any]], **more: Any) -> bytes:
    encoder = Encoder(SCHEMA)
    for field in ("builtin_options", "builtin_options2"):
        if isinstance(operator.get(f"{field}_type"), int):
            operator[field] = encoder.table(SCHEMA.table("AbsOptions"), {})
    code = {"builtin_code": operator.pop("code"), "deprecated_builtin_code": 127}
    op = encoder.table(SCHEMA.table("Operator"), {"inputs": [0], "outputs": [1], **operator})
    graph = {"tensors": tensors, "inputs": [0], "outputs": [1], "operators": [op]}
    values = {"version": 3, "operator_codes": [code], "subgraphs": [graph], "buffers": [{}]}
    root = encoder.table(SCHEMA.table("Model"), values | more)
    encoder.finish(root, IDENTIFIER)
    return b"".join(bytes(chunk) for chunk in encoder.chunks())


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


# -- signatures --------------------------------------------------------------------------------


def test_a_signature_of_inner_tensors_loses_them_with_a_notice() -> None:
    signature = {
        "signature_key": "s",
        "inputs": [{"name": "in", "tensor_index": 0}, {"name": "odd", "tensor_index": 1}],
        "outputs": [{"name": "out", "tensor_index": 1}],
    }
    model = parse_tflite(raw_model({"code": CODES["ABS"]}, TWO, signature_defs=[signature]))
    assert model.signatures == [Signature("s", 0, (("in", 0),), (("out", 0),))]
    assert "'odd' is left out" in model.notices[0]


# -- damaged files -----------------------------------------------------------------------------


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
        ({"tensors": [{"shape": [2], "quantization": {"scale": [1.0, 2.0], "zero_point": [0] * 3}}]},
         "2 scales but 3 zero points"),
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
    encoder = Encoder(SCHEMA)
    encoder.finish(encoder.table(SCHEMA.table("Model"), values), IDENTIFIER)
    data = b"".join(bytes(chunk) for chunk in encoder.chunks())
    with pytest.raises(ModelFileError, match=says):
        parse_tflite(data, Path("m.tflite"))


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
        try:
            parse_tflite(data[:size])
        except ModelFileError:
            pass


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
    survives(serialize(make()), seconds=1.5, seed=11)


def test_damage_to_a_real_model() -> None:
    data = shared_path("models/kws_ref_model_float32.tflite").read_bytes()
    survives(data, seconds=1.5, seed=5)


def survives(data: bytes, *, seconds: float, seed: int) -> None:
    """Damage the file over and over: a QfError or a model that can be written, within reason."""
    rng, end, count = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < end or count < 20:
        began = time.monotonic()
        try:
            written = serialize(parse_tflite(mutated(rng, data)))
            assert serialize(parse_tflite(written)) == written
        except QfError as error:
            assert "\n" not in str(error)
        assert time.monotonic() - began < 5
        count += 1
