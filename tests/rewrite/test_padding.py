from __future__ import annotations

import numpy as np
import pytest
from graphs import normal
from test_raising import check_raising

from qfrewrite.ops.build import GraphBuilder
from qfrewrite.rewrite.raising import raise_graph


def padded(
    size: int, window: int, stride: int, pads: list[list[int]], kind: str, **attrs: int
) -> GraphBuilder:
    b = GraphBuilder()
    table = b.const("pads", np.array([[0, 0], *pads, [0, 0]], np.int32))
    x = b.op("PAD", b.input("x", (1, size, size, 4)), table)
    shape = (1, window, window, 4) if kind == "DEPTHWISE_CONV_2D" else (3, window, window, 4)
    strides = {"stride_h": stride, "stride_w": stride, "padding": "VALID"}
    b.op(kind, x, b.const("w", normal(*shape)), name="y", attrs={**strides, **attrs})
    return b


@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D"])
@pytest.mark.parametrize(
    ("size", "window", "stride", "pads", "same"),
    [
        (8, 3, 2, [[0, 1], [0, 1]], True),  # Keras, even sizes
        (7, 3, 2, [[1, 1], [1, 1]], True),  # Keras, odd sizes
        (8, 3, 1, [[1, 1], [1, 1]], True),
        (8, 5, 2, [[1, 2], [1, 2]], True),
        (8, 3, 2, [[1, 1], [1, 1]], False),  # as PyTorch pads
        (8, 3, 2, [[0, 1], [1, 0]], False),
        (8, 7, 2, [[3, 3], [3, 3]], False),
    ],
)
def test_padding_as_same_does(
    kind: str, size: int, window: int, stride: int, pads: list[list[int]], same: bool
) -> None:
    b = padded(size, window, stride, pads, kind)
    graph = b.finish(b.graph.tensor("y"))
    check_raising(graph, [kind] if same else ["PAD", kind])


def test_dilation_counts() -> None:
    b = padded(8, 3, 1, [[2, 2], [2, 2]], "CONV_2D", dilation_h_factor=2, dilation_w_factor=2)
    check_raising(b.finish(b.graph.tensor("y")), ["CONV_2D"])


def test_a_padding_that_others_read_stays() -> None:
    b = padded(8, 3, 1, [[1, 1], [1, 1]], "CONV_2D")
    graph = b.finish(b.graph.tensor("y"), b.op("EXP", b.graph.ops[0].output))
    check_raising(graph, ["PAD", "CONV_2D", "EXP"])
    assert graph.ops[1].attrs["padding"] == "SAME"


@pytest.mark.parametrize(("value", "kinds"), [(0, ["CONV_2D"]), (1, ["PADV2", "CONV_2D"])])
def test_only_zeros_are_the_padding_of_a_convolution(value: float, kinds: list[str]) -> None:
    b = padded(8, 3, 1, [[1, 1], [1, 1]], "CONV_2D")
    pad = b.graph.ops[0]
    filler = b.const("value", np.array([value], "f4"))
    b.graph.update_op(pad, kind="PADV2", inputs=[*pad.inputs, filler])
    check_raising(b.finish(b.graph.tensor("y")), kinds)


def test_channels_are_not_padded_by_a_convolution() -> None:
    b = GraphBuilder()
    table = b.const("pads", np.array([[0, 0], [1, 1], [1, 1], [0, 1]], np.int32))
    x = b.op("PAD", b.input("x", (1, 8, 8, 3)), table)
    y = b.op("CONV_2D", x, b.const("w", normal(3, 3, 3, 4)), attrs={"padding": "VALID"})
    graph = b.finish(y)
    raise_graph(graph)
    assert [op.kind for op in graph.ops] == ["PAD", "CONV_2D"]
