"""Linear ops with weights: convolutions and matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np

from qfrewrite.ir import Array, Op
from qfrewrite.ops.features import (
    activates,
    dilated,
    grouped,
    has,
    hybrid_per_channel,
    is_hybrid,
    is_set,
    lacks,
)
from qfrewrite.ops.spec import (
    FLOAT_ONLY,
    INT8_INT16,
    OpSpec,
    Port,
    Shape,
    X,
    act,
    attr,
    bias,
    broadcast,
    const_ints,
    define,
    facets,
    param,
    shape_error,
    shape_of,
    step_of_product,
    weight,
)
from qfrewrite.ops.windows import STRIDES, output_size, patches, same_padding


def window_of(op: Op) -> tuple[tuple[int, int], tuple[int, int], str]:
    """Strides, dilations and padding of a convolution."""
    return (
        (attr(op, "stride_h"), attr(op, "stride_w")),
        (attr(op, "dilation_h_factor"), attr(op, "dilation_w_factor")),
        attr(op, "padding"),
    )


def _conv_shape(op: Op) -> list[Shape]:
    x, w = shape_of(op, 0), shape_of(op, 1)
    if len(x) != 4 or len(w) != 4:
        raise shape_error(op, f"input {list(x)} and weights {list(w)} must have rank 4")
    depthwise = op.kind == "DEPTHWISE_CONV_2D"
    whole, part = (w[3], x[3]) if depthwise else (x[3], w[3])
    if part < 1 or whole % part:
        raise shape_error(op, f"weights {list(w)} do not fit {x[3]} input channels")
    strides, dilations, padding = window_of(op)
    if min(*strides, *dilations) < 1:
        raise shape_error(op, f"strides {strides} and dilations {dilations} must be positive")
    axes = zip(x[1:3], w[1:3], strides, dilations, strict=True)
    return [(x[0], *(output_size(*axis, padding) for axis in axes), w[3 if depthwise else 0])]


def _conv_3d_shape(op: Op) -> list[Shape]:
    x, w = shape_of(op, 0), shape_of(op, 1)
    if len(x) != 5 or len(w) != 5 or w[3] != x[4]:
        raise shape_error(op, f"input {list(x)} and weights {list(w)} do not fit")
    steps = [(attr(op, f"stride_{d}"), attr(op, f"dilation_{d}_factor")) for d in "dhw"]
    sizes = [
        output_size(x[i + 1], w[i], *step, attr(op, "padding")) for i, step in enumerate(steps)
    ]
    return [(x[0], *sizes, w[4])]


def _transpose_conv_shape(op: Op) -> list[Shape]:
    shape = const_ints(op, 0)
    if len(shape) != 4:
        raise shape_error(op, f"output shape {list(shape)} must have rank 4")
    return [shape]


def _fully_connected_shape(op: Op) -> list[Shape]:
    x, w = shape_of(op, 0), shape_of(op, 1)
    if len(w) != 2 or w[1] < 1:
        raise shape_error(op, f"weights {list(w)} must be [outputs, inputs]")
    if attr(op, "keep_num_dims"):
        return [(*x[:-1], w[0])]
    size = int(np.prod(x, dtype=np.int64))
    if size % w[1]:
        raise shape_error(op, f"input {list(x)} does not fit weights {list(w)}")
    return [(size // w[1], w[0])]


def _rfft_shape(op: Op) -> list[Shape]:
    return [(*shape_of(op, 0)[:-1], attr(op, "length") // 2 + 1)]


def _matmul_shape(op: Op) -> list[Shape]:
    a, b = shape_of(op, 0), shape_of(op, 1)
    if min(len(a), len(b)) < 2:
        raise shape_error(op, f"operands {list(a)} and {list(b)} need rank 2 or more")
    rows_, inner_a = (a[-1], a[-2]) if attr(op, "adj_x") else (a[-2], a[-1])
    inner_b, columns = (b[-1], b[-2]) if attr(op, "adj_y") else (b[-2], b[-1])
    if inner_a != inner_b:
        raise shape_error(op, f"inner sizes {inner_a} and {inner_b} differ")
    return [(*broadcast(op, a[:-2], b[:-2]), rows_, columns)]


def _plus(y: Array, b: Array | None) -> Array:
    return y if b is None else y + b


def _conv(op: Op, x: Array, w: Array, b: Array | None = None) -> Array:
    w = w.astype(np.float64)
    view = patches(x.astype(np.float64), w.shape[1:3], *window_of(op))
    groups = view.shape[3] // w.shape[3]
    parts = [
        np.einsum("nhwcij,oijc->nhwo", part, weights, optimize=True)
        for part, weights in zip(np.split(view, groups, 3), np.split(w, groups), strict=True)
    ]
    return _plus(np.concatenate(parts, -1), b)


def _depthwise(op: Op, x: Array, w: Array, b: Array | None = None) -> Array:
    _, height, width, outs = w.shape
    w = w.astype(np.float64).reshape(height, width, x.shape[3], outs // x.shape[3])
    view = patches(x.astype(np.float64), (height, width), *window_of(op))
    y = np.einsum("nhwcij,ijcm->nhwcm", view, w, optimize=True)
    return _plus(y.reshape(*y.shape[:3], outs), b)


def _transpose_conv(op: Op, shape: Array, w: Array, x: Array, b: Array | None = None) -> Array:
    n, height, width, channels = (int(d) for d in shape)
    rows, columns = attr(op, "stride_h"), attr(op, "stride_w")
    top = left = (0, 0)
    if attr(op, "padding") == "SAME":
        top = same_padding(height, w.shape[1], rows)
        left = same_padding(width, w.shape[2], columns)
    full = np.zeros((n, height + sum(top) + w.shape[1], width + sum(left) + w.shape[2], channels))
    for i, j in np.ndindex(*w.shape[1:3]):
        tap = np.einsum("nhwc,oc->nhwo", x.astype(np.float64), w[:, i, j].astype(np.float64))
        ends = i + x.shape[1] * rows, j + x.shape[2] * columns
        full[:, i : ends[0] : rows, j : ends[1] : columns] += tap
    return _plus(full[:, top[0] : top[0] + height, left[0] : left[0] + width], b)


def _fully_connected(op: Op, x: Array, w: Array, b: Array | None = None) -> Array:
    flat = x.reshape(-1, w.shape[1]).astype(np.float64) @ w.astype(np.float64).T
    return _plus(flat.reshape(_fully_connected_shape(op)[0]), b)


def _matmul(op: Op, a: Array, b: Array) -> Any:
    a = np.swapaxes(a, -1, -2) if attr(op, "adj_x") else a
    b = np.swapaxes(b, -1, -2) if attr(op, "adj_y") else b
    return np.matmul(a.astype(np.float64), b.astype(np.float64))


def _macs(op: Op) -> int:
    """Each weight is used at every position of the output; where it scatters, of the input."""
    held = [t for t in op.inputs if t is not None and t.is_const and len(t.shape) > 1]
    if not held:
        return 0
    values = op.operand(2) if facets(op).scatters else op.output
    return held[0].size * (values.size // max(values.shape[-1], 1))


_LINEAR = OpSpec(fuses=True, least_step=step_of_product, macs=_macs)
_CONV = _LINEAR.facets("hybrid").attributes(
    padding="SAME", **STRIDES, dilation_h_factor=1, dilation_w_factor=1
)
_CONV_3D = OpSpec(options="Conv3DOptions", kernels=FLOAT_ONLY).attributes(
    padding="SAME",
    fused_activation_function="NONE",
    **{f"{name}": 1 for d in "dhw" for name in (f"stride_{d}", f"dilation_{d}_factor")},
)
_W = weight("w", axis=0, rank=4)

define(
    _CONV.op("CONV_2D", (X, _W, bias()), _conv_shape, _conv, homogeneous=True).since(
        {is_hybrid: 2, hybrid_per_channel: 5, grouped: 6}, int8=3
    ),
    _CONV.op("DEPTHWISE_CONV_2D", (X, weight("w", axis=3, rank=4), bias()), _conv_shape)
    .facets(reference=_depthwise, attrs={**_CONV.attrs, "depth_multiplier": 1})
    .since({dilated: 2, is_hybrid: 4, hybrid_per_channel: 6}, int8=3),
    _LINEAR.op("TRANSPOSE_CONV", (param("output_shape"), _W, X, bias()), _transpose_conv_shape)
    .attributes(padding="SAME", **STRIDES)
    .facets("homogeneous scatters", reference=_transpose_conv)
    .since({has(3): 3, activates: 4}, int8=2),
    _LINEAR.op("FULLY_CONNECTED", (X, weight("w", axis=0, rank=2), bias()), _fully_connected_shape)
    .attributes(
        fused_activation_function="NONE",
        weights_format="DEFAULT",
        keep_num_dims=False,
        asymmetric_quantize_inputs=False,
    )
    .facets("hybrid homogeneous", reference=_fully_connected)
    .since({is_hybrid: 3, is_set("keep_num_dims"): 5, lacks(2): 6, hybrid_per_channel: 12}, int8=4),
    # Ours: the reader of GraphDefs writes what is used of it as FULLY_CONNECTED.
    OpSpec("RFFT", (Port("x", "any"),), _rfft_shape, kernels=FLOAT_ONLY)
    .attributes(length=0)
    .facets(outputs=(param("y", dtype="complex64"),)),
    _CONV_3D.op("CONV_3D", (X, act("w"), act("b", optional=True)), _conv_3d_shape, macs=_macs),
    _CONV_3D.op(
        "CONV_3D_TRANSPOSE", (param("output_shape"), act("w"), X, act("b", optional=True))
    ).facets(infer=lambda op: [const_ints(op, 0)]),
    OpSpec("BATCH_MATMUL", (act("a"), act("b")), _matmul_shape, _matmul, kernels=INT8_INT16)
    .attributes(adj_x=False, adj_y=False, asymmetric_quantize_inputs=False)
    .facets(graphdef="BatchMatMulV2", graphdef_attrs={"adj_x": "adj_x", "adj_y": "adj_y"})
    .facets(least_step=step_of_product, macs=lambda op: op.output.size * op.operand(0).shape[-1])
    .since(int8=2, int16=3),
)
