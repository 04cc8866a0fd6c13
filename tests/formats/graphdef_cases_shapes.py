"""GraphDef cases: shapes, slices, joins, gathers, constants, control edges, unknown sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from graphdef_cases import Case, X, case, integers
from graphs import normal

INDICES = integers(2, 3, below=4)


def updated(tf: Any, x: Any, y: Any) -> Any:
    """The node of Keras' slice_update; its kernel is XLA's."""
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    return gen_xla_ops.xla_dynamic_update_slice(x, y, [1, 2])


SLICING: Mapping[str, Case] = {
    "slice": case(lambda tf, x: tf.slice(x, [0, 1, 2, 0], [1, 3, -1, 2])),
    "slice by a computed size": case(
        lambda tf, x: tf.slice(x, [0, 0, 0, 1], tf.shape(x) - [0, 2, 1, 1])),
    "every second row": case(lambda tf, x: x[:, ::2]),
    "from the end": case(lambda tf, x: x[:, -3:, :-2]),
    "one channel": case(lambda tf, x: x[..., 1]),
    "one channel, kept": case(lambda tf, x: x[..., 1:2]),
    "last channel": case(lambda tf, x: x[..., -1]),
    "one row and one column": case(lambda tf, x: x[:, 2, -1]),
    "one value": case(lambda tf, x: x[0, 1, 2, 3]),
    "backwards": case(lambda tf, x: x[:, ::-1]),
    "backwards by two": case(lambda tf, x: x[:, 4:0:-2, ::-3]),
    "a new axis in front": case(lambda tf, x: x[tf.newaxis, :, :, 1:]),
    "a new axis behind": case(lambda tf, x: x[..., tf.newaxis], (2, 3)),
    "new axes and a lost one": case(lambda tf, x: x[:, tf.newaxis, 1, ..., tf.newaxis], (2, 3, 4)),
    "an ellipsis in the middle": case(lambda tf, x: x[0, ..., 1:3]),
    "an ellipsis that covers nothing": case(lambda tf, x: x[:, ..., 1:], (3, 4)),
    "an ellipsis in front of a step": case(lambda tf, x: x[..., ::2, 1]),
    "more than there is": case(lambda tf, x: x[:, 2:99, -99:3]),
    "fewer axes than there are": case(lambda tf, x: x[:, 1:3]),
    **{
        f"masks {masks}": case(
            lambda tf, x, masks=masks: tf.raw_ops.StridedSlice(
                input=x, begin=[0, 1, 2, 1], end=[1, 5, 7, 3], strides=[1, 2, 1, 1],
                **dict(zip(
                    ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask",
                     "shrink_axis_mask"), masks, strict=True))))
        for masks in (
            (0, 0, 0, 0, 0), (2, 0, 0, 0, 0), (0, 4, 0, 0, 0), (6, 10, 0, 0, 0), (0, 0, 2, 0, 0),
            (0, 0, 0, 0, 4), (0, 0, 0, 0, 12), (0, 0, 8, 0, 0), (0, 0, 1, 0, 8), (0, 0, 4, 2, 0),
            (0, 0, 4, 2, 8), (15, 15, 0, 0, 0), (1, 8, 2, 0, 1),
        )
    },
    "slice of a constant": case(lambda tf, x: x + tf.constant(normal(5, 4))[2]),
    "slice by a computed end": case(lambda tf, x: x[:, : tf.shape(x)[1] - 2]),
    "unstack": case(lambda tf, x: tf.unstack(x, axis=-1)[2]),
    "unstack and stack": case(lambda tf, x: tf.stack(tf.unstack(x, axis=1)[::2], -1)),
    "stack in front": case(lambda tf, x: tf.stack([x, -x])),
    "stack with a constant": case(lambda tf, x: tf.stack([x, normal(3, 4)], 1), (3, 4)),
}  # fmt: skip

JOINING: Mapping[str, Case] = {
    "concat on the last axis": case(lambda tf, x: tf.concat([x, tf.nn.relu(x), x], -1)),
    "concat on a middle axis": case(lambda tf, x: tf.concat([x, x * 2.0], -3)),
    "concat with a constant": case(lambda tf, x: tf.concat([normal(2, 4), x], 0), (3, 4)),
    "concat of one": case(lambda tf, x: tf.raw_ops.ConcatV2(values=[x, x], axis=0)),
    "concat by its old name": case(lambda tf, x: tf.raw_ops.Concat(concat_dim=1, values=[x, x])),
    "split": case(lambda tf, x: tf.split(x, 2, 3)),
    "split on a negative axis": case(lambda tf, x: tf.split(x, 2, -1)[1] * 2.0),
    "split on rows": case(lambda tf, x: tf.concat(tf.split(x, 3, -3)[::-1], 1)),
    "split by sizes": case(lambda tf, x: tf.split(x, [1, 3], 3)[1]),
    "split by sizes on a negative axis": case(lambda tf, x: tf.split(x, [5, 1, 2], -2)[::2]),
    "split by sizes, one left open": case(lambda tf, x: tf.split(x, [2, -1], -1)[1]),
    "tile": case(lambda tf, x: tf.tile(x, [1, 2, 1, 3])),
    "repeat": case(lambda tf, x: tf.repeat(x, 2, axis=1)),
    "roll": case(lambda tf, x: tf.roll(x, 2, 1)),
    "roll backwards": case(lambda tf, x: tf.roll(x, -3, -2)),
    "roll over two axes": case(lambda tf, x: tf.roll(x, [-1, 9], [1, 2])),
    "roll by nothing": case(lambda tf, x: tf.roll(x, 6, 1) + 1.0),
    "reverse": case(lambda tf, x: tf.reverse(x, [-2])),
    "reverse two axes": case(lambda tf, x: tf.reverse(x, [1, 2])),
    "broadcast to": case(lambda tf, x: tf.broadcast_to(x, [3, 6, 8, 4])),
    "broadcast to a computed shape": case(
        lambda tf, x, y: tf.broadcast_to(x, tf.shape(y)) + y, (8, 1), X),
    "shuffle channels": case(lambda tf, x: tf.reshape(
        tf.transpose(tf.reshape(x, [1, 6, 8, 2, 2]), [0, 1, 2, 4, 3]), [1, 6, 8, 4])),
    "mesh": case(lambda tf, x: tf.concat(
        [x, tf.broadcast_to(tf.linspace(-1.0, 1.0, 8)[tf.newaxis, tf.newaxis, :, tf.newaxis],
                            [1, 6, 8, 1])], 3)),
}  # fmt: skip

GATHERING: Mapping[str, Case] = {
    "gather rows": case(lambda tf, x: tf.gather(x, [2, 0]), (4, 5)),
    "gather by its old name": case(
        lambda tf, x: tf.raw_ops.Gather(params=x, indices=[2, 0]), (4, 5)),
    "gather on a negative axis": case(lambda tf, x: tf.gather(x, [2, 0, 1], axis=-2)),
    "gather one": case(lambda tf, x: tf.gather(x, 2, axis=1)),
    "gather a table": case(lambda tf, x: tf.gather(x, [[0, 1], [3, 2]], axis=3)),
    "gather from a constant": case(
        lambda tf, i: tf.gather(normal(4, 5), i) * 2.0, INDICES),
    "gather by an input": case(lambda tf, x, i: tf.gather(x, i, axis=1), (3, 4, 5), INDICES),
    "gather by int64": case(
        lambda tf, x, i: tf.gather(x, i), (4, 5), INDICES.astype(np.int64)),
    "gather by what was found": case(lambda tf, x: tf.gather(x, tf.argmax(x, 0)), (4, 5), int8=1.0),
    "gather per batch": case(
        lambda tf, x, i: tf.gather(x, i, batch_dims=1), (2, 4, 5), INDICES),
    "gather per batch on an axis": case(
        lambda tf, x, i: tf.gather(x, i, axis=2, batch_dims=1), (2, 3, 4, 5), INDICES),
    "gather per batch by a constant": case(
        lambda tf, x: tf.gather(x, INDICES, axis=-1, batch_dims=1), (2, 3, 4)),
    "embedding": case(
        lambda tf, i: tf.reduce_mean(tf.gather(normal(9, 6), i), 1), integers(1, 7, below=9)),
    "embedding of floats": case(
        lambda tf, x: tf.gather(normal(9, 6), tf.cast(x, tf.int32)),
        integers(1, 7, below=9, dtype="float32")),
    "gather nd": case(lambda tf, x: tf.gather_nd(x, [[0, 1], [0, 0]])),
    "gather nd by an input": case(
        lambda tf, x, i: tf.gather_nd(x, i), (4, 4, 4, 2), INDICES),
    "scatter nd": case(lambda tf, x: tf.scatter_nd([[1], [3]], x, [5, 4]), (2, 4)),
    "counts": case(lambda tf, i: tf.raw_ops.DenseBincount(
        input=i, size=6, weights=tf.zeros([0])), INDICES),
    "what is there": case(lambda tf, i: tf.math.bincount(
        i, minlength=6, maxlength=6, axis=-1, binary_output=True), INDICES),
    "band": case(lambda tf, x: tf.linalg.band_part(x, 1, 0), (2, 4, 5)),
    "band above": case(lambda tf, x: tf.linalg.band_part(x, 0, -1), (4, 5)),
    "diagonal": case(lambda tf, x: tf.linalg.diag_part(x), (2, 4, 5)),
    "times a diagonal matrix": case(
        lambda tf, x: tf.matmul(x, tf.linalg.diag(tf.constant([1.0, 2.0, 3.0]))), (2, 3)),
    "with ones on the diagonal": case(lambda tf, x: x * tf.linalg.set_diag(
        tf.fill([3, 3], 2.0), tf.ones([3])), (2, 3, 3)),
    "update of a slice": case(updated, (4, 6), (2, 3), reference=lambda tf, x, y: (
        x + tf.pad(y - x[1:3, 2:5], [[1, 1], [2, 1]]))),
    "broadcast of integers": case(
        lambda tf, i: tf.broadcast_to(i, [4, 2, 3]) + tf.ones([2, 1], tf.int32), INDICES),
    "one hot": case(lambda tf, i: tf.one_hot(i, 4), INDICES),
    "one hot in front": case(lambda tf, i: tf.one_hot(i, 4, axis=0), INDICES),
    "one hot in the middle": case(
        lambda tf, i: tf.one_hot(i, 4, on_value=2.5, off_value=-1.0, axis=1), INDICES),
    "one hot beyond the depth": case(lambda tf, i: tf.one_hot(i - 1, 2), INDICES),
    "one hot of int64": case(
        lambda tf, i: tf.one_hot(i, 4, dtype=tf.int32), INDICES.astype(np.int64)),
    "one hot of bytes": case(lambda tf, i: tf.one_hot(i, 4), INDICES.astype(np.uint8)),
    "one hot of what was found": case(
        lambda tf, x: tf.one_hot(tf.argmax(x, -1), 5) * x, (3, 5)),
}  # fmt: skip


def graph_with_control_edges(tf: Any, x: Any) -> Any:
    """Nodes that only order others: an assertion, a NoOp, an Identity."""
    check = tf.debugging.Assert(tf.reduce_all(x < 1e9), [x])
    with tf.control_dependencies([check, tf.no_op()]):
        y = tf.identity(x)
    with tf.control_dependencies([tf.nn.relu(x)]):
        return y * 2.0


FORMS: Mapping[str, Case] = {
    "reshape": case(lambda tf, x: tf.reshape(x, [1, -1, 4])),
    "reshape by shape": case(lambda tf, x: tf.reshape(x, [tf.shape(x)[0], -1])),
    "reshape to a scalar": case(lambda tf, x: tf.reshape(tf.reduce_sum(x), []) * 0.5),
    "reshape by products": case(
        lambda tf, x: tf.reshape(x, tf.concat([tf.shape(x)[:1], [tf.size(x[0])]], 0))),
    "reshape by floored halves": case(lambda tf, x: tf.reshape(
        x, [1, tf.cast(tf.floor(tf.cast(tf.shape(x)[1], tf.float32) / 2.0), tf.int32), -1])),
    "expand behind": case(lambda tf, x: tf.expand_dims(x, -1), (2, 3)),
    "expand in the middle": case(lambda tf, x: tf.expand_dims(x, -2), (2, 3)),
    "squeeze": case(lambda tf, x: tf.squeeze(x), (1, 3, 1, 4)),
    "squeeze one": case(lambda tf, x: tf.squeeze(x, [-2]), (1, 3, 1, 4)),
    "transpose": case(lambda tf, x: tf.transpose(x, [0, 3, 1, 2])),
    "transpose reversed": case(lambda tf, x: tf.transpose(x)),
    "transpose of rank 5": case(lambda tf, x: tf.transpose(x, [0, 4, 2, 1, 3]), (1, 2, 3, 4, 5)),
    "transpose and add": case(lambda tf, x: tf.transpose(x, [0, 3, 1, 2]) + normal(6, 8)),
    "two transposes": case(
        lambda tf, x: tf.transpose(tf.nn.relu(tf.transpose(x, [0, 2, 1, 3])), [0, 3, 2, 1])),
    "fill": case(lambda tf, x: x + tf.fill(tf.shape(x)[1:3], 0.5)[:, :, tf.newaxis]),
    "range of a shape": case(
        lambda tf, x: x + tf.cast(tf.range(tf.shape(x)[-1]), tf.float32)),
    "rank and size": case(
        lambda tf, x: x * tf.cast(tf.rank(x) * tf.size(x), tf.float32) / 64.0),
    "shape as an output": case(lambda tf, x: [tf.shape(x) * 2, tf.nn.relu(x)]),
    "shape of several": case(lambda tf, x, y: tf.reshape(
        x + y, tf.reverse(tf.raw_ops.ShapeN(input=[x, y])[1], [0])), (2, 3), (2, 3)),
    "a float64 constant": case(lambda tf, x: x + tf.cast(tf.constant(
        normal(4).astype(np.float64)), tf.float32)),
    "a half constant": case(
        lambda tf, x: x + tf.cast(tf.constant(normal(4).astype(np.float16)), tf.float32)),
    "a constant that repeats": case(lambda tf, x: x * tf.constant(0.5, shape=[8, 4])),
    "arithmetic of constants": case(lambda tf, x: x * tf.sqrt(
        tf.constant(normal(4)) ** 2 + tf.constant(1.0)) / tf.constant(3.0)),
    "identities": case(lambda tf, x: tf.stop_gradient(tf.identity(tf.identity_n([x, x])[1]))),
    "checked": case(lambda tf, x: tf.ensure_shape(
        tf.debugging.check_numerics(x, "wrong"), X) + 0.5),
    "control edges": case(graph_with_control_edges),
    "a placeholder with a default": case(
        lambda tf, x: tf.compat.v1.placeholder_with_default(x, X) * 2.0),
    "the input as an output": case(lambda tf, x: [x, x + 1.0]),
    "one value as two outputs": case(lambda tf, x: [(y := tf.nn.relu(x)), y]),
    "one value under two names": case(
        lambda tf, x: [(y := tf.nn.relu(x)), tf.identity(y), tf.reshape(y, X)]),
    "no op at all": case(lambda tf, x: x),
    "unknown batch": case(
        lambda tf, x: tf.nn.conv2d(x, normal(3, 3, 4, 5), 1, "SAME"),
        stated=((None, 6, 8, 4),)),
    "unknown batch, flattened": case(
        lambda tf, x: tf.matmul(tf.reshape(x, [-1, 192]), normal(192, 3)),
        stated=((None, 6, 8, 4),)),
    "unknown batch, kept by shape": case(
        lambda tf, x: tf.reshape(x, tf.stack([tf.shape(x)[0], 48, 4])),
        stated=((None, 6, 8, 4),)),
    "unknown sizes": case(
        lambda tf, x: tf.reduce_mean(tf.nn.conv2d(x, normal(3, 3, 4, 5), 2, "SAME"), [1, 2]),
        stated=((None, None, None, 4),), inputs=("x:1x6x8x4",)),
    "unknown sizes, resized by half": case(
        lambda tf, x: tf.compat.v1.image.resize_bilinear(x, tf.shape(x)[1:3] // 2),
        stated=((None, None, None, 4),), inputs=("x:1x6x8x4",)),
    "unknown sizes, padded to even": case(
        lambda tf, x: tf.pad(x, [[0, 0], [0, tf.shape(x)[1] % 2], [0, 0], [0, 0]]),
        (1, 5, 8, 4), stated=((None, None, None, 4),), inputs=("x:1x5x8x4",)),
    "unknown rank": case(
        lambda tf, x: tf.nn.relu(x) * 2.0, stated=(tuple(X),), inputs=("x:1x6x8x4",)),
}  # fmt: skip

SHAPES: Mapping[str, Case] = {**SLICING, **JOINING, **GATHERING, **FORMS}
