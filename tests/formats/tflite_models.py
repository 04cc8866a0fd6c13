"""Small models and what `.tflite` files say, for the tests of their readers and writers."""

from __future__ import annotations

from typing import Any

import numpy as np

from qfrewrite.formats.tflite.flatbuffer import Decoder, Encoder
from qfrewrite.formats.tflite.schema import IDENTIFIER, SCHEMA
from qfrewrite.ir import Graph, Model, Op, Quant, Signature, Tensor, constant

RNG = np.random.default_rng(7)


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
    model.graph.rename(model.graph.ops[0], model.graph.ops[0].name)
    assert model.edited
    return model


def encoded(table: str, values: dict[str, Any], encoder: Encoder | None = None) -> bytes:
    """A flatbuffer with one root table."""
    encoder = encoder or Encoder(SCHEMA)
    encoder.finish(encoder.table(SCHEMA.table(table), values), IDENTIFIER)
    return b"".join(bytes(chunk) for chunk in encoder.chunks())


def conv_model(**fields: Any) -> Model:
    """x -> CONV_2D -> RELU6 -> y, as a `.tflite` reader leaves it; runs in LiteRT."""
    graph = Graph("net")
    x = Tensor("x", (1, 6, 6, 3))
    w = constant("w", RNG.normal(size=(4, 3, 3, 3)).astype(np.float32))
    b = constant("b", RNG.normal(size=4).astype(np.float32))
    between = Tensor("y/pre_relu6", (1, 3, 3, 4), fused=True)
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
    state = Tensor("state", (1, 5), is_variable=True, has_rank=True)
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
    state = Tensor("state", (1, 8), is_variable=True)
    attrs = {"rank": 1, "fused_activation_function": "RELU"}
    graph.set_io([x])
    graph.add_op(Op("SVDF", [x, feature, in_time, None, state], [y], attrs))
    graph.set_io(outputs=[y])
    return Model([graph])


SYNTHETIC = [conv_model, rich_model, branching_model, stateful_model]
