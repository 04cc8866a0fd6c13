"""Reading GraphDefs: nodes of every family, layouts, inputs and outputs, and bad files."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from graphdefs import FLOAT, Nodes

from qfrewrite.errors import ModelFileError, QfError, UnsupportedError, UsageError
from qfrewrite.formats.graphdef.read import parse_graphdef, read_graphdef
from qfrewrite.formats.graphdef.rules.table import TABLES
from qfrewrite.ir import Array, Graph
from qfrewrite.rewrite.raising import raise_graph
from qfrewrite.runtime.session import Session

RNG = np.random.default_rng(0)


def run(graph: Graph, *values: Array) -> list[Array]:
    names = [t.name for t in graph.inputs]
    sample = dict(zip(names, values, strict=True))
    return [v.copy() for v in Session(graph, graph.outputs, threads=1).run(sample)]


def parse(g: Nodes, **kw: list[str]) -> Graph:
    return parse_graphdef(g.bytes(), **kw).graph


def conv_net(data_format: str) -> Nodes:
    """Conv, bias, batch norm, relu6, max pool, concat, pad, mean; in either layout."""
    nchw = data_format == "NCHW"

    def dims(n: int, h: int, w: int, c: int) -> tuple[int, ...]:
        return (n, c, h, w) if nchw else (n, h, w, c)

    rng = np.random.default_rng(1)
    g = Nodes()
    g.placeholder("x", dims(1, 8, 8, 3))
    g.const("w", rng.normal(size=(3, 3, 3, 4)))
    g.add("Conv2D", "conv", ["x", "w"], strides=dims(1, 2, 2, 1), padding="SAME",
          data_format=data_format)  # fmt: skip
    g.const("b", rng.normal(size=4))
    g.add("BiasAdd", "bias", ["conv", "b"], data_format=data_format)
    for name in ("gamma", "beta", "mean"):
        g.const(name, rng.normal(size=4))
    g.const("variance", rng.uniform(0.5, 2, size=4))
    g.add("FusedBatchNormV3", "bn", ["bias", "gamma", "beta", "mean", "variance"], epsilon=1e-3,
          is_training=False, data_format=data_format, U=FLOAT)  # fmt: skip
    g.add("Relu6", "act", ["bn"])
    g.add("MaxPool", "pool", ["act"], ksize=dims(1, 2, 2, 1), strides=dims(1, 1, 1, 1),
          padding="SAME", data_format=data_format)  # fmt: skip
    g.const("axis", np.int32(1 if nchw else 3))
    g.add("ConcatV2", "cat", ["pool", "act", "axis"], N=2)
    pads = [(0, 0), (0, 0), (1, 0), (0, 1)] if nchw else [(0, 0), (1, 0), (0, 1), (0, 0)]
    g.const("pads", np.array(pads, np.int32))
    g.add("Pad", "pad", ["cat", "pads"])
    g.const("axes", np.array([2, 3] if nchw else [1, 2], np.int32))
    g.add("Mean", "y", ["pad", "axes"], keep_dims=False)
    return g


def test_nchw_equals_nhwc_and_keeps_the_input_as_it_is() -> None:
    nhwc, nchw = parse(conv_net("NHWC")), parse(conv_net("NCHW"))
    assert nchw.inputs[0].shape == (1, 3, 8, 8)
    assert len(nchw.ops_of("TRANSPOSE")) == 1
    x = RNG.normal(size=(1, 8, 8, 3)).astype(np.float32)
    a, b = run(nhwc, x)[0], run(nchw, x.transpose(0, 3, 1, 2).copy())[0]
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_nodes_may_stand_in_any_order() -> None:
    g = conv_net("NHWC")
    nodes = list(g.message.node)
    want = [op.kind for op in parse(g).ops]
    h = Nodes()
    h.message.node.extend(reversed(nodes))
    assert sorted(op.kind for op in parse(h).ops) == sorted(want)


def test_decomposed_batch_norm_is_raised_with_its_statistics() -> None:
    g = Nodes()
    g.placeholder("x", (1, 4, 4, 2))
    for name in ("gamma", "beta", "mean", "variance"):
        g.const(name, RNG.uniform(0.5, 2, size=2))
    g.const("eps", np.float32(1e-3))
    g.add("Add", "ve", ["variance", "eps"])
    g.add("Rsqrt", "rsqrt", ["ve"])
    g.add("Mul", "gain", ["rsqrt", "gamma"])
    g.add("Mul", "scaled", ["x", "gain"])
    g.add("Mul", "moved", ["mean", "gain"])
    g.add("Sub", "shift", ["beta", "moved"])
    g.add("Add", "y", ["scaled", "shift"])
    graph = parse(g)
    x = RNG.normal(size=(1, 4, 4, 2)).astype(np.float32)
    before = run(graph, x)[0]
    raise_graph(graph)
    (bn,) = graph.ops
    assert bn.kind == "BATCH_NORM"
    assert [t.name for t in bn.inputs[1:] if t] == ["gamma", "beta", "mean", "variance"]
    assert graph.outputs[0].name == "y"
    np.testing.assert_allclose(run(graph, x)[0], before, atol=1e-6)


def test_old_batch_norm_has_its_own_operand_order() -> None:
    g = Nodes()
    g.placeholder("x", (1, 2, 2, 3))
    parts = {n: RNG.uniform(0.5, 2, 3).astype("f4") for n in ("m", "v", "beta", "gamma")}
    names = [g.const(n, value) for n, value in parts.items()]
    g.add("BatchNormWithGlobalNormalization", "y", ["x", *names], variance_epsilon=1e-3,
          scale_after_normalization=True)  # fmt: skip
    x = RNG.normal(size=(1, 2, 2, 3)).astype(np.float32)
    want = (x - parts["m"]) / np.sqrt(parts["v"] + 1e-3) * parts["gamma"] + parts["beta"]
    np.testing.assert_allclose(run(parse(g), x)[0], want, atol=1e-5)


def test_shape_arithmetic_folds_to_a_constant_reshape() -> None:
    g = Nodes()
    g.placeholder("x", (1, 2, 3, 4))
    g.add("Shape", "shape", ["x"])
    for name, value in (("b", [0]), ("e", [1]), ("s", [1])):
        g.const(name, np.array(value, np.int32))
    g.add("StridedSlice", "batch", ["shape", "b", "e", "s"], shrink_axis_mask=1)
    g.const("rest", np.int32(-1))
    g.add("Pack", "target", ["batch", "rest"], N=2, axis=0)
    g.add("Reshape", "y", ["x", "target"])
    graph = parse(g)
    assert [op.kind for op in graph.ops] == ["RESHAPE"]
    assert graph.outputs[0].shape == (1, 24)


@pytest.mark.parametrize("mode", ["MIN_FIRST", "MIN_COMBINED"])
def test_dequantize_of_a_constant(mode: str) -> None:
    g = Nodes()
    g.placeholder("x", (1, 4))
    codes = np.array([0, 1, 128, 255], np.uint8)
    g.const("codes", codes, "DT_QUINT8")
    g.const("low", np.float32(-1.0))
    g.const("high", np.float32(3.0))
    g.add("Dequantize", "w", ["codes", "low", "high"], mode=mode)
    g.add("Mul", "y", ["x", "w"])
    got = run(parse(g), np.ones((1, 4), np.float32))[0]
    np.testing.assert_allclose(got[0], codes.astype(np.float64) * 4 / 255 - 1, atol=4 / 255)


def test_fake_quant_keeps_its_range() -> None:
    g = Nodes()
    g.placeholder("x", (1, 4))
    g.add("FakeQuantWithMinMaxArgs", "a", ["x"], min=-1.0, max=1.0, num_bits=8)
    g.const("low", np.float32(0.0))
    g.const("high", np.float32(0.5))
    g.add("FakeQuantWithMinMaxVars", "y", ["a", "low", "high"], num_bits=8, narrow_range=False)
    ranges = [(op.attrs["min"], op.attrs["max"]) for op in parse(g).ops_of("FAKE_QUANT")]
    assert ranges == [(-1.0, 1.0), (0.0, 0.5)]


def test_detection_postprocess_keeps_its_attributes() -> None:
    from flatbuffers import flexbuffers

    g = Nodes()
    g.placeholder("boxes", (1, 8, 4))
    g.placeholder("scores", (1, 8, 3))
    g.const("anchors", RNG.uniform(size=(8, 4)))
    g.add(
        "TFLite_Detection_PostProcess",
        "post",
        ["boxes", "scores", "anchors"],
        max_detections=5,
        max_classes_per_detection=1,
        num_classes=2,
        nms_iou_threshold=0.5,
        nms_score_threshold=0.1,
        y_scale=10.0,
        x_scale=10.0,
        h_scale=5.0,
        w_scale=5.0,
    )
    graph = parse(g)
    (op,) = graph.ops
    assert (op.kind, len(graph.outputs)) == ("CUSTOM", 4)
    options = flexbuffers.Loads(op.attrs["custom_options"])
    assert options["max_detections"] == 5
    assert options["nms_iou_threshold"] == pytest.approx(0.5)


def test_batch_of_unknown_size_becomes_one_with_a_notice() -> None:
    g = Nodes()
    g.placeholder("x", (-1, 4))
    g.add("Relu", "y", ["x"])
    model = parse_graphdef(g.bytes())
    assert model.graph.inputs[0].shape == (1, 4)
    assert "batch size unknown" in model.diagnostics[0].text


def test_inputs_and_outputs_can_be_named() -> None:
    g = conv_net("NHWC")
    graph = parse(g, inputs=["act:1x4x4x4"], outputs=["pool"])
    assert [t.name for t in graph.inputs] == ["act"]
    assert [op.kind for op in graph.ops] == ["MAX_POOL_2D"]


def broken(change: str) -> bytes:
    g = Nodes()
    g.placeholder("x", (1, 4))
    if change == "unsupported":
        g.add("FancyOp", "strange", ["x"])
        g.add("Relu", "y", ["strange"])
    elif change == "variable":
        g.add("VariableV2", "weights")
        g.add("Add", "y", ["x", "weights"])
    elif change == "missing":
        g.add("Relu", "y", ["nowhere"])
    elif change == "cycle":
        g.add("Add", "a", ["x", "b"])
        g.add("Relu", "b", ["a"])
        g.add("Relu", "y", ["b"])
    elif change == "shape":
        g.const("w", np.ones((3, 5), np.float32))
        g.add("MatMul", "y", ["x", "w"])
    elif change == "training":
        g.const("c", np.ones(4, np.float32))
        g.add("FusedBatchNorm", "y", ["x", "c", "c", "c", "c"], is_training=True)
    return g.bytes()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ("unsupported", UnsupportedError, ["FancyOp", "strange", "--output"]),
        ("variable", UnsupportedError, ["weights", "freeze"]),
        ("missing", ModelFileError, ["nowhere"]),
        ("cycle", ModelFileError, ["cycle that is no loop", "damaged"]),
        ("shape", QfError, ["y"]),
        ("training", QfError, ["y"]),
    ],
)
def test_graphs_that_cannot_be(change: str, error: type[QfError], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        parse_graphdef(broken(change), Path("model.pb"))
    text = str(caught.value)
    assert "model.pb" in text
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_wrong_names_get_a_hint() -> None:
    with pytest.raises(UsageError, match="did you mean 'pool'"):
        parse(conv_net("NHWC"), outputs=["pol"])


@pytest.mark.parametrize("cut", [0, 1, 7, 100, 1000])
def test_truncated_and_random_files_are_refused_or_read(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "model.pb"
    data = conv_net("NHWC").bytes()
    for content in (data[:cut], RNG.bytes(cut), data[cut + 1 :], data[:-1]):
        path.write_bytes(content)
        with pytest.raises(QfError) as caught:
            read_graphdef(path)
        assert "model.pb" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_mutated_files_give_an_error_or_a_graph() -> None:
    data = bytearray(conv_net("NCHW").bytes())
    for _ in range(300):
        copy = bytearray(data)
        for place in RNG.integers(0, len(copy), 3):
            copy[place] = RNG.integers(0, 256)
        try:
            parse_graphdef(bytes(copy))
        except QfError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(("data_type", "low_code"), [("DT_QUINT8", 0), ("DT_QINT8", -128)])
def test_dequantize_scaled_follows_the_wider_end(data_type: str, low_code: int) -> None:
    g = Nodes()
    g.placeholder("x", (1, 256))
    codes = np.arange(low_code, low_code + 256)
    g.const("codes", codes.astype(np.int8 if low_code else np.uint8), data_type)
    g.const("low", np.float32(-1.0))
    g.const("high", np.float32(0.5))
    g.add("Dequantize", "w", ["codes", "low", "high"], mode="SCALED")
    g.add("Mul", "y", ["x", "w"])
    # Unsigned codes: max / 255. Signed: the larger of min / -128 and max / 127.
    scale = 1 / 128 if low_code else 0.5 / 255
    got = run(parse(g), np.ones((1, 256), np.float32))[0]
    np.testing.assert_allclose(got[0], codes * scale, atol=1e-6)


def test_dequantize_per_axis() -> None:
    g = Nodes()
    g.placeholder("x", (1, 2, 2))
    g.const("codes", np.array([[0, 255], [0, 255]], np.uint8), "DT_QUINT8")
    g.const("low", np.array([0.0, -1.0], np.float32))
    g.const("high", np.array([1.0, 3.0], np.float32))
    g.add("Dequantize", "w", ["codes", "low", "high"], mode="SCALED", axis=0)
    g.add("Mul", "y", ["x", "w"])
    got = run(parse(g), np.ones((1, 2, 2), np.float32))[0]
    np.testing.assert_allclose(got[0], [[0, 1], [0, 3]], atol=1e-6)


def test_a_constant_that_is_fake_quantized_twice_keeps_both() -> None:
    g = Nodes()
    g.placeholder("x", (1, 4))
    g.const("w", RNG.normal(size=4))
    g.add("FakeQuantWithMinMaxArgs", "q1", ["w"], min=-1.0, max=1.0, num_bits=4)
    g.add("FakeQuantWithMinMaxArgs", "q2", ["q1"], min=-0.5, max=0.5, num_bits=8)
    g.add("Mul", "y", ["x", "q2"])
    graph = parse(g)
    assert [op.attrs["num_bits"] for op in graph.ops_of("FAKE_QUANT")] == [4, 8]


def test_fake_quantization_of_nothing_is_refused() -> None:
    g = Nodes()
    g.placeholder("x", (1, 4))
    g.const("w", np.zeros((0, 4), np.float32))
    g.add("FakeQuantWithMinMaxArgs", "q", ["w"], min=-1.0, max=1.0)
    g.add("MatMul", "y", ["x", "q"], transpose_b=True)
    with pytest.raises(ModelFileError, match="quantizes nothing"):
        parse(g)


def test_ranges_that_differ_in_shape_are_refused() -> None:
    g = Nodes()
    g.placeholder("x", (1, 4))
    g.const("low", np.array([-1.0], np.float32))
    g.const("high", np.ones(4, np.float32))
    g.add("FakeQuantWithMinMaxVarsPerChannel", "y", ["x", "low", "high"])
    with pytest.raises(ModelFileError, match="ranges of shape"):
        parse(g)


def test_a_placeholder_whose_shape_is_no_shape_asks_for_one() -> None:
    g = Nodes()
    g.add("Placeholder", "x", shape="1x4")
    g.add("Relu", "y", ["x"])
    with pytest.raises(UsageError, match="--input x:1x64x64x1"):
        parse(g)


def test_no_node_has_two_converters() -> None:
    """The later of two tables would win, and the other converter would be dead code."""
    counts = Counter(node_op for table in TABLES for node_op in table)
    assert [node_op for node_op, count in counts.items() if count > 1] == []


def test_it_is_read_without_the_modules_of_tflite(tmp_path: Path) -> None:
    """In a process of its own: elsewhere other tests have imported them, with all op kinds."""
    path = tmp_path / "m.pb"
    g = Nodes()
    g.add("Relu", "y", [g.placeholder("x", (1, 4))])
    path.write_bytes(g.bytes())
    code = (
        "import sys; from qfrewrite.formats.graphdef.read import read_graphdef; "
        f"read_graphdef({str(path)!r}); assert 'qfrewrite.formats.tflite.schema' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
