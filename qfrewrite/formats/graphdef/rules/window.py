"""Reading pooling, padding, joining, splitting and resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.graphdef.importer import NodeContext
from qfrewrite.formats.graphdef.nodes import int_list
from qfrewrite.formats.graphdef.rules.arith import Table, channels_last
from qfrewrite.formats.graphdef.rules.linear import explicit_pads, spatial
from qfrewrite.formats.graphdef.rules.slice import with_known_begin
from qfrewrite.formats.graphdef.values import (
    Computed,
    Layout,
    Perm,
    Value,
    common_perm,
    identity_perm,
)
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
    attrs = {
        "padding": padding,
        "stride_h": strides[0],
        "stride_w": strides[1],
        "filter_height": height,
        "filter_width": width,
        "fused_activation_function": "NONE",
    }
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
    operand = c.importer.ints(pads, f"{c.name}/paddings")
    lowest = c.importer.number(-np.inf, "float32", f"{c.name}/lowest")
    return c.importer.add("PADV2", [x, operand, lowest], {}, name=f"{c.name}/pad")[0], "VALID"


def _by_attributes(kind: str) -> Callable[[NodeContext], list[Value]]:
    """AvgPool, MaxPool."""
    ones = (1, 1, 1, 1)
    return lambda c: _pool(
        c, kind, int_list(c.node, "ksize", ones), int_list(c.node, "strides", ones)
    )


def _max_pool_v2(c: NodeContext) -> list[Value]:
    """MaxPoolV2(x, ksize, strides)."""
    return _pool(c, "MAX_POOL_2D", c.ints(1), c.ints(2))


def _pool_3d(kind: str) -> Callable[[NodeContext], list[Value]]:
    """AvgPool3D(x [N, D, H, W, C]), MaxPool3D: first over each image, then over their depth."""

    def convert(c: NodeContext) -> list[Value]:
        window, stride = (int_list(c.node, n, (1,) * 5, 5) for n in ("ksize", "strides"))
        padding = c.attr("padding")
        if c.attr("data_format", "NDHWC") != "NDHWC" or padding not in ("SAME", "VALID"):
            raise UnsupportedError(f"pooling {c.attr('data_format')} with padding {padding}")
        if min(*window, *stride) < 1 or {window[0], window[4], stride[0], stride[4]} != {1}:
            raise UnsupportedError(f"pools with window {list(window)} by {list(stride)}")
        x = c.stored(0, identity_perm(5))
        n, depth, height, width, channels = x.shape

        def attrs(h: int, w: int, sh: int, sw: int) -> dict[str, Any]:
            return {
                "padding": padding,
                "stride_h": sh,
                "stride_w": sw,
                "filter_height": h,
                "filter_width": w,
                "fused_activation_function": "NONE",
            }

        def add(kind: str, x: Tensor, attrs: dict[str, Any], name: str) -> Tensor:
            return c.importer.add(kind, [x], attrs, name=f"{c.name}/{name}")[0]

        images = (n * depth, height, width, channels)
        y = c.importer.reshaped(x, images, f"{c.name}/images")
        y = add(kind, y, attrs(*window[2:4], *stride[2:4]), "over_images")
        height, width = y.shape[1:3]
        y = c.importer.reshaped(y, (n, depth, height * width, channels), f"{c.name}/depth")
        y = add(kind, y, attrs(window[1], 1, stride[1], 1), "over_depth")
        shape = (n, y.shape[1], height, width, channels)
        return c.emit("RESHAPE", [y, c.importer.ints(shape, f"{c.name}/shape")])

    return convert


def _per_axis(c: NodeContext, slot: int, perm: Perm, suffix: str) -> Tensor:
    """The constant in `slot`, one row per axis, brought into the order of the stored axes."""
    data = c.constant(slot).data
    if data.shape[:1] != (len(perm),):
        raise ModelFileError(f"input {slot} has shape {list(data.shape)}, needs {len(perm)} rows")
    ordered = np.empty_like(data)
    ordered[list(perm)] = data
    return c.operand(ordered, slot, suffix)


def _pad(kind: str) -> Callable[[NodeContext], list[Value]]:
    def convert(c: NodeContext) -> list[Value]:
        perm = c.perm(0)
        operands = [c.stored(0, perm), _per_axis(c, 1, perm, "paddings")]
        attrs: dict[str, Any] = {}
        if kind == "PADV2":
            operands.append(c.plain(2))
        if kind == "MIRROR_PAD":
            attrs["mode"] = c.attr("mode", "REFLECT")
        return c.emit(kind, operands, attrs, perm=perm)

    return convert


def _slice(c: NodeContext) -> list[Value]:
    c = c if c.known(1) else with_known_begin(c)
    perm = c.perm(0)
    rows = [_per_axis(c, slot, perm, suffix) for slot, suffix in ((1, "begin"), (2, "size"))]
    return c.emit("SLICE", [c.stored(0, perm), *rows], perm=perm)


def _tile(c: NodeContext) -> list[Value]:
    perm = c.perm(0)
    return c.emit("TILE", [c.stored(0, perm), _per_axis(c, 1, perm, "multiples")], perm=perm)


def _join(c: NodeContext, values: Sequence[Value], axis_slot: int) -> list[Value]:
    rank = len(values[0].shape) if values else 0
    axes = c.ints(axis_slot)
    if len(axes) != 1 or any(len(v.shape) != rank for v in values):
        raise ModelFileError(f"cannot join {[list(v.shape) for v in values]} on {list(axes)}")
    axis = c.axis(axes[0], rank)
    perm = common_perm(list(values), rank)
    tensors = [c.importer.laid_out(v, perm) for v in values]
    if len(tensors) == 1:
        return [values[0]]
    attrs = {"axis": perm[axis], "fused_activation_function": "NONE"}
    return c.emit("CONCATENATION", tensors, attrs, perm=perm)


def _concat_v2(c: NodeContext) -> list[Value]:
    c.require(2)
    return _join(c, c.inputs[:-1], len(c.inputs) - 1)


def _concat(c: NodeContext) -> list[Value]:
    c.require(2)
    return _join(c, c.inputs[1:], 0)


def _split_axis(c: NodeContext, x: int, axis: int) -> tuple[Perm, int]:
    perm, axes = c.perm(x), c.ints(axis)
    if len(axes) != 1:
        raise ModelFileError(f"the axis to split on is {list(axes)}")
    return perm, perm[c.axis(axes[0], len(perm))]


def _split_count(c: NodeContext) -> int:
    count = c.attr("num_split", 1)
    if type(count) is not int or not 0 < count <= 1 << 16:
        raise ModelFileError(f"splits into {count!r} parts")
    return count


def _split(c: NodeContext) -> list[Value]:
    perm, axis = _split_axis(c, 1, 0)
    operands = [c.operand(axis, 0, "axis"), c.stored(1, perm)]
    return c.emit("SPLIT", operands, {"num_splits": _split_count(c)}, perm=perm)


def _split_v(c: NodeContext) -> list[Value]:
    perm, axis = _split_axis(c, 0, 2)
    if len(c.ints(1)) != _split_count(c):
        raise ModelFileError(f"splits into {_split_count(c)} parts of sizes {list(c.ints(1))}")
    operands = [c.stored(0, perm), c.operand(c.array(1), 1, "sizes"), c.operand(axis, 2, "axis")]
    return c.emit("SPLIT_V", operands, {"num_splits": _split_count(c)}, perm=perm)


def _unpack(c: NodeContext) -> list[Value]:
    x = c.plain(0)
    axis = c.axis(c.attr("axis", 0), len(x.shape))
    if c.attr("num", x.shape[axis]) != x.shape[axis]:
        raise ModelFileError(f"unpacks {c.attr('num')} parts of {list(x.shape)} on axis {axis}")
    return c.emit("UNPACK", [x], {"axis": axis, "num": x.shape[axis]})


def _resize(kind: str) -> Callable[[NodeContext], list[Value]]:
    def convert(c: NodeContext) -> list[Value]:
        attrs = {k: bool(c.attr(k, False)) for k in ("align_corners", "half_pixel_centers")}
        return c.emit(kind, [c.plain(0), c.operand(c.array(1), 1, "size")], attrs)

    return convert


def _blocks(kind: str) -> Callable[[NodeContext], list[Value]]:
    def convert(c: NodeContext) -> list[Value]:
        perm = channels_last(c)
        return c.emit(kind, [c.stored(0, perm)], {"block_size": c.attr("block_size", 1)}, perm=perm)

    return convert


def _transpose(c: NodeContext) -> list[Value]:
    """Noted, not done: it costs an op only where a reader needs it."""
    value, order = c.value(0), c.ints(1)
    rank = len(value.shape)
    order = tuple(c.axis(p, rank) for p in order)
    if sorted(order) != list(range(rank)):
        raise ModelFileError(f"{list(order)} is no permutation of {list(value.shape)}")
    if isinstance(value, Computed):
        return [Computed(value.tensor, tuple(value.perm[p] for p in order), c.name)]
    return [value.moved(Layout(perm=order), c.name)]


def _space_batch(kind: str, last: str) -> Callable[[NodeContext], list[Value]]:
    """SpaceToBatchND(x, block, paddings), BatchToSpaceND(x, block, crops)."""

    def convert(c: NodeContext) -> list[Value]:
        block, table, rank = c.array(1), c.array(2), len(c.shape(0))
        if block.ndim != 1 or table.shape != (block.size, 2) or block.size >= rank:
            raise ModelFileError(f"blocks {list(block.shape)} with {last} {list(table.shape)}")
        # Kernels want all axes between batch and channels.
        missing = rank - 2 - block.size
        if missing > 0:
            block = np.concatenate([block, np.ones(missing, block.dtype)])
            table = np.concatenate([table, np.zeros((missing, 2), table.dtype)])
        operands = [c.plain(0), c.operand(block, 1, "block"), c.operand(table, 2, last)]
        return c.emit(kind, operands)

    return convert


def _space_batch_v1(kind: str, last: str) -> Callable[[NodeContext], list[Value]]:
    """SpaceToBatch(x, paddings), BatchToSpace(x, crops): square blocks of height and width."""

    def convert(c: NodeContext) -> list[Value]:
        table, size = c.array(1), int(c.attr("block_size", 0))
        if table.shape != (2, 2) or size < 1:
            raise ModelFileError(f"blocks of {size} with {last} {list(table.shape)}")
        operands = [c.stored(0, identity_perm(4)), c.operand([size, size], None, "block")]
        return c.emit(kind, [*operands, c.operand(table, 1, last)])

    return convert


WINDOW: Table = {
    "AvgPool": _by_attributes("AVERAGE_POOL_2D"),
    "MaxPool": _by_attributes("MAX_POOL_2D"),
    "MaxPoolV2": _max_pool_v2,
    "AvgPool3D": _pool_3d("AVERAGE_POOL_2D"),
    "MaxPool3D": _pool_3d("MAX_POOL_2D"),
    "Pad": _pad("PAD"),
    "PadV2": _pad("PADV2"),
    "MirrorPad": _pad("MIRROR_PAD"),
    "Slice": _slice,
    "Tile": _tile,
    "ConcatV2": _concat_v2,
    "Concat": _concat,
    "Split": _split,
    "SplitV": _split_v,
    "Unpack": _unpack,
    "ResizeBilinear": _resize("RESIZE_BILINEAR"),
    "ResizeNearestNeighbor": _resize("RESIZE_NEAREST_NEIGHBOR"),
    "SpaceToDepth": _blocks("SPACE_TO_DEPTH"),
    "DepthToSpace": _blocks("DEPTH_TO_SPACE"),
    "Transpose": _transpose,
    "SpaceToBatch": _space_batch_v1("SPACE_TO_BATCH_ND", "paddings"),
    "BatchToSpace": _space_batch_v1("BATCH_TO_SPACE_ND", "crops"),
    "SpaceToBatchND": _space_batch("SPACE_TO_BATCH_ND", "paddings"),
    "BatchToSpaceND": _space_batch("BATCH_TO_SPACE_ND", "crops"),
}
