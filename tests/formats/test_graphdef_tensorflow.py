"""Every node family against TensorFlow: read, run on LiteRT, written back, run there again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graphdefs import Nodes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from qfrewrite.formats.graphdef.emit import Kind
from qfrewrite.formats.graphdef.read import parse_graphdef
from qfrewrite.formats.graphdef.schema import TensorProto
from qfrewrite.formats.graphdef.tensor_proto import numpy_to_tensor, tensor_to_numpy
from qfrewrite.formats.graphdef.write import graphdef_bytes
from qfrewrite.ir import Array
from qfrewrite.lower.model import lower_graphdef
from qfrewrite.rewrite.raising import raise_graph
from qfrewrite.runtime.session import Session

pytestmark = pytest.mark.tensorflow

SHAPE = (1, 8, 8, 4)


def values(*shape: int) -> Array:
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def decomposed(tf: Any, x: Any) -> Any:
    return tf.nn.batch_normalization(x, values(4), values(4), values(4), values(4), 1e-3)


def dynamic_reshape(tf: Any, x: Any) -> Any:
    return tf.reshape(x, [tf.shape(x)[0], -1])


def quantized_weights(tf: Any, x: Any, mode: str, dtype: str) -> Any:
    codes, low, high = tf.raw_ops.QuantizeV2(
        input=values(3, 3, 4, 5), min_range=-3.0, max_range=3.5, T=getattr(tf, dtype), mode=mode
    )
    w = tf.raw_ops.Dequantize(input=codes, min_range=low, max_range=high, mode=mode)
    return tf.nn.conv2d(x, w, 1, "SAME")


Case = Callable[[Any, Any], Any]
CASES: dict[str, Case] = {
    "conv same": lambda tf, x: tf.nn.conv2d(x, values(3, 3, 4, 5), 2, "SAME"),
    "conv dilated": lambda tf, x: tf.nn.conv2d(x, values(3, 3, 4, 5), 1, "VALID", dilations=2),
    "conv explicit": lambda tf, x: tf.nn.conv2d(
        x, values(3, 3, 4, 5), 2, [[0, 0], [1, 2], [0, 1], [0, 0]]),
    "depthwise multiplier": lambda tf, x: tf.nn.depthwise_conv2d(
        x, values(3, 3, 4, 2), [1, 1, 1, 1], "SAME"),
    "depthwise dilated": lambda tf, x: tf.nn.depthwise_conv2d(
        x, values(3, 3, 4, 1), [1, 1, 1, 1], "SAME", dilations=[2, 2]),
    "dilation by batches": lambda tf, x: tf.nn.relu(tf.batch_to_space(tf.nn.conv2d(
        tf.space_to_batch(x, [2, 2], [[2, 2], [2, 2]]), values(3, 3, 4, 5), 1, "VALID"),
        [2, 2], [[0, 0], [0, 0]])),
    "transposed conv": lambda tf, x: tf.nn.conv2d_transpose(
        x, values(3, 3, 6, 4), [1, 16, 16, 6], 2, "SAME"),
    "bias": lambda tf, x: tf.nn.bias_add(tf.nn.conv2d(x, values(1, 1, 4, 5), 1, "SAME"), values(5)),
    "fused batch norm": lambda tf, x: tf.compat.v1.nn.fused_batch_norm(
        x, values(4), values(4), values(4), np.abs(values(4)), epsilon=1e-3, is_training=False)[0],
    "decomposed batch norm": lambda tf, x: tf.nn.batch_normalization(
        x, values(4), np.abs(values(4)) + 0.1, values(4), values(4), 1e-3),
    "arithmetic": lambda tf, x: tf.maximum(tf.minimum(x * x + 1.5, x - values(4)), x / 3.0),
    "activations": lambda tf, x: tf.nn.leaky_relu(tf.tanh(x)) + tf.sigmoid(tf.nn.relu6(x)),
    "elu and relu": lambda tf, x: tf.nn.elu(x) - tf.nn.relu(x),
    "softmax": lambda tf, x: tf.nn.softmax(x),
    "log softmax": lambda tf, x: tf.nn.log_softmax(x),
    "matmul": lambda tf, x: tf.matmul(tf.reshape(x, [8, 32]), values(32, 3)),
    "matmul transposed": lambda tf, x: tf.matmul(
        tf.reshape(x, [8, 32]), values(3, 32), transpose_b=True) + values(3),
    "batch matmul": lambda tf, x: tf.matmul(x, x, transpose_b=True),
    "average pool": lambda tf, x: tf.nn.avg_pool2d(x, 3, 2, "SAME"),
    "max pool": lambda tf, x: tf.nn.max_pool2d(x, 2, 2, "VALID"),
    "mean": lambda tf, x: tf.reduce_mean(x, [1, 2]),
    "sum and max": lambda tf, x: tf.reduce_sum(x, 3, keepdims=True) + tf.reduce_max(x, [-1], True),
    "pad": lambda tf, x: tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]]),
    "pad with a value": lambda tf, x: tf.pad(
        x, [[0, 0], [1, 2], [0, 1], [0, 0]], constant_values=-2.0),
    "mirror pad": lambda tf, x: tf.pad(x, [[0, 0], [1, 2], [2, 1], [0, 0]], mode="REFLECT"),
    "concat": lambda tf, x: tf.concat([x, tf.nn.relu(x), x], -1),
    "split": lambda tf, x: tf.split(x, 2, 3)[1],
    "split by sizes": lambda tf, x: tf.split(x, [1, 3], 3)[1],
    "stack and unstack": lambda tf, x: tf.stack(tf.unstack(x, axis=1)[::2], 2),
    "reshape": lambda tf, x: tf.reshape(x, [1, -1, 4]),
    "reshape by shape": dynamic_reshape,
    "squeeze and expand": lambda tf, x: tf.expand_dims(tf.squeeze(x, [0]), 1),
    "transpose": lambda tf, x: tf.transpose(x, [0, 3, 1, 2]),
    "slice": lambda tf, x: tf.slice(x, [0, 1, 2, 0], [1, 3, -1, 2]),
    "strided slice": lambda tf, x: x[:, ::2, -3:, 1],
    "gather": lambda tf, x: tf.gather(x, [2, 0], axis=3),
    "tile": lambda tf, x: tf.tile(x, [1, 2, 1, 1]),
    "resize bilinear": lambda tf, x: tf.compat.v1.image.resize_bilinear(x, [5, 12]),
    "resize half pixel": lambda tf, x: tf.compat.v1.image.resize_bilinear(
        x, [16, 16], half_pixel_centers=True),
    "resize nearest": lambda tf, x: tf.compat.v1.image.resize_nearest_neighbor(
        x, [16, 4], align_corners=True),
    "space to depth": lambda tf, x: tf.nn.depth_to_space(tf.nn.space_to_depth(x, 2), 2),
    "fake quant": lambda tf, x: tf.quantization.fake_quant_with_min_max_vars(
        tf.quantization.fake_quant_with_min_max_args(x, -2.0, 2.5), -1.0, 1.5),
    "fake quant on weights": lambda tf, x: tf.nn.conv2d(
        x, tf.quantization.fake_quant_with_min_max_vars_per_channel(
            values(3, 3, 4, 5), -np.ones(5, "f4"), np.arange(1, 6, dtype="f4")), 1, "SAME"),
    "compare and select": lambda tf, x: tf.where(tf.greater(x, 0.1), x, tf.abs(x) * 2.0),
    "less or equal": lambda tf, x: tf.where(tf.less_equal(x, x * 2.0), x, -x),
    "top k": lambda tf, x: tf.math.top_k(x, 2)[0],
    "gather nd": lambda tf, x: tf.gather_nd(x, [[0, 1], [0, 0]]),
    "scatter nd": lambda tf, x: tf.scatter_nd([[1], [3]], tf.reshape(x, [2, -1]),
                                              [5, int(np.prod(SHAPE)) // 2]),
    "broadcast and reverse": lambda tf, x: tf.reverse(
        tf.broadcast_to(x, [2, *SHAPE[1:]]), [1]),
    "cumsum": lambda tf, x: tf.cumsum(x, 2, exclusive=True, reverse=True),
    "identity and control": lambda tf, x: tf.stop_gradient(tf.identity(x)) + 1.0,
    "dequantized min first": lambda tf, x: quantized_weights(tf, x, "MIN_FIRST", "quint8"),
    "dequantized min combined": lambda tf, x: quantized_weights(tf, x, "MIN_COMBINED", "quint8"),
}  # fmt: skip


def frozen(case: Case) -> bytes:
    """The case as a frozen GraphDef with input `x` and output `y`; quantized constants folded."""
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, SHAPE, "x")
        tf.identity(case(tf, x), name="y")
    return bytes(_fold_quantize(tf, graph).SerializeToString())


def _fold_quantize(tf: Any, graph: Any) -> Any:
    """QuantizeV2 of a constant becomes three constants, as in released quantized graphs."""
    message = graph.as_graph_def()
    makers = [n.name for n in message.node if n.op == "QuantizeV2"]
    for name in makers:
        with tf.compat.v1.Session(graph=graph) as session:
            results = session.run([f"{name}:{i}" for i in range(3)])
        for i, (value, kind) in enumerate(zip(results, (tf.quint8, None, None), strict=True)):
            node = message.node.add(name=f"{name}_const{i}", op="Const")
            proto = tf.make_tensor_proto(np.array(value.astype("u1") if kind else value))
            if kind:
                proto.dtype = kind.as_datatype_enum
            node.attr["dtype"].type = proto.dtype
            node.attr["value"].tensor.CopyFrom(proto)
            for reader in message.node:
                old = name if i == 0 else f"{name}:{i}"
                reader.input[:] = [f"{name}_const{i}" if r == old else r for r in reader.input]
    return message


def run_tensorflow(data: bytes, x: Array) -> Array:
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        message = tf.compat.v1.GraphDef()
        message.ParseFromString(data)
        tf.import_graph_def(message, name="")
    with tf.compat.v1.Session(graph=graph) as session:
        result: Array = session.run("y:0", {"x:0": x})
    return result


@pytest.mark.parametrize("name", CASES)
def test_reads_and_writes_what_tensorflow_computes(name: str) -> None:
    data, x = frozen(CASES[name]), values(*SHAPE)
    want = run_tensorflow(data, x)
    model = parse_graphdef(data)
    raise_graph(model.graph)
    (got,) = Session(model.graph, model.graph.outputs, threads=1).run({"x": x})
    assert [t.name for t in model.graph.outputs] == ["y"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    model.loaded = None
    np.testing.assert_allclose(
        run_tensorflow(graphdef_bytes(lower_graphdef(model)), x), want, rtol=1e-4, atol=1e-4
    )


DTYPES = st.sampled_from(["f4", "f8", "f2", "i1", "u1", "i2", "u2", "i4", "i8", "?", "c8"])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_tensor_protos_agree_with_tensorflows(data: st.DataObject) -> None:
    import tensorflow as tf

    dtype = np.dtype(data.draw(DTYPES))
    array = data.draw(arrays(dtype, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
    theirs = tf.make_tensor_proto(array)
    read = tensor_to_numpy(TensorProto.FromString(theirs.SerializeToString()), "t")
    np.testing.assert_array_equal(read, array)
    ours = tf.compat.v1.TensorProto() if hasattr(tf.compat.v1, "TensorProto") else type(theirs)()
    ours.ParseFromString(numpy_to_tensor(array).SerializeToString())
    np.testing.assert_array_equal(tf.make_ndarray(ours), array)


@pytest.mark.parametrize("field", ["half_val", "float_val", "int_val", "bool_val"])
def test_short_lists_repeat_their_last_value(field: str) -> None:
    import tensorflow as tf

    kind = {"half_val": tf.float16, "float_val": tf.float32, "int_val": tf.int32,
            "bool_val": tf.bool}[field]  # fmt: skip
    proto = tf.make_tensor_proto(np.zeros((2, 3)), dtype=kind)
    proto.tensor_content = b""
    proto.ClearField(field)
    getattr(proto, field).extend([1, 0] if field == "bool_val" else [15360, 16384])
    read = tensor_to_numpy(TensorProto.FromString(proto.SerializeToString()), "t")
    np.testing.assert_array_equal(read, tf.make_ndarray(proto))


@pytest.mark.parametrize("mode", ["MIN_FIRST", "MIN_COMBINED", "SCALED"])
@pytest.mark.parametrize("kind", ["quint8", "qint8", "quint16", "qint16"])
def test_dequantized_constants_agree_with_tensorflow_to_the_bit(kind: str, mode: str) -> None:
    """A range that is divided in float64 gives weights that are off by a common factor of 1e-8."""
    import tensorflow as tf

    rng = np.random.default_rng(6)
    info = np.iinfo(kind.removeprefix("q"))
    codes = rng.integers(info.min, info.max, 400, endpoint=True).astype(info.dtype)
    for low, high in [(-3.1, 5.2), (-0.0371, 0.0411), (0.0, 6.0), (-7.7, 0.0), (-1e-19, 2e-19)]:
        g = Nodes()
        g.placeholder("x", (400,))
        g.const("codes", codes, f"DT_{kind.upper()}")
        g.const("low", np.float32(low))
        g.const("high", np.float32(high))
        g.add("Dequantize", "w", ["codes", "low", "high"], mode=mode, T=Kind(f"DT_{kind.upper()}"))
        g.add("Mul", "y", ["x", "w"])
        found = parse_graphdef(g.bytes()).graph.ops[0].operand(1).value()
        typed = tf.bitcast(tf.constant(codes), getattr(tf, kind))
        want = tf.raw_ops.Dequantize(input=typed, min_range=low, max_range=high, mode=mode)
        np.testing.assert_array_equal(found, want.numpy())
