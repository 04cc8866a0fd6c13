"""What a node of a GraphDef has computed while it is read: a tensor, or a constant to be laid out.

Both are lazy about layout. A `Computed` value is an IR tensor with channels last plus the
permutation under which the file sees it, so that a graph in NCHW becomes NHWC with transposes
only where an op reads it that does not know layouts. A `Constant` enters the graph when the first
op reads it, in the layout that op wants: weights as strided views over the file's bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import numpy as np

from qfrewrite.ir import NUMPY_DTYPES, Array, Tensor
from qfrewrite.ir.dtypes import dtype_name

Perm = tuple[int, ...]
NCHW: Perm = (0, 3, 1, 2)
"""Where the axes N, C, H, W of a value lie in its NHWC tensor."""


@dataclass(eq=False)
class Computed:
    """A computed tensor."""

    tensor: Tensor
    """The tensor, with channels last where the node's output has channels."""
    perm: Perm
    """Axis i of the node's output is axis `perm[i]` of the tensor."""
    name: str
    """The name of the tensor when it is laid out as the file sees it."""
    laid: dict[Perm, Tensor] = field(default_factory=dict)
    """The tensors with the same value in other layouts, by permutation."""

    @staticmethod
    def plain(tensor: Tensor) -> Computed:
        """The value of a tensor that is laid out as the file sees it."""
        return Computed(tensor, identity_perm(len(tensor.shape)), tensor.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as the file sees it."""
        return tuple(self.tensor.shape[p] for p in self.perm)

    @property
    def dtype(self) -> str:
        """The element type."""
        return self.tensor.dtype

    def transposed(self, order: Sequence[int], name: str) -> Computed:
        """The same value with its axes in another order, under another name."""
        return Computed(self.tensor, tuple(self.perm[i] for i in order), name)


@dataclass(frozen=True)
class FakeQuant:
    """Fake quantization of a constant."""

    low: Array
    """The least values that can be represented; it broadcasts to the shape of the constant."""
    high: Array
    """The largest values that can be represented; likewise."""
    num_bits: int
    """The number of bits of a quantized value."""
    narrow_range: bool
    """Whether the least quantized value is not used."""
    name: str
    """The name of the node."""
    node: Any
    """The node."""

    def moved(self, layout: Layout, shape: tuple[int, ...]) -> FakeQuant:
        """The same after the constant of `shape` has been laid out anew."""
        low, high = (layout.apply(np.broadcast_to(a, shape)) for a in (self.low, self.high))
        return replace(self, low=low, high=high)


@dataclass(frozen=True)
class Layout:
    """How a constant is laid out for the op that uses it. The steps are done in this order."""

    perm: Perm | None = None
    """The order of the axes."""
    shape: tuple[int, ...] | None = None
    """The shape after that."""
    dtype: str | None = None
    """The element type after that."""

    def apply(self, data: Array) -> Array:
        """`data` in this layout; a view wherever numpy can give one."""
        data = data if self.perm is None else data.transpose(self.perm)
        data = data if self.shape is None else data.reshape(self.shape)
        return data if self.dtype is None else data.astype(self.dtype, copy=False)


@dataclass(eq=False)
class Constant:
    """A known value, as the file lays it out."""

    name: str
    """The name of the node, which its tensors get."""
    data: Array
    """The value."""
    from_shape: bool = False
    """Whether it was computed from shapes; arithmetic on it is done on reading. Arithmetic on
    other float constants stays in the graph, where BatchNorm can be recognised in it."""
    fake_quant: FakeQuant | None = None
    """The fake quantization of the value."""
    laid: dict[Layout, Tensor] = field(default_factory=dict)
    """The tensors that hold it in the graph, by layout."""

    @staticmethod
    def filled(
        name: str, value: float, dtype: str, shape: Sequence[int], *, from_shape: bool = False
    ) -> Constant:
        """A constant that holds `value` everywhere, without taking memory for it."""
        one = NUMPY_DTYPES[dtype].type(value)
        return Constant(name, np.broadcast_to(one, shape), from_shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as the file sees it."""
        return self.data.shape

    @property
    def perm(self) -> Perm:
        """Axis i of the node's output is axis `perm[i]` of the data."""
        return identity_perm(self.data.ndim)

    @property
    def dtype(self) -> str:
        """The element type; raises ValueError where no tensor has it."""
        return dtype_name(self.data.dtype)

    @property
    def is_shape_operand(self) -> bool:
        """Whether arithmetic on it is shape arithmetic."""
        return self.fake_quant is None and (self.from_shape or self.data.dtype.kind in "iub")

    def moved(self, layout: Layout, name: str) -> Constant:
        """The same value laid out anew, under another name."""
        fake = self.fake_quant
        moved = fake.moved(layout, self.shape) if fake is not None else None
        return Constant(name, layout.apply(self.data), self.from_shape, moved)

    def transposed(self, order: Sequence[int], name: str) -> Constant:
        """The same value with its axes in another order, under another name."""
        return self.moved(Layout(perm=tuple(order)), name)


@dataclass(eq=False)
class Unset(Constant):
    """A list of tensors whose shape is not known yet: `data` is [length, 0].

    Lists of tensors (TensorList, TensorArray) of a known shape are their stack, [length, *shape].
    """


@dataclass(eq=False)
class Drawn(Constant):
    """Random numbers in a range.

    A dropout of rate 0 draws them and compares them with a bound that all of them pass: then
    `low` and `high` are 1, and `data` is that mask. Else `data` is not their value.
    """

    low: float = 0.0
    """The least of the numbers."""
    high: float = 1.0
    """The largest of the numbers."""
    open_above: bool = False
    """Whether all numbers are below `high`."""

    @property
    def settled(self) -> bool:
        """Whether the value is known, and is `data`."""
        return self.low == self.high


Value = Computed | Constant


def is_known(value: Value) -> TypeGuard[Constant]:
    """Whether `value` is a constant that is not fake quantized."""
    return isinstance(value, Constant) and value.fake_quant is None


def identity_perm(rank: int) -> Perm:
    """The permutation that changes nothing."""
    return tuple(range(rank))


def transposition(have: Perm, want: Perm) -> Perm:
    """The operand of a TRANSPOSE that takes a tensor stored under `have` to `want`."""
    operand = [0] * len(have)
    for source, target in zip(have, want, strict=True):
        operand[target] = source
    return tuple(operand)


def ranked(axes: Sequence[int]) -> Perm:
    """The place of each of `axes` among them: the permutation that is left of a longer one."""
    return tuple(sorted(axes).index(axis) for axis in axes)


def moves_units_only(perm: Perm, shape: tuple[int, ...]) -> bool:
    """Whether transposing `shape` by `perm` moves axes of size 1 only: a reshape does it too."""
    kept = [p for p in perm if shape[p] != 1]
    return kept == sorted(kept)


def common_perm(values: Sequence[Value], rank: int) -> Perm:
    """The layout in which an element-wise op on `values` takes the fewest transposes."""
    perms = {v.perm for v in values if isinstance(v, Computed) and len(v.perm) == rank}
    if len(perms) == 1:
        return perms.pop()
    return NCHW if NCHW in perms else identity_perm(rank)


def varying_axes(bound: Array) -> list[int]:
    """The axes along which `bound` is not constant."""
    return [
        axis
        for axis in range(bound.ndim)
        if bound.shape[axis] > 1
        and bound.strides[axis] != 0
        and not np.array_equal(bound, np.broadcast_to(bound.take([0], axis), bound.shape))
    ]


def fake_quant_attrs(fake: FakeQuant) -> Mapping[str, Any] | None:
    """Attributes of a FAKE_QUANT op; None where its ranges vary along more than one axis."""
    axes = sorted({*varying_axes(fake.low), *varying_axes(fake.high)})
    if len(axes) > 1:
        return None
    rest = {"num_bits": fake.num_bits, "narrow_range": fake.narrow_range}
    if not axes:
        low, high = (float(a.reshape(-1)[0]) for a in (fake.low, fake.high))
        return {"min": low, "max": high, "axis": None, **rest}
    index = tuple(slice(None) if i == axes[0] else 0 for i in range(fake.low.ndim))
    lows, highs = (np.ascontiguousarray(a[index], np.float32) for a in (fake.low, fake.high))
    return {"min": lows, "max": highs, "axis": axes[0], **rest}
