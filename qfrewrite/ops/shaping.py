"""Ops that move values without computing: shapes, slices, layouts, resizing."""

from __future__ import annotations

import numpy as np

from qfrewrite.ir import Array, Op
from qfrewrite.ops.features import is_set, rank_above, rank_is_not, reads
from qfrewrite.ops.spec import (
    AS_KIND,
    FLOAT_ONLY,
    INT8_UINT8,
    INT32,
    OpSpec,
    Port,
    Shape,
    X,
    act,
    attr,
    const_ints,
    define,
    normal_axis,
    param,
    shape_error,
    shape_of,
    values_alone,
)


def _reshape_shape(op: Op) -> list[Shape]:
    x = shape_of(op, 0)
    size = int(np.prod(x, dtype=np.int64))
    target = list(const_ints(op, 1) if op.input(1) is not None else attr(op, "new_shape") or ())
    if target.count(-1) == 1:
        known = int(np.prod([d for d in target if d != -1], dtype=np.int64))
        if known < 1 or size % known:
            raise shape_error(op, f"cannot reshape {list(x)} to {target}")
        target[target.index(-1)] = size // known
    if min(target, default=0) < 0 or int(np.prod(target, dtype=np.int64)) != size:
        raise shape_error(op, f"cannot reshape {list(x)} to {target}")
    return [tuple(target)]


def _squeeze_shape(op: Op) -> list[Shape]:
    x = shape_of(op, 0)
    dims = {normal_axis(op, d, len(x)) for d in attr(op, "squeeze_dims") or ()}
    if any(x[d] != 1 for d in dims):
        raise shape_error(op, f"cannot squeeze dimensions {sorted(dims)} of {list(x)}")
    return [tuple(d for i, d in enumerate(x) if not (i in dims if dims else d == 1))]


def _expand_dims_shape(op: Op) -> list[Shape]:
    x = shape_of(op, 0)
    axis = normal_axis(op, const_ints(op, 1)[0], len(x) + 1)
    return [(*x[:axis], 1, *x[axis:])]


def _transpose_shape(op: Op) -> list[Shape]:
    x, perm = shape_of(op, 0), const_ints(op, 1)
    if sorted(perm) != list(range(len(x))):
        raise shape_error(op, f"{list(perm)} is no permutation of rank {len(x)}")
    return [tuple(x[p] for p in perm)]


def pad_pairs(op: Op) -> list[tuple[int, int]]:
    """(before, after) for every axis of a padding op."""
    flat = const_ints(op, 1)
    if len(flat) != 2 * len(shape_of(op, 0)) or min(flat, default=0) < 0:
        raise shape_error(op, f"paddings {list(flat)} do not fit {list(shape_of(op, 0))}")
    return list(zip(flat[::2], flat[1::2], strict=True))


def _pad_shape(op: Op) -> list[Shape]:
    pairs = pad_pairs(op)
    return [tuple(d + a + b for d, (a, b) in zip(shape_of(op, 0), pairs, strict=True))]


def _slice_bounds(op: Op) -> list[tuple[int, int]]:
    x, begin, size = shape_of(op, 0), const_ints(op, 1), const_ints(op, 2)
    if not len(x) == len(begin) == len(size):
        raise shape_error(op, f"begin {list(begin)} and size {list(size)} do not fit {list(x)}")
    ends = [d if s == -1 else b + s for d, b, s in zip(x, begin, size, strict=True)]
    if any(not 0 <= b <= e <= d for d, b, e in zip(x, begin, ends, strict=True)):
        raise shape_error(op, f"begin {list(begin)} and size {list(size)} leave {list(x)}")
    return list(zip(begin, ends, strict=True))


def strided_index(op: Op) -> tuple[slice | int | None, ...]:
    """The numpy index that a STRIDED_SLICE means; raises UnsupportedError on an ellipsis."""
    begin, end, strides = (const_ints(op, i) for i in (1, 2, 3))
    index: list[slice | int | None] = []
    for i, (b, e, s) in enumerate(zip(begin, end, strides, strict=True)):
        bit = 1 << i
        if attr(op, "ellipsis_mask") & bit or s == 0:
            raise shape_error(op, "an ellipsis or a stride of 0 in a slice is not supported")
        if attr(op, "new_axis_mask") & bit:
            index.append(None)
        elif attr(op, "shrink_axis_mask") & bit:
            index.append(b)
        else:
            first = None if attr(op, "begin_mask") & bit else b
            last = None if attr(op, "end_mask") & bit else e
            index.append(slice(first, last, s))
    return tuple(index)


def _strided_shape(op: Op) -> list[Shape]:
    # A zero-stride view has the right shape and costs no memory, whatever the shape is.
    return [np.broadcast_to(np.int8(0), shape_of(op, 0))[strided_index(op)].shape]


def _slice_shape(op: Op) -> list[Shape]:
    return [tuple(e - b for b, e in _slice_bounds(op))]


def _concat_shape(op: Op) -> list[Shape]:
    shapes = [t.shape for t in op.inputs if t is not None]
    axis = normal_axis(op, attr(op, "axis"), len(shapes[0]))
    if len({s[:axis] + s[axis + 1 :] for s in shapes}) > 1:
        raise shape_error(op, f"cannot join {[list(s) for s in shapes]} on axis {axis}")
    return [(*shapes[0][:axis], sum(s[axis] for s in shapes), *shapes[0][axis + 1 :])]


def _split_sizes(op: Op) -> tuple[int, list[int], Shape]:
    """Axis, sizes of the parts, shape of the whole; for SPLIT and SPLIT_V."""
    whole = shape_of(op, 1 if op.kind == "SPLIT" else 0)
    axis = normal_axis(op, const_ints(op, 0 if op.kind == "SPLIT" else 2)[0], len(whole))
    count = attr(op, "num_splits") or len(op.outputs)
    if op.kind == "SPLIT":
        if count < 1 or whole[axis] % count:
            raise shape_error(op, f"cannot split {list(whole)} into {count} on axis {axis}")
        return axis, [whole[axis] // count] * count, whole
    sizes = list(const_ints(op, 1))
    if -1 in sizes:
        sizes[sizes.index(-1)] = whole[axis] - sum(s for s in sizes if s != -1)
    if sum(sizes) != whole[axis] or min(sizes, default=0) < 0:
        raise shape_error(op, f"parts {sizes} do not add up to {whole[axis]}")
    return axis, sizes, whole


def _split_shape(op: Op) -> list[Shape]:
    axis, sizes, whole = _split_sizes(op)
    return [(*whole[:axis], size, *whole[axis + 1 :]) for size in sizes]


def _split(op: Op, *x: Array) -> list[Array]:
    axis, sizes, _ = _split_sizes(op)
    return np.split(x[1 if op.kind == "SPLIT" else 0], np.cumsum(sizes)[:-1], axis)


def _pack_shape(op: Op) -> list[Shape]:
    x = shape_of(op, 0)
    axis = normal_axis(op, attr(op, "axis"), len(x) + 1)
    return [(*x[:axis], len(op.inputs), *x[axis:])]


def _unpack_shape(op: Op) -> list[Shape]:
    x = shape_of(op, 0)
    axis = normal_axis(op, attr(op, "axis"), len(x))
    return [(*x[:axis], *x[axis + 1 :])] * (attr(op, "num") or len(op.outputs))


def _tile_shape(op: Op) -> list[Shape]:
    return [tuple(d * n for d, n in zip(shape_of(op, 0), const_ints(op, 1), strict=True))]


def _gather_shape(op: Op) -> list[Shape]:
    x, indices = shape_of(op, 0), shape_of(op, 1)
    axis, batch = normal_axis(op, attr(op, "axis"), len(x)), attr(op, "batch_dims")
    if not 0 <= batch <= min(axis, len(indices)) or x[:batch] != indices[:batch]:
        raise shape_error(
            op, f"indices {list(indices)} do not fit {list(x)} with {batch} batch axes"
        )
    return [(*x[:axis], *indices[batch:], *x[axis + 1 :])]


def _gather(op: Op, x: Array, indices: Array) -> Array:
    axis, batch = normal_axis(op, attr(op, "axis"), x.ndim), attr(op, "batch_dims")
    parts = [np.take(x[at], indices[at], axis - batch) for at in np.ndindex(*indices.shape[:batch])]
    return np.reshape(np.asarray(parts, x.dtype), _gather_shape(op)[0])


def _resize_shape(op: Op) -> list[Shape]:
    x, size = shape_of(op, 0), const_ints(op, 1)
    if len(x) != 4 or len(size) != 2 or min(size) < 1:
        raise shape_error(op, f"cannot resize {list(x)} to {list(size)}")
    return [(x[0], size[0], size[1], x[3])]


def _space_to_depth_shape(op: Op) -> list[Shape]:
    x, b = shape_of(op, 0), attr(op, "block_size")
    if len(x) != 4 or b < 1 or x[1] % b or x[2] % b:
        raise shape_error(op, f"blocks of {b} do not fit {list(x)}")
    return [(x[0], x[1] // b, x[2] // b, x[3] * b * b)]


def _depth_to_space_shape(op: Op) -> list[Shape]:
    x, b = shape_of(op, 0), attr(op, "block_size")
    if len(x) != 4 or b < 1 or x[3] % (b * b):
        raise shape_error(op, f"blocks of {b} do not fit {list(x)}")
    return [(x[0], x[1] * b, x[2] * b, x[3] // (b * b))]


def _space_to_batch_shape(op: Op) -> list[Shape]:
    x, block, pads = shape_of(op, 0), const_ints(op, 1), const_ints(op, 2)
    sizes = [x[i + 1] + pads[2 * i] + pads[2 * i + 1] for i in range(len(block))]
    if min(block) < 1 or any(s % b for s, b in zip(sizes, block, strict=True)):
        raise shape_error(op, f"blocks {list(block)} do not fit {sizes}")
    spatial = [s // b for s, b in zip(sizes, block, strict=True)]
    return [(x[0] * int(np.prod(block)), *spatial, *x[len(block) + 1 :])]


def _batch_to_space_shape(op: Op) -> list[Shape]:
    x, block, crops = shape_of(op, 0), const_ints(op, 1), const_ints(op, 2)
    count = int(np.prod(block))
    if min(block) < 1 or x[0] % count:
        raise shape_error(op, f"blocks {list(block)} do not fit a batch of {x[0]}")
    spatial = [x[i + 1] * b - crops[2 * i] - crops[2 * i + 1] for i, b in enumerate(block)]
    return [(x[0] // count, *spatial, *x[len(block) + 1 :])]


def _reshape(op: Op, x: Array, *_: Array) -> Array:
    return x.reshape(op.output.shape)


def _slice(op: Op, x: Array, *_: Array) -> Array:
    return x[tuple(slice(b, e) for b, e in _slice_bounds(op))]


def _strided_slice(op: Op, x: Array, *_: Array) -> Array:
    return np.asarray(x[strided_index(op)])


def _pad(op: Op, x: Array, _: Array, fill: Array | None = None) -> Array:
    value = 0 if fill is None else fill.reshape(-1)[0]
    return np.pad(x, pad_pairs(op), constant_values=value)


def _mirror_pad(op: Op, x: Array, _: Array) -> Array:
    return np.pad(x, pad_pairs(op), "reflect" if attr(op, "mode") == "REFLECT" else "symmetric")


def _concat(op: Op, *x: Array | None) -> Array:
    return np.concatenate([v for v in x if v is not None], attr(op, "axis"))


def _pack(op: Op, *x: Array | None) -> Array:
    return np.stack([v for v in x if v is not None], attr(op, "axis"))


def _unpack(op: Op, x: Array) -> list[Array]:
    return list(np.moveaxis(x, attr(op, "axis"), 0))


def _space_to_depth(op: Op, x: Array) -> Array:
    (n, h, w, c), b = x.shape, attr(op, "block_size")
    x = x.reshape(n, h // b, b, w // b, b, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h // b, w // b, b * b * c)


def _depth_to_space(op: Op, x: Array) -> Array:
    (n, h, w, c), b = x.shape, attr(op, "block_size")
    x = x.reshape(n, h, w, b, b, c // (b * b)).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h * b, w * b, c // (b * b))


def _shape(op: Op, _: Array | None) -> Array:
    return np.array(shape_of(op, 0), np.int64 if op.output.dtype == "int64" else np.int32)


_MASKS = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
_ANY_X = (act("x", variadic=True),)
_ANY_Y = (act("y", variadic=True),)
_BOUNDS = ("begin", "end", "strides")
_PADDINGS = param("paddings")

# Ops that move values; most are homogeneous, since what they add is 0.
_MOVES = OpSpec(graphdef=AS_KIND, same_scale=True, homogeneous=True)
_MOVES_3 = _MOVES.since(int8=2, int16=3)
_MOVES_4 = _MOVES.since(int8=2, int16=4)
_VIEWS = OpSpec(graphdef=AS_KIND, same_scale=True, reshapes=True, selects=True)
_SPLITS = (
    _MOVES.since(int8=2)
    .attributes(num_splits=0)
    .facets(outputs=_ANY_Y, graphdef_attrs={"num_splits": "num_split"})
)
_BLOCKS = OpSpec(same_scale=True, channelwise=True).since({rank_is_not(4): 3}, int8=2, int16=4)
_RESIZES = (
    OpSpec(graphdef=AS_KIND, same_scale=True, channelwise=True)
    .shared(align_corners=False, half_pixel_centers=False)
    .since({is_set("half_pixel_centers"): 3}, int8=2, int16=4)
)
_DEPTHS = _MOVES.since(int8=2).shared(block_size=2).facets(kernels=INT8_UINT8)

define(
    _VIEWS.op("RESHAPE", (X, param("shape", optional=True)), _reshape_shape, _reshape)
    .attributes(new_shape=())
    .facets("homogeneous", graphdef=None),
    _VIEWS.op("SQUEEZE", (X,), _squeeze_shape, _reshape, attrs={"squeeze_dims": ()}, graphdef=None),
    _VIEWS.op("EXPAND_DIMS", (X, param("axis")), _expand_dims_shape, _reshape),
    _MOVES.op("TRANSPOSE", (X, param("perm")), _transpose_shape, values_alone(np.transpose))
    .since({rank_above(4): 4, rank_above(5): 6, rank_above(6): 8}, int8=2, int16=5)
    .facets("selects"),
    _MOVES_3.op("PAD", (X, _PADDINGS), _pad_shape, _pad).since({rank_above(4): 4}),
    _MOVES_3.op("PADV2", (X, _PADDINGS, act("value")), _pad_shape, _pad)
    .since({rank_above(4): 4})
    .facets(graphdef="PadV2", homogeneous=False),
    _MOVES_3.op("MIRROR_PAD", (X, _PADDINGS), _pad_shape, _mirror_pad).shared(mode="REFLECT"),
    _MOVES_4.op("SLICE", (X, param("begin"), param("size")), _slice_shape, _slice).since(
        {rank_above(4): 5}
    ),
    _MOVES.op("STRIDED_SLICE", (X, *map(param, _BOUNDS)), _strided_shape, _strided_slice)
    .shared(**dict.fromkeys(_MASKS, 0))
    .since({rank_above(4): 4, is_set("ellipsis_mask"): 6, is_set("new_axis_mask"): 6}, int8=2),
    _MOVES_3.op("CONCATENATION", _ANY_X, _concat_shape, _concat, graphdef=None).attributes(
        axis=0, fused_activation_function="NONE"
    ),
    _SPLITS.op("SPLIT", (param("axis"), X), _split_shape, _split).since(int16=4),
    _SPLITS.op("SPLIT_V", (X, param("sizes"), param("axis")), _split_shape, _split),
    _MOVES_3.op("PACK", _ANY_X, _pack_shape, _pack, homogeneous=False)
    .attributes(axis=0, values_count=0)
    .facets(graphdef_attrs={"axis": "axis", "values_count": "N"}),
    _MOVES_4.op("UNPACK", (X,), _unpack_shape, _unpack)
    .shared(axis=0, num=0)
    .facets(homogeneous=False, outputs=_ANY_Y)
    .since(uint8=2),
    _MOVES.op("TILE", (X, param("multiples")), _tile_shape, values_alone(np.tile)).since(int8=3),
    _MOVES_4.op("GATHER", (X, param("indices")), _gather_shape, _gather)
    .attributes(axis=0, batch_dims=0)
    .facets(graphdef=None, homogeneous=False)
    .since({is_set("batch_dims"): 5, reads(1, "int16"): 6}, int8=2, int16=4),
    OpSpec("SHAPE", (Port("x", "any"),), lambda op: [(len(shape_of(op, 0)),)], _shape)
    .attributes(out_type="INT32")
    .facets(outputs=INT32, kernels=FLOAT_ONLY),
    _RESIZES.op("RESIZE_BILINEAR", (X, param("size")), _resize_shape),
    _RESIZES.op("RESIZE_NEAREST_NEIGHBOR", (X, param("size")), _resize_shape).since(
        {is_set("align_corners"): 3}
    ),
    _DEPTHS.op("SPACE_TO_DEPTH", (X,), _space_to_depth_shape, _space_to_depth),
    _DEPTHS.op("DEPTH_TO_SPACE", (X,), _depth_to_space_shape, _depth_to_space, homogeneous=False),
    _BLOCKS.op("SPACE_TO_BATCH_ND", (X, param("block"), _PADDINGS), _space_to_batch_shape).facets(
        graphdef="SpaceToBatchND"
    ),
    _BLOCKS.op(
        "BATCH_TO_SPACE_ND", (X, param("block"), param("crops")), _batch_to_space_shape
    ).facets(graphdef="BatchToSpaceND"),
    _MOVES.op("IDENTITY", reference=values_alone(np.asarray), channelwise=True),
)
