"""Networks of several families with random weights and channel counts that fit no kernel."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
from graphs import normal
from hypothesis import strategies as st

from qfrewrite.ir import Graph, Op, Tensor
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.detection import CODE, encode_options

V1_STAGES = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2))


def conv(
    b: GraphBuilder, x: Tensor, outputs: int, size: int = 1, stride: int = 1, act: str = "RELU6",
    name: str | None = None,
) -> Tensor:  # fmt: skip
    name = b.graph.unique_name(name or "conv")
    fan = size * size * x.shape[-1]
    w = normal(outputs, size, size, x.shape[-1], scale=sqrt(2 / fan), seed=len(b.graph.ops))
    y = b.op("CONV_2D", x, b.const(f"{name}/w", w),
             b.const(f"{name}/b", normal(outputs, scale=0.1, seed=1)), name=name,
             attrs={"stride_h": stride, "stride_w": stride})  # fmt: skip
    return b.op(act, y, name=f"{name}/{act.lower()}") if act else y


def depthwise(
    b: GraphBuilder, x: Tensor, stride: int = 1, multiplier: int = 1, act: str = "RELU6"
) -> Tensor:
    outputs = x.shape[-1] * multiplier
    w = normal(1, 3, 3, outputs, scale=sqrt(2 / 9), seed=len(b.graph.ops))
    name = b.graph.unique_name("depthwise")
    y = b.op("DEPTHWISE_CONV_2D", x, b.const(f"{name}/w", w),
             b.const(f"{name}/b", normal(outputs, scale=0.1, seed=2)), name=name,
             attrs={"stride_h": stride, "stride_w": stride,
                    "depth_multiplier": multiplier})  # fmt: skip
    return b.op(act, y, name=f"{name}/{act.lower()}") if act else y


def dense(b: GraphBuilder, x: Tensor, outputs: int, inputs: int | None = None) -> Tensor:
    inputs = inputs or x.shape[-1]
    w = normal(outputs, inputs, scale=sqrt(2 / inputs), seed=3)
    return b.op("FULLY_CONNECTED", x, b.const("fc/w", w), b.const("fc/b", normal(outputs)))


def pooled(b: GraphBuilder, x: Tensor, keep: bool = False) -> Tensor:
    return b.op("MEAN", x, b.const("axes", [1, 2], "int32"), attrs={"keep_dims": keep})


def added(b: GraphBuilder, x: Tensor, y: Tensor) -> Tensor:
    return b.op("ADD", x, y)


def mobilenet_v1(width: float = 0.25, size: int = 32, add: int = 3) -> Graph:
    """Every channel count is that of MobileNetV1 and `add` more."""
    b = GraphBuilder("mobilenet_v1")
    y = conv(b, b.input("x", (1, size, size, 3)), int(32 * width) + add, 3, 2)
    for i, (outputs, stride) in enumerate(V1_STAGES):
        y = conv(b, depthwise(b, y, stride), int(outputs * width) + 1 + (i + add) % 7)
    y = dense(b, pooled(b, y), 10)
    return b.finish(b.op("SOFTMAX", y, name="scores"))


def mobilenet_v2(size: int = 32) -> Graph:
    """Inverted residuals; one branch begins before a residual cycle and joins it."""
    b = GraphBuilder("mobilenet_v2")
    y = conv(b, b.input("x", (1, size, size, 3)), 13, 3, 2)
    for outputs, stride in ((11, 1), (11, 1), (19, 2), (19, 1), (19, 1)):
        z = conv(b, y, 6 * y.shape[-1] + 1)
        z = conv(b, depthwise(b, z, stride), outputs, act="")
        y = added(b, y, z) if z.shape == y.shape else z
    return b.finish(dense(b, pooled(b, conv(b, y, 37)), 10))


def squeeze_excite() -> Graph:
    b = GraphBuilder("squeeze_excite")
    y = conv(b, b.input("x", (1, 16, 16, 3)), 21, 3)
    gate = conv(b, pooled(b, y, keep=True), 5, act="RELU")
    y = b.op("MUL", y, conv(b, gate, 21, act="LOGISTIC"))
    y = b.op("HARD_SWISH", depthwise(b, y, act=""))
    return b.finish(dense(b, pooled(b, y), 10))


def inception() -> Graph:
    b = GraphBuilder("inception")
    y = conv(b, b.input("x", (1, 16, 16, 3)), 12, 3)
    for _ in range(2):
        pool = b.op("MAX_POOL_2D", y, attrs={
            "filter_height": 3, "filter_width": 3, "padding": "SAME"})  # fmt: skip
        branches = [conv(b, y, 5), conv(b, conv(b, y, 6), 7, 3), conv(b, pool, 3)]
        y = b.op("CONCATENATION", *branches, attrs={"axis": 3})
    return b.finish(dense(b, y, 10, inputs=16 * 16 * 15))


def densenet() -> Graph:
    b = GraphBuilder("densenet")
    y = conv(b, b.input("x", (1, 16, 16, 3)), 9, 3)
    for growth in (5, 5, 6):
        y = b.op("CONCATENATION", y, conv(b, conv(b, y, 11), growth, 3), attrs={"axis": 3})
    first, second = conv(b, y, 14), conv(b, y, 14, act="")
    slopes = b.const("slopes", normal(1, 1, 14, scale=0.1))
    y = added(b, first, b.op("PRELU", second, slopes))
    return b.finish(dense(b, pooled(b, y), 10))


def ssd(size: int = 32) -> Graph:
    """Two feature maps, each with a box and a class head, joined along the anchors."""
    b = GraphBuilder("ssd")
    fine = conv(b, depthwise(b, conv(b, b.input("x", (1, size, size, 3)), 9, 3, 2)), 13)
    coarse = conv(b, depthwise(b, fine, 2, multiplier=2), 18, 3)
    boxes, classes = [], []
    for i, y in enumerate((fine, coarse)):
        for found, per_anchor in ((boxes, 4), (classes, 7)):
            head = conv(b, y, 3 * per_anchor, act="", name=f"head{i}_{per_anchor}")
            anchors = head.size // per_anchor
            shape = b.const("shape", [1, anchors, per_anchor], "int32")
            found.append(b.op("RESHAPE", head, shape))
    joined = [b.op("CONCATENATION", *parts, attrs={"axis": 1}) for parts in (boxes, classes)]
    return b.finish(joined[0], b.op("LOGISTIC", joined[1], name="scores"))


DETECTION_OPTIONS = {
    "max_detections": 10, "max_classes_per_detection": 1, "num_classes": 6,
    "nms_iou_threshold": 0.6, "nms_score_threshold": 0.0, "use_regular_nms": False,
    "y_scale": 10.0, "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0,
}  # fmt: skip


def detector(**options: float) -> Graph:
    """`ssd` with TFLite_Detection_PostProcess behind it."""
    graph, said = ssd(), {**DETECTION_OPTIONS, **options}
    boxes, scores = graph.outputs
    corners = np.abs(normal(boxes.shape[1], 4, scale=0.2)) + np.array([0.3, 0.3, 0.2, 0.2], "f4")
    anchors = Tensor("anchors", corners.shape, data=corners.astype("f4"))
    count = int(said["max_detections"])
    shapes = ((1, count, 4), (1, count), (1, count), (1,))
    outs = [Tensor(f"detection{i}", shape) for i, shape in enumerate(shapes)]
    attrs = {"custom_code": CODE, "custom_options": encode_options(said)}
    graph.add_op(Op("CUSTOM", [boxes, scores, anchors], outs, attrs, name="nms"))
    graph.set_io(outputs=outs)
    return graph


def unet(size: int = 32) -> Graph:
    """Down twice and up again, by resizing and by a transposed convolution; cut, and pooled."""
    b = GraphBuilder("unet")
    first = conv(b, b.input("x", (1, size, size, 3)), 6, 3)
    second = conv(b, first, 9, 3, 2)
    third = conv(b, second, 12, 3, 2)
    up = b.op("RESIZE_BILINEAR", third, b.const("to", second.shape[1:3], "int32"))
    y = conv(b, b.op("CONCATENATION", up, second, attrs={"axis": 3}), 7)
    shape = b.const("shape", (1, size, size, 5), "int32")
    y = b.op("TRANSPOSE_CONV", shape, b.const("w", normal(5, 2, 2, 7)), y,
             attrs={"stride_h": 2, "stride_w": 2, "padding": "SAME"})  # fmt: skip
    y = b.op("CONCATENATION", y, first, attrs={"axis": 3})
    begin, whole = b.const("begin", [0] * 4, "int32"), b.const("n", [1, size, size, 4], "int32")
    y = b.op("SLICE", y, begin, whole)
    pool = {"filter_height": size, "filter_width": size}
    y = b.op("AVERAGE_POOL_2D", y, attrs=pool)
    return b.finish(b.op("RESHAPE", y, b.const("flat", [1, 4], "int32")))


def residual() -> Graph:
    b = GraphBuilder("residual")
    x = b.input("x", (1, 8, 8, 3))
    y = b.op(
        "RELU", b.op("CONV_2D", x, b.const("w0", normal(8, 3, 3, 3)), b.const("b0", normal(8)))
    )
    for i in range(2):
        z = b.op("RELU", b.op("CONV_2D", y, b.const(f"u{i}", normal(8, 3, 3, 8, scale=0.2, seed=i)),
                              b.const(f"c{i}", normal(8))))  # fmt: skip
        z = b.op("CONV_2D", z, b.const(f"v{i}", normal(8, 3, 3, 8, scale=0.2, seed=9 + i)),
                 b.const(f"d{i}", normal(8)))  # fmt: skip
        y = b.op("RELU", b.op("ADD", y, z))
    y = b.op("MEAN", y, b.const("axes", np.array([1, 2], "i4")))
    return b.finish(
        b.op("FULLY_CONNECTED", y, b.const("fc", normal(6, 8)), b.const("fb", normal(6)))
    )


def shuffled() -> Graph:
    """Split, slice, two depths of concatenation, a sum of a join and one layer, flattened."""
    b = GraphBuilder("shuffled")
    y = conv(b, b.input("x", (1, 8, 8, 3)), 10, 3)
    b.op("SPLIT", b.const("axis", 3, "int32"), y, attrs={"num_splits": 2})
    left, right = b.graph.ops[-1].outputs
    left = conv(b, left, 6)
    join = b.op("CONCATENATION", left, depthwise(b, right), attrs={"axis": -1})
    y = added(b, join, conv(b, y, 11))
    cut = b.op("SLICE", y, b.const("begin", [0, 0, 0, 2], "int32"),
               b.const("size", [1, 8, 8, 7], "int32"))  # fmt: skip
    y = b.op("PAD", conv(b, cut, 9), b.const("pads", [[0, 0], [1, 0], [0, 1], [0, 0]], "int32"))
    return b.finish(dense(b, y, 5, inputs=9 * 9 * 9))


def random_network(draw: st.DataObject) -> Graph:
    """A random network of joins, splits, sums, multipliers and plain layers."""
    b = GraphBuilder("random")
    pool: list[Tensor] = [conv(b, b.input("x", (1, 8, 8, 3)), draw.draw(st.integers(1, 12)), 3)]
    for _ in range(draw.draw(st.integers(2, 9), label="ops")):
        kinds = ("conv", "depthwise", "add", "mul", "concat", "split", "pad", "slice", "act")
        kind = draw.draw(st.sampled_from(kinds), label="kind")
        x = draw.draw(st.sampled_from(pool), label="operand")
        pool += _added_op(b, kind, x, pool, draw)
    heads = [pooled(b, t) for t in pool if not t.users] or [pooled(b, pool[-1])]
    joined = b.op("CONCATENATION", *heads, attrs={"axis": 1}) if len(heads) > 1 else heads[0]
    return b.finish(dense(b, joined, 3))


def _added_op(
    b: GraphBuilder, kind: str, x: Tensor, pool: list[Tensor], draw: st.DataObject
) -> list[Tensor]:
    if kind == "depthwise":
        return [depthwise(b, x, multiplier=draw.draw(st.integers(1, 2)))]
    if kind in ("add", "mul"):
        like = [t for t in pool if t.shape == x.shape]
        return [b.op(kind.upper(), x, draw.draw(st.sampled_from(like)))]
    if kind == "concat":
        parts = [x, *draw.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=2))]
        parts = [t for t in parts if t.shape[:3] == x.shape[:3]]
        return [b.op("CONCATENATION", *parts, attrs={"axis": 3})]
    if kind == "split" and x.shape[3] % 2 == 0:
        b.op("SPLIT", b.const("axis", 3, "int32"), x, attrs={"num_splits": 2})
        return list(b.graph.ops[-1].outputs)
    if kind == "pad":
        return [b.op("PAD", x, b.const("pads", [[0, 0], [1, 0], [0, 1], [0, 0]], "int32"))]
    if kind == "slice" and x.shape[3] > 2:
        n, h, w, c = x.shape
        begin, size = [0, 0, 0, 1], [n, h, w, c - 2]
        return [b.op("SLICE", x, b.const("b", begin, "int32"), b.const("s", size, "int32"))]
    if kind == "act":
        return [b.op(draw.draw(st.sampled_from(("LOGISTIC", "RELU", "HARD_SWISH", "TANH"))), x)]
    return [conv(b, x, draw.draw(st.integers(1, 20)), draw.draw(st.sampled_from((1, 3))))]


FAMILIES: dict[str, Callable[[], Graph]] = {
    **{f"mobilenet_v1 {w}": lambda w=w: mobilenet_v1(w) for w in (0.25, 0.5, 0.75, 1.0)},
    "mobilenet_v2": mobilenet_v2, "squeeze_excite": squeeze_excite, "inception": inception,
    "densenet": densenet, "ssd": ssd, "shuffled": shuffled,
}  # fmt: skip
