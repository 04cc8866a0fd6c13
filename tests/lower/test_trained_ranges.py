"""Models trained with fake quantization: their ranges are kept exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import batch_norm, normal

from qfrewrite.data.source import synthetic
from qfrewrite.ir import Array, Graph, Model, Op
from qfrewrite.lower.model import lower_graphdef, lower_model
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import Dataset, PassContext, run_passes
from qfrewrite.rewrite.fold import bn_scale_offset
from qfrewrite.rewrite.raising import raise_graph
from qfrewrite.runtime.session import Session, input_specs

W = normal(4, 3, 3, 2)
BOUND = np.abs(W).max((1, 2, 3)).astype("f4") * np.float32(0.9)  # training clips a little


def fake(b: GraphBuilder, x: Any, low: Any, high: Any, name: str, **attrs: Any) -> Any:
    attrs = {"min": low, "max": high, "num_bits": 8, "narrow_range": False, "axis": None, **attrs}
    return b.op("FAKE_QUANT", x, name=name, attrs=attrs)


def trained(
    *, per_channel: bool = True, normalized: bool = False, ranged: tuple[str, ...] = ("x", "y")
) -> Graph:
    b = GraphBuilder()
    x = b.input("x", (1, 6, 6, 2))
    if "x" in ranged:
        x = fake(b, x, -2.0, 3.1, "x_range")
    low, high = (-BOUND, BOUND) if per_channel else (-BOUND.max(), BOUND.max())
    w = fake(b, b.const("w", W), low, high, "w_range", narrow_range=True,
             axis=0 if per_channel else None)  # fmt: skip
    y = b.op("CONV_2D", x, w, b.const("b", normal(4)), name="conv")
    y = batch_norm(b, y, "bn") if normalized else y
    y = b.op("RELU6", y, name="y")
    if "y" in ranged:
        y = fake(b, y, 0.0, 5.5, "y_range")
    return b.finish(b.op("MAX_POOL_2D", y, name="pool"))


def lowered(graph: Graph, *, passes: str = "", **options: Any) -> tuple[Graph, list[str]]:
    model = Model([graph], source="graphdef")
    raise_graph(graph)
    notes: list[str] = []
    if passes:
        data = PassContext(Dataset(synthetic(input_specs(graph), 8)), threads=1)
        report = run_passes(model, passes, data)
        notes = [str(note) for p in report.passes for note in p.diagnostics]
    return lower_model(model, QuantOptions(**options))[0].graph, notes


def conv(graph: Graph) -> Op:
    return graph.ops_of("CONV_2D")[0]


def codes(bound: Array) -> Array:
    step = (bound / np.float32(127)).reshape(-1, 1, 1, 1)
    return np.clip(np.rint(W.astype("f8") / step), -127, 127)


def test_activations_have_exactly_the_trained_range() -> None:
    graph, _ = lowered(trained())
    x, y = graph.inputs[0].quant, graph.outputs[0].quant
    assert x is not None
    assert y is not None
    assert x.scale[0] == pytest.approx(5.1 / 255, rel=1e-6)
    assert x.zero_point[0] == -28
    assert (y.scale[0], y.zero_point[0]) == (pytest.approx(5.5 / 255, rel=1e-6), -128)


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_have_exactly_the_trained_codes(per_channel: bool) -> None:
    graph, _ = lowered(trained(per_channel=per_channel))
    w = conv(graph).operand(1)
    bound = BOUND if per_channel else BOUND.max(keepdims=True)
    assert w.quant is not None
    np.testing.assert_allclose(
        np.broadcast_to(w.quant.scale, (4,)), np.broadcast_to(bound / 127, (4,)), rtol=1e-6
    )
    np.testing.assert_array_equal(w.value(), codes(bound))


@pytest.mark.parametrize("per_channel", [True, False])
def test_batch_norm_folds_into_trained_weights_and_keeps_their_codes(per_channel: bool) -> None:
    source = trained(per_channel=per_channel, normalized=True)
    (bn,) = source.ops_of("BATCH_NORM")
    gain = bn_scale_offset(bn)[0]
    graph, _ = lowered(source)
    assert [op.kind for op in graph.ops] == ["CONV_2D", "RELU6", "MAX_POOL_2D"]
    w = conv(graph).operand(1)
    bound = BOUND if per_channel else BOUND.max(keepdims=True)
    assert w.quant is not None
    np.testing.assert_allclose(w.quant.scale, np.abs(gain) * bound / 127, rtol=1e-5)
    np.testing.assert_array_equal(w.value(), np.sign(gain).reshape(-1, 1, 1, 1) * codes(bound))


def test_float_still_computes_with_quantized_weights() -> None:
    graph = trained(ranged=())
    sample = {"x": normal(1, 6, 6, 2, seed=3)}
    before = Session(graph, graph.outputs, threads=1).run(sample)[0].copy()
    raise_graph(graph)
    assert not graph.ops_of("FAKE_QUANT")
    after = Session(graph, graph.outputs, threads=1).run(sample)[0]
    np.testing.assert_allclose(before, after, atol=1e-5)


def test_a_graphdef_gets_its_fake_quant_nodes_back() -> None:
    graph = trained()
    raise_graph(graph)
    model = lower_graphdef(Model([graph], source="graphdef"))
    fakes = {op.name: op for op in model.graph.ops_of("FAKE_QUANT")}
    assert set(fakes) == {"x_range", "w_range", "y_range"}
    np.testing.assert_array_equal(fakes["w_range"].attrs["max"], BOUND)
    assert conv(model.graph).operand(1) is fakes["w_range"].output


def test_a_narrow_range_of_an_activation_keeps_its_steps() -> None:
    b = GraphBuilder()
    y = b.op("ABS", fake(b, b.input("x", (1, 4)), -1.27, 1.27, "r", narrow_range=True))
    graph, _ = lowered(b.finish(fake(b, y, 0.0, 1.27, "s")))
    quant = graph.inputs[0].quant
    assert quant is not None
    assert quant.scale[0] == pytest.approx(0.01, rel=1e-6)
    assert quant.zero_point[0] == 0


def test_ranges_that_are_missing_are_named_and_found() -> None:
    graph, notes = lowered(trained(ranged=("y",)), passes="calibrate")
    assert any("1 ranges are the model's own; 2 found: 'x', 'pool'" in note for note in notes)
    assert {t.dtype for t in (*graph.inputs, *graph.outputs)} == {"int8"}
    relu = graph.ops_of("RELU6")[0].output.quant
    assert relu is not None
    assert relu.scale[0] == pytest.approx(5.5 / 255, rel=1e-6)
