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

# real = (int8 - mean) / std: the grid of scale 1/127.5 and zero point 0.
INPUT_MEAN_STD = (0.0, 127.5)


def input_size(path: Path, source: str) -> int:
    """Height of the graph's input, [N, H, W, 3]."""
    graph = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    (node,) = (n for n in graph.node if n.name == source)
    return int(node.attr["shape"].shape.dim[1].size)


def representative(files: list[Path], size: int) -> Callable[[], Iterator[list[FloatArray]]]:
    """The converter's representative dataset: one image at a time."""

    def samples() -> Iterator[list[FloatArray]]:
        for file in files:
            yield [read_image(file, size)[np.newaxis]]

    return samples


def quantize_from_data(
    converter: Converter, samples: Callable[[], Iterator[list[FloatArray]]], *, per_tensor: bool
) -> None:
    """Post-training int8: ranges measured on `samples`, no float op allowed."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = samples
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter._experimental_disable_per_channel = per_tensor


def quantize_from_fakequant(converter: Converter, source: str) -> None:
    """Int8 from the FakeQuant nodes of the graph, without data.

    `optimizations` alone would keep float kernels between QUANTIZE and DEQUANTIZE, as this
    converter's `inference_type` defaults to float32; int8 there is what makes integer kernels. It
    demands `quantized_input_stats`, which count only where no FakeQuant follows the placeholder.

    An activation without FakeQuant silently keeps its op in float. Weights without FakeQuant
    become int8 per channel with max|w|/127; a FakeQuant on weights must be symmetric with
    narrow_range, and per channel on a depthwise kernel it sits on [H, W, 1, C*M], before a Reshape
    to [H, W, C, M]. `optimizations` is set only to let --io float32 through.
    """
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_type = tf.int8
    converter.quantized_input_stats = {source: INPUT_MEAN_STD}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, help="frozen GraphDef (.pb)")
    parser.add_argument("out", type=Path, help=".tflite to write")
    parser.add_argument("--input", default="input", help="name of the input node")
    parser.add_argument("--output", required=True, help="name of the output node")
    parser.add_argument("--data", type=Path, help="folder of calibration images")
    parser.add_argument("--samples", type=int, help="first N images of --data by name (all)")
    parser.add_argument("--per-tensor", action="store_true", help="one scale per weight tensor")
    parser.add_argument("--io", choices=("int8", "float32"), default="int8")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--float", action="store_true", help="do not quantize")
    how.add_argument("--fakequant", action="store_true", help="int8 by the graph's FakeQuant nodes")
    args = parser.parse_args()
    if not (args.float or args.fakequant or args.data):
        parser.error("--data is needed to quantize (or --float, or --fakequant)")
    if args.per_tensor and args.fakequant:
        parser.error("--per-tensor has no effect on --fakequant: the graph's weights decide")
    return args


def main() -> None:
    """Convert as the command line says."""
    args = arguments()
    source, result = args.input.removesuffix(":0"), args.output.removesuffix(":0")
    converter = tf.compat.v1.lite.TFLiteConverter.from_frozen_graph(
        str(args.model), input_arrays=[source], output_arrays=[result]
    )
    if args.fakequant:
        quantize_from_fakequant(converter, source)
    elif not args.float:
        files = list_images(args.data, args.samples)
        samples = representative(files, input_size(args.model, source))
        quantize_from_data(converter, samples, per_tensor=args.per_tensor)
    if not args.float and args.io == "int8":
        converter.inference_input_type = converter.inference_output_type = tf.int8
    args.out.write_bytes(converter.convert())


if __name__ == "__main__":
    main()
