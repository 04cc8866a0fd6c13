"""Float results against the same graph in float64: as close as TensorFlow's own, or nearly.

The models have depthwise channels whose BatchNorm has a gain of 31 and more, behind which every
common error of the weights is amplified.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared_path
from test_against_tensorflow import images_for, run_tensorflow

import qfrewrite as qf
from qfrewrite.formats.graphdef.schema import DATA_TYPES, GraphDef
from qfrewrite.formats.graphdef.tensor_proto import numpy_to_tensor, tensor_to_numpy
from qfrewrite.ir import Array
from qfrewrite.runtime.session import Session

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

OUTPUT = "MobilenetV1/Predictions/Reshape_1"
FROZEN = "mobilenet_v1_0.25_128_2017_06_frozen_graph.pb"
QUANTIZED = "mobilenet_v1_0.25_128_2017_06_quantized_graph.pb"
FLOAT, DOUBLE = DATA_TYPES["DT_FLOAT"], DATA_TYPES["DT_DOUBLE"]


def constant(node: Any, value: Array, kind: str | None = None) -> None:
    proto = numpy_to_tensor(value, kind)
    node.op = "Const"
    del node.input[:]
    node.attr.clear()
    node.attr["dtype"].type = proto.dtype
    node.attr["value"].tensor.CopyFrom(proto)


def stored_in_8_bits(data: bytes, least: int) -> bytes:
    """The graph with every constant of `least` elements or more as codes behind a Dequantize."""
    import tensorflow as tf

    source, result = GraphDef.FromString(data), GraphDef()
    result.versions.CopyFrom(source.versions)
    for node in source.node:
        value = node.attr["value"].tensor
        if node.op != "Const" or value.dtype != FLOAT or tensor_to_numpy(value, "").size < least:
            result.node.add().CopyFrom(node)
            continue
        w = tensor_to_numpy(value, "")
        codes, low, high = tf.raw_ops.QuantizeV2(
            input=w, min_range=min(w.min(), 0), max_range=max(w.max(), 0), T=tf.quint8,
            mode="MIN_FIRST",
        )  # fmt: skip
        parts = tf.bitcast(codes, tf.uint8).numpy(), low.numpy(), high.numpy()
        for i, (part, kind) in enumerate(zip(parts, ("DT_QUINT8", None, None), strict=True)):
            constant(result.node.add(name=f"{node.name}/{i}"), part, kind)
        made = result.node.add(name=node.name, op="Dequantize")
        made.input.extend(f"{node.name}/{i}" for i in range(3))
        made.attr["T"].type = DATA_TYPES["DT_QUINT8"]
        made.attr["mode"].s = b"MIN_FIRST"
    return bytes(result.SerializeToString())


def in_double(data: bytes) -> bytes:
    """The graph in float64, with the float32 values that TensorFlow dequantizes to."""
    import tensorflow as tf

    message = GraphDef.FromString(data)
    nodes = {n.name: n for n in message.node}

    def value(name: str) -> Array:
        node = nodes[name]
        while node.op == "Identity":
            node = nodes[node.input[0]]
        return tensor_to_numpy(node.attr["value"].tensor, name)

    real = {}
    for node in message.node:
        if node.op == "Dequantize":
            codes, low, high = (value(name) for name in node.input)
            typed = tf.bitcast(tf.constant(codes), tf.quint8)
            mode = node.attr["mode"].s.decode()
            real[node.name] = tf.raw_ops.Dequantize(
                input=typed, min_range=low.reshape(()), max_range=high.reshape(()), mode=mode
            ).numpy()
        elif node.op == "Const" and node.attr["dtype"].type == FLOAT:
            real[node.name] = value(node.name)
    for node in message.node:
        if node.name in real:
            constant(node, real[node.name].astype(np.float64))
        for attr in node.attr.values():
            if attr.WhichOneof("value") == "type" and attr.type == FLOAT:
                attr.type = DOUBLE
    return bytes(message.SerializeToString())


def error(found: list[Array], want: list[Array]) -> float:
    """The largest difference of an image, in the mean over the images."""
    return float(np.mean([np.abs(a.reshape(-1) - b.reshape(-1)).max()
                          for a, b in zip(found, want, strict=True)]))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "least"), [(QUANTIZED, None), (FROZEN, None), (FROZEN, 4096), (FROZEN, 1024)]
)
def test_float_is_as_close_to_float64_as_tensorflow(
    name: str, least: int | None, tmp_path: Path
) -> None:
    """Catches a range of stored weights that is divided in float64 (5 times TensorFlow's error),
    and folding in float32."""
    data = shared_path(f"models/{name}").read_bytes()
    data = data if least is None else stored_in_8_bits(data, least)
    path, double = tmp_path / "stored.pb", tmp_path / "double.pb"
    path.write_bytes(data)
    double.write_bytes(in_double(data))
    model = qf.load(path)
    images = images_for(model)
    wide = [x.astype(np.float64) for x in images]
    want = [r[0] for r in run_tensorflow(double, (OUTPUT,), wide)]
    theirs = error([r[0] for r in run_tensorflow(path, (OUTPUT,), images)], want)
    session = Session(model.graph, model.graph.outputs, threads=2)
    ours = error([session.run({"input": x})[0].copy() for x in images], want)
    print(f"TensorFlow {theirs:.2e}, ours {ours:.2e}")
    assert ours <= 2 * theirs
    qf.run_passes(model, "fold_bn")
    folded = qf.save(model, tmp_path / "folded.pb").path
    folded.write_bytes(in_double(folded.read_bytes()))
    alone = error([r[0] for r in run_tensorflow(folded, (OUTPUT,), wide)], want)
    print(f"folding alone {alone:.2e}")
    assert alone <= 1.5 * theirs
