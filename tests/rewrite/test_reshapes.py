from __future__ import annotations

import numpy as np
import pytest
from graphs import batch_norm, normal
from keras_graphs import frozen, randomise
from test_raising import check_raising

from qfrewrite.formats.graphdef.read import parse_graphdef
from qfrewrite.ir import Array, Tensor
from qfrewrite.lower.model import lower_model
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import run_passes
from qfrewrite.rewrite.raising import raise_graph
from qfrewrite.runtime.session import Session


def conv1d(b: GraphBuilder, x: Tensor, name: str, *, taps: int = 3) -> Tensor:
    """A frozen Conv1D without its bias: the layer between EXPAND_DIMS and SQUEEZE."""
    y = b.op("EXPAND_DIMS", x, b.const("axis", np.array(-3, "i4")))
    w = b.const(f"{name}/w", normal(4, 1, taps, x.shape[-1]))
    return b.op("SQUEEZE", b.op("CONV_2D", y, w, name=name), attrs={"squeeze_dims": (1,)})


def test_bias_batch_norm_and_activation_meet_their_layer() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 9, 2))
    for i in range(2):
        x = conv1d(b, x, f"conv{i}")
        x = b.op("ADD", x, b.const("bias", normal(4)))
        x = b.op("RELU", batch_norm(b, x, f"bn{i}"), name=f"y{i}")
    graph = b.finish(x)
    layer = ["CONV_2D", "BATCH_NORM", "RELU"]
    check_raising(graph, ["EXPAND_DIMS", *layer, *layer, "SQUEEZE"])
    assert [t.shape for t in graph.outputs] == [(1, 9, 4)]
    assert graph.ops_of("CONV_2D")[1].input(2) is not None


def test_a_residual_sum_of_two_layers() -> None:
    """Both operands are squeezed, one of them is read by the next layer too."""
    b = GraphBuilder()
    x = b.op("RELU", conv1d(b, b.input("x", (1, 9, 2)), "first"))
    x = b.op("RELU", b.op("ADD", conv1d(b, x, "second"), x), name="sum")
    check_raising(
        b.finish(conv1d(b, x, "third")),
        ["EXPAND_DIMS", "CONV_2D", "RELU", "CONV_2D", "ADD", "RELU", "CONV_2D", "SQUEEZE"],
    )


@pytest.mark.parametrize("as_reshape", [False, True])
def test_causal_padding_between_two_layers(as_reshape: bool) -> None:
    """With EXPAND_DIMS and SQUEEZE as in a frozen graph, with RESHAPE as TensorFlow converts it."""
    b = GraphBuilder()
    x = b.op("RELU", conv1d(b, b.input("x", (1, 9, 2)), "first"))
    x = b.op("PAD", x, b.const("pads", np.array([[0, 0], [2, 0], [0, 0]], "i4")))
    graph = b.finish(conv1d(b, x, "second"))
    shapes = ["EXPAND_DIMS", "SQUEEZE"]
    if as_reshape:
        for op in graph.ops_of(*shapes):
            shape = b.const("shape", np.array(op.output.shape, "i4"))
            graph.set_kind(op, "RESHAPE")
            graph.set_inputs(op, [op.operand(0), shape])
        shapes = ["RESHAPE", "RESHAPE"]
    check_raising(graph, [shapes[0], "CONV_2D", "RELU", "PAD", "CONV_2D", shapes[1]])
    table = graph.ops_of("PAD")[0].operand(1)
    assert table.data is not None
    assert table.data.tolist() == [[0, 0], [0, 0], [2, 0], [0, 0]]


def test_a_dense_layer_on_sequences() -> None:
    """Keras: RESHAPE, MATMUL, RESHAPE, and the bias behind it."""
    b = GraphBuilder()
    flat = b.op("RESHAPE", b.input("x", (1, 5, 3)), b.const("flat", np.array([5, 3], "i4")))
    y = b.op("FULLY_CONNECTED", flat, b.const("w", normal(4, 3)))
    y = b.op("RESHAPE", y, b.const("back", np.array([1, 5, 4], "i4")))
    y = b.op("GELU", b.op("ADD", y, b.const("bias", normal(1, 1, 4))), name="y")
    check_raising(b.finish(y), ["RESHAPE", "FULLY_CONNECTED", "GELU", "RESHAPE"])


def test_heads_of_attention_get_their_bias_in_the_layer() -> None:
    """Keras: a product of batches with constants, its outputs split into heads, then the bias."""
    b = GraphBuilder()
    x = b.input("x", (1, 5, 3))
    w = b.const("w", normal(1, 3, 8))
    y = b.op("RESHAPE", b.op("BATCH_MATMUL", x, w), b.const("s", np.array([1, 5, 2, 4], "i4")))
    y = b.op("RELU", b.op("ADD", y, b.const("bias", normal(2, 4))), name="y")
    graph = b.finish(y)
    check_raising(graph, ["FULLY_CONNECTED", "RELU", "RESHAPE"])
    assert graph.ops[0].operand(2).shape == (8,)


def test_a_bias_of_one_head_stays_behind() -> None:
    b = GraphBuilder()
    y = b.op("FULLY_CONNECTED", b.input("x", (5, 3)), b.const("w", normal(8, 3)))
    y = b.op("RESHAPE", y, b.const("s", np.array([1, 5, 2, 4], "i4")))
    y = b.op("ADD", y, b.const("bias", normal(2, 1)), name="y")
    check_raising(b.finish(y), ["FULLY_CONNECTED", "RESHAPE", "ADD"])


MATRICES: list[tuple[dict[str, bool], tuple[int, ...], bool]] = [
    ({}, (3, 8), True), ({"adj_y": True}, (8, 3), True), ({}, (2, 3, 8), False),
    ({"adj_x": True}, (5, 8), False),
]  # fmt: skip


@pytest.mark.parametrize(("attrs", "shape", "dense"), MATRICES)
def test_a_product_with_one_constant_matrix_is_a_dense_layer(
    attrs: dict[str, bool], shape: tuple[int, ...], dense: bool
) -> None:
    b = GraphBuilder()
    y = b.op("BATCH_MATMUL", b.input("x", (2, 5, 3)), b.const("w", normal(*shape)), attrs=attrs)
    check_raising(b.finish(y), ["FULLY_CONNECTED" if dense else "BATCH_MATMUL"])


@pytest.mark.parametrize(("pads", "shape"), [
    ([[0, 0], [2, 0], [0, 0]], (1, 11, 1, 4)),  # another axis is added behind it
    ([[0, 0], [0, 0], [0, 4]], (1, 1, 9, 8)),
])  # fmt: skip
def test_a_pad_with_another_shape_behind_it(pads: list[list[int]], shape: tuple[int, ...]) -> None:
    b = GraphBuilder()
    x = b.op("PAD", conv1d(b, b.input("x", (1, 9, 2)), "first"), b.const("p", np.array(pads, "i4")))
    y = b.op("EXP", b.op("RESHAPE", x, b.const("shape", np.array(shape, "i4"))), name="y")
    moved = shape == (1, 1, 9, 8)
    behind = ["PAD", "EXP"] if moved else ["SQUEEZE", "PAD", "RESHAPE", "EXP"]
    check_raising(b.finish(y), ["EXPAND_DIMS", "CONV_2D", *behind])


STAYS: list[tuple[str, Array | None]] = [
    ("ADD", normal(9, 4)),  # a value for each position
    ("SOFTMAX", None),
    ("ADD", normal(1, 2, 9, 4)),  # has other axes than the squeezed
]


@pytest.mark.parametrize(("kind", "operand"), STAYS)
def test_what_tells_positions_apart_stays_behind(kind: str, operand: Array | None) -> None:
    b = GraphBuilder()
    y = conv1d(b, b.input("x", (1, 9, 2)), "conv")
    y = b.op(kind, y, *(() if operand is None else (b.const("c", operand),)), name="y")
    check_raising(b.finish(y), ["EXPAND_DIMS", "CONV_2D", "SQUEEZE", kind])


def test_a_reshape_of_the_channels_stays_in_place() -> None:
    b = GraphBuilder()
    y = b.op("CONV_2D", b.input("x", (1, 3, 3, 2)), b.const("w", normal(4, 1, 1, 2)))
    y = b.op("RESHAPE", y, b.const("shape", np.array([1, 3, 6, 2], "i4")))
    y = b.op("RELU", b.op("MUL", y, b.const("c", normal(2))), name="y")
    check_raising(b.finish(y), ["CONV_2D", "RESHAPE", "MUL", "RELU"])


def test_what_others_read_in_its_shape_stays() -> None:
    b = GraphBuilder()
    y = conv1d(b, b.input("x", (1, 9, 2)), "conv")
    check_raising(b.finish(y, b.op("RELU", y)), ["EXPAND_DIMS", "CONV_2D", "SQUEEZE", "RELU"])


def test_open_dimensions_stay_where_they_are() -> None:
    b = GraphBuilder()
    y = conv1d(b, b.input("x", (1, 9, 2)), "conv")
    graph = b.finish(b.op("RELU", y))
    graph.set_signature(y, (1, -1, 4))
    raise_graph(graph)
    assert [op.kind for op in graph.ops] == ["EXPAND_DIMS", "CONV_2D", "SQUEEZE", "RELU"]


@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "want"),
    [
        ("dilated", ["PAD", "EXPAND_DIMS", "CONV_2D", "RELU", "CONV_2D", "RELU", "SQUEEZE"]),
        ("separable", ["EXPAND_DIMS", "DEPTHWISE_CONV_2D", "CONV_2D", "RELU",
                       "DEPTHWISE_CONV_2D", "RELU", "SQUEEZE"]),
        ("transposed", ["EXPAND_DIMS", "TRANSPOSE_CONV", "RELU", "SQUEEZE"]),
        ("pooled", ["EXPAND_DIMS", "CONV_2D", "RELU", "MAX_POOL_2D", "CONV_2D", "RELU", "SQUEEZE"]),
    ],
)  # fmt: skip
def test_frozen_layers_of_one_dimension(kind: str, want: list[str]) -> None:
    """Equal to TensorFlow, with BatchNorm folded and the dilation in the layer."""
    from keras import Input, Sequential, layers

    middle = {
        "dilated": [layers.Conv1D(6, 3, padding="causal", dilation_rate=3),
                    layers.Conv1D(5, 3, padding="same", dilation_rate=2)],
        "separable": [layers.SeparableConv1D(6, 3), layers.DepthwiseConv1D(3, strides=2)],
        "transposed": [layers.Conv1DTranspose(6, 3, strides=2)],
        "pooled": [layers.Conv1D(6, 3), layers.Conv1D(5, 3, strides=2)],
    }[kind]  # fmt: skip
    network = Sequential([Input((23, 4))])
    for i, layer in enumerate(middle):
        if kind == "pooled" and i:
            network.add(layers.MaxPooling1D(2))
        for one in (layer, layers.BatchNormalization(), layers.ReLU()):
            network.add(one)
    randomise(network)
    x = normal(1, 23, 4)
    model = parse_graphdef(frozen(network))
    run_passes(model, "fold_bn")
    got = Session(model.graph, model.graph.outputs, threads=1).run({model.graph.inputs[0].name: x})
    wanted = np.asarray(network(x))
    np.testing.assert_allclose(got[0], wanted, atol=1e-5 * float(np.abs(wanted).max()))
    lowered = lower_model(model, QuantOptions("float32"))[0]
    as_reshape = {"EXPAND_DIMS": "RESHAPE", "SQUEEZE": "RESHAPE"}
    assert [op.kind for op in lowered.graph.ops] == [as_reshape.get(k, k) for k in want]


@pytest.mark.parametrize("kind", ["ADD", "MUL"])
def test_an_activation_reaches_the_arithmetic_before_a_reshape(kind: str) -> None:
    """Group normalization ends so; an activation by itself is a slow op in 8 bits."""
    b = GraphBuilder()
    y = b.op(kind, b.input("x", (1, 3, 3, 2, 2)), b.const("c", normal(2, 1)))
    y = b.op("RESHAPE", y, b.const("shape", np.array([1, 3, 3, 4], "i4")))
    check_raising(b.finish(b.op("RELU", y, name="y")), [kind, "RELU", "RESHAPE"])


@pytest.mark.parametrize("kind", ["MEAN", "REDUCE_MAX"])
@pytest.mark.parametrize("axes", [[1, 2], [-2, -3]])
def test_a_reduction_keeps_the_axes_that_a_reshape_puts_back(kind: str, axes: list[int]) -> None:
    b = GraphBuilder()
    y = b.op(kind, b.input("x", (1, 5, 3, 4)), b.const("axes", np.array(axes, "i4")))
    y = b.op("RESHAPE", y, b.const("shape", np.array([1, 1, 1, 4], "i4")))
    graph = b.finish(b.op("TANH", y, name="y"))
    check_raising(graph, [kind, "TANH"])
    assert graph.ops[0].attrs["keep_dims"]


@pytest.mark.parametrize(("axes", "shape"), [([1, 2], [1, 2, 2, 1]), ([3], [1, 3, 5, 1])])
def test_a_reduction_in_another_shape_stays(axes: list[int], shape: list[int]) -> None:
    b = GraphBuilder()
    y = b.op("MEAN", b.input("x", (1, 5, 3, 4)), b.const("axes", np.array(axes, "i4")))
    y = b.op("RESHAPE", y, b.const("shape", np.array(shape, "i4")))
    check_raising(b.finish(b.op("TANH", y, name="y")), ["MEAN", "RESHAPE", "TANH"])
