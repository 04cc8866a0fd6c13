"""Int8 lowering: rules of the specification, corners, and closeness to float."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import normal, separable
from hypothesis import given, settings
from hypothesis import strategies as st

from qfrewrite.data.source import synthetic
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Array, Graph, Model, Tensor
from qfrewrite.lower.quantized import lower_quantized
from qfrewrite.lower.scheme import QuantOptions, QuantReport
from qfrewrite.lower.weights import quantize_linear, weight_bounds
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import Dataset, PassContext, run_passes
from qfrewrite.runtime.metrics import Fidelity, collect, compare
from qfrewrite.runtime.session import Runner, Session, input_specs


def quantized(graph: Graph, **options: object) -> tuple[Graph, QuantReport, Fidelity]:
    """`graph` calibrated and lowered, and how close it comes to float on LiteRT."""
    samples = synthetic(input_specs(graph), 12)
    float_run = Session(graph, graph.outputs, threads=1)
    model = Model([graph.clone()[0]], source="graphdef")
    run_passes(model, "calibrate", PassContext(Dataset(samples), threads=1))
    report = lower_quantized(model.graph, QuantOptions(**options))  # type: ignore[arg-type]
    runner = Runner(serialize(model), threads=1)
    fidelity = compare(collect(float_run, samples), collect(runner, samples))
    return model.graph, report, fidelity


def test_a_separable_block() -> None:
    graph, report, fidelity = quantized(separable())
    assert not report.float_ops
    assert fidelity.sqnr_db > 30
    for op in graph.ops_of("CONV_2D", "DEPTHWISE_CONV_2D"):
        x, w, b = (op.operand(n).quant for n in range(3))
        assert x is not None
        assert w is not None
        assert b is not None
        assert not w.zero_point.any()
        assert np.abs(op.operand(1).value()).max() <= 127
        np.testing.assert_allclose(b.scale, x.scale[0] * w.scale, rtol=1e-6)
        assert op.operand(2).dtype == "int32"


def test_a_wrong_scale_would_be_noticed() -> None:
    graph = separable()
    samples = synthetic(input_specs(graph), 12)
    model = Model([graph.clone()[0]], source="graphdef")
    run_passes(model, "calibrate", PassContext(Dataset(samples), threads=1))
    fake = model.graph.ops_of("FAKE_QUANT")[1]
    model.graph.set_attrs(fake, max=fake.attrs["max"] / 3)
    lower_quantized(model.graph)
    first = Session(graph, graph.outputs, threads=1)
    second = Runner(serialize(model), threads=1)
    assert compare(collect(first, samples), collect(second, samples)).sqnr_db < 20


@pytest.mark.parametrize(
    ("kind", "scale", "zero"),
    [("SOFTMAX", 1 / 256, -128), ("LOGISTIC", 1 / 256, -128), ("TANH", 1 / 128, 0)],
)
def test_prescribed_outputs(kind: str, scale: float, zero: int) -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 8))
    y = b.op(kind, b.op("FULLY_CONNECTED", x, b.const("w", normal(8, 8)), b.const("b", normal(8))))
    graph, _, fidelity = quantized(
        b.finish(b.op("RESHAPE", y, b.const("s", np.array([2, 4], "i4"))))
    )
    quant = graph.outputs[0].quant
    assert quant is not None
    assert (quant.scale[0], quant.zero_point[0]) == (scale, zero)
    assert fidelity.sqnr_db > 25


def test_same_scale_groups_share_their_scale() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4, 4, 2))
    pooled = b.op("MAX_POOL_2D", x, attrs={"filter_height": 2, "filter_width": 2})
    conv = b.op("CONV_2D", x, b.const("w", normal(3, 2, 2, 2)), attrs={"padding": "VALID"})
    graph, _, fidelity = quantized(b.finish(b.op("CONCATENATION", pooled, conv, attrs={"axis": 3})))
    (concat,) = graph.ops_of("CONCATENATION")
    scales = {t.quant.scale[0] for t in (*concat.inputs, concat.output) if t and t.quant}
    assert len(scales) == 1
    assert fidelity.sqnr_db > 30


def test_a_narrow_operand_with_other_readers_is_requantized() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4, 4, 2))
    narrow = b.op("CONV_2D", x, b.const("w", normal(2, 1, 1, 2, scale=0.01)), name="narrow")
    wide = b.op("CONV_2D", x, b.const("v", normal(2, 1, 1, 2, scale=10)))
    joined = b.op("CONCATENATION", narrow, wide, attrs={"axis": 3})
    other = b.op("RELU", narrow)
    graph, report, _ = quantized(b.finish(joined, other))
    assert graph.ops_of("QUANTIZE")
    assert any(note.code == "requantized" for note in report.diagnostics)


def test_logistic_and_another_range_do_not_share_a_scale() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    graph, _, fidelity = quantized(
        b.finish(b.op("CONCATENATION", b.op("LOGISTIC", x), b.op("MUL", x, x), attrs={"axis": 1}))
    )
    logistic = graph.ops_of("LOGISTIC")[0].output.quant
    assert logistic is not None
    assert logistic.scale[0] == 1 / 256
    assert fidelity.sqnr_db > 30


def test_an_op_without_kernel_stays_float_and_is_reported() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    y = b.op("CUMSUM", b.op("ABS", x), b.const("axis", np.array(1, "i4")), name="sum")
    graph, report, fidelity = quantized(b.finish(b.op("ABS", y)))
    assert report.float_ops == [("sum", "CUMSUM", "no int8 kernel")]
    assert [op.kind for op in graph.ops if "QUANT" in op.kind] == ["DEQUANTIZE", "QUANTIZE"]
    assert fidelity.sqnr_db > 30


@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_io_types_keep_names_and_numbers(io: str) -> None:
    graph, _, fidelity = quantized(separable(), io=io)
    assert [(t.name, t.dtype) for t in (*graph.inputs, *graph.outputs)] == [("x", io), ("pw", io)]
    assert fidelity.sqnr_db > 30


def test_shared_constants_and_operands() -> None:
    b = GraphBuilder()
    x, w = b.input("x", (1, 4, 4, 2)), b.const("w", normal(2, 3, 3, 2))
    first = b.op("RELU", b.op("CONV_2D", x, w), name="first")
    second = b.op("CONV_2D", first, w)
    twice = b.op("ADD", second, second)
    graph, report, fidelity = quantized(b.finish(twice, first))
    assert not report.float_ops
    assert fidelity.sqnr_db > 25
    assert [t.name for t in graph.outputs][1] == "first"


def test_zero_ranges_and_dead_weights_get_valid_scales() -> None:
    b = GraphBuilder()
    w = normal(3, 1, 1, 2)
    w[1] = 0
    y = b.op("CONV_2D", b.input("x", (1, 2, 2, 2)), b.const("w", w), b.const("b", [0.0, 7.5, 0.0]))
    z = b.op("MUL", y, b.const("zero", np.zeros(3, "f4")))
    graph, _, fidelity = quantized(b.finish(y, z))
    assert fidelity.sqnr_db > 30
    for tensor in graph.tensors:
        if tensor.quant is not None:
            assert (tensor.quant.scale > 0).all()


def test_per_tensor_weights() -> None:
    graph, _, fidelity = quantized(separable(), per_channel=False)
    w = graph.ops_of("CONV_2D")[0].operand(1).quant
    assert w is not None
    assert w.scale.size == 1
    assert fidelity.sqnr_db > 20


@given(st.integers(0, 2**31), st.floats(1e-3, 1e3), st.floats(0, 1e9))
def test_weights_within_half_a_step_and_biases_within_32_bits(
    seed: int, spread: float, offset: float
) -> None:
    rng = np.random.default_rng(seed)
    w = (rng.normal(size=(5, 2, 2, 3)) * spread ** rng.uniform(-2, 2, (5, 1, 1, 1))).astype("f4")
    b = (rng.normal(size=5) * offset).astype("f4")
    bounds = weight_bounds(w, 0, per_channel=True)
    q = quantize_linear(w, b, bounds, axis=0, input_scale=0.02, output_scale=0.05)
    step = q.scale.reshape(5, 1, 1, 1).astype(np.float64)
    assert np.abs(q.weights * step - w).max() <= 0.5001 * step.max()
    assert (np.abs(q.weights * step - w) <= 0.5001 * step).all()
    assert q.bias is not None
    assert np.abs(q.bias.astype(np.int64)).max() <= 1.001 * 2**30
    bias_step = 0.02 * q.scale.astype(np.float64)
    assert (np.abs(q.bias * bias_step - b) <= 0.51 * bias_step + 1e-6 * np.abs(b)).all()


def _layer(b: GraphBuilder, x: Tensor, kind: str, n: int) -> Tensor:
    c = x.shape[-1]
    weights: dict[str, Array] = {
        "CONV_2D": normal(4, 3, 3, c, seed=n), "DEPTHWISE_CONV_2D": normal(1, 3, 3, c, seed=n)
    }  # fmt: skip
    if kind in weights:
        return b.op(
            kind,
            x,
            b.const("w", weights[kind]),
            b.const("b", normal(4 if kind == "CONV_2D" else c)),
        )
    if kind == "ADD":
        return b.op(kind, x, b.op("RELU", x))
    if kind == "CONCATENATION":
        return b.op(kind, x, b.op("TANH", x), attrs={"axis": 3})
    if kind == "AVERAGE_POOL_2D":
        size = {"filter_height": 2, "filter_width": 2, "padding": "SAME"}
        return b.op(kind, x, attrs=size)
    return b.op(kind, x)


KINDS = st.sampled_from(
    ["CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "CONCATENATION", "AVERAGE_POOL_2D", "RELU6", "LOGISTIC"]
)


@settings(max_examples=25, deadline=None)
@given(st.lists(KINDS, min_size=1, max_size=5))
def test_random_graphs_come_close_to_float(kinds: list[str]) -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 5, 5, 2))
    for n, kind in enumerate(kinds):
        x = _layer(b, x, kind, n)
    _, report, fidelity = quantized(b.finish(x))
    assert not report.float_ops
    assert fidelity.sqnr_db > 15
