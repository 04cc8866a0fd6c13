"""Recurrent Keras layers and graphs with open dimensions, as TensorFlow's converter writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from graphs import normal

import qfrewrite as qf
from qfrewrite.cli.main import main
from qfrewrite.data.source import synthetic
from qfrewrite.runtime.metrics import collect, compare
from qfrewrite.runtime.session import Runner, input_specs

pytestmark = [
    pytest.mark.tensorflow, pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]  # fmt: skip


def keras(*names: str, shape: tuple[int | None, ...] = (12, 8)) -> Callable[[], bytes]:
    """A network with a batch of 1 and these layers, each called with `return_sequences`."""

    def make() -> bytes:
        import tensorflow as tf

        layers = tf.keras.layers
        tf.keras.utils.set_random_seed(3)
        stack = []
        for name in names:
            if name.startswith("Bi"):
                inner = getattr(layers, name[2:])(16, return_sequences=True)
                stack.append(layers.Bidirectional(inner))
            elif name == "Conv1D":
                stack.append(layers.Conv1D(8, 3, padding="same", activation="relu"))
            else:
                stack.append(getattr(layers, name)(16, return_sequences=True))
        inputs = tf.keras.Input(shape, batch_size=1)
        model = tf.keras.Sequential([inputs, *stack, layers.Dense(32)])
        return bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())

    return make


def function(make: Callable[[Any, Any], Any], *shape: int | None) -> Callable[[], bytes]:
    """What the converter makes of `make(tf, x)` for x of this shape."""

    def convert() -> bytes:
        import tensorflow as tf

        traced = tf.function(lambda x: make(tf, x))
        concrete = traced.get_concrete_function(tf.TensorSpec(shape, tf.float32))
        return bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())

    return convert


def spectrum(tf: Any, x: Any) -> Any:
    """Frames, spectrum, dense layer, convolution: reshaped by computed shapes, as in BirdNET."""
    frames = tf.signal.frame(x, 64, 32) * tf.signal.hann_window(64)
    y = tf.reshape(tf.abs(tf.signal.rfft(frames, [64])), [-1, 33])
    y = tf.reshape(tf.matmul(y, normal(33, 32)), [tf.shape(x)[0], -1, 32, 1])
    y = tf.nn.relu(tf.nn.conv2d(y, normal(3, 3, 1, 8, scale=0.3), 1, "SAME"))
    return tf.reduce_mean(y, [1, 2])


def selected(tf: Any, x: Any) -> Any:
    """As many values as the data say."""
    where = tf.where(x[0] > 0.2)
    return tf.reduce_sum(tf.gather_nd(x[0], where), keepdims=True) * 0.1, tf.nn.relu(x) * 2.0


def grown(tf: Any, x: Any) -> Any:
    """A loop whose value grows with every step."""
    any_rows = [tf.TensorShape([]), tf.TensorShape([None, 8])]

    def body(i: Any, y: Any) -> Any:
        return i + 1, tf.concat([y, tf.nn.relu(x)], 0)

    looped = tf.while_loop(lambda i, y: i < 3, body, [0, x], shape_invariants=any_rows)[1]
    return tf.matmul(looped, normal(8, 128)) * 0.5


def attention(tf: Any, x: Any) -> Any:
    s = tf.shape(x)
    y = tf.reshape(x, [s[0], s[1] * s[2], s[3]])
    y = tf.matmul(tf.nn.softmax(tf.matmul(y, y, transpose_b=True)), y)
    return tf.reshape(y, s) * 0.5 + x


def upsampled(tf: Any, x: Any) -> Any:
    y = tf.nn.relu(tf.nn.conv2d(x, normal(3, 3, 3, 40, scale=0.3), 2, "SAME"))
    return tf.concat([tf.image.resize(y, tf.shape(x)[1:3]), x], -1)


CASES: dict[str, Callable[[], bytes]] = {
    "lstm": keras("LSTM"), "gru": keras("GRU"), "simple": keras("SimpleRNN"),
    "bilstm": keras("BiLSTM"), "conv_lstm_gru": keras("Conv1D", "LSTM", "GRU"),
    "any_time": keras("GRU", "LSTM", shape=(None, 8)), "spectrum": function(spectrum, None, 512),
    "selected": function(selected, 1, 8), "grown": function(grown, 1, 8),
    "attention": function(attention, None, 4, 4, 4),
    "upsampled": function(upsampled, 1, None, None, 3),
}  # fmt: skip
# Weights too small to be worth 8 bits, or none.
_FLOAT16_DB = 60.0
_DYNAMIC_DB = 35.0
_INT8_DB = {"any_time": 32.0}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("open")

    def file(name: str) -> Path:
        path = folder / f"{name}.tflite"
        if not path.exists():
            path.write_bytes(CASES[name]())
        return path

    return file


@pytest.mark.parametrize("name", CASES)
def test_open_shapes_in_every_scheme(
    name: str, files: Callable[[str], Path], tmp_path: Path
) -> None:
    source = files(name)
    samples = list(synthetic(input_specs(qf.load(source).graph), 8))
    wanted = collect(Runner(source, threads=1), samples)
    assert all(np.isfinite(v).all() and v.size for values in wanted for v in values)

    def written(scheme: str, passes: str = "") -> float:
        model, path = qf.load(source), tmp_path / f"{scheme}.tflite"
        if passes:
            copies = [{k: v.copy() for k, v in s.items()} for s in samples]
            qf.run_passes(model, passes, data=copies)
        qf.save(model, path, scheme=scheme)
        return compare(wanted, collect(Runner(path, threads=1), samples)).sqnr_db

    assert written("float32") == np.inf
    assert written("float16") > _FLOAT16_DB
    assert written("int8", "fold_bn,calibrate") > _INT8_DB.get(name, 34.0)
    if name not in ("attention", "selected"):
        assert written("dynamic") > _DYNAMIC_DB
        assert written("weight-only") > _DYNAMIC_DB
    result = CliRunner().invoke(main, ["inspect", str(source)])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", ["lstm", "any_time", "upsampled"])
@pytest.mark.parametrize(
    "passes",
    ["round_geometry,calibrate", "equalize,calibrate", "svd_factorize(energy=0.9),correct_bias",
     "@per-channel", "@per-tensor"],
)  # fmt: skip
def test_other_passes_leave_what_they_do_not_know(
    name: str, passes: str, files: Callable[[str], Path], tmp_path: Path
) -> None:
    """Loops slice by computed bounds, and values of unknown shape come out of them."""
    model = qf.load(files(name))
    samples = [{k: v.copy() for k, v in s.items()} for s in synthetic(input_specs(model.graph), 4)]
    wanted = collect(Runner(files(name), threads=1), samples)
    qf.run_passes(model, passes, data=[dict(s) for s in samples])
    scheme = "float32" if "svd" in passes else "int8"
    qf.save(model, tmp_path / "out.tflite", scheme=scheme)
    got = collect(Runner(tmp_path / "out.tflite", threads=1), samples)
    assert compare(wanted, got).sqnr_db > (10 if "svd" in passes else 25)
