"""Quantized graphs back to float."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import normal
from quantizing import quantized
from test_schemes import network

from qfrewrite import api
from qfrewrite.data.source import synthetic
from qfrewrite.errors import UnsupportedError
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Graph, Model, Op, Quant, Tensor
from qfrewrite.passes import Dataset, PassContext
from qfrewrite.rewrite.dequantize import dequantize_graph, quantized_graphs
from qfrewrite.rewrite.rewriter import Rewriter
from qfrewrite.runtime.metrics import collect, compare
from qfrewrite.runtime.session import Runner, Session, input_specs


@pytest.mark.parametrize("scheme", ["int8", "uint8", "int16x8"])
@pytest.mark.parametrize("io", [None, "float32"])
def test_the_float_graph_computes_what_the_codes_mean(scheme: str, io: str | None) -> None:
    graph, _, _ = quantized(network(), scheme=scheme, io=io, keep_float=("depthwise",))
    twin, _ = graph.clone()
    assert quantized_graphs([twin])
    dequantize_graph(Rewriter(twin))
    assert not quantized_graphs([twin])
    assert {t.dtype for t in twin.tensors} <= {"float32", "int32"}
    assert not twin.ops_of("QUANTIZE", "DEQUANTIZE")
    samples = synthetic(input_specs(network()), 12)
    codes = collect(Runner(serialize(Model([graph])), threads=1), samples)
    floats = collect(Session(twin, twin.outputs, threads=1), samples)
    assert compare(floats, codes).sqnr_db > (35 if scheme == "int16x8" else 22)


def test_clipping_by_the_zero_point_becomes_a_relu() -> None:
    graph = Graph()
    x = Tensor("x", (1, 4), "int8", quant=Quant.per_tensor(0.1, 0))
    y = Tensor("y", (1, 4), "int8", quant=Quant.per_tensor(0.1, -128))
    graph.set_io([x])
    graph.add_op(Op("ADD", [x, x], [y], {"fused_activation_function": "NONE"}))
    graph.set_io(outputs=[y])
    dequantize_graph(Rewriter(graph))
    assert [op.kind for op in graph.ops] == ["ADD", "RELU"]
    assert graph.outputs[0].name == "y"


def test_what_only_exists_quantized_is_refused() -> None:
    graph = Graph()
    x = Tensor("x", (1, 4), "int8", quant=Quant.per_tensor(0.1, 0))
    y = Tensor("y", (1, 4), "int8", quant=Quant.per_tensor(0.1, 0))
    state = Tensor("state", (1,), "int16", quant=Quant.per_tensor(0.1, 0))
    graph.set_io([x])
    graph.add_op(Op("UNIDIRECTIONAL_SEQUENCE_LSTM", [x], [y], intermediates=(state,), name="lstm"))
    graph.set_io(outputs=[y])
    with pytest.raises(UnsupportedError, match=r"'lstm'.*start from the float model"):
        dequantize_graph(Rewriter(graph))


def test_passes_on_a_quantized_model_go_through_float_and_say_so() -> None:
    graph, _, _ = quantized(network())
    model = Model([graph], source="tflite")
    model.mark_loaded()
    api.run_passes(
        model, "calibrate", data=PassContext(Dataset(synthetic(input_specs(network()), 12)))
    )
    assert any(one.code == "quantized-already" for one in model.diagnostics)
    assert model.graph.ops_of("FAKE_QUANT")


def test_a_float_model_is_left_alone() -> None:
    model = Model([network()])
    model.mark_loaded()
    api.dequantize(model)
    assert not model.edited
    assert not model.diagnostics


def test_shared_constants_are_made_float_once() -> None:
    graph, _, _ = quantized(network())
    w = graph.ops_of("CONV_2D")[0].operand(1)
    before = w.value()
    dequantize_graph(Rewriter(graph))
    assert w.dtype == "float32"
    assert w.value().shape == before.shape
    assert np.abs(w.value() - normal(32, 3, 3, 4)).max() < np.abs(normal(32, 3, 3, 4)).max() / 127
