"""Which sizes of an input its layers take: windows, reshapes and dense layers imply them.

The shapes of all nodes are followed for many candidate sizes at once: a dimension is an array
with one value per candidate, and so is an entry of a shape that the graph computes with. What a
node asks of its operands strikes candidates out. A node without a rule asks nothing, and what it
gives is unknown; so more sizes may be left than the graph takes, never fewer.

`ops/shapes.py` follows the shapes of a graph in the IR for one size. It cannot serve here: a graph
gets into the IR only when the sizes of its inputs are known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from qfrewrite.errors import QfError
from qfrewrite.formats.graphdef.nodes import (
    ALIASES,
    Nodes,
    Ref,
    attribute,
    data_refs,
    int_list,
    sort_nodes,
)
from qfrewrite.formats.graphdef.tensor_proto import tensor_to_numpy

Sizes = npt.NDArray[np.int64]
# Values of constants are followed up to this many elements: shapes, axes, paddings.
_SMALL = 64


@dataclass(frozen=True)
class _Value:
    """What is known of a value."""

    dims: tuple[Sizes, ...] | None = None
    """A size [candidates] per axis."""
    data: Sizes | None = None
    """Its integers [candidates, ...]."""


class _Node:
    """One node, what it reads, and the candidates that it may strike out."""

    def __init__(
        self, node: Any, inputs: Sequence[_Value], fits: npt.NDArray[np.bool_], strict: bool
    ) -> None:
        self.node, self.inputs, self.fits, self.strict = node, inputs, fits, strict

    def need(self, condition: Any) -> None:
        """Strike out the candidates for which `condition` does not hold."""
        self.fits &= condition

    def dims(self, slot: int = 0, rank: int | None = None) -> tuple[Sizes, ...]:
        """The dimensions in `slot`; raises _UnknownError. A rank that differs strikes out all."""
        dims = self.inputs[slot].dims
        if dims is None or (rank is not None and len(dims) != rank):
            self.need(dims is None)
            raise _UnknownError
        return dims

    def data(self, slot: int) -> Sizes:
        """The integers in `slot` [candidates or 1, ...]; raises _UnknownError."""
        data = self.inputs[slot].data
        if data is None:
            raise _UnknownError
        return data

    def ints(self, slot: int) -> list[int]:
        """The integers in `slot`, the same for all candidates; raises _UnknownError."""
        data = self.data(slot)
        _require((data == data[:1]).all())
        return [int(v) for v in data[0].reshape(-1)]

    def size(self, value: int) -> Sizes:
        """`value` for every candidate."""
        return np.full(self.fits.shape, value, np.int64)

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute of the node."""
        return attribute(self.node, name, default)

    @property
    def channels(self) -> int:
        """The axis of channels of a value of rank 4."""
        return 1 if self.attr("data_format") == "NCHW" else 3


class _UnknownError(Exception):
    """What the node gives does not follow from what is known."""


def _require(condition: object) -> None:
    """Raise _UnknownError where the rule does not hold."""
    if not condition:
        raise _UnknownError


def fitting_sizes(
    nodes: Nodes,
    inputs: Mapping[Ref, Sizes],
    ends: Sequence[Ref],
    count: int,
    *,
    strict: bool = True,
) -> npt.NDArray[np.bool_]:
    """For each of `count` candidates, whether no node between `inputs` and `ends` refuses it.

    inputs: dimensions of each input [rank, candidates]. strict: whether a
    first dimension that a reshape leaves open is the batch, of 1, and no convolution is grouped.
    """
    fits = np.ones(count, np.bool_)
    values = {ref: _Value(tuple(dims)) for ref, dims in inputs.items()}
    for node in sort_nodes(nodes, ends, {ref.node for ref in inputs}):
        rule = _RULES.get(node.op)
        read = [values.get(ref, _Value()) for ref in data_refs(node)]
        try:
            with np.errstate(all="ignore"):
                results = rule(_Node(node, read, fits, strict)) if rule is not None else []
        except (_UnknownError, QfError, ValueError, IndexError, TypeError, OverflowError):
            continue
        values |= {Ref(node.name, port): value for port, value in enumerate(results)}
        if not fits.any():
            break
    return fits


Rule = Callable[[_Node], list[_Value]]


# -- values and element-wise nodes -----------------------------------------------------------


def _const(n: _Node) -> list[_Value]:
    proto = n.node.attr["value"].tensor
    shape = [int(d.size) for d in proto.tensor_shape.dim]
    data = None
    if prod(shape) <= _SMALL:
        array = tensor_to_numpy(proto, n.node.name)
        data = array.astype(np.int64)[None] if array.dtype.kind in "iu" else None
    return [_Value(tuple(n.size(d) for d in shape), data)]


def _same(n: _Node) -> list[_Value]:
    return [_Value(n.dims())]


def _first(n: _Node) -> list[_Value]:
    return [n.inputs[0]]


def _broadcast(n: _Node) -> list[_Value]:
    a, b = n.dims(0), n.dims(1)
    rank = max(len(a), len(b))
    a, b = ((n.size(1),) * (rank - len(d)) + d for d in (a, b))
    for left, right in zip(a, b, strict=True):
        n.need((left == right) | (left == 1) | (right == 1))
    dims = tuple(np.where(left == 1, right, left) for left, right in zip(a, b, strict=True))
    f = _ARITHMETIC.get(n.node.op)
    known = f is not None and all(v.data is not None for v in n.inputs[:2])
    return [_Value(dims, f(n.data(0), n.data(1)) if f is not None and known else None)]


_ARITHMETIC: Mapping[str, Callable[[Sizes, Sizes], Sizes]] = {
    "Add": np.add,
    "AddV2": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "FloorDiv": lambda a, b: a // np.where(b == 0, 1, b),
    "Maximum": np.maximum,
    "Minimum": np.minimum,
}


def _per_channel(n: _Node) -> list[_Value]:
    """BiasAdd, FusedBatchNorm: operand 1 has one value per channel."""
    dims = n.dims()
    axis = 1 if n.attr("data_format") == "NCHW" else -1
    n.need(dims[axis] == n.dims(1, 1)[0])
    return [_Value(dims)]


# -- windows -----------------------------------------------------------------------------------


def _windowed(n: _Node, window: Sequence[int]) -> list[Sizes]:
    """Height and width behind a window over a value of rank 4."""
    dims, axes = n.dims(0, 4), (2, 3) if n.channels == 1 else (1, 2)
    steps, apart = (int_list(n.node, name, (1, 1, 1, 1)) for name in ("strides", "dilations"))
    spatial = []
    for taps, axis in zip(window, axes, strict=True):
        size = dims[axis]
        if n.attr("padding") == "EXPLICIT":
            pads = int_list(n.node, "explicit_paddings", (0,) * 8, 8)
            size = size + pads[2 * axis] + pads[2 * axis + 1]
        if n.attr("padding") != "SAME":
            size = size - (taps - 1) * apart[axis]
        spatial.append(-(-size // steps[axis]))
        n.need(spatial[-1] >= 1)
    return spatial


def _laid(n: _Node, batch: Sizes, spatial: Sequence[Sizes], channels: Sizes) -> list[_Value]:
    nchw = n.channels == 1
    return [_Value((batch, channels, *spatial) if nchw else (batch, *spatial, channels))]


def _conv(n: _Node) -> list[_Value]:
    x, (height, width, depth, last) = n.dims(0, 4), (int(d[0]) for d in n.dims(1, 4))
    spatial = _windowed(n, (height, width))
    depthwise = n.node.op == "DepthwiseConv2dNative"
    exact = depthwise or n.strict
    n.need(x[n.channels] == depth if exact else x[n.channels] % max(depth, 1) == 0)
    return _laid(n, x[0], spatial, n.size(depth * last if depthwise else last))


def _pool(n: _Node) -> list[_Value]:
    window = int_list(n.node, "ksize", (1, 1, 1, 1))
    x, at = n.dims(0, 4), 2 if n.channels == 1 else 1
    return _laid(n, x[0], _windowed(n, window[at : at + 2]), x[n.channels])


def _transposed_conv(n: _Node) -> list[_Value]:
    sizes, y, w = n.data(0), n.dims(2, 4), n.dims(1, 4)
    n.need(y[n.channels] == w[3])
    return [_Value(tuple(np.broadcast_to(sizes[:, i], n.fits.shape) for i in range(4)))]


def _resize(n: _Node) -> list[_Value]:
    x, to = n.dims(0, 4), n.data(1)
    return [_Value((x[0], *(np.broadcast_to(to[:, i], n.fits.shape) for i in (0, 1)), x[3]))]


def _pad(n: _Node) -> list[_Value]:
    pads = n.data(1)
    return [_Value(tuple(d + pads[:, i].sum(1) for i, d in enumerate(n.dims())))]


# -- products ----------------------------------------------------------------------------------


def _matmul(n: _Node) -> list[_Value]:
    a, b = list(n.dims(0, 2)), list(n.dims(1, 2))
    a = a[::-1] if n.attr("transpose_a") else a
    b = b[::-1] if n.attr("transpose_b") else b
    n.need(a[1] == b[0])
    return [_Value((a[0], b[1]))]


# -- shapes --------------------------------------------------------------------------------------


def _volume(dims: Sequence[Sizes], n: _Node) -> Sizes:
    total = n.size(1)
    for d in dims:
        total = total * d
    return total


def _reshape(n: _Node) -> list[_Value]:
    target, volume = n.data(1), _volume(n.dims(), n)
    dims = [np.broadcast_to(target[:, i], n.fits.shape) for i in range(target.shape[1])]
    free = [i for i, d in enumerate(dims) if (d == -1).any()]
    _require(len(free) < 2)
    if free:
        rest = np.maximum(_volume([d for i, d in enumerate(dims) if i not in free], n), 1)
        n.need(volume == rest if n.strict and free == [0] else volume % rest == 0)
        dims[free[0]] = volume // rest
    else:
        n.need(_volume(dims, n) == volume)
    return [_Value(tuple(dims))]


def _squeeze(n: _Node) -> list[_Value]:
    dims = n.dims()
    axes = [a % len(dims) for a in n.attr("squeeze_dims", ()) or ()]
    _require(axes)
    for axis in axes:
        n.need(dims[axis] == 1)
    return [_Value(tuple(d for i, d in enumerate(dims) if i not in axes))]


def _expand_dims(n: _Node) -> list[_Value]:
    dims, axis = list(n.dims()), n.ints(1)[0]
    dims.insert(axis % (len(dims) + 1), n.size(1))
    data = n.inputs[0].data
    return [_Value(tuple(dims), data[..., None] if data is not None and data.ndim == 1 else None)]


def _transpose(n: _Node) -> list[_Value]:
    dims = n.dims()
    return [_Value(tuple(dims[i] for i in n.ints(1)))]


def _reduce(n: _Node) -> list[_Value]:
    dims = n.dims()
    axes = {a % max(len(dims), 1) for a in n.ints(1)}
    keep = bool(n.attr("keep_dims"))
    left = tuple(n.size(1) if i in axes else d for i, d in enumerate(dims) if keep or i not in axes)
    data = n.inputs[0].data
    known = data is not None and n.node.op == "Prod" and len(dims) == 1 and not keep
    return [_Value(left, data.prod(1) if data is not None and known else None)]


def _join(n: _Node) -> list[_Value]:
    values = n.inputs[:-1]
    parts, axis = [n.dims(i) for i in range(len(values))], n.ints(len(values))[0]
    axis %= len(parts[0])
    for part in parts[1:]:
        for i, (a, b) in enumerate(zip(parts[0], part, strict=True)):
            n.need((a == b) | (i == axis))
    total = sum((part[axis] for part in parts[1:]), parts[0][axis])
    dims = tuple(total if i == axis else d for i, d in enumerate(parts[0]))
    return [_Value(dims, _joined([v.data for v in values]))]


def _joined(parts: list[Sizes | None]) -> Sizes | None:
    vectors = [p for p in parts if p is not None and p.ndim == 2]
    if len(vectors) < len(parts):
        return None
    count = max(len(p) for p in vectors)
    return np.concatenate([np.broadcast_to(p, (count, p.shape[1])) for p in vectors], 1)


def _pack(n: _Node) -> list[_Value]:
    dims = list(n.dims())
    axis = n.attr("axis", 0) % (len(dims) + 1)
    dims.insert(axis, n.size(len(n.inputs)))
    parts = [None if v.data is None or v.data.ndim > 1 else v.data[:, None] for v in n.inputs]
    return [_Value(tuple(dims), _joined(list(parts)))]


def _split(n: _Node) -> list[_Value]:
    dims, axis, count = list(n.dims(1)), n.ints(0)[0], n.attr("num_split", 1)
    _require(0 < count <= _SMALL)
    n.need(dims[axis] % count == 0)
    dims[axis] = dims[axis] // count
    return [_Value(tuple(dims))] * count


def _shape(n: _Node) -> list[_Value]:
    dims = n.dims()
    return [_Value((n.size(len(dims)),), np.stack(dims, 1))]


def _gather(n: _Node) -> list[_Value]:
    data, at = n.data(0), n.data(1)
    picked = data[:, [int(i) for i in at[0].reshape(-1)]]
    return [_Value(n.dims(1), picked if at.ndim == 2 else picked[:, 0])]


def _strided_slice(n: _Node) -> list[_Value]:
    begin, end, step = (n.ints(i) for i in (1, 2, 3))
    _require(not (n.attr("ellipsis_mask", 0) or n.attr("new_axis_mask", 0) or min(step) < 1))
    dims, data = list(n.dims()), n.inputs[0].data
    shrunk = n.attr("shrink_axis_mask", 0)
    for i, (b, e, s) in enumerate(zip(begin, end, step, strict=True)):
        size = dims[i]
        low = size * 0 if n.attr("begin_mask", 0) >> i & 1 else np.where(b < 0, size + b, b)
        high = size if n.attr("end_mask", 0) >> i & 1 else np.where(e < 0, size + e, e)
        low, high = np.clip(low, 0, size), np.clip(high, 0, size)
        dims[i] = np.maximum(-(-(high - low) // s), 0)
        if shrunk >> i & 1:
            n.need(low < size)
    if data is not None and (data.ndim != 2 or len(begin) != 1):
        data = None
    if data is not None:
        first = 0 if n.attr("begin_mask", 0) & 1 else begin[0]
        last = None if n.attr("end_mask", 0) & 1 else end[0]
        data = data[:, first] if shrunk & 1 else data[:, slice(first, last, step[0])]
    return [_Value(tuple(d for i, d in enumerate(dims) if not shrunk >> i & 1), data)]


def _to_batch(n: _Node) -> list[_Value]:
    """SpaceToBatchND, or back."""
    dims, block, table = list(n.dims()), n.ints(1), n.data(2)
    for i, b in enumerate(block, 1):
        around = table[:, i - 1].sum(1)
        if n.node.op == "SpaceToBatchND":
            n.need((dims[i] + around) % b == 0)
            dims[i], dims[0] = (dims[i] + around) // b, dims[0] * b
        else:
            n.need(dims[0] % b == 0)
            dims[i], dims[0] = dims[i] * b - around, dims[0] // b
            n.need(dims[i] >= 1)
    return [_Value(tuple(dims))]


# Rules, and the node ops that they are for.
_BY_RULE: tuple[tuple[Rule, str], ...] = (
    (_broadcast, "Add AddV2 Sub Mul Div RealDiv FloorDiv Maximum Minimum Pow SquaredDifference"),
    (_const, "Const"),
    (_conv, "Conv2D DepthwiseConv2dNative"),
    (_expand_dims, "ExpandDims"),
    (_first, " ".join((*ALIASES, "Cast"))),
    (_gather, "Gather GatherV2"),
    (_join, "ConcatV2"),
    (_matmul, "MatMul"),
    (_pack, "Pack"),
    (_pad, "Pad PadV2 MirrorPad"),
    (_per_channel, "BiasAdd BiasAddV1 FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3"),
    (_pool, "AvgPool MaxPool"),
    (_reduce, "Mean Sum Max Min Prod"),
    (_reshape, "Reshape"),
    (_resize, "ResizeBilinear ResizeNearestNeighbor"),
    (_same, "Abs Ceil Clip ClipByValue Dequantize Elu Erf Exp FakeQuantWithMinMaxArgs"),
    (_same, "FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel Floor LRN LeakyRelu Log"),
    (_same, "LogSoftmax Neg Relu Relu6 Round Rsqrt Selu Sigmoid Softmax Softplus Sqrt Square Tanh"),
    (_shape, "Shape"),
    (_split, "Split"),
    (_squeeze, "Squeeze"),
    (_strided_slice, "StridedSlice"),
    (_to_batch, "SpaceToBatchND BatchToSpaceND"),
    (_transpose, "Transpose"),
    (_transposed_conv, "Conv2DBackpropInput"),
)
_RULES: Mapping[str, Rule] = {op: rule for rule, ops in _BY_RULE for op in ops.split()}
