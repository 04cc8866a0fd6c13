"""GraphDef cases in NCHW: every op that knows layouts, and every op between two of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from graphdef_cases import Case, Layout, nchw
from graphs import normal


def conv(tf: Any, x: Any, f: Layout, outputs: int = 6, size: int = 3, stride: int = 1) -> Any:
    """A convolution over 4 channels."""
    return tf.nn.conv2d(
        x, normal(size, size, 4, outputs), f.dims(1, stride, stride, 1), "SAME", data_format=f.name
    )


def channelwise(f: Layout, count: int, seed: int = 0) -> Any:
    """A constant with one value per channel, shaped for broadcasting."""
    return normal(count, seed=seed).reshape(f.dims(1, 1, 1, count))


def network(tf: Any, x: Any, f: Layout) -> Any:
    """A small classifier with a shortcut."""
    y = tf.nn.bias_add(conv(tf, x, f, 4), normal(4), data_format=f.name)
    y = tf.compat.v1.nn.fused_batch_norm(
        y, normal(4), normal(4, seed=1), normal(4, seed=2), np.abs(normal(4)) + 0.1,
        is_training=False, data_format=f.name)[0]  # fmt: skip
    y = tf.nn.max_pool2d(tf.nn.relu(y) + x, 2, 2, "SAME", data_format=f.name)
    y = tf.reduce_mean(y, [f.axis("H"), f.axis("W")])
    return tf.nn.softmax(tf.matmul(y, normal(4, 3)))


LAYOUTS: Mapping[str, Case] = {
    "NCHW conv": nchw(conv),
    "NCHW conv with stride": nchw(lambda tf, x, f: conv(tf, x, f, stride=2)),
    "NCHW conv dilated": nchw(lambda tf, x, f: tf.nn.conv2d(
        x, normal(3, 3, 4, 5), 1, "SAME", data_format=f.name, dilations=f.dims(1, 2, 2, 1))),
    "NCHW conv with explicit padding": nchw(lambda tf, x, f: tf.nn.conv2d(
        x, normal(3, 3, 4, 5), 1, f.pads((1, 2), (0, 1)), data_format=f.name)),
    "NCHW depthwise": nchw(lambda tf, x, f: tf.nn.depthwise_conv2d(
        x, normal(3, 3, 4, 2), f.dims(1, 2, 2, 1), "SAME", data_format=f.name)),
    "NCHW transposed conv": nchw(lambda tf, x, f: tf.nn.conv2d_transpose(
        x, normal(3, 3, 5, 4), f.dims(1, 12, 16, 5), 2, "SAME", data_format=f.name)),
    "NCHW bias": nchw(lambda tf, x, f: tf.nn.bias_add(x, normal(4), data_format=f.name)),
    "NCHW batch normalization": nchw(lambda tf, x, f: tf.compat.v1.nn.fused_batch_norm(
        x, normal(4), normal(4), normal(4), np.abs(normal(4)) + 0.1, is_training=False,
        data_format=f.name)[0]),
    "NCHW average pool": nchw(lambda tf, x, f: tf.nn.avg_pool2d(
        x, f.dims(1, 3, 2, 1), f.dims(1, 2, 2, 1), "SAME", data_format=f.name)),
    "NCHW max pool": nchw(lambda tf, x, f: tf.nn.max_pool2d(x, 2, 2, "VALID", data_format=f.name)),
    "NCHW max pool with explicit padding": nchw(lambda tf, x, f: tf.nn.max_pool2d(
        x, 3, 2, f.pads((1, 0), (0, 1)), data_format=f.name)),
    "NCHW max pool, version 2": nchw(lambda tf, x, f: tf.raw_ops.MaxPoolV2(
        input=x, ksize=f.dims(1, 2, 3, 1), strides=f.dims(1, 2, 2, 1), padding="SAME",
        data_format=f.name)),
    "NCHW space to depth": nchw(
        lambda tf, x, f: tf.nn.space_to_depth(x, 2, data_format=f.name)),
    "NCHW depth to space": nchw(
        lambda tf, x, f: tf.nn.depth_to_space(x, 2, data_format=f.name)),
    "NCHW concat": nchw(
        lambda tf, x, f: tf.concat([conv(tf, x, f), tf.nn.relu(x)], f.axis("C"))),
    "NCHW concat on height": nchw(
        lambda tf, x, f: tf.concat([conv(tf, x, f, 4), x], f.axis("H") - 4)),
    "NCHW split": nchw(lambda tf, x, f: tf.split(conv(tf, x, f), 3, f.axis("C"))[1]),
    "NCHW split on a negative axis": nchw(
        lambda tf, x, f: tf.split(conv(tf, x, f), 2, f.axis("W") - 4)[1]),
    "NCHW split by sizes": nchw(
        lambda tf, x, f: tf.split(conv(tf, x, f), [1, 2, 3], f.axis("C") - 4)[2]),
    "NCHW stack of parts": nchw(lambda tf, x, f: tf.concat(
        tf.split(conv(tf, x, f), 3, f.axis("C"))[::-1], f.axis("C"))),
    "NCHW pad": nchw(lambda tf, x, f: tf.pad(conv(tf, x, f), f.pads((1, 2), (0, 3)))),
    "NCHW pad with a value": nchw(
        lambda tf, x, f: tf.pad(conv(tf, x, f), f.pads((1, 2), (0, 3)), constant_values=1.5)),
    "NCHW reflect": nchw(
        lambda tf, x, f: tf.pad(conv(tf, x, f), f.pads((1, 2), (0, 3)), mode="REFLECT")),
    "NCHW slice": nchw(lambda tf, x, f: tf.slice(
        conv(tf, x, f), f.dims(0, 1, 2, 3), f.dims(1, 4, 5, 2))),
    "NCHW strided slice": nchw(lambda tf, x, f: tf.strided_slice(
        conv(tf, x, f), f.dims(0, 1, 0, 1), f.dims(1, 6, 8, 5), f.dims(1, 2, 3, 1))),
    "NCHW strided slice with masks": nchw(lambda tf, x, f: tf.strided_slice(
        conv(tf, x, f), f.dims(0, 1, 2, 1), f.dims(1, 6, 8, 5), f.dims(1, 1, 1, 1),
        begin_mask=1 << f.axis("H"), end_mask=1 << f.axis("C"))),
    "NCHW tile": nchw(lambda tf, x, f: tf.tile(conv(tf, x, f), f.dims(1, 2, 1, 3))),
    "NCHW mean": nchw(lambda tf, x, f: tf.reduce_mean(
        conv(tf, x, f), [f.axis("H"), f.axis("W")])),
    "NCHW mean, kept": nchw(lambda tf, x, f: conv(tf, x, f) * tf.sigmoid(tf.reduce_mean(
        conv(tf, x, f), [f.axis("H") - 4, f.axis("W") - 4], keepdims=True))),
    "NCHW maximum of channels": nchw(lambda tf, x, f: tf.reduce_max(
        conv(tf, x, f), f.axis("C"), keepdims=True)),
    "NCHW times a constant per channel": nchw(
        lambda tf, x, f: conv(tf, x, f) * channelwise(f, 6) + channelwise(f, 6, 1)),
    "NCHW plus a plane": nchw(lambda tf, x, f: conv(tf, x, f) + (
        normal(6, 8) if f.name == "NCHW" else normal(6, 8)[:, :, None])),
    "NCHW plus a column": nchw(lambda tf, x, f: conv(tf, x, f) + (
        normal(6, 1, 1) if f.name == "NCHW" else normal(6, 1, 1).reshape(6))),
    "NCHW times a gate": nchw(lambda tf, x, f: conv(tf, x, f) * tf.reshape(
        tf.sigmoid(tf.matmul(tf.reduce_mean(x, [f.axis("H"), f.axis("W")]), normal(4, 6))),
        f.dims(1, 1, 1, 6))),
    "NCHW between two layouts": nchw(lambda tf, x, f: conv(tf, x, f, 4) + x),
    "NCHW local response": nchw(lambda tf, x, f: conv(tf, tf.nn.relu(x), f)),
    "NCHW select": nchw(lambda tf, x, f: tf.where(
        conv(tf, x, f) > channelwise(f, 6), conv(tf, x, f), channelwise(f, 6, 1)), int8=0.06),
    "NCHW prelu": nchw(lambda tf, x, f: tf.nn.relu(conv(tf, x, f))
                       - channelwise(f, 6) * tf.nn.relu(-conv(tf, x, f))),
    "NCHW squeeze": nchw(lambda tf, x, f: tf.squeeze(
        tf.nn.avg_pool2d(conv(tf, x, f), f.dims(1, 6, 8, 1), 1, "VALID", data_format=f.name),
        [f.axis("H"), f.axis("W")]), int8=0.07),
    "NCHW gather channels": nchw(
        lambda tf, x, f: tf.gather(conv(tf, x, f), [3, 0, 1], axis=f.axis("C"))),
    "NCHW roll": nchw(lambda tf, x, f: tf.roll(conv(tf, x, f), 2, f.axis("W"))),
    "NCHW classifier": nchw(network),
}  # fmt: skip
