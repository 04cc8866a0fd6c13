"""A Keras network in every form a user may have, and what TensorFlow makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zoo

import qfrewrite as qf
from qfrewrite.formats.tflite.read import read_tflite
from qfrewrite.ir import Array, Model
from qfrewrite.runtime.session import Runner

CALIBRATION, MEASURING = 100, 64
# TensorFlow's calibrator ends in a segmentation fault on loops, so there is nothing to compare
# with; the least signal to noise ratio that is accepted instead, dB.
WITHOUT_PEER = {"lstm": 32.0, "gru": 29.0, "bilstm": 34.0}
# Ops that only change the type of what they are given.
_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE", "CAST"})


@dataclass
class Subject:
    """One network: its frozen graph, its `.tflite` by TensorFlow, samples, and true outputs."""

    name: str

    @cached_property
    def model(self) -> Any:
        """The Keras model."""
        return zoo.built(self.name)

    @cached_property
    def calibration(self) -> list[list[Array]]:
        """Samples to calibrate on."""
        return zoo.samples(self.model, CALIBRATION, seed=1)

    @cached_property
    def measuring(self) -> list[list[Array]]:
        """Samples nobody calibrates on."""
        return zoo.samples(self.model, MEASURING, seed=2)

    @cached_property
    def wanted(self) -> list[list[Array]]:
        """What Keras computes for the measuring samples."""
        batch = [np.concatenate(parts) for parts in zip(*self.measuring, strict=True)]
        outputs = [np.asarray(v) for v in self._call(*batch)]
        return [[v[i : i + 1] for v in outputs] for i in range(len(self.measuring))]

    def _call(self, *values: Any) -> list[Any]:
        result = self.model(list(values) if len(values) > 1 else values[0], training=False)
        return list(result) if isinstance(result, list | tuple) else [result]

    @property
    def input_names(self) -> list[str]:
        """The inputs in the order of samples."""
        return [f"in_{i}" for i in range(len(self.model.inputs))]

    @cached_property
    def _function(self) -> Any:
        import tensorflow as tf

        specs = [
            tf.TensorSpec((1, *x.shape[1:]), x.dtype, name=name)
            for x, name in zip(self.model.inputs, self.input_names, strict=True)
        ]
        return tf.function(self._call, autograph=False).get_concrete_function(*specs)

    @cached_property
    def _frozen(self) -> Any:
        from tensorflow.python.framework.convert_to_constants import (
            convert_variables_to_constants_v2,
        )

        return convert_variables_to_constants_v2(self._function, lower_control_flow=False)

    @cached_property
    def graphdef(self) -> bytes:
        """The frozen `.pb`."""
        content: bytes = self._frozen.graph.as_graph_def().SerializeToString()
        return content

    @property
    def graphdef_outputs(self) -> list[str]:
        """Names of the frozen graph's outputs in order."""
        return [t.name.removesuffix(":0") for t in self._frozen.outputs]

    @cached_property
    def tflite(self) -> bytes:
        """TensorFlow's float `.tflite`."""
        return self._convert()

    @cached_property
    def tflite_int8(self) -> bytes:
        """TensorFlow's int8 `.tflite`, float at its ends; what has no int8 kernel stays float."""
        import tensorflow as tf

        order = self._order(self.tflite)

        def samples() -> Iterator[list[Array]]:
            for x in self.calibration:
                yield [x[i] for i in order]

        def settings(converter: Any) -> None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = samples

        return self._convert(settings)

    def _convert(self, settings: Callable[[Any], None] | None = None) -> bytes:
        import tensorflow as tf

        converter = tf.lite.TFLiteConverter.from_concrete_functions([self._frozen])
        if settings is not None:
            settings(converter)
        content: bytes = converter.convert()
        return content

    def loaded(self, form: str, folder: Path) -> Model:
        """The network as qfrewrite reads it; form: `pb` or `tflite`."""
        path = folder / f"{self.name}.{form}"
        path.write_bytes(self.graphdef if form == "pb" else self.tflite)
        if form == "pb":
            return qf.load(path, inputs=self.input_names, outputs=self.graphdef_outputs)
        return qf.load(path)

    def quantized(
        self, form: str, folder: Path, passes: str = "calibrate", target: str | None = None
    ) -> bytes:
        """Our int8 `.tflite`, float at its ends."""
        model = self.loaded(form, folder)
        qf.run_passes(model, passes, data=self.feed(model), samples=CALIBRATION, threads=1)
        saved = qf.save(model, folder / "int8.tflite", io="float32", target=target)
        return saved.path.read_bytes()

    def outputs_of(self, content: bytes) -> list[list[Array]]:
        """What a `.tflite` gives for the measuring samples, real values."""
        runner, order = Runner(content, threads=1), self._order(content)
        return [[v.copy() for v in runner.run([x[i] for i in order])] for x in self.measuring]

    def _order(self, content: bytes) -> list[int]:
        """Which of a sample's arrays each input of a `.tflite` takes."""
        return [
            next(i for i, name in enumerate(self.input_names) if name in spec.name)
            for spec in Runner(content, threads=1).inputs
        ]

    def feed(self, model: Model) -> list[dict[str, Array]]:
        """The calibration samples under the names of `model`'s inputs."""
        names = [t.name for t in model.graph.inputs]
        order = [next(i for i, n in enumerate(self.input_names) if n in name) for name in names]
        return [
            {name: x[i] for name, i in zip(names, order, strict=True)} for x in self.calibration
        ]


def largest_difference(wanted: list[list[Array]], got: list[list[Array]]) -> float:
    """max |a - b| over the range of a, of the worst output."""
    worst = 0.0
    for output in range(len(wanted[0])):
        a = np.stack([row[output] for row in wanted]).astype(np.float64)
        b = np.stack([row[output].reshape(a.shape[1:]) for row in got])
        worst = max(worst, float(np.abs(a - b).max() / max(np.ptp(a), 1e-12)))
    return worst


def sqnr_db(wanted: list[list[Array]], got: list[list[Array]]) -> list[float]:
    """Signal to noise of each output over all samples, dB; the signal without its mean."""
    figures = []
    for output in range(len(wanted[0])):
        a = np.stack([row[output] for row in wanted]).astype(np.float64)
        b = np.stack([row[output].reshape(a.shape[1:]) for row in got])
        noise = float(((a - b) ** 2).sum())
        signal = float(((a - a.mean()) ** 2).sum())
        figures.append(10 * np.log10(signal / noise) if noise else np.inf)
    return figures


def float_ops(content: bytes, folder: Path) -> list[str]:
    """Kinds of the ops of a `.tflite` that compute in float."""
    path = folder / "counted.tflite"
    path.write_bytes(content)
    return [
        op.kind
        for graph in read_tflite(path).graphs
        for op in graph.ops
        if op.kind not in _CONVERSIONS and any(t.dtype == "float32" for t in op.outputs)
    ]
