"""Int8 by TensorFlow's converter and by qfrewrite on networks of many kinds: ops, SQNR, latency.

The networks are Keras's own or built here, with random weights from a seed; BatchNorm holds the
statistics of the samples. Both tools get the same calibration samples: TensorFlow's converter the
function, qfrewrite the frozen graph of it, or the float `.tflite` that TensorFlow makes of that.
SQNR is against the float network, on other samples.

    python benchmarks/latency.py --workdir DIR [--networks NAME,...] [--runs 60]

What TensorFlow writes is kept in DIR, as it does not change with this project. Latency: one thread,
all files interleaved in one process; the ratio is that to TensorFlow's file.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from _common import FloatArray, float_op_counts, op_counts, run_tflite, sqnr_db

CALIBRATION, MEASURING = 32, 16
# Calls that are timed together.
CALLS = 3
# Title -> from which float file, and how it is written.
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "qfrewrite, .pb": ("model.pb", {}),
    "qfrewrite, .tflite": ("float.tflite", {}),
    "qfrewrite, .tflite, --target litert": ("float.tflite", {"target": "litert"}),
}


@dataclass(frozen=True)
class Network:
    """How a network is built, and the ends of its inputs' range."""

    build: Callable[[], Any]
    low: float = -1.0
    high: float = 1.0


# The networks ------------------------------------------------------------------------------------


def tcn() -> Any:
    """Residual blocks of causal, dilated Conv1D, as for sensors and audio."""
    from keras import Input, Model, layers

    inputs = x = Input((256, 16))
    for rate in (1, 2, 4, 8):
        y = x
        for _ in range(2):
            y = layers.Conv1D(64, 3, padding="causal", dilation_rate=rate)(y)
            y = layers.ReLU()(layers.BatchNormalization()(y))
        x = layers.ReLU()(layers.Add()([y, layers.Conv1D(64, 1)(x)]))
    return Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


def unet() -> Any:
    """Down three times, and up again by transposed convolutions."""
    from keras import Input, Model, layers

    def block(x: Any, channels: int) -> Any:
        for _ in range(2):
            x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        return x

    inputs = x = Input((96, 96, 3))
    skips = []
    for channels in (16, 32, 64):
        skips.append(block(x, channels))
        x = layers.MaxPooling2D()(skips[-1])
    x = block(x, 128)
    for channels, skip in zip((64, 32, 16), reversed(skips), strict=True):
        x = layers.Conv2DTranspose(channels, 2, strides=2, padding="same", activation="relu")(x)
        x = block(layers.Concatenate()([x, skip]), channels)
    return Model(inputs, layers.Conv2D(4, 1)(x))


def prelu() -> Any:
    """A face embedding's trunk: residual blocks with a slope per channel."""
    from keras import Input, Model, initializers, layers

    def activated(x: Any) -> Any:
        slopes = initializers.RandomUniform(0.05, 0.4, seed=1)
        return layers.PReLU(slopes, shared_axes=[1, 2])(layers.BatchNormalization()(x))

    inputs = Input((96, 96, 3))
    x = activated(layers.Conv2D(32, 3, strides=2, padding="same")(inputs))
    for channels, strides in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        y = activated(layers.Conv2D(channels, 1)(x))
        y = activated(layers.DepthwiseConv2D(3, strides=strides, padding="same")(y))
        y = layers.BatchNormalization()(layers.Conv2D(channels, 1)(y))
        x = layers.Add()([x, y]) if x.shape == y.shape else y
    return Model(inputs, layers.Dense(64)(layers.GlobalAveragePooling2D()(x)))


def vit() -> Any:
    """Two transformer blocks on patches of an image."""
    from keras import Input, Model, layers

    inputs = Input((64, 64, 3))
    x = layers.Reshape((64, 96))(layers.Conv2D(96, 8, strides=8)(inputs))
    for _ in range(2):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 24)(y, y)])
        y = layers.Dense(192, activation="gelu")(layers.LayerNormalization(epsilon=1e-6)(x))
        x = layers.Add()([x, layers.Dense(96)(y)])
    return Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


def application(name: str, size: int) -> Callable[[], Any]:
    """One of Keras's own networks, without its Softmax."""

    def build() -> Any:
        import keras

        make = getattr(keras.applications, name)
        return make(input_shape=(size, size, 3), weights=None, classifier_activation=None)

    return build


NETWORKS: dict[str, Network] = {
    "TCN": Network(tcn),
    "U-Net": Network(unet),
    "PReLU": Network(prelu),
    "ViT": Network(vit),
    "MobileNetV3Small": Network(application("MobileNetV3Small", 224), 0, 255),
    "EfficientNetB0": Network(application("EfficientNetB0", 224), 0, 255),
    "NASNetMobile": Network(application("NASNetMobile", 96)),
}


# Making the files --------------------------------------------------------------------------------


def samples_for(network: Network, shape: tuple[int, ...]) -> FloatArray:
    """Smooth random inputs [N, *shape]: coarse blocks and some noise, over the network's range."""
    rng = np.random.default_rng(0)
    count = CALIBRATION + MEASURING
    coarse = rng.uniform(-1, 1, (count, *(-(-d // 8) for d in shape[:-1]), shape[-1]))
    for axis, size in enumerate(shape[:-1], 1):
        coarse = coarse.repeat(8, axis).take(range(size), axis)
    values = np.clip(coarse + rng.normal(size=coarse.shape) * 0.1, -1, 1)
    middle, half = (network.high + network.low) / 2, (network.high - network.low) / 2
    scaled: FloatArray = (middle + half * values).astype(np.float32)
    return scaled


def prepare(model: Any, samples: FloatArray) -> None:
    """Scales and shifts with nothing special in them; BatchNorm's statistics from `samples`."""
    from keras import layers

    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if variable.name == "gamma":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "bias"):
            variable.assign(rng.normal(size=variable.shape) * 0.2)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    model(samples[:CALIBRATION], training=True)


def make(name: str, folder: Path) -> None:
    """Build a network; write its frozen graph, TensorFlow's int8 file, samples and outputs."""
    import keras
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    keras.utils.set_random_seed(0)
    network = NETWORKS[name]
    model = network.build()
    samples = samples_for(network, model.inputs[0].shape[1:])
    prepare(model, samples)
    outputs = [np.asarray(model(x[None], training=False)).ravel() for x in samples[CALIBRATION:]]
    spec = tf.TensorSpec((1, *samples.shape[1:]), tf.float32, name="x")
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec)
    frozen = convert_variables_to_constants_v2(function)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([x[None]] for x in samples[:CALIBRATION])
    converter.inference_input_type = converter.inference_output_type = tf.int8
    content = converter.convert()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.pb").write_bytes(frozen.graph.as_graph_def().SerializeToString())
    np.savez(folder / "samples.npz", samples=samples, outputs=np.stack(outputs))
    (folder / "tensorflow.tflite").write_bytes(content)


def make_float(folder: Path) -> None:
    """Let TensorFlow convert the frozen graph to a float `.tflite`."""
    import tensorflow as tf

    converter = tf.compat.v1.lite.TFLiteConverter.from_frozen_graph(
        str(folder / "model.pb"), input_arrays=["x"], output_arrays=["Identity"]
    )
    (folder / "float.tflite").write_bytes(converter.convert())


def quantize(folder: Path, samples: FloatArray) -> dict[str, Path]:
    """The int8 files by title."""
    import qfrewrite as qf

    files = {"TensorFlow converter": folder / "tensorflow.tflite"}
    for number, (title, (source, options)) in enumerate(OURS.items()):
        out = folder / f"qfrewrite{number}.tflite"
        qf.quantize(
            folder / source, out, passes="calibrate", data=samples[:CALIBRATION],
            samples=CALIBRATION, **options,
        )  # fmt: skip
        files[title] = out
    return files


# Measuring ---------------------------------------------------------------------------------------


def latencies(files: dict[str, Path], runs: int) -> dict[str, tuple[float, float]]:
    """The least milliseconds of CPU time on one thread, and the ratio to the first file's.

    By title. CPU time does not count what other programs do on the machine.
    """
    from qfrewrite.runtime.session import Runner
    from qfrewrite.runtime.timing import fed

    by_content = {path.read_bytes(): title for title, path in reversed(files.items())}
    runners = {title: fed(Runner(content, threads=1)) for content, title in by_content.items()}
    least = dict.fromkeys(runners, float("inf"))
    for turn in range(runs):
        for title in list(runners) if turn % 2 else list(reversed(runners)):
            start = time.thread_time()
            for _ in range(CALLS):
                runners[title].again()
            least[title] = min(least[title], 1e3 * (time.thread_time() - start) / CALLS)
    taken = {title: least[by_content[path.read_bytes()]] for title, path in files.items()}
    base = next(iter(taken.values()))
    return {title: (ms, ms / base) for title, ms in taken.items()}


def rows(name: str, workdir: Path, runs: int) -> list[str]:
    """The lines of one network."""
    folder = workdir / name
    if not (folder / "tensorflow.tflite").exists():
        make(name, folder)
    if not (folder / "float.tflite").exists():
        make_float(folder)
    with np.load(folder / "samples.npz") as held:
        samples, outputs = held["samples"], held["outputs"]
    files = quantize(folder, samples)
    taken = latencies(files, runs)
    lines = []
    for title, path in files.items():
        in_float = float_op_counts(path)
        db = sqnr_db(outputs, run_tflite(path, samples[CALIBRATION:], 1))
        listed = ", ".join(f"{n} {kind}" for kind, n in in_float.items()) or "none"
        ms, ratio = taken[title]
        lines.append(
            f"| {name} | {title} | {sum(op_counts(path).values())} | {listed} | {db:.1f} "
            f"| {ms:.2f} | {ratio:.2f} |"
        )
    return lines


def main() -> None:
    """Convert, measure, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names, by commas")
    parser.add_argument("--runs", type=int, default=60)
    args = parser.parse_args()
    names = args.networks.split(",")
    if unknown := [name for name in names if name not in NETWORKS]:
        parser.error(f"no such network: {unknown[0]}; known: {', '.join(NETWORKS)}")
    lines = []
    for name in names:
        lines += rows(name, args.workdir.resolve(), args.runs)
        print(*lines[-len(OURS) - 1 :], sep="\n", file=sys.stderr, flush=True)
    print("| network | int8 by | ops | of them in float | SQNR dB | least ms | ratio |")
    print("|---" * 7 + "|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
