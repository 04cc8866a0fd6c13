"""Train the demo model: a small MobileNetV1 on scikit-learn's handwritten digits.

Writes a frozen inference GraphDef whose BatchNorm is not folded, calibration images from the
training part and a held-out test set. The network is trained as the original MobileNets were: L2
on full and pointwise kernels, none on depthwise kernels and none on BatchNorm. Pointwise channels
that the task does not need end up behind ReLU6 as constant zero; the depthwise channel that reads
them has variance 0, keeps its weights and gets the gain `gamma / sqrt(0 + epsilon)`. Folding that
gain spoils per-tensor int8 weights (Sheng et al. 2018, arXiv:1803.08607).

Needs tensorflow, scikit-learn and Pillow.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGE_SIZE = 32
# The digits touch the border of their 8x8 box; the margin leaves room to shift them.
DIGIT_SIZE = 24
MARGIN = (IMAGE_SIZE - DIGIT_SIZE) // 2
CLASSES = 10
TEST_IMAGES = 360
CALIBRATION_PER_CLASS = 10

STEM_CHANNELS = 16
# One (stride of the depthwise, channels of the pointwise) per separable block.
BLOCKS = ((1, 32), (2, 48), (1, 64), (2, 96), (1, 96))
BN_EPSILON = 1e-3
BN_MOMENTUM = 0.95

EPOCHS = 60
BATCH_SIZE = 32
LEARNING_RATE = 0.7
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-3
MAX_SHIFT = 2

DEAD_VARIANCE = 1e-6
INPUT_NAME = "input"
OUTPUT_NAME = "predictions/Softmax"


@dataclass(frozen=True)
class Digits:
    """Images: uint8 [N, 32, 32, 3]. Labels: int64 [N]. Calibration images are training images."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    calibration_images: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


def enlarge(digit: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Enlarge one 8x8 digit with values 0..16 to uint8 RGB [32, 32, 3] with a dark margin."""
    small = Image.fromarray(np.rint(digit * (255 / 16)).astype(np.uint8))
    large = small.resize((DIGIT_SIZE, DIGIT_SIZE), Image.Resampling.BILINEAR)
    canvas = Image.new("L", (IMAGE_SIZE, IMAGE_SIZE))
    canvas.paste(large, (MARGIN, MARGIN))
    return np.asarray(canvas.convert("RGB"))


def load_split(seed: int) -> Digits:
    """Split the 1,797 digits by class into training and test, and pick calibration images."""
    data = load_digits()
    images = np.stack([enlarge(digit) for digit in data.images])
    labels = data.target.astype(np.int64)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=TEST_IMAGES, random_state=seed, stratify=labels
    )
    picked = [np.flatnonzero(train_labels == c)[:CALIBRATION_PER_CLASS] for c in range(CLASSES)]
    # Sorted by place in the shuffled training set, so that a prefix of the files mixes classes.
    calibration = train_images[np.sort(np.concatenate(picked))]
    return Digits(train_images, train_labels, calibration, test_images, test_labels)


def scale(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Map uint8 pixels to the model's input range [-1, 1]."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def batch_norm_relu6(x: tf.Tensor, name: str) -> tf.Tensor:
    """Append BatchNorm and ReLU6 to the layer `name`."""
    normalize = tf.keras.layers.BatchNormalization(
        momentum=BN_MOMENTUM, epsilon=BN_EPSILON, name=f"{name}_bn"
    )
    return tf.keras.layers.ReLU(max_value=6, name=f"{name}_relu6")(normalize(x))


def build_keras_model() -> tf.keras.Model:
    """The trainable network: [N, 32, 32, 3] -> logits [N, 10]."""
    layers = tf.keras.layers

    def conv(x: tf.Tensor, channels: int, size: int, stride: int, name: str) -> tf.Tensor:
        return layers.Conv2D(
            channels,
            size,
            stride,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=tf.keras.regularizers.L2(WEIGHT_DECAY),
            name=name,
        )(x)

    # A depthwise output reads 9 values; Keras' default would count all channels as fan-in.
    depthwise_init = tf.keras.initializers.RandomNormal(stddev=(2 / 9) ** 0.5)
    image = tf.keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    x = batch_norm_relu6(conv(image, STEM_CHANNELS, 3, 2, "conv1"), "conv1")
    for i, (stride, channels) in enumerate(BLOCKS, start=1):
        x = layers.DepthwiseConv2D(
            3,
            stride,
            padding="same",
            use_bias=False,
            depthwise_initializer=depthwise_init,
            name=f"dw{i}",
        )(x)
        x = batch_norm_relu6(x, f"dw{i}")
        x = batch_norm_relu6(conv(x, channels, 1, 1, f"pw{i}"), f"pw{i}")
    x = layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(image, layers.Dense(CLASSES, name="logits")(x))


def shifted_batches(
    images: NDArray[np.float32], labels: NDArray[np.int64], rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Yield one epoch of full, shuffled batches; each batch is moved by up to MAX_SHIFT pixels."""
    order = rng.permutation(len(images))
    for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
        chosen = order[start : start + BATCH_SIZE]
        shift = rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, size=2)
        yield np.roll(images[chosen], shift, axis=(1, 2)), labels[chosen]


def train(data: Digits, seed: int) -> tf.keras.Model:
    """Train with SGD, momentum and a cosine schedule; the same seed gives the same weights."""
    tf.keras.utils.set_random_seed(seed)
    model = build_keras_model()
    steps = EPOCHS * (len(data.train_images) // BATCH_SIZE)
    optimizer = tf.keras.optimizers.SGD(
        tf.keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps), momentum=MOMENTUM
    )
    loss_function = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = loss_function(labels, model(images, training=True)) + sum(model.losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    rng = np.random.default_rng(seed)
    images = scale(data.train_images)
    for epoch in range(EPOCHS):
        batches = shifted_batches(images, data.train_labels, rng)
        losses = [step(tf.constant(x), tf.constant(y)) for x, y in batches]
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}")
    return model


class GraphWriter:
    """Adds a trained Keras model's layers to the default graph, with constants for weights."""

    def __init__(self, model: tf.keras.Model) -> None:
        # Read here: inside a graph Keras variables have no value.
        self.weights = {layer.name: layer.get_weights() for layer in model.layers}

    def batch_norm_relu6(self, x: tf.Tensor, layer: str) -> tf.Tensor:
        """Inference BatchNorm with its four constants, then ReLU6."""
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        arrays = self.weights[f"{layer}_bn"]
        constants = [
            tf.constant(array, name=f"{layer}_bn/{name}")
            for name, array in zip(names, arrays, strict=True)
        ]
        y, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=constants[0],
            offset=constants[1],
            mean=constants[2],
            variance=constants[3],
            epsilon=BN_EPSILON,
            is_training=False,
            name=f"{layer}_bn/FusedBatchNorm",
        )
        return tf.nn.relu6(y, name=f"{layer}_relu6")

    def conv(self, x: tf.Tensor, layer: str, stride: int) -> tf.Tensor:
        """A full or pointwise convolution without bias, BatchNorm and ReLU6."""
        kernel = tf.constant(self.weights[layer][0], name=f"{layer}/weights")
        y = tf.nn.conv2d(x, kernel, stride, "SAME", name=f"{layer}/Conv2D")
        return self.batch_norm_relu6(y, layer)

    def depthwise(self, x: tf.Tensor, layer: str, stride: int) -> tf.Tensor:
        """A depthwise convolution without bias, BatchNorm and ReLU6."""
        kernel = tf.constant(self.weights[layer][0], name=f"{layer}/depthwise_weights")
        y = tf.raw_ops.DepthwiseConv2dNative(
            input=x,
            filter=kernel,
            strides=[1, stride, stride, 1],
            padding="SAME",
            name=f"{layer}/depthwise",
        )
        return self.batch_norm_relu6(y, layer)

    def classifier(self, x: tf.Tensor, layer: str) -> tf.Tensor:
        """Average pool, the dense layer as 1x1 convolution (as MobileNet has it), softmax."""
        kernel, bias = self.weights[layer]
        x = tf.nn.avg_pool2d(x, x.shape[1:3], 1, "VALID", name="avg_pool")
        weights = tf.constant(kernel[None, None], name=f"{layer}/weights")
        x = tf.nn.conv2d(x, weights, 1, "SAME", name=f"{layer}/Conv2D")
        x = tf.nn.bias_add(x, tf.constant(bias, name=f"{layer}/biases"), name=f"{layer}/BiasAdd")
        return tf.nn.softmax(tf.squeeze(x, [1, 2], name=f"{layer}/Squeeze"), name=OUTPUT_NAME)


def freeze(model: tf.keras.Model) -> tf.compat.v1.GraphDef:
    """Rebuild the trained model as an inference graph that holds nothing but the network."""
    writer = GraphWriter(model)
    with tf.Graph().as_default() as graph:
        shape = (1, IMAGE_SIZE, IMAGE_SIZE, 3)
        x = tf.compat.v1.placeholder(tf.float32, shape, name=INPUT_NAME)
        x = writer.conv(x, "conv1", stride=2)
        for i, (stride, _) in enumerate(BLOCKS, start=1):
            x = writer.depthwise(x, f"dw{i}", stride)
            x = writer.conv(x, f"pw{i}", stride=1)
        writer.classifier(x, "logits")
        return graph.as_graph_def()


def frozen_accuracy(graph_def: tf.compat.v1.GraphDef, data: Digits) -> float:
    """Top-1 accuracy of the frozen graph on the test images."""
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        with tf.compat.v1.Session(graph=graph) as session:
            predicted = [
                session.run(f"{OUTPUT_NAME}:0", {f"{INPUT_NAME}:0": image[None]}).argmax()
                for image in scale(data.test_images)
            ]
    return float(np.mean(predicted == data.test_labels))


def print_depthwise_gains(model: tf.keras.Model) -> None:
    """Per depthwise layer: dead channels, and how far their folded weights tower over the rest."""
    for i in range(1, len(BLOCKS) + 1):
        kernel = model.get_layer(f"dw{i}").get_weights()[0]
        gamma, _, _, variance = model.get_layer(f"dw{i}_bn").get_weights()
        gain = np.abs(gamma) / np.sqrt(variance + BN_EPSILON)
        peak = np.abs(kernel).max(axis=(0, 1, 3)) * gain
        dead = variance < DEAD_VARIANCE
        print(
            f"dw{i}: {dead.sum()} of {dead.size} channels dead,"
            f" gain max {gain.max():.1f} median {np.median(gain[~dead]):.2f} (live),"
            f" folded weight max {peak.max():.1f} median {np.median(peak[~dead]):.2f} (live)"
        )


def tflite_accuracy(graph_file: Path, data: Digits, *, int8: bool, per_channel: bool) -> float:
    """Top-1 accuracy on the test images after TensorFlow's own converter, for comparison."""
    converter = tf.compat.v1.lite.TFLiteConverter.from_frozen_graph(
        str(graph_file), [INPUT_NAME], [OUTPUT_NAME]
    )
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        samples = scale(data.calibration_images)
        converter.representative_dataset = lambda: ([image[None]] for image in samples)
        converter._experimental_disable_per_channel = not per_channel
    interpreter = tf.lite.Interpreter(model_content=converter.convert(), num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    sink = interpreter.get_output_details()[0]["index"]
    predicted = []
    for image in scale(data.test_images):
        interpreter.set_tensor(source, image[None])
        interpreter.invoke()
        predicted.append(interpreter.get_tensor(sink).argmax())
    return float(np.mean(predicted == data.test_labels))


def write_images(data: Digits, out: Path) -> None:
    """Write the calibration images as PNG files and the test set as one archive."""
    folder = out / "calib"
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(data.calibration_images):
        Image.fromarray(image).save(folder / f"{i:03}.png", optimize=True)
    np.savez_compressed(out / "test.npz", images=data.test_images, labels=data.test_labels)


def main() -> None:
    """Train, write everything below `--out` and print what was measured."""
    parser = argparse.ArgumentParser(description="Train and freeze the digits demo model.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--compare", action="store_true", help="also measure what TensorFlow's int8 converter does"
    )
    args = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()

    data = load_split(args.seed)
    write_images(data, args.out)
    start = time.monotonic()
    model = train(data, args.seed)
    print(f"trained in {time.monotonic() - start:.0f} s")
    print_depthwise_gains(model)

    graph_def = freeze(model)
    graph_file = args.out / "digits_mobilenet.pb"
    graph_file.write_bytes(graph_def.SerializeToString(deterministic=True))
    print(f"float accuracy {frozen_accuracy(graph_def, data):.2%}, {len(graph_def.node)} nodes")
    if args.compare:
        for int8, per_channel in ((False, True), (True, True), (True, False)):
            accuracy = tflite_accuracy(graph_file, data, int8=int8, per_channel=per_channel)
            print(f"tflite int8={int8} per_channel={per_channel}: {accuracy:.2%}")


if __name__ == "__main__":
    main()
