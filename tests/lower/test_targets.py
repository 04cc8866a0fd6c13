"""Targets: what each does not take is named, with the reason and what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tflite
from graphs import normal
from quantizing import quantized
from test_schemes import network

from qfrewrite.ir import Graph, Model
from qfrewrite.ops import OPS
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.targets.table import TARGETS
from qfrewrite.targets.target import unmapped


def missing(graph: Graph, target: str) -> list[str]:
    return [str(u) for u in unmapped(Model([graph]), TARGETS[target])]


@pytest.mark.parametrize("target", TARGETS)
def test_a_plain_network_maps(target: str) -> None:
    b = GraphBuilder()
    y = b.op("CONV_2D", b.input("x", (1, 8, 8, 3)), b.const("w", normal(8, 3, 3, 3)))
    y = b.op("DEPTHWISE_CONV_2D", b.op("RELU6", y), b.const("d", normal(1, 3, 3, 8)))
    y = b.op("RESHAPE", b.op("RELU6", y), b.const("s", np.array([1, 512], "i4")))
    graph, _, _ = quantized(b.finish(b.op("SOFTMAX", y)))
    assert missing(graph, target) == []


def one(kind: str, shape: tuple[int, ...], *consts: Any, **attrs: Any) -> Graph:
    b = GraphBuilder()
    operands = [b.const(f"c{i}", c) for i, c in enumerate(consts)]
    return b.finish(b.op(kind, b.input("x", shape), *operands, name="y", attrs=attrs))


AXES = np.array([3], "i4")
CASES: list[tuple[str, Graph, dict[str, Any], str]] = [
    ("tflm", one("GELU", (1, 4)), {}, "TensorFlow Lite Micro has no GELU; it cannot run there"),
    ("tflm", network(), {"scheme": "uint8"}, "is uint8; use a scheme with int8 or int16"),
    ("cmsis-nn", one("ABS", (1, 4)), {}, "runs on TensorFlow Lite Micro's reference kernel"),
    ("vela", one("CUMSUM", (1, 4), np.array(1, "i4")), {}, "the Ethos-U NPU has no CUMSUM"),
    ("vela", one("CONV_2D", (1, 9, 9, 2), normal(3, 3, 3, 2), stride_h=4, stride_w=4), {},
     "has a stride above 3"),
    ("vela", one("AVERAGE_POOL_2D", (1, 9, 9, 2), filter_height=9, filter_width=9, padding="SAME"),
     {}, "padded window above 8 x 8"),
    ("vela", one("RESIZE_BILINEAR", (1, 4, 4, 2), np.array([9, 9], "i4")), {}, "2, 4 or 8"),
    ("edgetpu", one("MEAN", (1, 4, 4, 2), AXES), {}, "other axes than height and width"),
    ("edgetpu", network(), {}, "'dense' (FULLY_CONNECTED): has a scale per channel; use --fc-w"),
    ("edgetpu", one("CONV_2D", (2, 4, 4, 2), normal(3, 1, 1, 2)), {}, "has a batch"),
    ("edgetpu", one("PAD", (1, 2, 2, 2), np.array([[0, 0], [0, 0], [0, 0], [0, 1]], "i4")), {},
     "pads batch or channels"),
    ("hexagon-dsp", network(), {}, "needs a filter 3 wide"),
    ("hexagon-dsp", one("RESIZE_BILINEAR", (1, 40, 40, 2), np.array([80, 80], "i4")), {},
     "is larger than 65"),
    ("hexagon-dsp", one("ABS", (1, 4)), {}, "the Hexagon DSP has no ABS"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "graph", "options", "text"), CASES)
def test_what_does_not_map_is_named(
    target: str, graph: Graph, options: dict[str, Any], text: str
) -> None:
    lowered, _, _ = quantized(graph, **options)
    assert any(text in line for line in missing(lowered, target)), missing(lowered, target)


def test_unknown_dimensions_and_float() -> None:
    graph, _, _ = quantized(network(), keep_float=("sum",))
    assert any("computes in float" in line for line in missing(graph, "vela"))
    x = graph.inputs[0]
    graph.set_signature(x, (-1, *x.shape[1:]))
    assert missing(graph, "tflm") == []  # the batch may vary
    assert any("not known" in line for line in missing(graph, "edgetpu"))
    graph.set_signature(x, (1, -1, *x.shape[2:]))
    assert any("not known; export it with fixed" in line for line in missing(graph, "tflm"))
    assert missing(graph, "litert") == []


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_every_kind_that_a_target_names_is_one(name: str) -> None:
    """A kind with a typing error in it would be a limit that never holds."""
    target = TARGETS[name]
    limited = {kind for limit in target.limits for kind in limit.kinds.split()}
    kinds = {*OPS, *vars(tflite.BuiltinOperator)}
    assert limited | target.slow | (target.ops or set()) <= kinds
