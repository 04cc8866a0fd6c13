"""What is written as `.pb`, loaded and run in TensorFlow: every op, every test model.

A node that TensorFlow refuses (a wrong type attribute, a name with `;`, a vector where it wants a
scalar) is seen only there: our own reader takes all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import graphs
import networks
import numpy as np
import pytest
from cases import CASES, MOVES, built
from conftest import ROOT, shared_path

import qfrewrite as qf
from qfrewrite.errors import Diagnostics, UnsupportedError
from qfrewrite.formats.graphdef.nodes import parse_ref
from qfrewrite.formats.graphdef.schema import GraphDef
from qfrewrite.formats.graphdef.write import graphdef_bytes
from qfrewrite.ir import Array, Graph, Model
from qfrewrite.lower.model import lower_graphdef
from qfrewrite.ops.build import GraphBuilder, append_op
from qfrewrite.runtime.session import Session

pytestmark = pytest.mark.tensorflow

# Float results of two runtimes, as a share of the output's range.
FLOAT = 1e-4


def run_tensorflow(data: bytes, feeds: Mapping[str, Array], outputs: list[str]) -> list[Array]:
    """The outputs of a GraphDef, by TensorFlow."""
    import tensorflow as tf

    v1: Any = tf.compat.v1
    graph = tf.Graph()
    with graph.as_default():
        message = v1.GraphDef.FromString(data)
        v1.import_graph_def(message, name="")
    with v1.Session(graph=graph) as session:
        found: list[Array] = session.run([_port(n) for n in outputs],
                                         {_port(k): v for k, v in feeds.items()})  # fmt: skip
        return found


def _port(name: str) -> str:
    ref = parse_ref(name)
    return f"{ref.node}:{ref.port}"


def feeds_for(graph: Graph, *, positive: bool = False) -> dict[str, Array]:
    rng = np.random.default_rng(4)
    feeds: dict[str, Array] = {}
    for t in graph.inputs:
        real = rng.uniform(0.1 if positive else -1, 1, t.shape).astype(np.float32)
        feeds[t.name] = real if t.dtype == "float32" else np.zeros(t.shape, t.dtype)
    return feeds


def check_in_tensorflow(model: Model, bound: float = FLOAT, **kw: bool) -> bytes:
    """Write `model`, run the file in TensorFlow and the graph in LiteRT; returns the file.

    bound: how far results may be apart, as a share of the output's range.
    """
    model.loaded = None
    lowered, notes = lower_graphdef(model), Diagnostics()
    data = graphdef_bytes(lowered, notes)
    renamed = dict(re.findall(r"'(.+)' is called '(.+?)'", "\n".join(map(str, notes))))
    feeds = feeds_for(lowered.graph, **kw)
    names = [renamed.get(t.name, t.name) for t in lowered.graph.outputs]
    got = run_tensorflow(data, {renamed.get(k, k): v for k, v in feeds.items()}, names)
    want = Session(lowered.graph, lowered.graph.outputs, threads=1).run(feeds)
    for ours, theirs in zip(want, got, strict=True):
        assert ours.shape == theirs.shape
        wide = ours.astype(np.float64)
        assert np.abs(wide - theirs).max(initial=0) <= bound * max(np.ptp(wide), 1e-6)
    return data


# -- ops -----------------------------------------------------------------------------------

# TensorFlow has no node of this meaning that runs without XLA.
NO_NODE = {"DYNAMIC_UPDATE_SLICE"}
OPS = [(kind, n) for kind, cases in {**CASES, **MOVES}.items() for n in range(len(cases))]
MORE: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "transposed convolution with bias": (
        "TRANSPOSE_CONV",
        [np.array([1, 12, 12, 3], "i4"), graphs.normal(3, 3, 3, 4), (1, 6, 6, 4), graphs.normal(3)],
        {"stride_h": 2, "stride_w": 2, "padding": "SAME"}),
    "dilated depthwise, SAME": (
        "DEPTHWISE_CONV_2D", [(1, 7, 5, 2), graphs.normal(1, 3, 3, 4), graphs.normal(4)],
        {"depth_multiplier": 2, "dilation_h_factor": 2, "dilation_w_factor": 3}),
    "depthwise with two strides": (
        "DEPTHWISE_CONV_2D", [(1, 7, 6, 2), graphs.normal(1, 3, 3, 2), graphs.normal(2)],
        {"stride_h": 1, "stride_w": 2}),
    "depthwise with two strides, VALID": (
        "DEPTHWISE_CONV_2D", [(1, 7, 6, 2), graphs.normal(1, 3, 3, 2), None],
        {"stride_h": 3, "stride_w": 2, "padding": "VALID"}),
    "grouped convolution": (
        "CONV_2D", [(1, 5, 5, 6), graphs.normal(4, 3, 3, 3), graphs.normal(4)], {}),
    "dense that keeps its dimensions": (
        "FULLY_CONNECTED", [(2, 3, 4), graphs.normal(5, 4), graphs.normal(5)],
        {"keep_num_dims": True}),
    "dense with computed weights": ("FULLY_CONNECTED", [(2, 4), (5, 4), None], {}),
    "convolution with computed weights": ("CONV_2D", [(1, 5, 5, 3), (4, 2, 2, 3), None], {}),
    "depthwise with computed weights": (
        "DEPTHWISE_CONV_2D", [(1, 5, 5, 3), (1, 3, 3, 6), None], {"depth_multiplier": 2}),
    "batch norm of a matrix": (
        "BATCH_NORM", [(2, 3), graphs.normal(3), None, graphs.normal(3), np.full(3, 0.5, "f4")],
        {"epsilon": 1e-3}),
    "shape": ("SHAPE", [(2, 3)], {}),
    "gather with int64 indices": ("GATHER", [(4, 3), np.array([2, 0], "i8")], {"axis": 0}),
    "slice by int64": (
        "SLICE", [(4, 3), np.array([1, 0], "i8"), np.array([2, 2], "i8")], {}),
    "least in int64": ("ARG_MIN", [(2, 5), np.array(0, "i4")], {"output_type": "INT64"}),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "case"), OPS, ids=[f"{k}-{n}" for k, n in OPS])
def test_every_op_computes_the_same_in_tensorflow(kind: str, case: int) -> None:
    if kind in NO_NODE:
        pytest.skip("TensorFlow has no such node")
    graph, _, positive = built(kind, case)
    check_in_tensorflow(Model([graph]), 1e-5, positive=positive)


@pytest.mark.parametrize("name", MORE)
def test_corners_compute_the_same_in_tensorflow(name: str) -> None:
    kind, operands, attrs = MORE[name]
    b = GraphBuilder()
    inputs = [
        None if o is None else b.input(f"x{n}", o) if isinstance(o, tuple) else b.const(f"c{n}", o)
        for n, o in enumerate(operands)
    ]
    op = append_op(b.graph, kind, inputs, name="y", attrs=attrs)
    check_in_tensorflow(Model([b.finish(*op.outputs)]), 1e-5)


# -- names ---------------------------------------------------------------------------------


def named(*names: str) -> Model:
    """x -> one RELU per name, each of the one before it; the last two are outputs."""
    b = GraphBuilder()
    tensors = [b.input("serving default:0", (1, 3))]
    for name in names:
        tensors.append(b.op("RELU", tensors[-1], name="op"))
        b.graph.rename(tensors[-1], name)
    return Model([b.finish(*tensors[-2:])])


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (("a;b/c", "d e"), ("a_b/c", "d_e")),
        (("call:0", "call:1"), ("call", "call_1")),
        # The one that can stay stays, wherever it stands.
        (("a;b", "a_b"), ("a_b_1", "a_b")),
        (("_x", "größe"), ("x", "gr_e")),
        (("a>b", "a>"), ("a>b", "a_")),
        # A name inside gives way to an output's.
        (("y", "z;", "y"), ("z_", "y")),
    ],
)
def test_names_are_written_as_tensorflow_takes_them(
    names: tuple[str, ...], written: tuple[str, str]
) -> None:
    model = named(*names)
    notes = Diagnostics()
    data = graphdef_bytes(model, notes)
    x = np.array([[-1, 2, 3]], np.float32)
    for y in run_tensorflow(data, {"serving_default": x}, list(written)):
        np.testing.assert_array_equal(y, np.maximum(x, 0))
    assert any("'serving_default'" in note.text for note in notes)
    for old, new in zip(names[-2:], written, strict=True):
        assert any(f"'{new}'" in note.text for note in notes) == (old not in (new, f"{new}:0"))


def test_an_output_keeps_the_name_of_its_port() -> None:
    """Catches a node made for `parts:1`, and the names of FakeQuant bounds behind it."""
    b = GraphBuilder()
    axis = b.const("axis", np.array([1], np.int32))
    op = append_op(b.graph, "SPLIT", [axis, b.input("x", (1, 4))], name="parts",
                   attrs={"num_splits": 2})  # fmt: skip
    low = b.op("FAKE_QUANT", op.outputs[1], name="parts:1/q", attrs={"min": -1.0, "max": 1.0})
    model = Model([b.finish(op.outputs[1], low)])
    x = np.array([[1, 2, 3, 4]], np.float32)
    found = run_tensorflow(graphdef_bytes(model), {"x": x}, ["parts:1", "parts_1/q"])
    np.testing.assert_array_equal(found[0], x[:, 2:])


# -- fake quantization ---------------------------------------------------------------------


@pytest.mark.parametrize("form", ["depthwise", "activation", "pass"])
def test_ranges_of_one_channel_are_written_as_tensorflow_takes_them(form: str) -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 6, 6, 1))
    w = b.const("w", graphs.normal(1, 3, 3, 1))
    one = {"min": np.array([-1.5], np.float32), "max": np.array([2.0], np.float32)}
    if form == "depthwise":
        w = b.op("FAKE_QUANT", w, name="wq", attrs=one)
    y = b.op("DEPTHWISE_CONV_2D", x, w, b.const("b", [0.5]), name="y")
    if form == "activation":
        y = b.op("FAKE_QUANT", y, name="yq", attrs=one)
    model = Model([b.finish(y)])
    if form == "pass":
        qf.run_passes(model, "calibrate")
    data = check_in_tensorflow(model, 1 / 255)
    fakes = [n for n in GraphDef.FromString(data).node if n.op == "FakeQuantWithMinMaxVars"]
    assert bool(fakes)


# -- models --------------------------------------------------------------------------------

PUBLISHED = (
    "face_detection_sparse_fp16.tflite",
    "flowers_mobilenet_v1_0.25_128_retrained_graph.pb",
    "kws_ref_model_float32.tflite", "mobilenet_v1_0.25_128_2017_06_frozen_graph.pb",
    "mobilenet_v1_0.25_128_2017_06_quantized_graph.pb",
    "mobilenet_v1_0.25_224_glasses2_toco_float.tflite",
    "mobilenet_v1_0.75_224_fusedbn_frozen_graph.pb", "mobilenet_v2_1.0_224_folded_frozen_graph.pb",
    "vww_96_float.tflite",
)  # fmt: skip
BUILT: dict[str, Callable[[], Graph]] = {
    **networks.FAMILIES,
    "unet": networks.unet,
    "separable": graphs.separable,
    "separable of dead channels": partial(graphs.separable, (1, 3)),
}


def load(path: Path) -> Model:
    model = qf.load(path)
    qf.dequantize(model)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("passes", ["", "fold_bn"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_compute_the_same_in_tensorflow(name: str, passes: str) -> None:
    model = load(shared_path(f"models/{name}"))
    if passes:
        qf.run_passes(model, passes)
    check_in_tensorflow(model)


def test_a_custom_op_that_tensorflow_lacks_is_refused_by_name() -> None:
    model = load(shared_path("models/selfie_segmentation_fp16.tflite"))
    with pytest.raises(UnsupportedError, match="Convolution2DTransposeBias"):
        graphdef_bytes(lower_graphdef(model))


@pytest.mark.parametrize("passes", ["", "fold_bn", "calibrate"])
def test_the_digits_compute_the_same_in_tensorflow(passes: str) -> None:
    model = load(ROOT / "examples" / "digits" / "digits_mobilenet.pb")
    if passes:
        qf.run_passes(model, passes)
    check_in_tensorflow(model, 0.05 if passes == "calibrate" else FLOAT)


@pytest.mark.parametrize("passes", ["", "fold_bn", "calibrate"])
@pytest.mark.parametrize("name", BUILT)
def test_networks_compute_the_same_in_tensorflow(name: str, passes: str) -> None:
    """With FakeQuant nodes a value at the edge of two steps may fall to either."""
    model = Model([BUILT[name]()])
    if passes:
        qf.run_passes(model, passes)
    check_in_tensorflow(model, 0.02 if passes == "calibrate" else FLOAT)


# -- files of TensorFlow's converter ---------------------------------------------------------

# name -> (shape of the input, layers from the namespace `keras.layers` and the tensor)
KERAS: dict[str, tuple[tuple[int, ...], Callable[[Any, Any], Any]]] = {
    "batch norm and relu": ((8, 8, 3), lambda k, x: k.Dense(3)(k.Flatten()(
        k.ReLU(6.0)(k.BatchNormalization()(k.Conv2D(4, 3, strides=2, padding="same")(x)))))),
    "separable and dilated": ((9, 9, 3), lambda k, x: k.DepthwiseConv2D(
        3, dilation_rate=2, padding="same")(k.SeparableConv2D(5, 3, activation="relu")(x))),
    "transposed with bias": ((5, 5, 3), lambda k, x: k.Conv2DTranspose(
        4, 3, strides=2, padding="same", activation="relu", bias_initializer="ones")(x)),
    "prelu": ((6, 6, 4), lambda k, x: k.PReLU(
        shared_axes=[1, 2], alpha_initializer="ones")(k.Conv2D(4, 1)(x))),
    "hard swish": ((6, 6, 4), lambda k, x: k.Activation("hard_swish")(k.Conv2D(4, 3)(x))),
    "gelu and layer norm": ((7, 6), lambda k, x: k.LayerNormalization()(
        k.Dense(6, activation="gelu")(x))),
    "attention": ((7, 6), lambda k, x: k.MultiHeadAttention(2, 3)(x, x)),
    "one dimension": ((12, 3), lambda k, x: k.GlobalMaxPooling1D()(
        k.Conv1D(4, 3, dilation_rate=2, padding="causal", activation="relu")(x))),
    "grouped": ((6, 6, 4), lambda k, x: k.Conv2D(6, 3, groups=2)(x)),
    "squeeze and excite": ((6, 6, 4), lambda k, x: k.Multiply()([x, k.Conv2D(
        4, 1, activation="sigmoid")(k.GlobalAveragePooling2D(keepdims=True)(x))])),
    "two outputs": ((6, 6, 4), lambda k, x: [
        k.Softmax()(k.Dense(3)(k.GlobalAveragePooling2D()(x))),
        k.UpSampling2D(2, interpolation="bilinear")(k.LeakyReLU()(x))]),
    "unrolled gru": ((4, 3), lambda k, x: k.GRU(5, unroll=True)(x)),
    "three dimensions": ((4, 6, 6, 2), lambda k, x: k.Conv3D(3, 2, activation="relu")(x)),
}  # fmt: skip
# Beside float32 the converter stores weights in these forms.
STORED = {"batch norm and relu": "dynamic", "separable and dilated": "float16"}


def converted(name: str) -> bytes:
    import tensorflow as tf

    tf.keras.utils.set_random_seed(3)
    shape, layers = KERAS[name]
    x = tf.keras.Input(shape, batch_size=1)
    converter = tf.lite.TFLiteConverter.from_keras_model(
        tf.keras.Model(x, layers(tf.keras.layers, x))
    )
    if name in STORED:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if STORED.get(name) == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return bytes(converter.convert())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KERAS)
def test_converted_files_compute_the_same_in_tensorflow(name: str, tmp_path: Path) -> None:
    """Unedited, and with weights as passes see them."""
    path = tmp_path / "model.tflite"
    path.write_bytes(converted(name))
    for passes in ("", "fold_bn"):
        model = load(path)
        if passes:
            qf.run_passes(model, passes)
        check_in_tensorflow(model)
