"""Reading slices that start where the data say: x[:, i] in a loop gathers along one axis.

The size of such a slice is known all the same: one index, or a size that is a constant.
"""

from __future__ import annotations

import numpy as np

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.graphdef.importer import NodeContext, evaluate
from qfrewrite.formats.graphdef.values import Computed, Constant
from qfrewrite.ir import Tensor


def _elements(c: NodeContext, slot: int) -> list[int | Tensor]:
    """Each element of the vector in `slot`: its value, or the tensor [1] that holds it."""
    known = c.known(slot)
    if known is not None:
        return list(c.ints(slot))
    vector = c.plain(slot)
    if len(vector.shape) != 1:
        raise ModelFileError(f"input {slot} has shape {list(vector.shape)}, needs 1D")
    producer = vector.producer
    if producer is not None and producer.kind == "PACK":
        parts = [producer.operand(i) for i in range(len(producer.inputs))]
        values = [evaluate(part) for part in parts]
        return [
            c.reshaped(part, [1], f"index{slot}/{i}") if value is None else int(value)
            for i, (part, value) in enumerate(zip(parts, values, strict=True))
        ]
    if vector.shape == (1,):
        return [vector]
    names = [f"index{slot}/{i}" for i in range(vector.shape[0])]
    return [
        c.part("GATHER", [vector, c.operand([i], f"{name}/place")], name, axis=0)
        for i, name in enumerate(names)
    ]


def _gathered(c: NodeContext, x: Tensor, axis: int, index: Tensor) -> Tensor:
    """`x` [.., n, ..] at the places `index` [k] of `axis`."""
    return c.part("GATHER", [x, index], f"axis{axis}", axis=axis)


def with_known_ends(c: NodeContext) -> NodeContext:
    """A StridedSlice(x, begin, end, strides) whose ends are constants.

    Where an end is computed, one index of the axis is taken from `x` first.
    """
    begin, end = _elements(c, 1), _elements(c, 2)
    if len(begin) != len(end) or len(begin) > 32:
        raise ModelFileError(f"slices from {len(begin)} to {len(end)} places")
    bits = {n: int(c.attr(f"{n}_mask", 0)) for n in _MASKS}
    x, starts, ends = c.plain(0), [0] * len(begin), [0] * len(begin)
    sliced = sum(not (bits["new_axis"] | bits["ellipsis"]) >> i & 1 for i in range(len(begin)))
    axis = 0
    for i, (first, last) in enumerate(zip(begin, end, strict=True)):
        if bits["ellipsis"] >> i & 1:
            axis += len(x.shape) - sliced
            continue
        if bits["new_axis"] >> i & 1:
            continue
        one = bits["shrink_axis"] >> i & 1
        if isinstance(first, Tensor) and one and 0 <= axis < len(x.shape):
            x, starts[i], ends[i] = _gathered(c, x, axis, first), 0, 1
        else:
            starts[i] = _known_end(first, bits["begin"] >> i & 1)
            ends[i] = starts[i] + 1 if one else _known_end(last, bits["end"] >> i & 1)
        axis += 1
    return _replaced(c, x, starts, ends)


_MASKS = ("begin", "end", "ellipsis", "new_axis", "shrink_axis")


def _known_end(value: int | Tensor, ignored: int) -> int:
    """A constant end of a slice; 0 where a mask says that it does not count."""
    if ignored:
        return 0
    if isinstance(value, Tensor):
        what = "takes a slice whose size depends on the data"
        raise UnsupportedError(what, remedy="give it a constant size (tf.slice), or take one index")
    return value


def with_known_begin(c: NodeContext) -> NodeContext:
    """A Slice(x, begin, size) whose begin is a constant.

    Where it is computed, as many indices of the axis are taken from `x` first.
    """
    begin, size, x = _elements(c, 1), list(c.ints(2)), c.plain(0)
    if not len(begin) == len(size) == len(x.shape):
        raise ModelFileError(f"slices {len(begin)} axes of {list(x.shape)}")
    starts = [0 if isinstance(first, Tensor) else first for first in begin]
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        if isinstance(first, Tensor):
            count = _known_end(first if count < 0 else count, 0)
            steps = c.importer.operand(np.arange(count), f"{c.name}/steps{axis}", first.dtype)
            x = _gathered(c, x, axis, c.part("ADD", [first, steps], f"places{axis}"))
    return _replaced(c, x, starts, size)


def _replaced(c: NodeContext, x: Tensor, *vectors: list[int]) -> NodeContext:
    """The node of `c` on `x` and these constants."""
    given = [
        Constant(f"{c.name}/operand{i}", np.array(v, np.int32)) for i, v in enumerate(vectors, 1)
    ]
    operands = (Computed.plain(x), *given, *c.inputs[1 + len(given) :])
    return NodeContext(c.importer, c.node, operands)
