"""Linear layers as matrices: weights by group, and the inputs each output sees."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qfrewrite.ir import Array
from qfrewrite.ops.linear import window_of
from qfrewrite.ops.spec import attr
from qfrewrite.ops.windows import patches, same_padding
from qfrewrite.rewrite.linear import LinearView


def grouped_weights(view: LinearView) -> npt.NDArray[np.float64]:
    """The weights as [G groups, M outputs, K inputs], float64."""
    w = view.weights.astype(np.float64)
    groups = view.x.shape[-1] // w.shape[-1] if view.op.kind == "CONV_2D" else 1
    grouped = w.reshape(groups, w.shape[0] // groups, -1)
    if view.is_depthwise:
        channels = view.x.shape[3]
        taps = w.reshape(w.shape[1] * w.shape[2], channels, w.shape[3] // channels)
        grouped = taps.transpose(1, 2, 0)
    return grouped


def ungrouped(view: LinearView, grouped: npt.NDArray[np.float64]) -> Array:
    """The inverse of `grouped_weights`, float32, in the shape of the op's weights."""
    shape = view.weights.shape
    if view.is_depthwise:
        grouped = grouped.transpose(2, 0, 1)
    return np.ascontiguousarray(grouped.reshape(shape).astype(np.float32))


def grouped_outputs(view: LinearView, y: Array) -> Array:
    """Rows of outputs [N, O] as [N, G, M]."""
    grouped = grouped_weights(view)
    return y.reshape(len(y), *grouped.shape[:2])


def positions(view: LinearView, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Up to `count` of the places of one sample's output at random, flat, in order."""
    places = view.output.size // view.output.shape[-1]
    if places <= count:
        return np.arange(places)
    return np.sort(rng.choice(places, count, replace=False))


def columns(view: LinearView, x: Array, at: npt.NDArray[np.int64]) -> Array:
    """The inputs that the outputs at these places see, [N, G, K], in the order of the weights."""
    if view.op.kind == "FULLY_CONNECTED":
        inputs = view.weights.shape[1]
        return x.reshape(-1, inputs)[at][:, None, :]
    if view.op.kind == "TRANSPOSE_CONV":
        return _transposed_columns(view, x, at)
    strides, dilations, padding = window_of(view.op)
    w = view.weights
    windows = patches(x, w.shape[1:3], strides, dilations, padding)
    n, height, width = windows.shape[:3]
    sample, row, column = np.unravel_index(at, (n, height, width))
    seen = windows[sample, row, column]  # [N, C, KH, KW]
    if view.is_depthwise:
        return seen.reshape(*seen.shape[:2], -1)
    groups = x.shape[3] // w.shape[3]
    seen = seen.reshape(len(at), groups, w.shape[3], *seen.shape[2:])
    return np.ascontiguousarray(seen.transpose(0, 1, 3, 4, 2)).reshape(len(at), groups, -1)


def _transposed_columns(view: LinearView, x: Array, at: npt.NDArray[np.int64]) -> Array:
    """Of a transposed convolution: tap (i, j) reads x where (place + padding - tap) / stride is."""
    n, height, width, _ = view.output.shape
    _, kh, kw, inputs = view.weights.shape
    stride = int(attr(view.op, "stride_h")), int(attr(view.op, "stride_w"))
    sample, *places = np.unravel_index(at, (n, height, width))
    seen, known = [], []
    for axis, (place, taps) in enumerate(zip(places, (kh, kw), strict=True)):
        size = (height, width)[axis]
        before = (
            same_padding(size, taps, stride[axis])[0] if attr(view.op, "padding") == "SAME" else 0
        )
        source, rest = np.divmod(place[:, None] + before - np.arange(taps), stride[axis])
        known.append((rest == 0) & (source >= 0) & (source < x.shape[axis + 1]))
        seen.append(np.clip(source, 0, x.shape[axis + 1] - 1))
    rows, columns_ = seen[0][:, :, None], seen[1][:, None, :]
    values = x[sample[:, None, None], rows, columns_]
    values = np.where((known[0][:, :, None] & known[1][:, None, :])[..., None], values, 0)
    return np.ascontiguousarray(values.reshape(len(at), 1, kh * kw * inputs).astype(x.dtype))
