"""Reading convolutions and matrix products.

TensorFlow keeps convolution kernels as HWIO, depthwise ones as HWCM, matrices as [in, out]; the IR
has OHWI, [1, H, W, C*M] and [out, in]. Constants are moved as views.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.graphdef.importer import NodeContext
from qfrewrite.formats.graphdef.nodes import int_list
from qfrewrite.formats.graphdef.rules.arith import Table, channels_last
from qfrewrite.formats.graphdef.values import NCHW, Constant, Layout, Perm, Value, identity_perm
from qfrewrite.ir import Tensor

# Where TensorFlow's axes H, W, I, O lie in the IR's kernels.
_HWIO_IN_OHWI: Perm = (1, 2, 3, 0)
_HWOI_IN_OHWI: Perm = (1, 2, 0, 3)


def spatial(
    c: NodeContext, name: str, values: Sequence[int] | None = None, default: int = 1
) -> tuple[int, int]:
    """The height and width entries of a list with one entry per axis.

    values: the list, if it is not the attribute `name`. Raises where the other entries are not 1.
    """
    values = int_list(c.node, name, (default,) * 4) if values is None else values
    if len(values) != 4:
        raise ModelFileError(f"{name} {list(values)} must have 4 entries")
    order = (0, 2, 3, 1) if c.attr("data_format", "NHWC") == "NCHW" else (0, 1, 2, 3)
    batch, height, width, depth = (values[i] for i in order)
    if batch != 1 or depth != 1:
        raise UnsupportedError(f"{name} {list(values)} go over the batch or the channels")
    if min(height, width) < 1:
        raise ModelFileError(f"{name} {list(values)} must be positive")
    return height, width


def explicit_pads(c: NodeContext) -> list[tuple[int, int]]:
    """The attribute explicit_paddings as (before, after) of N, H, W, C."""
    flat = int_list(c.node, "explicit_paddings", (0,) * 8, 8)
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    nchw = c.attr("data_format", "NHWC") == "NCHW"
    return [pairs[i] for i in ((0, 2, 3, 1) if nchw else (0, 1, 2, 3))]


_WINDOW_ATTRS = {
    "stride": ("stride_h", "stride_w"),
    "dilation": ("dilation_h_factor", "dilation_w_factor"),
    "window": ("filter_height", "filter_width"),
}


def window_attrs(padding: str, **sizes: Sequence[int]) -> dict[str, Any]:
    """The attributes of an op with a sliding window.

    sizes: the (height, width) of `stride`, `dilation` and `window`.
    """
    pairs = ((_WINDOW_ATTRS[key], size) for key, size in sizes.items())
    named = (zip(names, size, strict=True) for names, size in pairs)
    return {"padding": padding, **dict(chain.from_iterable(named))}


def stated_padding(c: NodeContext, *allowed: str) -> str:
    """The attribute padding; raises ModelFileError where it is none of those `allowed`."""
    padding = c.attr("padding")
    if padding not in (allowed or ("SAME", "VALID")):
        raise ModelFileError(f"padding is {padding!r}")
    return str(padding)


def _conv_attrs(c: NodeContext) -> dict[str, Any]:
    stride, dilation = spatial(c, "strides"), spatial(c, "dilations")
    padding = stated_padding(c, "SAME", "VALID", "EXPLICIT").replace("EXPLICIT", "VALID")
    return window_attrs(padding, stride=stride, dilation=dilation)


def _padded(c: NodeContext, x: Tensor) -> Tensor:
    """`x` (NHWC), behind a PAD where the node pads by explicit numbers."""
    pads = explicit_pads(c) if c.attr("padding") == "EXPLICIT" else []
    if not any(any(p) for p in pads):
        return x
    return c.part("PAD", [x, c.operand(pads, "paddings")], "pad")


def _conv(c: NodeContext) -> list[Value]:
    perm = channels_last(c)
    x, w = _padded(c, c.stored(0, perm)), c.stored(1, _HWIO_IN_OHWI)
    return c.emit("CONV_2D", [x, w], _conv_attrs(c), perm=perm)


def _depthwise(c: NodeContext) -> list[Value]:
    perm = channels_last(c)
    shape = c.shape(1)
    if len(shape) != 4:
        raise ModelFileError(f"kernel {list(shape)} must have rank 4")
    height, width, channels, multiplier = shape
    flat = (1, height, width, channels * multiplier)
    x, kernel = _padded(c, c.stored(0, perm)), c.value(1)
    if isinstance(kernel, Constant):
        w = c.importer.constant(kernel, Layout(shape=flat))
    else:
        w = c.reshaped(c.plain(1), flat, "kernel")
    attrs = {**_conv_attrs(c), "depth_multiplier": multiplier}
    return c.emit("DEPTHWISE_CONV_2D", [x, w], attrs, perm=perm)


def _conv_3d(c: NodeContext) -> list[Value]:
    """Conv3D(x [N, D, H, W, C], kernel [D, H, W, I, O])."""
    if c.attr("data_format", "NDHWC") != "NDHWC":
        raise UnsupportedError(f"data format {c.attr('data_format')} is not supported")
    ones = (1, 1, 1, 1, 1)
    lists = {name: int_list(c.node, name, ones, 5) for name in ("strides", "dilations")}
    if any(v[0] != 1 or v[4] != 1 or min(v) < 1 for v in lists.values()):
        raise UnsupportedError(f"{lists} go over the batch or the channels")
    names = {"strides": "stride_{}", "dilations": "dilation_{}_factor"}
    attrs = {
        names[name].format(axis): size
        for name, sizes in lists.items()
        for axis, size in zip("dhw", sizes[1:4], strict=True)
    }
    operands = [c.stored(slot, identity_perm(5)) for slot in (0, 1)]
    return c.emit("CONV_3D", operands, {"padding": c.attr("padding"), **attrs})


def _patches(c: NodeContext) -> list[Value]:
    """ExtractImagePatches(x): every output channel is one value of the window.

    Windows that tile the image are SPACE_TO_DEPTH, others a convolution whose kernel picks them.
    """
    x = c.stored(0, identity_perm(4))
    (height, width), stride, rate = (spatial(c, n) for n in ("ksizes", "strides", "rates"))
    padding, count = stated_padding(c), height * width * x.shape[3]
    tiles = stride == (height, width) and height == width and rate == (1, 1)
    if tiles and x.shape[1] % height == 0 and x.shape[2] % width == 0:
        return c.emit("SPACE_TO_DEPTH", [x], {"block_size": height})
    if count * count > _MOST_WEIGHTS:
        raise UnsupportedError(f"patches of {height} x {width} x {x.shape[3]} are too large")
    w = np.eye(count, dtype=np.float32).reshape(count, height, width, x.shape[3])
    kernel = c.importer.operand(w, f"{c.name}/kernel")
    return c.emit("CONV_2D", [x, kernel], window_attrs(padding, stride=stride, dilation=rate))


# What a kernel that only picks values may hold.
_MOST_WEIGHTS = 1 << 24


def _transpose_conv(c: NodeContext) -> list[Value]:
    """Conv2DBackpropInput(sizes, kernel HWOI, y)."""
    perm = channels_last(c)
    dilation = spatial(c, "dilations")
    if c.attr("padding") not in ("SAME", "VALID"):
        raise UnsupportedError("a transposed convolution with explicit padding")
    sizes = list(c.ints(0))
    y = c.stored(2, perm)
    if dilation == (1, 1):
        w = c.stored(1, _HWOI_IN_OHWI)
    else:
        w = c.importer.laid_out(_spread(c.constant(1), dilation), _HWOI_IN_OHWI)
    if len(sizes) == 2:
        sizes = [y.shape[0], *sizes, w.shape[0]]
    elif perm == NCHW and len(sizes) == 4:
        sizes = [sizes[i] for i in (0, 2, 3, 1)]
    attrs = window_attrs(c.attr("padding"), stride=spatial(c, "strides"))
    operand = c.operand(sizes, "output_shape", 0)
    return c.emit("TRANSPOSE_CONV", [operand, w, y], attrs, perm=perm)


def _spread(kernel: Constant, dilation: tuple[int, int]) -> Constant:
    """A kernel [H, W, ...] with zeros between its taps, for kernels that know no dilation."""
    height, width = ((n - 1) * d + 1 for n, d in zip(kernel.shape[:2], dilation, strict=True))
    data = np.zeros((height, width, *kernel.shape[2:]), kernel.data.dtype)
    data[:: dilation[0], :: dilation[1]] = kernel.data
    return Constant(kernel.name, data)


def _matmul(c: NodeContext) -> list[Value]:
    """MatMul(a, b) of matrices: FULLY_CONNECTED where b is constant, else BATCH_MATMUL."""
    a, b = c.value(0), c.value(1)
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise ModelFileError(f"operands {list(a.shape)} and {list(b.shape)} must have rank 2")
    swap_a, swap_b = bool(c.attr("transpose_a", False)), bool(c.attr("transpose_b", False))
    if not isinstance(b, Constant):
        attrs = {"adj_x": swap_a, "adj_y": swap_b}
        return c.emit("BATCH_MATMUL", [c.plain(0), c.plain(1)], attrs)
    if a.shape[0 if swap_a else 1] != b.shape[1 if swap_b else 0]:
        raise ModelFileError(f"operands {list(a.shape)} and {list(b.shape)} do not fit")
    w = c.stored(1, identity_perm(2) if swap_b else (1, 0))
    x = c.stored(0, (1, 0) if swap_a else identity_perm(2))
    return c.emit("FULLY_CONNECTED", [x, w])


def _batch_matmul(c: NodeContext) -> list[Value]:
    attrs = {name: bool(c.attr(name, False)) for name in ("adj_x", "adj_y")}
    return c.emit("BATCH_MATMUL", [c.plain(0), c.plain(1)], attrs)


LINEAR: Table = {
    "Conv2D": _conv,
    "Conv3D": _conv_3d,
    "ExtractImagePatches": _patches,
    "DepthwiseConv2dNative": _depthwise,
    "Conv2DBackpropInput": _transpose_conv,
    "MatMul": _matmul,
    **dict.fromkeys(("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _batch_matmul),
}
