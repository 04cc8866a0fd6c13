"""Graphs at the edge of what a quantizer must take: sharing, shapes, constants, scales."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import normal
from quantizing import quantized

from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Graph, Model, Op, Tensor, constant
from qfrewrite.lower.model import lower_model
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.ops.build import GraphBuilder, append_op
from qfrewrite.passes import PassContext, run_passes


def ints(*values: Any) -> np.ndarray[Any, Any]:
    return np.array(values, np.int32)


def test_a_tensor_read_in_int8_and_in_float() -> None:
    b = GraphBuilder()
    x = b.op("ABS", b.input("x", (1, 6)), name="shared")
    axis = b.const("axis", np.array(1, "i4"))
    graph, report, fidelity = quantized(
        b.finish(b.op("CUMSUM", x, axis, name="sum"), b.op("RELU", x))
    )
    assert [name for name, _, _ in report.float_ops] == ["sum"]
    assert len(graph.ops_of("DEQUANTIZE")) == 1
    assert fidelity.sqnr_db > 30


def test_a_constant_read_in_int8_and_in_float() -> None:
    b = GraphBuilder()
    x, c = b.input("x", (1, 6)), b.const("c", np.abs(normal(1, 6)) + 1)
    y = b.op("MUL", x, c, name="coded")
    z = b.op("CUMSUM", b.op("ADD", x, c, name="sum"), b.const("axis", np.array(1, "i4")), name="f")
    graph, _, fidelity = quantized(b.finish(y, z), keep_float=("sum",))
    types = {t.dtype for t in graph.tensors if t.is_const and t.size == 6}
    assert types == {"int8", "float32"}
    assert fidelity.sqnr_db > 30


def test_weights_shared_at_one_scale_are_quantized_once() -> None:
    b = GraphBuilder()
    x, w = b.input("x", (1, 4, 4, 2)), b.const("w", normal(2, 3, 3, 2))
    bias = b.const("b", normal(2))
    first = b.op("CONV_2D", x, w, bias)
    second = b.op("CONV_2D", b.op("RELU", first), w, bias)
    graph, report, _ = quantized(b.finish(first, second))
    assert report.counts["int8"] >= 2
    one, two = graph.ops_of("CONV_2D")
    assert one.operand(1) is two.operand(1)
    assert one.operand(2) is not two.operand(2)  # another input scale


def test_equal_constants_share_a_buffer() -> None:
    b = GraphBuilder()
    x, data = b.input("x", (1, 64)), normal(64, 64)
    y = b.op("FULLY_CONNECTED", x, b.const("w", data))
    y = b.op("FULLY_CONNECTED", y, b.const("v", data.copy()))
    model = Model([b.finish(y)], source="graphdef")
    run_passes(model, "calibrate", PassContext(threads=1))
    lowered, _ = lower_model(model, QuantOptions())
    one, two = (op.operand(1) for op in lowered.graph.ops_of("FULLY_CONNECTED"))
    assert one is not two
    assert len(serialize(lowered)) < 64 * 64 + 4000


def test_an_input_that_is_an_output() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 6))
    for io in (None, "float32", "uint8"):
        graph, _, _ = quantized(b.finish(b.op("ABS", x), x), io=io)
        assert [t.dtype for t in graph.outputs] == [io or "int8"] * 2


def test_an_output_that_is_read_inside() -> None:
    b = GraphBuilder()
    y = b.op("ABS", b.input("x", (1, 6)), name="y")
    graph, _, _ = quantized(b.finish(y, b.op("RELU6", y, name="z")), io="float32")
    assert [t.name for t in graph.outputs] == ["y", "z"]
    assert {t.dtype for t in graph.outputs} == {"float32"}


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 1, 3), (4, 1)])
def test_constant_operands_broadcast(shape: tuple[int, ...]) -> None:
    b = GraphBuilder()
    c = b.const("c", normal(*shape) + 2)
    _, report, fidelity = quantized(b.finish(b.op("ADD", c, b.input("x", (1, 4, 3)))))
    assert not report.float_ops
    assert fidelity.sqnr_db > 30


def test_scalars_and_rank_0() -> None:
    b = GraphBuilder()
    x = b.input("x", (3,))
    total = b.op("SUM", x, b.const("axes", ints(0)))
    _, report, fidelity = quantized(b.finish(b.op("MUL", x, total), total))
    assert total.shape == ()
    assert not report.float_ops
    assert fidelity.sqnr_db > 25


def test_an_empty_tensor_does_no_harm() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    none = b.op("SLICE", x, b.const("begin", ints(0, 0)), b.const("size", ints(1, 0)), name="none")
    _, report, _ = quantized(b.finish(b.op("ABS", x), none))
    assert report.counts == {"int8": 2}


def with_signature(graph: Graph, signature: tuple[int, ...]) -> Graph:
    for tensor in (*graph.inputs, *(out for op in graph.ops for out in op.outputs)):
        sized = (*signature[:1], *tensor.shape[1:])
        graph.set_signature(tensor, sized)
    return graph


@pytest.mark.parametrize("io", [None, "float32"])
def test_a_batch_that_may_vary_still_may(io: str | None) -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4, 4, 2))
    y = b.op("RELU", b.op("CONV_2D", x, b.const("w", normal(3, 3, 3, 2))))
    y = b.op("RESHAPE", y, b.const("s", ints(-1, 48)))
    y = b.op("FULLY_CONNECTED", y, b.const("fc", normal(5, 48)))
    graph, _, _ = quantized(with_signature(b.finish(y), (-1,)), io=io)
    assert graph.inputs[0].shape_signature == (-1, 4, 4, 2)
    assert graph.outputs[0].shape_signature == (-1, 5)

    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=serialize(Model([graph])), num_threads=1)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], (3, 4, 4, 2))
    interpreter.allocate_tensors()
    interpreter.invoke()
    out = interpreter.get_output_details()[0]
    assert interpreter.get_tensor(out["index"]).shape == (3, 5)


@pytest.mark.parametrize("value", [2.5, -1.0, -np.inf])
def test_padding_with_a_value(value: float) -> None:
    b = GraphBuilder()
    pads = b.const("pads", ints([0, 0], [1, 1], [1, 1], [0, 0]))
    x = b.input("x", (1, 4, 4, 2))
    y = b.op("PADV2", x, pads, b.const("value", np.float32(value)))
    y = b.op("MAX_POOL_2D", y, attrs={"filter_height": 3, "filter_width": 3})
    _, report, fidelity = quantized(b.finish(y))
    assert not report.float_ops
    assert fidelity.sqnr_db > 30


def test_scores_beside_coordinates_are_warned_about() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    boxes = b.op("MUL", x, b.const("size", np.full((1, 4), 640, "f4")), name="boxes")
    scores = b.op("LOGISTIC", x, name="scores")
    _, report, _ = quantized(b.finish(b.op("CONCATENATION", boxes, scores, attrs={"axis": 1})))
    assert any("'scores' is left 1 of 256 codes" in str(note) for note in report.diagnostics)


def test_the_same_tensor_twice() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    twice = b.op("CONCATENATION", x, x, attrs={"axis": 1})
    _, _, fidelity = quantized(
        b.finish(b.op("MUL", twice, twice), b.op("SQUARED_DIFFERENCE", x, x))
    )
    assert fidelity.sqnr_db > 25


def test_a_chain_of_moves_behind_a_prescribed_range() -> None:
    b = GraphBuilder()
    y = b.op("SOFTMAX", b.input("x", (1, 8)))
    y = b.op("RESHAPE", y, b.const("s", ints(1, 2, 4)))
    y = b.op("TRANSPOSE", y, b.const("perm", ints(0, 2, 1)))
    y = b.op("PAD", y, b.const("pads", ints([0, 0], [1, 0], [0, 0])))
    graph, _, _ = quantized(b.finish(y))
    assert {float(op.output.quant.scale[0]) for op in graph.ops if op.output.quant} == {1 / 256}


def test_two_prescribed_ranges_in_one_concatenation() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 8))
    y = b.op("CONCATENATION", b.op("SOFTMAX", x), b.op("TANH", x), attrs={"axis": 1})
    graph, _, fidelity = quantized(b.finish(y))
    assert len(graph.ops_of("QUANTIZE")) == 2
    assert fidelity.sqnr_db > 30


def test_scattering_what_has_a_prescribed_range() -> None:
    """Where nothing is scattered the kernel writes code 0, which must mean 0."""
    b = GraphBuilder()
    y = b.op("LOGISTIC", b.input("x", (2, 3)))
    y = b.op("SCATTER_ND", b.const("i", ints([1], [4])), y, b.const("shape", ints(6, 3)))
    graph, report, fidelity = quantized(b.finish(y))
    assert not report.float_ops
    assert graph.outputs[0].quant is not None
    assert graph.outputs[0].quant.zero_point[0] == 0
    assert fidelity.sqnr_db > 30


def test_a_bias_beyond_32_bits() -> None:
    b = GraphBuilder()
    w = normal(3, 1, 1, 2)
    w[1] *= 1e-9
    y = b.op("CONV_2D", b.input("x", (1, 2, 2, 2)), b.const("w", w), b.const("b", [1.0, 2.0, 3.0]))
    _, report, fidelity = quantized(b.finish(y))
    assert any("1 channels in 1 layers" in str(note) for note in report.diagnostics)
    assert fidelity.sqnr_db > 30


@pytest.mark.parametrize("scheme", ["int8", "uint8", "int16x8"])
def test_values_that_are_always_zero(scheme: str) -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    zero = b.op("MUL", x, b.const("zero", np.zeros(4, "f4")), name="zero")
    dead = b.op("FULLY_CONNECTED", zero, b.const("w", np.zeros((3, 4), "f4")), name="dead")
    graph, _, _ = quantized(b.finish(zero, dead, b.op("ABS" if scheme == "int8" else "RELU", x)),
                            scheme=scheme)  # fmt: skip
    assert all(np.isfinite(t.quant.scale).all() for t in graph.tensors if t.quant is not None)


@pytest.mark.parametrize(("kind", "attrs", "weights"), [
    ("DEPTHWISE_CONV_2D", {"depth_multiplier": 3}, (1, 3, 3, 6)),
    ("DEPTHWISE_CONV_2D", {"dilation_h_factor": 2, "dilation_w_factor": 2}, (1, 3, 3, 2)),
    ("CONV_2D", {"dilation_h_factor": 2, "dilation_w_factor": 2}, (4, 3, 3, 2)),
    ("CONV_2D", {"stride_h": 3, "stride_w": 2, "padding": "VALID"}, (4, 2, 3, 2)),
    ("CONV_2D", {}, (4, 3, 3, 1)),  # two groups
])  # fmt: skip
@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_convolutions_of_every_kind(
    kind: str, attrs: dict[str, Any], weights: tuple[int, ...], scheme: str
) -> None:
    b = GraphBuilder()
    y = b.op(kind, b.input("x", (1, 9, 9, 2)), b.const("w", normal(*weights)), attrs=attrs)
    _, report, fidelity = quantized(b.finish(y), scheme=scheme)
    assert not report.float_ops
    assert fidelity.sqnr_db > 30


@pytest.mark.parametrize("bias", [True, False])
def test_transposed_convolution(bias: bool) -> None:
    b = GraphBuilder()
    operands = [b.const("shape", ints(1, 8, 8, 3)), b.const("w", normal(3, 3, 3, 2)),
                b.input("x", (1, 4, 4, 2))]  # fmt: skip
    y = b.op("TRANSPOSE_CONV", *operands, *([b.const("b", normal(3))] if bias else []),
             attrs={"stride_h": 2, "stride_w": 2})  # fmt: skip
    _, report, fidelity = quantized(b.finish(y))
    assert not report.float_ops
    assert fidelity.sqnr_db > 30


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_fully_connected_with_more_axes(keep: bool, bias: bool) -> None:
    b = GraphBuilder()
    x = b.input("x", (2, 3, 4))
    more = [b.const("b", normal(5))] if bias else []
    attrs = {"keep_num_dims": keep}
    y = b.op("FULLY_CONNECTED", x, b.const("w", normal(5, 4)), *more, attrs=attrs)
    graph, report, fidelity = quantized(b.finish(y))
    assert graph.outputs[0].shape == ((2, 3, 5) if keep else (6, 5))
    assert not report.float_ops
    assert fidelity.sqnr_db > 30


@pytest.mark.parametrize("bias", [True, False])
def test_fully_connected_with_computed_weights(bias: bool) -> None:
    b = GraphBuilder()
    x, w = b.input("x", (2, 4)), b.op("TANH", b.input("w", (3, 4)))
    y = b.op("FULLY_CONNECTED", x, w, *([b.const("b", normal(3))] if bias else []), name="y")
    graph, report, fidelity = quantized(b.finish(y))
    assert not report.float_ops
    assert graph.outputs[0].name == "y"
    assert fidelity.sqnr_db > 25


@pytest.mark.parametrize("kind", ["NEG", "SQUARE", "DIV", "ADD_N"])
def test_ops_without_a_kernel_have_substitutes(kind: str) -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 6))
    operands = {"DIV": [b.const("c", np.abs(normal(6)) + 1)], "ADD_N": [b.op("ABS", x)]}
    y = b.op(kind, x, *operands.get(kind, []), name="y")
    _, report, fidelity = quantized(b.finish(y))
    assert not report.float_ops
    assert fidelity.sqnr_db > 30


def test_two_tensors_of_one_name() -> None:
    graph = Graph()
    x, y, z = Tensor("x", (1, 4)), Tensor("same", (1, 4)), Tensor("same", (1, 4))
    graph.set_io([x])
    graph.add_op(Op("ABS", [x], [y]))
    graph.add_op(Op("RELU6", [y], [z]))
    graph.set_io(outputs=[z])
    lowered, report, _ = quantized(graph)
    assert report.counts == {"int8": 2}
    assert [t.name for t in lowered.tensors] == ["x", "same", "same"]


def test_what_nobody_knows_stays_as_it_is() -> None:
    graph = Graph()
    x, y, z = (Tensor(name, (1, 4)) for name in "xyz")
    graph.set_io([x])
    graph.add_op(Op("ABS", [x], [y]))
    custom = {"custom_code": "Mine", "custom_options": b"\x01\x02"}
    graph.add_op(Op("CUSTOM", [y], [z], custom, name="mine"))
    graph.set_io(outputs=[z])
    model = Model([graph], source="graphdef")
    for tensor in (x, y):
        fake = append_op(graph, "FAKE_QUANT", [tensor], attrs={"min": -1.0, "max": 1.0},
                         name=f"{tensor.name}/fq")  # fmt: skip
        graph.replace_uses(tensor, fake.output, skip=(fake,))
    lowered, report = lower_model(model, QuantOptions())
    assert report.float_ops == [("mine", "CUSTOM", "no int8 kernel")]
    assert lowered.graph.op("mine").attrs["custom_options"] == b"\x01\x02"
    assert [op.kind for op in lowered.graph.ops] == ["ABS", "DEQUANTIZE", "CUSTOM"]


def test_weights_read_as_a_value_too() -> None:
    b = GraphBuilder()
    x, w = b.input("x", (1, 2, 2, 3)), b.const("w", normal(3, 1, 1, 3))
    y = b.op("CONV_2D", x, w)
    _, _, fidelity = quantized(b.finish(y, b.op("MUL", x, w)))
    assert fidelity.sqnr_db > 25
    assert constant("w", normal(1)).is_const


def test_a_squared_difference_is_a_product_of_differences() -> None:
    """The product of the difference with itself, whose range is measured: not of the operands."""
    b = GraphBuilder()
    x = b.input("x", (1, 5, 8))
    mean = b.op("MEAN", x, b.const("axes", ints(2)), attrs={"keep_dims": True})
    graph, report, fidelity = quantized(b.finish(b.op("SQUARED_DIFFERENCE", x, mean, name="y")))
    assert [op.kind for op in graph.ops] == ["MEAN", "SUB", "MUL"]
    assert not report.float_ops
    assert [t.name for t in graph.outputs] == ["y"]
    assert fidelity.sqnr_db > 35


def test_a_join_of_what_is_always_zero() -> None:
    """Ranges of no width, of values that others read too, share one scale."""
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    nothing = [b.op("MUL", x, b.const("zero", np.zeros(4, "f4"))) for _ in range(2)]
    joined = b.op("CONCATENATION", *nothing, attrs={"axis": 1})
    graph, report, _ = quantized(b.finish(joined, b.op("ADD", x, nothing[0])))
    assert not report.float_ops
    assert "CONCATENATION" in [op.kind for op in graph.ops]
