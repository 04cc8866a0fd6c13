"""Convert a frozen TensorFlow graph to `.tflite` with TensorFlow's own converter: the peer.

What a user would write, kept whole on purpose: `cost.py` measures this process.

    python benchmarks/tf_convert.py MODEL.pb OUT.tflite --output NAME --data DIR --samples 200
    python benchmarks/tf_convert.py MODEL.pb OUT.tflite --output NAME --float
    python benchmarks/tf_convert.py QAT.pb OUT.tflite --output NAME --fakequant
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf
from _common import FloatArray, list_images, read_image

Converter = Any  # tf.compat.v1.lite.TFLiteConverter; TensorFlow ships no types


def open_graph(path: Path, source: str, result: str, size: int | None) -> Converter:
    """A converter for the part of the graph between `source` and `result`."""
    shapes = {source: [1, size, size, 3]} if size else None
    return tf.compat.v1.lite.TFLiteConverter.from_frozen_graph(
        str(path), input_arrays=[source], output_arrays=[result], input_shapes=shapes
    )


def input_size(path: Path, source: str) -> int | None:
    """Height of the graph's input, or None where the graph leaves it open."""
    graph = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    (node,) = (n for n in graph.node if n.name == source)
    dims = [d.size for d in node.attr["shape"].shape.dim]
    return dims[1] if len(dims) == 4 and dims[1] > 0 else None


def representative(files: list[Path], size: int) -> Callable[[], Iterator[list[FloatArray]]]:
    """The converter's representative dataset: one image at a time."""

    def samples() -> Iterator[list[FloatArray]]:
        for file in files:
            yield [read_image(file, size)[np.newaxis]]

    return samples


def quantize_from_data(
    converter: Converter, files: list[Path], size: int, *, per_tensor: bool, io: str
) -> None:
    """Post-training int8, ranges measured on `files`."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative(files, size)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter._experimental_disable_per_channel = per_tensor
    if io == "int8":
        converter.inference_input_type = converter.inference_output_type = tf.int8
