"""Keras networks of many kinds, small, with seeded random weights and plausible BatchNorm.

Each builder takes no arguments and returns a Keras model whose inputs have a fixed shape but for
the batch. They are built here and not stored, so that what is read is what today's Keras writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qfrewrite.ir import Array

Network = Any  # keras.Model; Keras ships no types
Builder = Callable[[], Network]
NETWORKS: dict[str, Builder] = {}
# Largest token of the networks that embed.
VOCABULARY = 50


def network(build: Builder) -> Builder:
    """Add a builder to `NETWORKS` under its own name."""
    NETWORKS[build.__name__] = build
    return build


def built(name: str) -> Network:
    """The network `name` with its seeded weights and settled BatchNorm statistics."""
    import keras

    keras.backend.clear_session()
    keras.utils.set_random_seed(len(name))
    model = NETWORKS[name]()
    _settle(model)
    return model


def samples(model: Network, count: int, seed: int = 0) -> list[list[Array]]:
    """`count` samples, each a list of arrays with batch 1 in the order of the model's inputs."""
    rng = np.random.default_rng(seed)
    return [[_value(rng, x) for x in model.inputs] for _ in range(count)]


def _value(rng: np.random.Generator, tensor: Any) -> Array:
    """Values in [-1, 1], smooth at a scale that differs by sample; integers are tokens."""
    shape = (1, *tensor.shape[1:])
    if "int" in str(tensor.dtype):
        return rng.integers(0, VOCABULARY, shape).astype(tensor.dtype)
    value = rng.normal(size=shape)
    for axis in range(1, max(len(shape) - 1, 2)):
        for step in range(rng.integers(1, 5)):
            value = value + np.roll(value, 2**step, axis)
    value = value / np.abs(value).max() * rng.uniform(0.3, 1)
    return np.clip(value + rng.uniform(-0.2, 0.2, shape[-1]), -1, 1).astype(np.float32)


def _settle(model: Network) -> None:
    """Random gamma and beta; moving statistics as one batch of data gives them."""
    import keras

    rng = np.random.default_rng(1)
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for norm in norms:
        channels = norm.moving_mean.shape[0]
        if norm.scale:
            norm.gamma.assign(rng.uniform(0.6, 1.4, channels))
        if norm.center:
            norm.beta.assign(rng.normal(0.8, 0.3, channels))
        norm.momentum = 0.0
    if norms:
        batch = [np.concatenate(parts) for parts in zip(*samples(model, 48, 7), strict=True)]
        model(batch if len(batch) > 1 else batch[0], training=True)


def _conv(x: Any, filters: int, size: int = 3, stride: int = 1, act: str | None = "relu") -> Any:
    from keras import layers

    x = layers.Conv2D(filters, size, strides=stride, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    return layers.Activation(act)(x) if act else x


def _classes(x: Any, count: int = 10) -> Any:
    from keras import layers

    return layers.Dense(count)(layers.GlobalAveragePooling2D()(x))


# Classifiers that Keras ships ----------------------------------------------------------------


@network
def mobilenet_v1() -> Network:
    """MobileNetV1 0.25."""
    import keras

    return keras.applications.MobileNet(
        (64, 64, 3), alpha=0.25, weights=None, classes=20, classifier_activation=None
    )


@network
def mobilenet_v2() -> Network:
    """MobileNetV2 0.35."""
    import keras

    return keras.applications.MobileNetV2(
        (64, 64, 3), alpha=0.35, weights=None, classes=20, classifier_activation=None
    )


@network
def mobilenet_v3_small() -> Network:
    """MobileNetV3 small: hard swish, squeeze and excite."""
    import keras

    return keras.applications.MobileNetV3Small(
        (64, 64, 3), alpha=0.75, weights=None, classes=20, include_preprocessing=False,
        classifier_activation=None,
    )  # fmt: skip


@network
def mobilenet_v3_large() -> Network:
    """MobileNetV3 large, with probabilities."""
    import keras

    return keras.applications.MobileNetV3Large(
        (64, 64, 3), alpha=0.75, weights=None, classes=20, include_preprocessing=False
    )


@network
def efficientnet_b0() -> Network:
    """EfficientNetB0: SiLU, squeeze and excite, Rescaling and Normalization."""
    import keras

    x = source = keras.layers.Input((64, 64, 3), name="image")
    x = keras.layers.Rescaling(127.5, 127.5)(x)
    body = keras.applications.EfficientNetB0(
        weights=None, input_shape=(64, 64, 3), classes=20, classifier_activation=None
    )
    return keras.Model(source, body(x))


@network
def resnet() -> Network:
    """ResNet v1 with bottlenecks, shallow."""
    from keras import Model, layers

    x = source = layers.Input((32, 32, 3), name="image")
    x = layers.MaxPooling2D(3, 2, padding="same")(_conv(x, 16, 7, 2))
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        short = _conv(x, 2 * filters, 1, stride, None)
        y = _conv(_conv(x, filters, 1, stride), filters)
        x = layers.ReLU()(layers.Add()([_conv(y, 2 * filters, 1, 1, None), short]))
        y = _conv(_conv(x, filters, 1), filters)
        x = layers.ReLU()(layers.Add()([_conv(y, 2 * filters, 1, 1, None), x]))
    return Model(source, _classes(x))


@network
def resnet_v2() -> Network:
    """ResNet v2: BatchNorm and ReLU before each convolution."""
    from keras import Model, layers

    x = source = layers.Input((32, 32, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same")(x)
    for filters, stride in ((16, 1), (32, 2), (32, 1), (48, 2)):
        before = layers.ReLU()(layers.BatchNormalization()(x))
        short = layers.Conv2D(filters, 1, stride)(before) if x.shape[-1] != filters else x
        if stride > 1 and x.shape[-1] == filters:
            short = layers.MaxPooling2D(1, stride)(x)
        y = layers.ZeroPadding2D(1)(before)
        y = layers.Conv2D(filters, 3, stride, use_bias=False)(y)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Conv2D(filters, 3, padding="same")(y)
        x = layers.Add()([short, y])
    return Model(source, _classes(layers.ReLU()(layers.BatchNormalization()(x))))


@network
def densenet() -> Network:
    """DenseNet: BatchNorm and ReLU over all that was concatenated."""
    from keras import Model, layers

    def bottleneck(x: Any, filters: int, size: int) -> Any:
        x = layers.ReLU()(layers.BatchNormalization()(x))
        return layers.Conv2D(filters, size, padding="same", use_bias=False)(x)

    x = source = layers.Input((32, 32, 3), name="image")
    x = layers.MaxPooling2D(3, 2, padding="same")(_conv(x, 16, 7, 2))
    for _ in range(3):
        for _ in range(3):
            x = layers.Concatenate()([x, bottleneck(bottleneck(x, 16, 1), 8, 3)])
        x = bottleneck(x, x.shape[-1] // 2, 1)
        x = layers.AveragePooling2D(2)(x) if x.shape[1] > 2 else x
    return Model(source, _classes(layers.ReLU()(layers.BatchNormalization()(x))))


@network
def nasnet_mobile() -> Network:
    """NASNetMobile."""
    import keras

    return keras.applications.NASNetMobile((64, 64, 3), weights=None, classes=20)


@network
def xception() -> Network:
    """Separable convolutions with residual pooling."""
    from keras import Model, layers

    x = source = layers.Input((48, 48, 3), name="image")
    x = _conv(x, 16, 3, 2)
    for filters in (24, 32):
        short = _conv(x, filters, 1, 2, None)
        y = x
        for _ in range(2):
            y = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)(layers.ReLU()(y))
            y = layers.BatchNormalization()(y)
        x = layers.Add()([layers.MaxPooling2D(3, 2, padding="same")(y), short])
    return Model(source, _classes(x))


@network
def inception() -> Network:
    """Branches of several sizes, factorized kernels, concatenated."""
    from keras import Model, layers

    x = source = layers.Input((32, 32, 3), name="image")
    x = _conv(x, 16, 3, 2)
    for _ in range(2):
        a = _conv(x, 8, 1)
        b = _conv(_conv(x, 8, 1), 12, 5)
        c = layers.Conv2D(8, (1, 7), padding="same", activation="relu")(_conv(x, 8, 1))
        c = layers.Conv2D(8, (7, 1), padding="same", activation="relu")(c)
        d = _conv(layers.AveragePooling2D(3, 1, padding="same")(x), 6, 1)
        x = layers.Concatenate()([a, b, c, d])
    return Model(source, layers.Softmax()(_classes(x)))


# Dense prediction ----------------------------------------------------------------------------


def _unet(up: Callable[[Any, int], Any]) -> Network:
    from keras import Model, layers

    x = source = layers.Input((32, 32, 3), name="image")
    kept = []
    for filters in (8, 16):
        x = _conv(x, filters)
        kept.append(x)
        x = layers.MaxPooling2D(2)(x)
    x = _conv(x, 32)
    for filters in (16, 8):
        x = layers.Concatenate()([up(x, filters), kept.pop()])
        x = _conv(x, filters)
    return Model(source, layers.Conv2D(2, 1, activation="sigmoid")(x))


@network
def unet_transposed() -> Network:
    """U-Net with transposed convolutions, BatchNorm and ReLU."""
    from keras import layers

    def up(x: Any, filters: int) -> Any:
        x = layers.Conv2DTranspose(filters, 3, 2, padding="same")(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    return _unet(up)


@network
def unet_upsampled() -> Network:
    """U-Net with bilinear and nearest upsampling."""
    from keras import layers

    def up(x: Any, filters: int) -> Any:
        kind = "bilinear" if filters == 8 else "nearest"
        return _conv(layers.UpSampling2D(2, interpolation=kind)(x), filters, 1)

    return _unet(up)


@network
def deeplab() -> Network:
    """Dilated convolutions side by side, image pooling, resized back."""
    from keras import Model, layers

    x = source = layers.Input((33, 33, 3), name="image")
    x = _conv(_conv(x, 8, 3, 2), 16)
    parts = [_conv(x, 8, 1)]
    for rate in (2, 4):
        y = layers.DepthwiseConv2D(3, padding="same", dilation_rate=rate, use_bias=False)(x)
        parts.append(_conv(layers.ReLU()(layers.BatchNormalization()(y)), 8, 1))
    pooled = _conv(layers.GlobalAveragePooling2D(keepdims=True)(x), 8, 1)
    parts.append(layers.UpSampling2D(17, interpolation="bilinear")(pooled))
    x = _conv(layers.Concatenate()(parts), 16, 1)
    return Model(source, layers.Conv2D(4, 1)(x))


@network
def ssd_heads() -> Network:
    """Boxes and scores of two feature maps, reshaped and joined."""
    from keras import Model, layers

    x = source = layers.Input((48, 48, 3), name="image")
    x = _conv(_conv(x, 16, 3, 2, "relu6"), 24, 3, 2, "relu6")
    maps = [x, _conv(x, 32, 3, 2, "relu6")]
    boxes, scores = [], []
    for feature in maps:
        boxes.append(layers.Reshape((-1, 4))(layers.Conv2D(12, 3, padding="same")(feature)))
        scores.append(layers.Reshape((-1, 5))(layers.Conv2D(15, 3, padding="same")(feature)))
    return Model(
        source,
        [
            layers.Concatenate(axis=1)(boxes),
            layers.Activation("sigmoid")(layers.Concatenate(axis=1)(scores)),
        ],
    )


@network
def super_resolution() -> Network:
    """Sub-pixel convolution: depth to space."""
    import keras
    from keras import Model, layers

    x = source = layers.Input((24, 24, 1), name="image")
    x = layers.Conv2D(16, 5, padding="same", activation="relu")(x)
    x = layers.Conv2D(16, 3, padding="same", activation="tanh")(x)
    x = layers.Conv2D(4, 3, padding="same")(x)
    x = keras.ops.reshape(x, (-1, 24, 24, 2, 2))
    x = keras.ops.transpose(x, (0, 1, 3, 2, 4))
    return Model(source, keras.ops.reshape(x, (-1, 48, 48, 1)))


@network
def autoencoder() -> Network:
    """Dense layers with BatchNorm between, as for anomaly detection."""
    from keras import Model, layers

    x = source = layers.Input((160,), name="features")
    for units in (64, 32, 8, 32, 64):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Dense(units)(x)))
    return Model(source, layers.Dense(160)(x))


# Building blocks of other kinds --------------------------------------------------------------


@network
def prelu() -> Network:
    """PReLU after convolutions, shared over positions and not."""
    from keras import Model, layers

    x = source = layers.Input((24, 24, 3), name="image")
    for filters, shared in ((8, [1, 2]), (12, [1, 2]), (12, None)):
        x = _conv(x, filters, 3, 2, None)
        x = layers.PReLU(shared_axes=shared, alpha_initializer="random_uniform")(x)
    return Model(source, _classes(x))


@network
def group_norm() -> Network:
    """GroupNormalization between convolutions."""
    from keras import Model, layers

    x = source = layers.Input((24, 24, 3), name="image")
    for filters in (16, 32):
        x = layers.Conv2D(filters, 3, 2, padding="same")(x)
        x = layers.ReLU()(layers.GroupNormalization(4)(x))
    return Model(source, _classes(x))


@network
def convnext() -> Network:
    """ConvNeXt blocks: depthwise 7x7, LayerNormalization, GELU, layer scale."""
    import keras
    from keras import Model, layers

    x = source = layers.Input((24, 24, 3), name="image")
    x = layers.LayerNormalization(epsilon=1e-6)(layers.Conv2D(16, 4, 4)(x))
    for _ in range(2):
        y = layers.DepthwiseConv2D(7, padding="same")(x)
        y = layers.LayerNormalization(epsilon=1e-6)(y)
        y = layers.Activation("gelu")(layers.Dense(48)(y))
        scale = np.linspace(0.2, 1, 16).astype(np.float32)
        x = x + layers.Dense(16)(y) * keras.ops.convert_to_tensor(scale)
    return Model(source, _classes(x))


@network
def shuffle() -> Network:
    """ShuffleNet: grouped convolutions and a channel shuffle."""
    import keras
    from keras import Model, layers

    x = source = layers.Input((24, 24, 3), name="image")
    x = _conv(x, 16, 3, 2)
    for _ in range(2):
        y = layers.Conv2D(16, 1, groups=4, use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = keras.ops.reshape(y, (-1, 12, 12, 4, 4))
        y = keras.ops.reshape(keras.ops.transpose(y, (0, 1, 2, 4, 3)), (-1, 12, 12, 16))
        y = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(y))
        left, right = keras.ops.split(y, 2, axis=-1)
        x = layers.ReLU()(layers.Add()([x, layers.Concatenate()([right, left])]))
    return Model(source, _classes(x))


@network
def squeeze_excite() -> Network:
    """Squeeze and excite with hard sigmoid, and SiLU."""
    import keras
    from keras import Model, layers

    x = source = layers.Input((24, 24, 3), name="image")
    x = _conv(x, 16, 3, 2, "silu")
    for _ in range(2):
        s = layers.GlobalAveragePooling2D(keepdims=True)(x)
        s = layers.Conv2D(16, 1)(layers.Conv2D(4, 1, activation="relu")(s))
        x = _conv(x * keras.ops.relu6(s + 3.0) * (1 / 6), 16, 3, 1, "hard_swish")
    return Model(source, _classes(x))


@network
def mixer() -> Network:
    """MLP-Mixer: dense layers over tokens and over channels."""
    from keras import Model, layers

    x = source = layers.Input((24, 24, 3), name="image")
    x = layers.Reshape((36, 16))(layers.Conv2D(16, 4, 4)(x))
    for _ in range(2):
        y = layers.Permute((2, 1))(layers.LayerNormalization()(x))
        y = layers.Dense(36)(layers.Dense(24, activation="gelu")(y))
        x = layers.Add()([x, layers.Permute((2, 1))(y)])
        y = layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(16)(y)])
    return Model(source, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


@network
def several_inputs_and_outputs() -> Network:
    """An image and a vector in, classes and a map out."""
    from keras import Model, layers

    image = layers.Input((16, 16, 3), name="image")
    extra = layers.Input((6,), name="extra")
    x = _conv(image, 8, 3, 2)
    gain = layers.Reshape((1, 1, 8))(layers.Dense(8, activation="sigmoid")(extra))
    x = layers.Multiply()([x, gain])
    joined = layers.Concatenate()([layers.GlobalMaxPooling2D()(x), layers.Dense(4)(extra)])
    return Model([image, extra], [layers.Dense(5)(joined), layers.Conv2D(2, 1)(x)])


# Sequences -----------------------------------------------------------------------------------


@network
def ds_cnn() -> Network:
    """Keyword spotting: depthwise separable convolutions on a spectrogram."""
    from keras import Model, layers

    x = source = layers.Input((49, 10, 1), name="spectrogram")
    x = layers.Conv2D(16, (10, 4), (2, 2), padding="same")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for _ in range(3):
        x = layers.DepthwiseConv2D(3, padding="same")(x)
        x = _conv(layers.ReLU()(layers.BatchNormalization()(x)), 16, 1)
    x = layers.AveragePooling2D((25, 5))(layers.Dropout(0.2)(x))
    return Model(source, layers.Softmax()(layers.Dense(12)(layers.Flatten()(x))))


@network
def tcn() -> Network:
    """Causal dilated Conv1D with residuals."""
    from keras import Model, layers

    x = source = layers.Input((40, 6), name="series")
    for rate in (1, 2, 4):
        y = layers.Conv1D(12, 3, padding="causal", dilation_rate=rate, use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        short = layers.Conv1D(12, 1)(x) if x.shape[-1] != 12 else x
        x = layers.ReLU()(layers.Add()([y, short]))
    return Model(source, layers.Dense(4)(layers.GlobalAveragePooling1D()(x)))


def _recurrent(layer: str, **arguments: Any) -> Network:
    from keras import Model, layers

    x = source = layers.Input((12, 5), name="series")
    x = getattr(layers, layer)(8, return_sequences=True, **arguments)(x)
    x = getattr(layers, layer)(6, **arguments)(x)
    return Model(source, layers.Dense(3)(x))


@network
def lstm() -> Network:
    """Two LSTM layers."""
    return _recurrent("LSTM")


@network
def lstm_unrolled() -> Network:
    """Two LSTM layers without a loop."""
    return _recurrent("LSTM", unroll=True)


@network
def gru() -> Network:
    """Two GRU layers."""
    return _recurrent("GRU")


@network
def bilstm() -> Network:
    """Bidirectional LSTM."""
    from keras import Model, layers

    x = source = layers.Input((12, 5), name="series")
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)
    return Model(source, layers.Dense(3)(x))


@network
def embedding() -> Network:
    """Tokens, embedded and averaged."""
    from keras import Model, layers

    x = source = layers.Input((20,), dtype="int32", name="tokens")
    x = layers.Embedding(VOCABULARY, 16)(x)
    x = layers.Conv1D(12, 3, activation="relu")(x)
    return Model(source, layers.Dense(2)(layers.GlobalMaxPooling1D()(x)))


def _attend(x: Any, heads: int, size: int) -> Any:
    from keras import layers

    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(heads, size)(y, y)])
    y = layers.Dense(2 * x.shape[-1], activation="gelu")(layers.LayerNormalization()(x))
    return layers.Add()([x, layers.Dense(x.shape[-1])(y)])


@network
def transformer() -> Network:
    """Tokens and positions through attention."""
    import keras
    from keras import Model, layers

    x = source = layers.Input((16,), dtype="int32", name="tokens")
    x = layers.Embedding(VOCABULARY, 16)(x)
    x = x + layers.Embedding(16, 16)(keras.ops.arange(16))
    x = _attend(x, 2, 8)
    return Model(source, layers.Dense(4)(layers.GlobalAveragePooling1D()(x)))


@network
def vit() -> Network:
    """Vision transformer with a class-free head."""
    from keras import Model, layers

    x = source = layers.Input((32, 32, 3), name="image")
    x = layers.Reshape((16, 24))(layers.Conv2D(24, 8, 8)(x))
    for _ in range(2):
        x = _attend(x, 3, 8)
    x = layers.LayerNormalization()(x)
    return Model(source, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


@network
def fft() -> Network:
    """Magnitudes of a Fourier transform, then convolutions."""
    import keras
    from keras import Model, layers

    x = source = layers.Input((8, 64), name="frames")
    real, imaginary = keras.ops.rfft(x)
    x = keras.ops.log(keras.ops.square(real) + keras.ops.square(imaginary) + 1e-3)
    x = layers.Conv1D(8, 3, activation="relu")(x)
    return Model(source, layers.Dense(4)(layers.Flatten()(x)))
