"""Reading pooling, padding, joining, splitting and resizing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.graphdef.importer import NodeContext
from qfrewrite.formats.graphdef.nodes import int_list
from qfrewrite.formats.graphdef.rules.arith import Table, channels_last
from qfrewrite.formats.graphdef.rules.linear import (
    explicit_pads,
    spatial,
    stated_padding,
    window_attrs,
)
from qfrewrite.formats.graphdef.rules.slice import with_known_begin
from qfrewrite.formats.graphdef.values import Perm, Value, common_perm, identity_perm
from qfrewrite.ir import Tensor
from qfrewrite.ops.windows import same_padding


def _pool(c: NodeContext, kind: str, window: Sequence[int], stride: Sequence[int]) -> list[Value]:
    """window, stride: one entry per axis."""
    perm = channels_last(c)
    (height, width), strides = spatial(c, "ksize", window), spatial(c, "strides", stride)
    x, padding = c.stored(0, perm), c.attr("padding")
    if padding == "EXPLICIT" and kind == "MAX_POOL_2D":
        x, padding = _padded_for_maximum(c, x, (height, width), strides)
    if padding not in ("SAME", "VALID"):
        raise UnsupportedError(f"pooling with padding {padding} is not supported")
    attrs = window_attrs(padding, stride=strides, window=(height, width))
    return c.emit(kind, [x], attrs, perm=perm)


def _padded_for_maximum(
    c: NodeContext, x: Tensor, window: tuple[int, int], stride: tuple[int, int]
) -> tuple[Tensor, str]:
    """`x` (NHWC) behind the padding that the node states, and what is left for the pooling."""
    pads = explicit_pads(c)
    if not any(map(any, pads)):
        return x, "VALID"
    same = [same_padding(d, k, s) for d, k, s in zip(x.shape[1:3], window, stride, strict=True)]
    if pads == [(0, 0), *same, (0, 0)]:
        return x, "SAME"
    operands = [c.operand(pads, "paddings"), c.number(-np.inf, "float32", "lowest")]
    return c.part("PADV2", [x, *operands], "pad"), "VALID"


def _by_attributes(kind: str, c: NodeContext) -> list[Value]:
    """AvgPool, MaxPool."""
    window, stride = (int_list(c.node, name, (1,) * 4) for name in ("ksize", "strides"))
    return _pool(c, kind, window, stride)


def _max_pool_v2(c: NodeContext) -> list[Value]:
    """MaxPoolV2(x, ksize, strides)."""
    return _pool(c, "MAX_POOL_2D", c.ints(1), c.ints(2))


def _pool_3d(kind: str, c: NodeContext) -> list[Value]:
    """AvgPool3D(x [N, D, H, W, C]), MaxPool3D: first over each image, then over their depth."""
    window, stride = (int_list(c.node, n, (1,) * 5, 5) for n in ("ksize", "strides"))
    padding = stated_padding(c)
    if c.attr("data_format", "NDHWC") != "NDHWC":
        raise UnsupportedError(f"data format {c.attr('data_format')} is not supported")
    if min(*window, *stride) < 1 or {window[0], window[4], stride[0], stride[4]} != {1}:
        raise UnsupportedError(f"pools with window {list(window)} by {list(stride)}")
    x = c.stored(0, identity_perm(5))
    n, depth, height, width, channels = x.shape
    y = c.reshaped(x, (n * depth, height, width, channels), "images")
    attrs = window_attrs(padding, stride=stride[2:4], window=window[2:4])
    y = c.part(kind, [y], "over_images", **attrs)
    height, width = y.shape[1:3]
    y = c.reshaped(y, (n, depth, height * width, channels), "depth")
    attrs = window_attrs(padding, stride=(stride[1], 1), window=(window[1], 1))
    y = c.part(kind, [y], "over_depth", **attrs)
    return c.emit_reshape(y, (n, y.shape[1], height, width, channels))


def _per_axis(c: NodeContext, slot: int, perm: Perm, suffix: str) -> Tensor:
    """The constant in `slot`, one row per axis, brought into the order of the stored axes."""
    data = c.array(slot)
    if data.shape[:1] != (len(perm),):
        raise ModelFileError(f"input {slot} has shape {list(data.shape)}, needs {len(perm)} rows")
    ordered = np.empty_like(data)
    ordered[list(perm)] = data
    return c.operand(ordered, suffix, slot)


def _pad(kind: str, c: NodeContext) -> list[Value]:
    """Pad, PadV2, MirrorPad."""
    operands = [_per_axis(c, 1, c.perm(0), "paddings")]
    if kind == "PADV2":
        operands.append(c.plain(2))
    attrs = {"mode": c.attr("mode", "REFLECT")} if kind == "MIRROR_PAD" else {}
    return c.unary(kind, attrs, *operands)


def _slice(c: NodeContext) -> list[Value]:
    c = c if c.known(1) else with_known_begin(c)
    bounds = [_per_axis(c, slot, c.perm(0), name) for slot, name in ((1, "begin"), (2, "size"))]
    return c.unary("SLICE", {}, *bounds)


def _tile(c: NodeContext) -> list[Value]:
    return c.unary("TILE", {}, _per_axis(c, 1, c.perm(0), "multiples"))


def _join(values: slice, axis_slot: int, c: NodeContext) -> list[Value]:
    """Concat, ConcatV2 of the inputs `values`."""
    c.require(2)
    joined = c.inputs[values]
    rank = len(joined[0].shape)
    if any(len(v.shape) != rank for v in joined):
        raise ModelFileError(f"cannot join {[list(v.shape) for v in joined]}")
    axis = c.axis(c.integer(axis_slot % len(c.inputs)), rank)
    perm = common_perm(joined, rank)
    tensors = [c.importer.laid_out(v, perm) for v in joined]
    if len(tensors) == 1:
        return [joined[0]]
    return c.emit("CONCATENATION", tensors, {"axis": perm[axis]}, perm=perm)


def _split_axis(c: NodeContext, x: int, axis: int) -> tuple[Perm, int]:
    perm = c.perm(x)
    return perm, perm[c.axis(c.integer(axis), len(perm))]


def _split_count(c: NodeContext) -> int:
    count = c.attr("num_split", 1)
    if type(count) is not int or not 0 < count <= 1 << 16:
        raise ModelFileError(f"splits into {count!r} parts")
    return count


def _split(c: NodeContext) -> list[Value]:
    perm, axis = _split_axis(c, 1, 0)
    operands = [c.operand(axis, "axis", 0), c.stored(1, perm)]
    return c.emit("SPLIT", operands, {"num_splits": _split_count(c)}, perm=perm)


def _split_v(c: NodeContext) -> list[Value]:
    perm, axis = _split_axis(c, 0, 2)
    if len(c.ints(1)) != _split_count(c):
        raise ModelFileError(f"splits into {_split_count(c)} parts of sizes {list(c.ints(1))}")
    operands = [c.stored(0, perm), c.operand(c.array(1), "sizes", 1), c.operand(axis, "axis", 2)]
    return c.emit("SPLIT_V", operands, {"num_splits": _split_count(c)}, perm=perm)


def _unpack(c: NodeContext) -> list[Value]:
    x = c.plain(0)
    axis = c.axis(c.attr("axis", 0), len(x.shape))
    if c.attr("num", x.shape[axis]) != x.shape[axis]:
        raise ModelFileError(f"unpacks {c.attr('num')} parts of {list(x.shape)} on axis {axis}")
    return c.emit("UNPACK", [x], {"axis": axis, "num": x.shape[axis]})


def _resize(kind: str, c: NodeContext) -> list[Value]:
    attrs = {k: bool(c.attr(k, False)) for k in ("align_corners", "half_pixel_centers")}
    return c.emit(kind, [c.plain(0), c.operand(c.array(1), "size", 1)], attrs)


def _blocks(kind: str, c: NodeContext) -> list[Value]:
    return c.unary(kind, {"block_size": c.attr("block_size", 1)}, perm=channels_last(c))


def _transpose(c: NodeContext) -> list[Value]:
    """Noted, not done: it costs an op only where one needs it."""
    value, rank = c.value(0), len(c.shape(0))
    order = [c.axis(p, rank) for p in c.ints(1)]
    if sorted(order) != list(range(rank)):
        raise ModelFileError(f"{order} is no permutation of {list(value.shape)}")
    return [value.transposed(order, c.name)]


def _space_batch(kind: str, last: str, c: NodeContext) -> list[Value]:
    """SpaceToBatchND(x, block, paddings), BatchToSpaceND(x, block, crops)."""
    block, table, rank = c.array(1), c.array(2), len(c.shape(0))
    if block.ndim != 1 or table.shape != (block.size, 2) or block.size >= rank:
        raise ModelFileError(f"blocks {list(block.shape)} with {last} {list(table.shape)}")
    # Kernels want all axes between batch and channels.
    missing = rank - 2 - block.size
    if missing > 0:
        block = np.concatenate([block, np.ones(missing, block.dtype)])
        table = np.concatenate([table, np.zeros((missing, 2), table.dtype)])
    operands = [c.plain(0), c.operand(block, "block", 1), c.operand(table, last, 2)]
    return c.emit(kind, operands)


def _space_batch_v1(kind: str, last: str, c: NodeContext) -> list[Value]:
    """SpaceToBatch(x, paddings), BatchToSpace(x, crops): square blocks of height and width."""
    table, size = c.array(1), int(c.attr("block_size", 0))
    if table.shape != (2, 2) or size < 1:
        raise ModelFileError(f"blocks of {size} with {last} {list(table.shape)}")
    operands = [c.operand([size, size], "block"), c.operand(table, last, 1)]
    return c.emit(kind, [c.stored(0, identity_perm(4)), *operands])


WINDOW: Table = {
    "AvgPool": partial(_by_attributes, "AVERAGE_POOL_2D"),
    "MaxPool": partial(_by_attributes, "MAX_POOL_2D"),
    "MaxPoolV2": _max_pool_v2,
    "AvgPool3D": partial(_pool_3d, "AVERAGE_POOL_2D"),
    "MaxPool3D": partial(_pool_3d, "MAX_POOL_2D"),
    "Pad": partial(_pad, "PAD"),
    "PadV2": partial(_pad, "PADV2"),
    "MirrorPad": partial(_pad, "MIRROR_PAD"),
    "Slice": _slice,
    "Tile": _tile,
    "ConcatV2": partial(_join, slice(-1), -1),
    "Concat": partial(_join, slice(1, None), 0),
    "Split": _split,
    "SplitV": _split_v,
    "Unpack": _unpack,
    "ResizeBilinear": partial(_resize, "RESIZE_BILINEAR"),
    "ResizeNearestNeighbor": partial(_resize, "RESIZE_NEAREST_NEIGHBOR"),
    "SpaceToDepth": partial(_blocks, "SPACE_TO_DEPTH"),
    "DepthToSpace": partial(_blocks, "DEPTH_TO_SPACE"),
    "Transpose": _transpose,
    "SpaceToBatch": partial(_space_batch_v1, "SPACE_TO_BATCH_ND", "paddings"),
    "BatchToSpace": partial(_space_batch_v1, "BATCH_TO_SPACE_ND", "crops"),
    "SpaceToBatchND": partial(_space_batch, "SPACE_TO_BATCH_ND", "paddings"),
    "BatchToSpaceND": partial(_space_batch, "BATCH_TO_SPACE_ND", "crops"),
}
