"""Linear ops with weights: convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qfrewrite.ir import Array, Op
from qfrewrite.ops.features import (
    activates,
    dilated,
    grouped,
    has,
    hybrid,
    hybrid_per_channel,
    lacks,
    says,
)
from qfrewrite.ops.spec import (
    FLOAT_ONLY,
    INT8_INT16,
    OpSpec,
    Port,
    Shape,
    act,
    attr,
    bias,
    const_ints,
    facets,
    param,
    rows,
    shape_error,
    shape_of,
    step_of_product,
    weight,
)
from qfrewrite.ops.windows import output_size, patches, same_padding

_CONV_ATTRS: Mapping[str, Any] = {
    "padding": "SAME",
    "stride_h": 1,
    "stride_w": 1,
    "dilation_h_factor": 1,
    "dilation_w_factor": 1,
    "fused_activation_function": "NONE",
}


def window_of(op: Op) -> tuple[tuple[int, int], tuple[int, int], str]:
    """Strides, dilations and padding of a convolution."""
    return (
        (attr(op, "stride_h"), attr(op, "stride_w")),
        (attr(op, "dilation_h_factor"), attr(op, "dilation_w_factor")),
        attr(op, "padding"),
    )


def _spatial(op: Op, x: Shape, window: tuple[int, int]) -> tuple[int, int]:
    strides, dilations, padding = window_of(op)
    if min(*strides, *dilations) < 1:
        raise shape_error(op, f"strides {strides} and dilations {dilations} must be positive")
    height, width = (
        output_size(x[i + 1], window[i], strides[i], dilations[i], padding) for i in range(2)
    )
    return height, width


def _rank4(op: Op) -> tuple[Shape, Shape]:
    x, w = shape_of(op, 0), shape_of(op, 1)
    if len(x) != 4 or len(w) != 4:
        raise shape_error(op, f"input {list(x)} and weights {list(w)} must have rank 4")
    return x, w


def _conv_shape(op: Op) -> list[Shape]:
    x, w = _rank4(op)
    if w[3] < 1 or x[3] % w[3]:
        raise shape_error(op, f"weights {list(w)} do not fit {x[3]} input channels")
    return [(x[0], *_spatial(op, x, (w[1], w[2])), w[0])]


def _depthwise_shape(op: Op) -> list[Shape]:
    x, w = _rank4(op)
    if x[3] < 1 or w[3] % x[3]:
        raise shape_error(op, f"weights {list(w)} do not fit {x[3]} input channels")
    return [(x[0], *_spatial(op, x, (w[1], w[2])), w[3])]


_CONV_3D_ATTRS: Mapping[str, Any] = {
    "padding": "SAME",
    "fused_activation_function": "NONE",
    **{f"stride_{d}": 1 for d in "dhw"},
    **{f"dilation_{d}_factor": 1 for d in "dhw"},
}


def _conv_3d_shape(op: Op) -> list[Shape]:
    x, w = shape_of(op, 0), shape_of(op, 1)
    if len(x) != 5 or len(w) != 5 or w[3] != x[4]:
        raise shape_error(op, f"input {list(x)} and weights {list(w)} do not fit")
    sizes = [
        output_size(
            x[i + 1],
            w[i],
            attr(op, f"stride_{d}"),
            attr(op, f"dilation_{d}_factor"),
            attr(op, "padding"),
        )
        for i, d in enumerate("dhw")
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
    batch = tuple(int(d) for d in np.broadcast_shapes(a[:-2], b[:-2]))
    return [(*batch, rows_, columns)]


def _add_bias(y: Array, b: Array | None, dtype: Any) -> list[Array]:
    return [(y if b is None else y + b).astype(dtype)]


def _conv(op: Op, x: list[Array | None]) -> list[Array]:
    assert x[0] is not None
    assert x[1] is not None
    strides, dilations, padding = window_of(op)
    w = x[1].astype(np.float64)
    view = patches(x[0].astype(np.float64), w.shape[1:3], strides, dilations, padding)
    groups = view.shape[3] // w.shape[3]
    per_group, outs = w.shape[3], w.shape[0] // groups
    parts = [
        np.einsum(
            "nhwcij,oijc->nhwo",
            view[:, :, :, g * per_group : (g + 1) * per_group],
            w[g * outs : (g + 1) * outs],
            optimize=True,
        )
        for g in range(groups)
    ]
    return _add_bias(np.concatenate(parts, -1), x[2] if len(x) > 2 else None, x[0].dtype)


def _depthwise(op: Op, x: list[Array | None]) -> list[Array]:
    assert x[0] is not None
    assert x[1] is not None
    strides, dilations, padding = window_of(op)
    _, height, width, outs = x[1].shape
    channels = x[0].shape[3]
    w = x[1].astype(np.float64).reshape(height, width, channels, outs // channels)
    view = patches(x[0].astype(np.float64), (height, width), strides, dilations, padding)
    y = np.einsum("nhwcij,ijcm->nhwcm", view, w, optimize=True)
    y = y.reshape(*y.shape[:3], outs)
    return _add_bias(y, x[2] if len(x) > 2 else None, x[0].dtype)


def _transpose_conv(op: Op, x: list[Array | None]) -> list[Array]:
    shape, w, y = x[0], x[1], x[2]
    assert shape is not None
    assert w is not None
    assert y is not None
    n, height, width, channels = (int(d) for d in shape)
    stride = (attr(op, "stride_h"), attr(op, "stride_w"))
    pads = [(0, 0), (0, 0)]
    if attr(op, "padding") == "SAME":
        pads = [same_padding((height, width)[i], w.shape[i + 1], stride[i]) for i in range(2)]
    full = np.zeros(
        (n, height + sum(pads[0]) + w.shape[1], width + sum(pads[1]) + w.shape[2], channels)
    )
    for i in range(w.shape[1]):
        for j in range(w.shape[2]):
            tap = np.einsum("nhwc,oc->nhwo", y.astype(np.float64), w[:, i, j].astype(np.float64))
            full[
                :,
                i : i + y.shape[1] * stride[0] : stride[0],
                j : j + y.shape[2] * stride[1] : stride[1],
            ] += tap
    out = full[:, pads[0][0] : pads[0][0] + height, pads[1][0] : pads[1][0] + width]
    return _add_bias(out, x[3] if len(x) > 3 else None, y.dtype)


def _fully_connected(op: Op, x: list[Array | None]) -> list[Array]:
    assert x[0] is not None
    assert x[1] is not None
    w = x[1].astype(np.float64)
    flat = x[0].reshape(-1, w.shape[1]).astype(np.float64) @ w.T
    y = flat.reshape(_fully_connected_shape(op)[0])
    return _add_bias(y, x[2] if len(x) > 2 else None, x[0].dtype)


def _matmul(op: Op, x: list[Array | None]) -> list[Array]:
    assert x[0] is not None
    assert x[1] is not None
    a = np.swapaxes(x[0], -1, -2) if attr(op, "adj_x") else x[0]
    b = np.swapaxes(x[1], -1, -2) if attr(op, "adj_y") else x[1]
    return [np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(x[0].dtype)]


def _macs(op: Op) -> int:
    """Each weight is used at every position of the output; where it scatters, of the input."""
    held = [t for t in op.inputs if t is not None and t.is_const and len(t.shape) > 1]
    if not held:
        return 0
    values = op.operand(2) if facets(op).scatters else op.output
    return held[0].size * (values.size // max(values.shape[-1], 1))


def _matmul_macs(op: Op) -> int:
    return op.output.size * op.operand(0).shape[-1]


rows(
    OpSpec(
        "CONV_2D", (act("x"), weight("w", 0, rank=4), bias()), (act("y"),), _conv_shape, _conv,
        "Conv2DOptions", _CONV_ATTRS, fuses=True, hybrid=True, least_step=step_of_product,
        versions={"int8": 3},
        since=((hybrid, 2), (hybrid_per_channel, 5), (grouped, 6)), homogeneous=True, macs=_macs,
    ),
    OpSpec(
        "DEPTHWISE_CONV_2D", (act("x"), weight("w", 3, rank=4), bias()), (act("y"),),
        _depthwise_shape, _depthwise, "DepthwiseConv2DOptions",
        {**_CONV_ATTRS, "depth_multiplier": 1}, fuses=True,
        least_step=step_of_product, hybrid=True, versions={"int8": 3},
        since=((dilated, 2), (hybrid, 4), (hybrid_per_channel, 6)), macs=_macs,
    ),
    OpSpec(
        "TRANSPOSE_CONV", (param("output_shape"), weight("w", 0, rank=4), act("x"), bias()),
        (act("y"),), _transpose_conv_shape, _transpose_conv, "TransposeConvOptions",
        {"padding": "SAME", "stride_h": 1, "stride_w": 1, "fused_activation_function": "NONE"},
        fuses=True, versions={"int8": 2}, since=((has(3), 3), (activates, 4)),
        least_step=step_of_product, homogeneous=True, scatters=True, macs=_macs,
    ),
    OpSpec(
        "FULLY_CONNECTED", (act("x"), weight("w", 0, rank=2), bias()), (act("y"),),
        _fully_connected_shape, _fully_connected, "FullyConnectedOptions",
        {"fused_activation_function": "NONE", "weights_format": "DEFAULT", "keep_num_dims": False,
         "asymmetric_quantize_inputs": False},
        fuses=True, hybrid=True, versions={"int8": 4}, least_step=step_of_product,
        since=((hybrid, 3), (says("keep_num_dims"), 5), (lacks(2), 6), (hybrid_per_channel, 12)),
        homogeneous=True, macs=_macs,
    ),
    # Ours: the reader of GraphDefs writes what is used of it as FULLY_CONNECTED.
    OpSpec(
        "RFFT", (Port("x", "any"),), (param("y", dtype="complex64"),), _rfft_shape,
        attrs={"length": 0}, kernels=FLOAT_ONLY,
    ),
    OpSpec(
        "CONV_3D", (act("x"), act("w"), act("b", optional=True)), (act("y"),), _conv_3d_shape,
        None, "Conv3DOptions", _CONV_3D_ATTRS, kernels=FLOAT_ONLY, macs=_macs,
    ),
    OpSpec(
        "CONV_3D_TRANSPOSE",
        (param("output_shape"), act("w"), act("x"), act("b", optional=True)), (act("y"),),
        lambda op: [const_ints(op, 0)], None, "Conv3DOptions", _CONV_3D_ATTRS, kernels=FLOAT_ONLY,
    ),
    OpSpec(
        "BATCH_MATMUL", (act("a"), act("b")), (act("y"),), _matmul_shape, _matmul,
        "BatchMatMulOptions", {"adj_x": False, "adj_y": False, "asymmetric_quantize_inputs": False},
        graphdef="BatchMatMulV2", graphdef_attrs={"adj_x": "adj_x", "adj_y": "adj_y"},
        versions={"int8": 2, "int16": 3}, kernels=INT8_INT16,
        least_step=step_of_product, macs=_matmul_macs,
    ),
)  # fmt: skip
