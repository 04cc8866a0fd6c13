"""Float results against TensorFlow's own run of the same `.pb`, on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared_path

import qfrewrite as qf
from qfrewrite.data.source import open_data
from qfrewrite.ir import Array
from qfrewrite.runtime.session import Runner, input_specs

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

# file -> (softmax output, logits before it)
MODELS = {
    "mobilenet_v1_0.25_128_2017_06_frozen_graph.pb": (
        "MobilenetV1/Predictions/Reshape_1", "MobilenetV1/Predictions/Reshape"),
    "mobilenet_v1_0.25_224_2017_06_frozen_graph.pb": (
        "MobilenetV1/Predictions/Reshape_1", "MobilenetV1/Predictions/Reshape"),
    "mobilenet_v1_0.25_128_2017_06_quantized_graph.pb": (
        "MobilenetV1/Predictions/Reshape_1", "MobilenetV1/Predictions/Reshape"),
    "mobilenet_v1_0.75_224_fusedbn_frozen_graph.pb": ("Predictions/Softmax", "logits"),
    "mobilenet_v2_1.0_224_folded_frozen_graph.pb": (
        "MobilenetV2/Predictions/Softmax", "MobilenetV2/Logits/Reshape"),
    "flowers_mobilenet_v1_0.25_128_retrained_graph.pb": (
        "final_result", "final_training_ops/Wx_plus_b/add"),
}  # fmt: skip
IMAGES = 20
# Largest difference of the softmax. The retrained head puts two classes close together: there
# TensorFlow itself is 1.0e-5 away from the result in float64, and so is the float32 runtime.
SOFTMAX_TOLERANCE = {"flowers_mobilenet_v1_0.25_128_retrained_graph.pb": 2e-5}


def run_tensorflow(path: Path, outputs: tuple[str, ...], samples: list[Array]) -> list[list[Array]]:
    """What TensorFlow computes for each sample."""
    import tensorflow as tf

    v1: Any = tf.compat.v1
    graph = tf.Graph()
    with graph.as_default():
        definition = v1.GraphDef()
        definition.ParseFromString(path.read_bytes())
        v1.import_graph_def(definition, name="")
    with v1.Session(graph=graph) as session:
        fetches = [f"{name}:0" for name in outputs]
        return [session.run(fetches, {"input:0": x}) for x in samples]


def images_for(model: qf.Model) -> list[Array]:
    """Real images as the model takes them."""
    source = open_data(shared_path("imagenet/val"), input_specs(model.graph))
    return [sample["input"] for sample in source.split(IMAGES)[0]]


@pytest.mark.parametrize("name", MODELS)
def test_float_output_equals_tensorflows(name: str, tmp_path: Path) -> None:
    path, outputs = shared_path(f"models/{name}"), MODELS[name]
    model = qf.load(path, outputs=outputs)
    samples = images_for(model)
    qf.run_passes(model, "fold_bn")
    runner = Runner(qf.save(model, tmp_path / "float.tflite").path, threads=2)
    for want, x in zip(run_tensorflow(path, outputs, samples), samples, strict=True):
        softmax, logits = runner.run([x])
        assert np.abs(softmax - want[0]).max() <= SOFTMAX_TOLERANCE.get(name, 1e-5)
        assert np.abs(logits - want[1]).max() <= 1e-4 * np.abs(want[1]).max()


@pytest.mark.parametrize("name", list(MODELS)[:1] + list(MODELS)[3:5])
def test_written_graphdef_runs_in_tensorflow(name: str, tmp_path: Path) -> None:
    path, (output, _) = shared_path(f"models/{name}"), MODELS[name]
    model = qf.load(path)
    samples = images_for(model)[:3]
    qf.run_passes(model, "fold_bn")
    if not model.edited:  # Nothing to fold: write what was read.
        assert qf.save(model, tmp_path / "same.pb").size
    saved = qf.save(model, tmp_path / "folded.pb")
    before = run_tensorflow(path, (output,), samples)
    after = run_tensorflow(saved.path, (output,), samples)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(b[0], a[0], atol=1e-5)


def test_fake_quant_nodes_become_int8_in_tensorflows_converter(tmp_path: Path) -> None:
    import tensorflow as tf

    name = next(iter(MODELS))
    path, (output, _) = shared_path(f"models/{name}"), MODELS[name]
    data = shared_path("imagenet/calib")
    ours = qf.quantize(path, tmp_path / "ours.tflite", passes="calibrate", data=data, samples=50)
    model = qf.load(path)
    qf.run_passes(model, "calibrate", data=data, samples=50)
    saved = qf.save(model, tmp_path / "fake_quant.pb")
    converter = tf.compat.v1.lite.TFLiteConverter.from_frozen_graph(
        str(saved.path), ["input"], [output]
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_type = tf.int8
    converter.quantized_input_stats = {"input": (0.0, 127.5)}
    converter.inference_input_type = converter.inference_output_type = tf.int8
    theirs, mine = (
        Runner(content, threads=2) for content in (converter.convert(), ours.path.read_bytes())
    )
    agreed = [
        int(theirs.run([x])[0].argmax() == mine.run([x])[0].argmax()) for x in images_for(model)
    ]
    assert np.mean(agreed) >= 0.9
