"""GraphDef cases: convolutions, pooling, padding, resizing, blocks, fake quantization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from graphdef_cases import Case, X, case
from graphs import normal

W = normal(3, 3, 4, 5)

CONVOLUTIONS: Mapping[str, Case] = {
    **{
        f"conv {size} stride {stride} {padding}": case(
            lambda tf, x, size=size, stride=stride, padding=padding: tf.nn.conv2d(
                x, normal(*size, 4, 5), stride, padding))
        for size, stride, padding in (
            ((1, 1), 1, "VALID"), ((3, 3), 1, "SAME"), ((3, 3), 2, "SAME"), ((2, 2), 2, "SAME"),
            ((3, 1), [2, 1], "SAME"), ((4, 5), [1, 3], "SAME"), ((3, 3), 2, "VALID"),
            ((5, 7), 3, "SAME"),
        )
    },
    "conv dilated": case(lambda tf, x: tf.nn.conv2d(x, W, 1, "SAME", dilations=2)),
    "conv dilated in one direction": case(
        lambda tf, x: tf.nn.conv2d(x, W, 1, "VALID", dilations=[1, 3])),
    "conv with explicit padding": case(
        lambda tf, x: tf.nn.conv2d(x, W, 2, [[0, 0], [1, 2], [0, 1], [0, 0]])),
    "conv with explicit padding that is even": case(
        lambda tf, x: tf.nn.conv2d(x, W, 2, [[0, 0], [1, 1], [1, 1], [0, 0]])),
    "conv in groups": case(lambda tf, x: tf.nn.conv2d(x, normal(3, 3, 2, 6), 1, "SAME")),
    "conv of a computed kernel": case(
        lambda tf, x, w: tf.nn.conv2d(x, w, 1, "SAME"), X, (3, 3, 4, 5)),
    "conv and bias": case(lambda tf, x: tf.nn.relu6(
        tf.nn.bias_add(tf.nn.conv2d(x, W, 1, "SAME"), normal(5))), int8=0.04),
    "conv in one dimension": case(
        lambda tf, x: tf.nn.relu(tf.nn.conv1d(x, normal(3, 4, 5), 2, "SAME") + normal(5)),
        (1, 9, 4)),
    "conv in one dimension, dilated": case(
        lambda tf, x: tf.nn.conv1d(x, normal(3, 4, 5), 1, "VALID", dilations=2), (1, 9, 4)),
    "causal conv": case(lambda tf, x: tf.nn.conv1d(
        tf.pad(x, [[0, 0], [4, 0], [0, 0]]), normal(3, 4, 5), 1, "VALID", dilations=2), (1, 9, 4)),
    "conv in three dimensions": case(
        lambda tf, x: tf.nn.conv3d(x, normal(2, 3, 3, 2, 4), [1, 1, 2, 2, 1], "SAME"),
        (1, 4, 5, 6, 2)),
    "depthwise": case(lambda tf, x: tf.nn.depthwise_conv2d(
        x, normal(3, 3, 4, 1), [1, 2, 2, 1], "SAME")),
    "depthwise with a multiplier": case(lambda tf, x: tf.nn.depthwise_conv2d(
        x, normal(3, 3, 4, 3), [1, 1, 1, 1], "VALID")),
    "depthwise with explicit padding": case(lambda tf, x: tf.nn.depthwise_conv2d(
        x, normal(3, 3, 4, 1), [1, 2, 2, 1], [[0, 0], [0, 2], [1, 0], [0, 0]])),
    "depthwise of one channel": case(lambda tf, x: tf.nn.depthwise_conv2d(
        x, normal(3, 3, 1, 6), [1, 1, 1, 1], "SAME"), (1, 6, 8, 1)),
    "separable": case(lambda tf, x: tf.nn.separable_conv2d(
        x, normal(3, 3, 4, 1), normal(1, 1, 4, 6), [1, 1, 1, 1], "SAME")),
    "transposed conv": case(lambda tf, x: tf.nn.conv2d_transpose(
        x, normal(3, 3, 6, 4), [1, 12, 16, 6], 2, "SAME")),
    "transposed conv, valid": case(lambda tf, x: tf.nn.conv2d_transpose(
        x, normal(3, 2, 6, 4), [1, 13, 16, 6], 2, "VALID")),
    "transposed conv of a computed size": case(lambda tf, x: tf.nn.conv2d_transpose(
        x, normal(2, 2, 6, 4), tf.stack([tf.shape(x)[0], tf.shape(x)[1] * 2, 16, 6]), 2, "VALID")
        + normal(6)),
    "transposed conv dilated": case(lambda tf, x: tf.nn.conv2d_transpose(
        x, normal(3, 2, 6, 4), [1, 10, 11, 6], 1, "VALID", dilations=[2, 3])),
    "dilation by batches": case(lambda tf, x: tf.nn.relu(tf.batch_to_space(tf.nn.conv2d(
        tf.space_to_batch(x, [2, 2], [[2, 2], [2, 2]]), W, 1, "VALID"),
        [2, 2], [[0, 0], [0, 0]]))),
    "batch normalization": case(lambda tf, x: tf.compat.v1.nn.fused_batch_norm(
        tf.nn.conv2d(x, normal(1, 1, 4, 4), 1, "SAME"), normal(4), normal(4, seed=1),
        normal(4, seed=2), np.abs(normal(4)) + 0.1, epsilon=1e-3, is_training=False)[0]),
    "batch normalization of the input": case(lambda tf, x: tf.compat.v1.nn.fused_batch_norm(
        x, normal(4), normal(4), normal(4), np.abs(normal(4)) + 0.1, is_training=False)[0]),
    "batch normalization, decomposed": case(lambda tf, x: tf.nn.batch_normalization(
        tf.nn.conv2d(x, W, 1, "SAME"), normal(5), np.abs(normal(5)) + 0.1, normal(5), normal(5),
        1e-3)),
    "patches": case(lambda tf, x: tf.image.extract_patches(
        x, [1, 2, 2, 1], [1, 2, 2, 1], [1, 1, 1, 1], "VALID")),
    "patches that overlap": case(lambda tf, x: tf.image.extract_patches(
        x, [1, 3, 2, 1], [1, 1, 2, 1], [1, 1, 1, 1], "SAME")),
    "patches that lie apart": case(lambda tf, x: tf.image.extract_patches(
        x, [1, 2, 2, 1], [1, 1, 1, 1], [1, 2, 3, 1], "VALID")),
}  # fmt: skip

POOLING: Mapping[str, Case] = {
    **{
        f"{kind} pool {size} stride {stride} {padding}": case(
            lambda tf, x, kind=kind, size=size, stride=stride, padding=padding: getattr(
                tf.nn, f"{kind}_pool2d")(x, size, stride, padding),
            # The mean of an image spans little beside its values.
            int8=0.12 if size == [6, 8] else 0.03)
        for kind in ("avg", "max")
        for size, stride, padding in (
            (2, 2, "VALID"), (3, 2, "SAME"), ([3, 2], [1, 2], "SAME"), ([6, 8], 1, "VALID"),
        )
    },
    "max pool with explicit padding": case(
        lambda tf, x: tf.nn.max_pool2d(x, 3, 2, [[0, 0], [1, 0], [0, 1], [0, 0]])),
    "max pool, version 2": case(lambda tf, x: tf.raw_ops.MaxPoolV2(
        input=x, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="VALID")),
    "max pool, version 2, all the image": case(lambda tf, x: tf.raw_ops.MaxPoolV2(
        input=x, ksize=[1, 6, 8, 1], strides=tf.constant([1, 1, 1, 1]), padding="VALID")),
    "max pool in one dimension": case(
        lambda tf, x: tf.nn.max_pool1d(x, 3, 2, "SAME"), (1, 9, 4)),
    "average pool in one dimension": case(
        lambda tf, x: tf.nn.avg_pool1d(x, 3, 2, "SAME"), (1, 9, 4)),
    "average pool in three dimensions": case(
        lambda tf, x: tf.nn.avg_pool3d(x, [2, 3, 2], [1, 2, 2], "SAME"), (2, 4, 5, 6, 2)),
    "max pool in three dimensions": case(
        lambda tf, x: tf.nn.max_pool3d(x, 2, 2, "VALID"), (1, 4, 5, 6, 2)),
    "global pool and dense": case(lambda tf, x: tf.matmul(
        tf.reduce_mean(x, [1, 2]), normal(4, 3)) + normal(3)),
}  # fmt: skip

PADDING: Mapping[str, Case] = {
    "pad": case(lambda tf, x: tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]])),
    "pad channels": case(lambda tf, x: tf.pad(x, [[0, 0], [0, 0], [0, 0], [1, 3]])),
    "pad with a value": case(
        lambda tf, x: tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]], constant_values=-2.0)),
    "pad of rank 2": case(lambda tf, x: tf.pad(x, [[1, 0], [0, 2]]), (3, 4)),
    "pad of rank 5": case(
        lambda tf, x: tf.pad(x, [[0, 0], [1, 0], [0, 2], [0, 0], [1, 1]]), (1, 2, 3, 4, 5)),
    "pad by int64": case(
        lambda tf, x: tf.pad(x, np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int64))),
    "reflect": case(lambda tf, x: tf.pad(x, [[0, 0], [1, 2], [2, 1], [0, 0]], mode="REFLECT")),
    "mirror with the edge": case(
        lambda tf, x: tf.pad(x, [[0, 0], [1, 2], [2, 1], [0, 0]], mode="SYMMETRIC")),
    "pad and conv": case(lambda tf, x: tf.nn.conv2d(
        tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), W, 2, "VALID")),
    "pad and max pool": case(lambda tf, x: tf.nn.max_pool2d(
        tf.pad(tf.nn.relu(x), [[0, 0], [1, 1], [1, 1], [0, 0]]), 3, 2, "VALID")),
}  # fmt: skip


def resized(method: str, size: tuple[int, int], align: bool, half: bool) -> Case:
    """A resize by the ops of TensorFlow 1."""
    return case(
        lambda tf, x: getattr(tf.compat.v1.image, f"resize_{method}")(
            x, size, align_corners=align, half_pixel_centers=half)
    )  # fmt: skip


RESIZING: Mapping[str, Case] = {
    **{
        f"{method} to {size}{', corners aligned' * align}{', half pixels' * half}": resized(
            method, size, align, half)
        for method in ("bilinear", "nearest_neighbor")
        for align, half in ((False, False), (True, False), (False, True))
        for size in ((12, 16), (5, 3), (9, 13), (1, 1))
    },
    "resize by a computed size": case(lambda tf, x: tf.compat.v1.image.resize_nearest_neighbor(
        x, tf.shape(x)[1:3] * 2)),
    "resize from one pixel": case(lambda tf, x: tf.compat.v1.image.resize_bilinear(
        tf.reduce_mean(x, [1, 2], keepdims=True), [6, 8], align_corners=True)),
    "nearest by repeating": case(lambda tf, x: tf.reshape(
        tf.tile(tf.reshape(x, [1, 6, 1, 8, 1, 4]), [1, 1, 2, 1, 2, 1]), [1, 12, 16, 4])),
}  # fmt: skip

BLOCKS: Mapping[str, Case] = {
    "space to depth": case(lambda tf, x: tf.nn.space_to_depth(x, 2)),
    "depth to space": case(lambda tf, x: tf.nn.depth_to_space(x, 2)),
    "space to batch": case(lambda tf, x: tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]])),
    "space to batch, padded": case(lambda tf, x: tf.space_to_batch(x, [3, 2], [[1, 2], [0, 2]])),
    "space to batch by its old name": case(lambda tf, x: tf.raw_ops.SpaceToBatch(
        input=x, paddings=[[0, 0], [1, 1]], block_size=2)),
    "batch to space": case(
        lambda tf, x: tf.batch_to_space(x, [2, 2], [[0, 1], [1, 0]]), (4, 3, 4, 5)),
    "batch to space by its old name": case(lambda tf, x: tf.raw_ops.BatchToSpace(
        input=x, crops=[[0, 0], [1, 1]], block_size=2), (4, 3, 4, 5)),
    "space to batch of rank 3": case(
        lambda tf, x: tf.space_to_batch(x, [2], [[1, 2]]), (1, 9, 4)),
    "space to batch and back, rank 3": case(lambda tf, x: tf.batch_to_space(
        tf.nn.relu(tf.space_to_batch(x, [3], [[0, 0]])), [3], [[1, 1]]), (1, 9, 4)),
    "space to batch of one axis": case(
        lambda tf, x: tf.space_to_batch(x, [2], [[0, 0]])),
}  # fmt: skip


def fake_quant(tf: Any, x: Any, low: Any, high: Any, **kw: Any) -> Any:
    """FakeQuantWithMinMaxVars."""
    return tf.quantization.fake_quant_with_min_max_vars(x, low, high, **kw)


FAKE_QUANT: Mapping[str, Case] = {
    "fake quant by attributes": case(
        lambda tf, x: tf.quantization.fake_quant_with_min_max_args(x, -2.0, 2.5)),
    "fake quant by default": case(
        lambda tf, x: tf.quantization.fake_quant_with_min_max_args(x * 4.0)),
    "fake quant by constants": case(lambda tf, x: fake_quant(tf, x, -1.0, 1.5)),
    "fake quant on 4 bits": case(lambda tf, x: fake_quant(tf, x, -1.0, 1.5, num_bits=4), int8=0.05),
    "fake quant after relu6": case(lambda tf, x: fake_quant(tf, tf.nn.relu6(x), 0.0, 6.0)),
    "fake quant, narrow": case(lambda tf, x: fake_quant(tf, x, -1.0, 1.0, narrow_range=True)),
    "fake quant on weights": case(lambda tf, x: tf.nn.conv2d(
        x, fake_quant(tf, W, -2.0, 2.0, narrow_range=True), 1, "SAME")),
    "fake quant on weights per channel": case(lambda tf, x: tf.nn.conv2d(
        x, tf.quantization.fake_quant_with_min_max_vars_per_channel(
            W, -np.ones(5, "f4"), np.arange(1, 6, dtype="f4")), 1, "SAME")),
    "fake quant on depthwise weights": case(lambda tf, x: tf.nn.depthwise_conv2d(
        x, fake_quant(tf, normal(3, 3, 4, 1), -2.0, 2.0), [1, 1, 1, 1], "SAME")),
    "fake quant on dense weights": case(lambda tf, x: tf.matmul(
        x, fake_quant(tf, normal(5, 3), -1.5, 1.5)), (2, 5)),
    "trained layer": case(lambda tf, x: fake_quant(tf, tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(
        fake_quant(tf, x, -3.0, 3.0), fake_quant(tf, W, -2.0, 2.0, narrow_range=True), 1, "SAME"),
        normal(5))), 0.0, 12.0)),
}  # fmt: skip

WINDOWS: Mapping[str, Case] = {
    **CONVOLUTIONS, **POOLING, **PADDING, **RESIZING, **BLOCKS, **FAKE_QUANT,
}  # fmt: skip
