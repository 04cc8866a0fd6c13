"""Damage to model files: to their bytes, or to what they say while the format stays valid.

Everything follows from the random numbers that are passed in.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from qfrewrite.errors import QfError
from qfrewrite.formats.graphdef.schema import GraphDef
from qfrewrite.formats.tflite.flatbuffer import Decoder, Encoder
from qfrewrite.formats.tflite.schema import IDENTIFIER, SCHEMA

Values = dict[str, Any]
# Words of 32 bits at the borders of types, sizes and offsets; NaN and the infinities.
_WORDS = (
    0, 1, 2, 3, 4, 5, 7, 8, 16, 127, 128, 255, 256, 32767, 65535, 65536, 2**24, 2**28, 2**31 - 1,
    2**31, 2**32 - 1, 435_000_000, 0x7FC00000, 0x7F800000, 0xFF800000,
)  # fmt: skip
_SIZES = (0, 1, 2, 3, 5, 6, 64, 1000, 21700, 65536, 2**20, 2**31 - 1)
_TYPES = (
    "FLOAT32", "FLOAT16", "FLOAT64", "INT4", "INT8", "UINT8", "INT16", "INT32", "INT64", "BOOL",
    "STRING", "COMPLEX64", "RESOURCE",
)  # fmt: skip
_FLOATS = (0.0, -1.0, float("nan"), float("inf"), 1e30, 1e-30)
_OPS = (
    "Add", "AddV2", "ArgMax", "AvgPool", "BatchMatMulV2", "BatchToSpaceND", "BiasAdd", "Cast",
    "ConcatV2", "Const", "Conv2D", "Conv2DBackpropInput", "DepthwiseConv2dNative", "Dequantize",
    "Einsum", "Enter", "Exit", "ExpandDims", "FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars",
    "Fill", "FusedBatchNorm", "FusedBatchNormV3", "GatherV2", "Identity", "LeakyRelu", "LoopCond",
    "MatMul", "Max", "MaxPool", "Mean", "Merge", "Mul", "NextIteration", "NoSuchOp", "OneHot",
    "Pack", "Pad", "Placeholder", "PlaceholderWithDefault", "Range", "Relu", "Relu6", "Reshape",
    "ResizeBilinear", "Rsqrt", "Shape", "Slice", "Softmax", "SpaceToBatchND", "Split", "SplitV",
    "Squeeze", "StridedSlice", "Sub", "Sum", "Switch", "Tile", "TopKV2", "Transpose", "Unpack",
    "Where", "While",
)  # fmt: skip


def mutated(data: bytes, suffix: str, rng: Random) -> bytes:
    """A damaged copy of a model file."""
    if rng.random() < 0.35:
        return of_bytes(data, rng)
    try:
        return (of_graphdef if suffix == ".pb" else of_tflite)(data, rng)
    except (QfError, ValueError, TypeError, struct.error):
        # What the format cannot hold.
        return of_bytes(data, rng)


# -- bytes -----------------------------------------------------------------------------------------


def of_bytes(data: bytes, rng: Random) -> bytes:
    """Bytes changed, exchanged, removed, repeated; at times the end is missing."""
    b = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6, 16])):
        if len(b) < 80:
            break
        _BYTES[rng.randrange(len(_BYTES))](b, rng.randrange(len(b) - 68), rng)
    if rng.random() < 0.04:
        del b[rng.randrange(len(b)) :]
    return bytes(b)


def _byte(b: bytearray, at: int, rng: Random) -> None:
    b[at] = rng.randrange(256)


def _bit(b: bytearray, at: int, rng: Random) -> None:
    b[at] ^= 1 << rng.randrange(8)


def _word(b: bytearray, at: int, rng: Random) -> None:
    at &= ~3
    b[at : at + 4] = struct.pack("<I", rng.choice(_WORDS))


def _exchange(b: bytearray, at: int, rng: Random) -> None:
    at, other = at & ~3, rng.randrange(len(b) - 4) & ~3
    b[at : at + 4], b[other : other + 4] = b[other : other + 4], b[at : at + 4]


def _remove(b: bytearray, at: int, rng: Random) -> None:
    del b[at : at + rng.choice([1, 4, 32])]


def _repeat(b: bytearray, at: int, rng: Random) -> None:
    source = rng.randrange(len(b))
    b[at:at] = b[source : source + rng.choice([1, 4, 16, 64])]


_BYTES = (_byte, _byte, _byte, _bit, _word, _exchange, _remove, _repeat)


# -- .tflite ---------------------------------------------------------------------------------------


def of_tflite(data: bytes, rng: Random) -> bytes:
    """A flatbuffer that says other things."""
    model = Decoder(SCHEMA, memoryview(data)).root("Model")
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        rng.choice(_TFLITE)(model, rng.choice(model["subgraphs"]), rng)
    encoder = Encoder(SCHEMA)
    encoder.finish(encoder.table(SCHEMA.table("Model"), _plain(model)), IDENTIFIER)
    return b"".join(bytes(memoryview(chunk)) for chunk in encoder.chunks())


def _plain(value: Any) -> Any:
    """Tables without what the encoder does not take."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if v is not None and k != "unknown" and k[0] != "_"}
        return {key: _plain(v) for key, v in kept.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _list(values: Any) -> list[int]:
    return [] if values is None else [int(v) for v in values]


def _i4(values: list[int]) -> Any:
    return np.array(values, np.int64).astype(np.int32)


def _shape(model: Values, graph: Values, rng: Random) -> None:
    tensor = rng.choice(graph["tensors"])
    shape = _list(tensor["shape"])
    for _ in range(rng.choice([1, 1, 2])):
        kind = rng.randrange(6)
        if kind == 0:
            shape.insert(rng.randrange(len(shape) + 1), rng.choice([1, 1, 2, 3]))
        elif kind == 1 or not shape:
            shape = []
        elif kind == 2:
            del shape[rng.randrange(len(shape))]
        elif kind == 3:
            rng.shuffle(shape)
        elif kind == 4:
            shape[rng.randrange(len(shape))] = rng.choice(_SIZES)
        else:
            shape[rng.randrange(len(shape))] += rng.choice([-1, 1])
    tensor["shape"] = _i4(shape)


def _type(model: Values, graph: Values, rng: Random) -> None:
    rng.choice(graph["tensors"])["type"] = rng.choice(_TYPES)


def _buffer(model: Values, graph: Values, rng: Random) -> None:
    rng.choice(graph["tensors"])["buffer"] = rng.randrange(len(model["buffers"]))


def _links(model: Values, graph: Values, rng: Random) -> None:
    """Operands or results of an op, or of the graph."""
    table = rng.choice([*graph["operators"], graph])
    key = rng.choice(["inputs", "outputs"])
    links = _list(table[key])
    count = len(graph["tensors"])
    if links:
        links[rng.randrange(len(links))] = rng.choice([-1, count, *range(count)])
    chance = rng.random()
    if chance < 0.15:
        links = links[:-1]
    elif chance < 0.3:
        links.append(rng.randrange(count))
    elif chance < 0.33:
        links = []
    table[key] = _i4(links)


def _kind(model: Values, graph: Values, rng: Random) -> None:
    codes = model["operator_codes"]
    if rng.random() < 0.6:
        rng.choice(graph["operators"])["opcode_index"] = rng.randrange(len(codes))
    else:
        code, number = rng.choice(codes), rng.randrange(210)
        code["builtin_code"], code["deprecated_builtin_code"] = number, min(number, 127)


def _quantization(model: Values, graph: Values, rng: Random) -> None:
    tensor, count = rng.choice(graph["tensors"]), rng.choice([1, 1, 1, 2, 4])
    scales = [rng.choice((*_FLOATS, 0.1, 1.0)) for _ in range(count)]
    zeros = [rng.choice([0, 1, -128, 127, 300, 2**40])] * rng.choice([1, count])
    tensor["quantization"] = {
        **(tensor["quantization"] or {}),
        "scale": np.array(scales, "f4"),
        "zero_point": np.array(zeros, "i8"),
        "quantized_dimension": rng.choice([0, 0, 1, 3, -1, 9]),
    }


def _option(model: Values, graph: Values, rng: Random) -> None:
    options = rng.choice(graph["operators"]).get("builtin_options")
    if not isinstance(options, dict) or not options:
        return
    key = rng.choice(list(options))
    value = options[key]
    if isinstance(value, bool):
        options[key] = not value
    elif isinstance(value, int):
        options[key] = rng.choice([0, 1, 2, 3, 7, 100, -1, 127])
    elif isinstance(value, float):
        options[key] = rng.choice(_FLOATS)


def _contents(model: Values, graph: Values, rng: Random) -> None:
    buffer = model["buffers"][rng.choice(graph["tensors"])["buffer"]]
    if buffer["data"] is None or not len(buffer["data"]):
        return
    data = np.array(buffer["data"])
    chance = rng.random()
    if chance < 0.4:
        data[rng.randrange(len(data))] = rng.randrange(256)
    elif chance < 0.6:
        data = data[: rng.randrange(len(data))]
    elif chance < 0.8 and len(data) >= 4:
        at = rng.randrange(len(data) // 4) * 4
        data[at : at + 4] = np.frombuffer(struct.pack("<I", rng.choice(_WORDS)), "u1")
    else:
        data[:] = rng.choice([0, 255, 127])
    buffer["data"] = data


def _open(model: Values, graph: Values, rng: Random) -> None:
    tensor = rng.choice(graph["tensors"])
    shape = _list(tensor["shape"])
    tensor["shape_signature"] = _i4([-1 if rng.random() < 0.5 else size for size in shape])


def _variable(model: Values, graph: Values, rng: Random) -> None:
    rng.choice(graph["tensors"])["is_variable"] = True


def _order(model: Values, graph: Values, rng: Random) -> None:
    ops = graph["operators"]
    i, j = rng.randrange(len(ops)), rng.randrange(len(ops))
    ops[i], ops[j] = ops[j], ops[i]


def _twice(model: Values, graph: Values, rng: Random) -> None:
    ops = graph["operators"]
    ops.insert(rng.randrange(len(ops)), dict(rng.choice(ops)))


_TFLITE: tuple[Callable[[Values, Values, Random], None], ...] = (
    _shape, _shape, _type, _type, _buffer, _links, _links, _links, _kind, _kind, _quantization,
    _option, _contents, _open, _variable, _order, _twice,
)  # fmt: skip


# -- GraphDef --------------------------------------------------------------------------------------


def of_graphdef(data: bytes, rng: Random) -> bytes:
    """A GraphDef that says other things."""
    graph = GraphDef()
    graph.ParseFromString(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        rng.choice(_GRAPHDEF)(graph, rng.choice(graph.node), rng)
    return bytes(graph.SerializeToString(deterministic=True))


def _node_link(graph: Any, node: Any, rng: Random) -> None:
    if node.input:
        ending = rng.choice(["", "", ":1", ":0", ":9"])
        node.input[rng.randrange(len(node.input))] = rng.choice(graph.node).name + ending


def _node_op(graph: Any, node: Any, rng: Random) -> None:
    node.op = rng.choice(_OPS)


def _node_without(graph: Any, node: Any, rng: Random) -> None:
    if node.input:
        del node.input[rng.randrange(len(node.input))]


def _node_with(graph: Any, node: Any, rng: Random) -> None:
    node.input.append(rng.choice(["", "", "^"]) + rng.choice(graph.node).name)


def _node_name(graph: Any, node: Any, rng: Random) -> None:
    node.name = rng.choice(["", "a", "x:0", "^x", rng.choice(graph.node).name])


def _node_no_attr(graph: Any, node: Any, rng: Random) -> None:
    if node.attr:
        del node.attr[rng.choice(sorted(node.attr))]


def _node_attrs_of_another(graph: Any, node: Any, rng: Random) -> None:
    other = rng.choice(graph.node)
    for key in sorted(other.attr):
        if rng.random() < 0.5:
            node.attr[key].CopyFrom(other.attr[key])


def _node_attr(graph: Any, node: Any, rng: Random) -> None:
    if not node.attr:
        return
    attr = node.attr[rng.choice(sorted(node.attr))]
    held = attr.WhichOneof("value")
    if held in _ATTR_VALUES:
        setattr(attr, held, rng.choice(_ATTR_VALUES[held]))
    elif held == "list" and attr.list.i:
        attr.list.i[rng.randrange(len(attr.list.i))] = rng.choice([0, 1, 3, -1, 100, 2**31, 2**40])
    elif held == "shape":
        _sizes(attr.shape, rng)
    elif held == "tensor":
        _tensor(attr.tensor, rng)


_ATTR_VALUES: dict[str, tuple[Any, ...]] = {
    "i": (0, 1, 2, 3, -1, 7, 2**31, 2**62),
    "f": _FLOATS,
    "b": (True, False),
    "s": (b"SAME", b"VALID", b"NHWC", b"NCHW", b"EXPLICIT", b"", b"x", b"\xff"),
    "type": (0, 1, 2, 3, 4, 6, 7, 9, 10, 11, 19, 101, 500),
}


def _sizes(shape: Any, rng: Random) -> None:
    if shape.dim:
        rng.choice(shape.dim).size = rng.choice([-1, *_SIZES, 2**40])
    else:
        shape.unknown_rank = True


def _tensor(tensor: Any, rng: Random) -> None:
    chance = rng.random()
    if chance < 0.4:
        _sizes(tensor.tensor_shape, rng)
    elif chance < 0.7:
        tensor.dtype = rng.choice([1, 2, 3, 4, 6, 7, 9, 10, 19])
    elif tensor.tensor_content:
        content = bytearray(tensor.tensor_content)
        content[rng.randrange(len(content))] = rng.randrange(256)
        tensor.tensor_content = bytes(content[: len(content) - rng.choice([0, 0, 1])])


_GRAPHDEF: tuple[Callable[[Any, Any, Random], None], ...] = (
    _node_link, _node_link, _node_op, _node_op, _node_without, _node_with, _node_name, _node_attr,
    _node_attr, _node_attr, _node_no_attr, _node_attrs_of_another,
)  # fmt: skip
