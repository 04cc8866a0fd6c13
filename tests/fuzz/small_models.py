"""Models of a few ops each, as files: what is damaged by `mutations`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from graphdefs import Nodes
from graphs import normal, separable
from state_models import smoothing

import qfrewrite as qf
from qfrewrite.formats.graphdef.emit import Kind
from qfrewrite.formats.tflite.write import write_tflite
from qfrewrite.ir import Array, Graph, Model, Tensor
from qfrewrite.lower.model import lower_float
from qfrewrite.ops.build import GraphBuilder


def images() -> Graph:
    """Convolution, pooling, resizing, concatenation, slices, layouts, dense layer, scores."""
    b = GraphBuilder()
    x = b.input("x", (1, 8, 8, 4))
    y = b.op("CONV_2D", x, b.const("w", normal(8, 3, 3, 4)), b.const("b", normal(8)), name="conv",
             attrs={"padding": "SAME"})  # fmt: skip
    y = b.op("RELU6", y)
    pool = {"padding": "VALID", "stride_h": 2, "stride_w": 2, "filter_height": 2, "filter_width": 2}
    z = b.op("RESIZE_BILINEAR", b.op("MAX_POOL_2D", y, attrs=pool), ints(b, 8, 8))
    z = b.op("CONCATENATION", y, z, attrs={"axis": 3})
    z = b.op("PAD", z, b.const("pads", np.array([[0, 0], [1, 1], [1, 1], [0, 0]], "i4")))
    z = b.op("STRIDED_SLICE", z, ints(b, 0, 1, 1, 0), ints(b, 1, 9, 9, 16), ints(b, 1, 1, 1, 1))
    z = b.op("RESHAPE", b.op("TRANSPOSE", z, ints(b, 0, 3, 1, 2)), ints(b, 16, 64))
    mean = b.op("MEAN", z, ints(b, 1))
    z = b.op("RESHAPE", mean, ints(b, 1, 16))
    z = b.op("FULLY_CONNECTED", z, b.const("fc", normal(5, 16)), b.const("fb", normal(5)))
    return b.finish(b.op("SOFTMAX", z), mean)


def attention() -> Graph:
    """Embedding, products of activations, scores, a split, a normalization."""
    b = GraphBuilder()
    q, k, ids = b.input("q", (1, 4, 6)), b.input("k", (1, 4, 6)), b.input("ids", (1, 4), "int32")
    q = b.op("ADD", q, b.op("GATHER", b.const("table", normal(8, 6)), ids))
    scores = b.op("BATCH_MATMUL", q, k, attrs={"adj_y": True})
    scores = b.op("SOFTMAX", b.op("MUL", scores, b.const("scale", np.float32(0.4))))
    y = b.op("BATCH_MATMUL", scores, k)
    z = b.op("LOGISTIC", b.op("TANH", y))
    z = b.op("SQUARED_DIFFERENCE", z, b.const("mean", normal(6)))
    z = b.op("SUM", z, ints(b, 1), attrs={"keep_dims": True})
    return b.finish(y, b.op("RSQRT", b.op("ADD", z, b.const("eps", np.float32(1e-3)))))


def signals() -> Graph:
    """One spatial dimension, upsampling, and what picks the largest."""
    b = GraphBuilder()
    y = b.op("RESHAPE", b.input("x", (1, 12, 4)), ints(b, 1, 1, 12, 4))
    y = b.op("DEPTHWISE_CONV_2D", y, b.const("dw", normal(1, 1, 3, 4)), b.const("db", normal(4)),
             attrs={"padding": "SAME"})  # fmt: skip
    y = b.op("TRANSPOSE_CONV", ints(b, 1, 1, 24, 3), b.const("tw", normal(3, 1, 2, 4)),
             b.op("HARD_SWISH", y), attrs={"padding": "VALID", "stride_h": 1, "stride_w": 2},
             )  # fmt: skip
    y = b.op("LEAKY_RELU", y, attrs={"alpha": 0.1})
    pair = b.op("PACK", y, y, attrs={"axis": 0, "values_count": 2})
    most = b.op("REDUCE_MAX", pair, ints(b, 0, 2))
    return b.finish(pair, most, b.op("ARG_MAX", most, ints(b, 2)))


def integers() -> Graph:
    """Inputs that are no floats."""
    b = GraphBuilder()
    counts, flags = b.input("counts", (1, 4), "int64"), b.input("flags", (1, 4, 3), "bool")
    y = b.op("MUL", b.op("CAST", flags, dtype="float32"), b.const("m", normal(4, 3)))
    y = b.op("ADD", b.op("SUM", y, ints(b, 2)), b.op("CAST", counts, dtype="float32"))
    y = b.op("DIV", y, b.const("by", normal(1, 4) + 3))
    return b.finish(b.op("MAXIMUM", y, b.const("least", np.float32(0.1))))


def ints(b: GraphBuilder, *values: int) -> Tensor:
    """A constant that steers an op."""
    return b.const(b.graph.unique_name("ints"), np.array(values, "i4"))


def layers() -> Nodes:
    """A small classifier with BatchNorm, as frozen graphs have it."""
    g = Nodes()
    g.placeholder("x", (1, 8, 8, 3))
    ones, four = np.ones(4, "f4"), normal(4)
    consts: dict[str, Array] = {
        "w": normal(3, 3, 3, 4), "gamma": ones, "beta": four, "mean": four, "variance": ones,
        "dw": normal(3, 3, 4, 1), "axes": np.array([1, 2]), "fc": normal(4, 6), "fb": normal(6),
        "shape": np.array([-1, 6]),
    }  # fmt: skip
    for name, value in consts.items():
        g.const(name, value)
    half, whole = [1, 2, 2, 1], [1, 1, 1, 1]
    g.add("Conv2D", "conv", ["x", "w"], strides=half, padding="SAME", data_format="NHWC")
    g.add("FusedBatchNormV3", "bn", ["conv", "gamma", "beta", "mean", "variance"],
          epsilon=1e-3, is_training=False, data_format="NHWC")  # fmt: skip
    g.add("Relu6", "r", ["bn"])
    g.add("DepthwiseConv2dNative", "d", ["r", "dw"], strides=whole, padding="SAME")
    g.add("BiasAdd", "ba", ["d", "beta"])
    g.add("AddV2", "sum", ["r", "ba"])
    g.add("MaxPool", "pool", ["sum"], ksize=half, strides=half, padding="VALID")
    g.add("Mean", "gap", ["pool", "axes"], keep_dims=False)
    g.add("MatMul", "product", ["gap", "fc"], transpose_a=False, transpose_b=False)
    g.add("BiasAdd", "logits", ["product", "fb"])
    g.add("Reshape", "flat", ["logits", "shape"])
    g.add("Softmax", "out", ["flat"])
    return g


def loop() -> Nodes:
    """y = relu(|x| / 16), halved four times by a loop of version 1."""
    g = Nodes()
    g.placeholder("x", (1, 6))
    for name, value in {"first": 0, "one": 1, "limit": 4}.items():
        g.const(name, np.array(value, "i4"))
    g.const("half", np.float32(0.5))
    number, frame = {"T": Kind("DT_INT32")}, {"frame_name": "loop"}
    g.add("Abs", "abs", ["x"])
    g.add("Enter", "i", ["first"], **number, **frame, is_constant=False)
    g.add("Enter", "v", ["abs"], **frame, is_constant=False)
    g.add("Enter", "end", ["limit"], **number, **frame, is_constant=True)
    g.add("Merge", "i/merge", ["i", "i/next"], **number, N=2)
    g.add("Merge", "v/merge", ["v", "v/next"], N=2)
    g.add("Less", "less", ["i/merge", "end"], **number)
    g.add("LoopCond", "go", ["less"])
    g.add("Switch", "i/switch", ["i/merge", "go"], **number)
    g.add("Switch", "v/switch", ["v/merge", "go"])
    g.add("AddV2", "more", ["i/switch:1", "one"], **number)
    g.add("Mul", "scaled", ["v/switch:1", "half"])
    g.add("NextIteration", "i/next", ["more"], **number)
    g.add("NextIteration", "v/next", ["scaled"])
    g.add("Exit", "left", ["v/switch"])
    g.add("Relu", "y", ["left"])
    return g


FLOAT: dict[str, Callable[[], Graph]] = {
    "separable": separable, "images": images, "attention": attention, "signals": signals,
    "integers": integers,
}  # fmt: skip
NODES: dict[str, Callable[[], Nodes]] = {"layers": layers, "loop": loop}


def write_models(folder: Path) -> list[Path]:
    """Write every small model to `folder`; the float ones also in three coded forms."""
    for name, build in FLOAT.items():
        graph = build()
        lower_float(graph)
        write_tflite(Model([graph]), folder / f"{name}.tflite")
    for name, scheme in (("images", "int8"), ("images", "dynamic"), ("separable", "float16")):
        model = qf.load(folder / f"{name}.tflite")
        if scheme == "int8":
            qf.run_passes(model, "calibrate")
        qf.save(model, folder / f"{name}_{scheme}.tflite", scheme=scheme)
    write_tflite(smoothing(np.ones((1, 8), "f4")), folder / "state.tflite")
    for name, nodes in NODES.items():
        (folder / f"{name}.pb").write_bytes(nodes().bytes())
    return sorted(folder.iterdir())
