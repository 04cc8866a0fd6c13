"""Writing GraphDefs: what was read comes back, rewritten graphs compute the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from graphdefs import Nodes
from test_graphdef_read import conv_net, run

import qfrewrite as qf
from qfrewrite.data.source import synthetic
from qfrewrite.errors import UnsupportedError
from qfrewrite.formats.graphdef.read import parse_graphdef
from qfrewrite.formats.graphdef.schema import GraphDef
from qfrewrite.formats.graphdef.write import graphdef_bytes
from qfrewrite.formats.tflite.read import parse_tflite
from qfrewrite.ir import Model
from qfrewrite.lower.model import lower_graphdef, lower_model
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import Dataset, PassContext, run_passes
from qfrewrite.runtime.session import input_specs

RNG = np.random.default_rng(3)


def test_an_unedited_graph_comes_back_with_fields_we_do_not_know() -> None:
    g = conv_net("NHWC")
    g.message.versions.producer = 1234
    data = g.bytes() + bytes([0xF8, 0x07, 0x01])  # field 127, varint 1
    model = parse_graphdef(data)
    back = graphdef_bytes(model)
    assert GraphDef.FromString(back).versions.producer == 1234
    assert bytes([0xF8, 0x07, 0x01]) in back


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("passes", ["fold_bn", "calibrate(bias=false)"])
def test_rewritten_graphs_compute_the_same_when_read_again(passes: str, data_format: str) -> None:
    model = parse_graphdef(conv_net(data_format).bytes())
    run_passes(model, passes, PassContext(Dataset(synthetic(input_specs(model.graph), 4))))
    again = parse_graphdef(graphdef_bytes(model))
    assert [t.name for t in again.graph.outputs] == ["y"]
    x = RNG.normal(size=model.graph.inputs[0].shape).astype(np.float32)
    np.testing.assert_allclose(run(again.graph, x)[0], run(model.graph, x)[0], atol=1e-5)


def test_writing_is_deterministic() -> None:
    def written() -> bytes:
        model = parse_graphdef(conv_net("NHWC").bytes())
        run_passes(model, "calibrate")
        return graphdef_bytes(lower_graphdef(model))

    assert written() == written()


def test_weights_are_written_on_the_int8_grid_after_calibration() -> None:
    model = parse_graphdef(conv_net("NHWC").bytes())
    run_passes(model, "calibrate", PassContext(Dataset(synthetic(input_specs(model.graph), 4))))
    again = parse_graphdef(graphdef_bytes(lower_graphdef(model)))
    w = again.graph.ops_of("CONV_2D")[0].operand(1).value().reshape(4, -1)
    steps = w / (np.abs(w).max(1, keepdims=True) / 127)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)


def test_ops_of_every_family_survive_a_round_trip() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 6, 6, 4))
    dw = b.op(
        "DEPTHWISE_CONV_2D",
        x,
        b.const("dw", RNG.normal(size=(1, 3, 3, 8)).astype("f4")),
        b.const("db", RNG.normal(size=8).astype("f4")),
        attrs={"depth_multiplier": 2},
    )
    act = b.op("LEAKY_RELU", dw, attrs={"alpha": 0.25})
    left, right = _split(b, act)
    both = b.op("CONCATENATION", b.op("LOGISTIC", left), b.op("TANH", right), attrs={"axis": 3})
    total = b.op("ADD", both, act)
    pooled = b.op("AVERAGE_POOL_2D", total, attrs={"filter_height": 6, "filter_width": 6})
    flat = b.op("RESHAPE", pooled, b.const("shape", np.array([1, 8], np.int32)))
    dense = b.op("FULLY_CONNECTED", flat, b.const("fc", RNG.normal(size=(3, 8)).astype("f4")), None)
    graph = b.finish(b.op("SOFTMAX", dense, name="y"))
    again = parse_graphdef(graphdef_bytes(Model([graph]))).graph
    value = RNG.normal(size=(1, 6, 6, 4)).astype(np.float32)
    np.testing.assert_allclose(run(again, value)[0], run(graph, value)[0], atol=1e-6)


def _split(b: GraphBuilder, x: object) -> tuple[object, object]:
    from qfrewrite.ops.build import append_op

    axis = b.const("axis", np.array([3], np.int32))
    op = append_op(b.graph, "SPLIT", [axis, x], attrs={"num_splits": 2})  # type: ignore[list-item]
    return op.outputs[0], op.outputs[1]


def test_int8_graphs_have_no_form() -> None:
    model = parse_graphdef(conv_net("NHWC").bytes())
    run_passes(model, "calibrate")
    from qfrewrite.lower.scheme import QuantOptions

    lowered, _ = lower_model(model, QuantOptions())
    lowered.loaded = None
    with pytest.raises(UnsupportedError, match="quantized"):
        graphdef_bytes(lowered)


def test_names_of_nodes_are_unique() -> None:
    g = Nodes()
    g.placeholder("x", (1, 4))
    g.add("Relu", "y", ["x"])
    model = parse_graphdef(g.bytes())
    run_passes(model, "calibrate")
    names = [n.name for n in GraphDef.FromString(graphdef_bytes(model)).node]
    assert len(names) == len(set(names))


def test_a_graph_with_fake_quant_nodes_becomes_the_same_int8_model(tmp_path: Path) -> None:
    data = ROOT / "examples" / "digits" / "calib"
    model = qf.load(ROOT / "examples" / "digits" / "digits_mobilenet.pb")
    qf.run_passes(model, "calibrate", data=data, samples=20)
    direct = qf.save(model, tmp_path / "direct.tflite")
    qf.save(model, tmp_path / "fake_quant.pb")
    again = qf.save(qf.load(tmp_path / "fake_quant.pb"), tmp_path / "again.tflite")
    assert again.lowering.counts == direct.lowering.counts
    assert not again.lowering.float_ops
    first, second = (parse_tflite(r.path.read_bytes()).graph for r in (direct, again))
    for a, b in zip(first.ops, second.ops, strict=True):
        assert a.kind == b.kind
        if a.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            differ = a.operand(1).value() != b.operand(1).value()
            assert differ.mean() < 0.01


def test_fake_quant_survives_in_a_float_tflite(tmp_path: Path) -> None:
    model = parse_graphdef(conv_net("NHWC").bytes())
    run_passes(model, "calibrate")
    saved = qf.save(model, tmp_path / "float.tflite", scheme="float32")
    graph = parse_tflite(saved.path.read_bytes()).graph
    assert len(graph.ops_of("FAKE_QUANT")) == len(model.graph.ops_of("FAKE_QUANT"))
    assert {t.dtype for t in (*graph.inputs, *graph.outputs)} == {"float32"}


@pytest.mark.parametrize("axis", [None, 0])
def test_fake_quant_weights_of_a_transposed_convolution(axis: int | None) -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4, 4, 4))
    w = b.const("w", RNG.normal(size=(2, 3, 3, 4)).astype("f4"))
    low, high = np.array([-1, -0.5], np.float32), np.array([1, 0.6], np.float32)
    ranges = {"min": -1.0, "max": 1.0} if axis is None else {"min": low, "max": high}
    q = b.op("FAKE_QUANT", w, name="q", attrs={**ranges, "axis": axis})
    shape = b.const("shape", np.array([1, 8, 8, 2], np.int32))
    attrs = {"padding": "SAME", "stride_h": 2, "stride_w": 2}
    b.finish(b.op("TRANSPOSE_CONV", shape, q, x, name="y", attrs=attrs, dtype="float32"))
    again = parse_graphdef(graphdef_bytes(Model([b.graph]))).graph
    (fake,) = again.ops_of("FAKE_QUANT")
    assert fake.attrs["axis"] == axis
    np.testing.assert_array_equal(fake.operand(0).value(), w.value())
    np.testing.assert_array_equal(fake.attrs["min"], ranges["min"])


def test_a_fake_quant_constant_that_is_no_weight_is_written() -> None:
    g = Nodes()
    g.placeholder("x", (1, 4))
    g.const("c", RNG.normal(size=4))
    g.add("FakeQuantWithMinMaxArgs", "q", ["c"], min=-1.0, max=1.0)
    g.add("Mul", "y", ["x", "q"])
    graph = parse_graphdef(g.bytes()).graph
    again = parse_graphdef(graphdef_bytes(Model([graph]))).graph
    assert [op.kind for op in again.ops] == ["FAKE_QUANT", "MUL"]


@pytest.mark.parametrize("op", ["SpaceToDepth", "DepthToSpace"])
def test_what_was_nchw_is_written_as_nhwc(op: str) -> None:
    g = Nodes()
    g.placeholder("x", (1, 4, 4, 4))
    g.add(op, "y", ["x"], block_size=2, data_format="NCHW")
    graph = parse_graphdef(g.bytes()).graph
    again = parse_graphdef(graphdef_bytes(Model([graph]))).graph
    x = RNG.normal(size=(1, 4, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(run(again, x)[0], run(graph, x)[0])
