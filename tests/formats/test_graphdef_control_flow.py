"""Loops, conditions, function calls and lists of tensors of a GraphDef, against TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from control_flow_cases import KERAS, SHAPE, V1, V2, frozen_v1, frozen_v2

from qfrewrite import api
from qfrewrite.formats.graphdef.read import parse_graphdef
from qfrewrite.ir import Array
from qfrewrite.runtime.session import Runner

pytestmark = pytest.mark.tensorflow

# Inputs on which predicates of the cases are true, and false.
INPUTS = [
    np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32) + shift
    for seed, shift in ((0, 0.3), (1, -0.3), (2, 1.5))
]


def run_tensorflow(message: Any, output: str, feeds: dict[str, Any]) -> Array:
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(message, name="")
    with tf.compat.v1.Session(graph=graph) as session:
        result: Array = session.run(f"{output}:0", feeds)
    return result


def check(message: Any, tmp_path: Path, feeds: dict[str, Any] | None = None) -> None:
    """In float the results are TensorFlow's; an int8 file can be made, and gives numbers.

    Loops stay float: what computes in int8 is a multiplication before them.
    """
    model = parse_graphdef(message.SerializeToString(), inputs=["x:1x7x5"])
    (output,) = model.graph.outputs
    api.save(model, tmp_path / "float.tflite", scheme="float32")
    runner = Runner(tmp_path / "float.tflite", threads=1)
    for x in INPUTS:
        want = run_tensorflow(message, output.name, {"x:0": x, **(feeds or {})})
        (got,) = runner.run([x])
        assert got.shape == want.shape
        span = float(np.ptp(want)) or 1.0
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * span)
    api.run_passes(model, "calibrate", data=np.concatenate(INPUTS), preprocess="raw")
    api.save(model, tmp_path / "int8.tflite", scheme="int8")
    (codes,) = Runner(tmp_path / "int8.tflite", threads=1).run([INPUTS[0]])
    assert np.isfinite(codes).all()


@pytest.mark.parametrize("lowered", [True, False], ids=["lowered", "functional"])
@pytest.mark.parametrize("name", V2)
def test_functions_compute_what_tensorflow_does(name: str, lowered: bool, tmp_path: Path) -> None:
    import tensorflow as tf

    spec = tf.TensorSpec(SHAPE, tf.float32, name="x")
    call = lambda x: V2[name](tf, x * 1.25)  # noqa: E731
    check(frozen_v2(tf, call, spec, lowered=lowered), tmp_path)


@pytest.mark.parametrize("lowered", [True, False], ids=["lowered", "functional"])
@pytest.mark.parametrize("name", KERAS)
def test_recurrent_layers_compute_what_keras_does(name: str, lowered: bool, tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    model = keras.Sequential([keras.Input(SHAPE[1:]), *KERAS[name](keras.layers)])
    spec = tf.TensorSpec((None, *SHAPE[1:]), tf.float32, name="x")
    message = frozen_v2(tf, lambda x: model(x * 1.25, training=False), spec, lowered=lowered)
    check(message, tmp_path)


@pytest.mark.parametrize("name", V1)
def test_version_1_computes_what_tensorflow_does(name: str, tmp_path: Path) -> None:
    import tensorflow as tf

    feeds = {"is_training:0": False} if name == "training by default" else None
    check(frozen_v1(tf, lambda tf, x: V1[name](tf, x * 1.25)), tmp_path, feeds)
