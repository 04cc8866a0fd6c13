from __future__ import annotations

import numpy as np
import pytest
from graphs import normal
from quantizing import quantized
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
    b.graph.set_kind(pad, "PADV2")
    b.graph.set_inputs(pad, [*pad.inputs, filler])
    check_raising(b.finish(b.graph.tensor("y")), kinds)


def test_channels_are_not_padded_by_a_convolution() -> None:
    b = GraphBuilder()
    table = b.const("pads", np.array([[0, 0], [1, 1], [1, 1], [0, 1]], np.int32))
    x = b.op("PAD", b.input("x", (1, 8, 8, 3)), table)
    y = b.op("CONV_2D", x, b.const("w", normal(3, 3, 3, 4)), attrs={"padding": "VALID"})
    graph = b.finish(y)
    raise_graph(graph)
    assert [op.kind for op in graph.ops] == ["PAD", "CONV_2D"]


def pooled(
    value: float, window: int = 3, stride: int = 2, pads: tuple[int, int] = (1, 1)
) -> GraphBuilder:
    """A pooling of a convolution that is padded with `value`, and RELU behind it."""
    b = GraphBuilder()
    y = b.op("CONV_2D", b.input("x", (1, 6, 6, 3)), b.const("w", normal(4, 3, 3, 3)),
             b.const("b", normal(4)), name="conv")  # fmt: skip
    table = b.const("pads", [[0, 0], list(pads), list(pads), [0, 0]], "int32")
    y = b.op("PADV2", y, table, b.const("v", np.float32(value)), name="pad")
    attrs = {"filter_height": window, "filter_width": window, "stride_h": stride,
             "stride_w": stride}  # fmt: skip
    b.op("RELU", b.op("MAX_POOL_2D", y, attrs=attrs), name="y")
    return b


LOW = [-np.inf, -3.39e38, float(np.finfo(np.float32).min), -1e30, -1e9, -65504.0]


@pytest.mark.parametrize("value", LOW)
@pytest.mark.parametrize(
    ("window", "stride", "pads", "kinds"),
    [
        (3, 2, (0, 1), ["MAX_POOL_2D"]),
        (3, 2, (1, 1), ["PADV2", "MAX_POOL_2D"]),
        (3, 1, (1, 1), ["MAX_POOL_2D"]),
        (5, 1, (4, 4), ["PADV2", "MAX_POOL_2D"]),
    ],
)
def test_a_padding_that_no_maximum_takes_is_minus_infinity(
    value: float, window: int, stride: int, pads: tuple[int, int], kinds: list[str]
) -> None:
    b = pooled(value, window, stride, pads)
    graph = b.finish(b.graph.tensor("y"))
    check_raising(graph, ["CONV_2D", *kinds, "RELU"])
    assert all(op.operand(2).value() == -np.inf for op in graph.ops_of("PADV2"))


@pytest.mark.parametrize("value", LOW)
def test_int8_spans_the_values_not_the_padding(value: float) -> None:
    """A finite padding of -3.39e38 gave a scale of 1e36, and 0 everywhere."""
    b = pooled(value)
    graph, _, fidelity = quantized(b.finish(b.graph.tensor("y")))
    pool = graph.ops_of("MAX_POOL_2D")[0].output.quant
    assert pool is not None
    assert pool.scale[0] < 0.1
    assert fidelity.sqnr_db > 35


@pytest.mark.parametrize(
    ("window", "pads", "value"), [(2, (2, 2), -1e30), (3, (1, 1), -100.0), (3, (1, 1), 1e30)]
)
def test_a_padding_that_a_maximum_may_take_stays(
    window: int, pads: tuple[int, int], value: float
) -> None:
    """Windows of padding alone give the padding, and -100 may be the greatest value."""
    b = pooled(value, window, 1, pads)
    graph = b.finish(b.graph.tensor("y"))
    check_raising(graph, ["CONV_2D", "PADV2", "MAX_POOL_2D", "RELU"])
    assert graph.ops_of("PADV2")[0].operand(2).value() == np.float32(value)


def test_a_low_padding_that_others_read_stays() -> None:
    b = pooled(-1e30)
    pad = b.graph.tensor("pad")
    graph = b.finish(b.graph.tensor("y"), b.op("MINIMUM", pad, b.const("c", np.float32(1))))
    raise_graph(graph)
    assert graph.ops_of("PADV2")[0].operand(2).value() == np.float32(-1e30)


def test_a_low_padding_that_is_an_output_stays() -> None:
    b = pooled(-1e30)
    graph = b.finish(b.graph.tensor("y"), b.graph.tensor("pad"))
    raise_graph(graph)
    assert graph.outputs[1].name == "pad"
    assert graph.ops_of("PADV2")[0].operand(2).value() == np.float32(-1e30)
