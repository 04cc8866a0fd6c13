"""Recurrent cells, loops, branches and variables: kept in float, between int8 neighbours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import normal

import qfrewrite as qf
from qfrewrite.data.source import synthetic
from qfrewrite.formats.tflite.read import read_tflite
from qfrewrite.formats.tflite.schema import default_attrs
from qfrewrite.formats.tflite.write import write_tflite
from qfrewrite.ir import Graph, Model, Op, Tensor, constant
from qfrewrite.runtime.metrics import collect, compare
from qfrewrite.runtime.session import Runner, input_specs


def converted(function: Callable[[Any], Any], shape: tuple[int, ...], module: Any = None) -> bytes:
    import tensorflow as tf

    concrete = tf.function(function).get_concrete_function(tf.TensorSpec(shape))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    converter.experimental_enable_resource_variables = True
    return bytes(converter.convert())


def loop() -> bytes:
    import tensorflow as tf

    def f(x: Any) -> Any:
        def body(i: Any, y: Any) -> Any:
            return i + 1, tf.nn.relu(y) * 1.5 - 0.1

        return tf.while_loop(lambda i, y: i < 3, body, [tf.constant(0), x * 2.0])[1] + 1.0

    return converted(f, (1, 8))


def branch() -> bytes:
    import tensorflow as tf

    def f(x: Any) -> Any:
        y = tf.abs(x)
        return tf.cond(tf.reduce_sum(x) > 0, lambda: tf.tanh(y), lambda: y * 2.0) * 3.0

    return converted(f, (1, 8))


def variable() -> bytes:
    import tensorflow as tf

    class Counter(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.v = tf.Variable(np.ones((1, 8), "f4"))

        def __call__(self, x: Any) -> Any:
            self.v.assign(x * 0.5)
            return tf.nn.relu(self.v) * 2.0

    module = Counter()
    return converted(module, (1, 8), module)


def recurrent() -> bytes:
    import tensorflow as tf

    rng = np.random.default_rng(0)
    w, u, b = (rng.normal(size=s).astype("f4") * 0.4 for s in ((6, 32), (8, 32), (32,)))
    inputs = tf.keras.Input((5, 6), batch_size=1)
    layer = tf.keras.layers.LSTM(8)
    model = tf.keras.Model(inputs, tf.keras.layers.Dense(4, activation="relu")(layer(inputs)))
    layer.set_weights([w, u, b])
    return bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


CASES: dict[str, tuple[Callable[[], bytes], str]] = {
    "loop": (loop, "WHILE"), "branch": (branch, "IF"), "variable": (variable, "CALL_ONCE"),
    "recurrent": (recurrent, "WHILE"),
}  # fmt: skip


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_what_runs_other_graphs_or_keeps_state(name: str, tmp_path: Path) -> None:
    make, kind = CASES[name]
    source = tmp_path / "float.tflite"
    source.write_bytes(make())
    model = qf.load(source)
    assert any(kind in op.kind for op in model.graph.ops)
    samples = synthetic(input_specs(model.graph), 12)
    wanted = collect(Runner(source, threads=1), samples)
    qf.run_passes(model, "calibrate", data=[{k: v.copy() for k, v in s.items()} for s in samples])
    saved = qf.save(model, tmp_path / "int8.tflite")
    assert saved.lowering.counts["int8"] >= 1
    assert len(read_tflite(saved.path).graphs) == len(model.graphs)
    got = collect(Runner(saved.path, threads=1), samples)
    assert compare(wanted, got).sqnr_db > 25


def test_an_lstm_cell_with_its_state(tmp_path: Path) -> None:
    graph = Graph()
    x = Tensor("x", (1, 5, 6))
    graph.set_io([x])
    dense = graph.add_tensor(Tensor("dense", (1, 5, 6)))
    graph.add_op(Op("ABS", [x], [dense]))

    def const(name: str, *shape: int) -> Tensor:
        return constant(name, normal(*shape, scale=0.4, seed=len(name)))

    gates = ("input", "forget", "cell", "output")
    states = [Tensor(n, (1, 8), is_variable=True) for n in ("h", "c")]
    weights = [const(f"w_{g}", 8, 6) for g in gates] + [const(f"u_{g}", 8, 8) for g in gates]
    biases, nothing = [const(f"b_{g}", 8) for g in gates], [None]
    operands = [dense, *weights, *nothing * 3, *biases, *nothing * 2, *states, *nothing * 4]
    y, z = Tensor("y", (1, 5, 8)), Tensor("z", (1, 5, 8))
    attrs = {**default_attrs("UNIDIRECTIONAL_SEQUENCE_LSTM"), "fused_activation_function": "TANH"}
    graph.add_op(Op("UNIDIRECTIONAL_SEQUENCE_LSTM", operands, [y], attrs, name="lstm"))
    graph.add_op(Op("RELU", [y], [z]))
    graph.set_io(outputs=[z])
    source = tmp_path / "float.tflite"
    write_tflite(Model([graph]), source)
    model = qf.load(source)
    samples = synthetic(input_specs(model.graph), 1)
    wanted = collect(Runner(source, threads=1), samples)
    qf.run_passes(model, "calibrate", data=[{k: v.copy() for k, v in s.items()} for s in samples])
    saved = qf.save(model, tmp_path / "int8.tflite")
    assert saved.lowering.float_ops == [("y", "UNIDIRECTIONAL_SEQUENCE_LSTM", "no int8 kernel")]
    assert saved.lowering.counts == {"int8": 2}
    assert compare(wanted, collect(Runner(saved.path, threads=1), samples)).sqnr_db > 25
