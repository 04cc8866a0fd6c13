"""What a node of a GraphDef has computed while it is read: a tensor, or a constant to be laid out.

Both are lazy about layout. A `Computed` value is an IR tensor with channels last plus the
permutation under which the file sees it, so that a graph in NCHW becomes NHWC with transposes
only where an op reads it that does not know layouts. A `Constant` enters the graph when the first
op reads it, in the layout that op wants: weights as strided views over the file's bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qfrewrite.ir import Array, Tensor

Perm = tuple[int, ...]
NCHW: Perm = (0, 3, 1, 2)
"""Where the axes N, C, H, W of a value lie in its NHWC tensor."""


@dataclass(eq=False)
class Computed:
    """A computed tensor; axis i of the node's output is axis `perm[i]` of `tensor`.

    name: what the tensor is called when it is laid out as the file sees it.
    laid: the tensors with the same value in other layouts, by permutation.
    """

    tensor: Tensor
    perm: Perm
    name: str
    laid: dict[Perm, Tensor] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as the file sees it."""
        return tuple(self.tensor.shape[p] for p in self.perm)


@dataclass(frozen=True)
class FakeQuant:
    """Fake quantization of a constant; low, high: arrays that broadcast to its shape."""

    low: Array
    high: Array
    num_bits: int
    narrow_range: bool
    name: str
    node: Any

    def moved(self, layout: Layout, shape: tuple[int, ...]) -> FakeQuant:
        """The same after the constant of `shape` has been laid out anew."""
        low, high = (layout.apply(np.broadcast_to(a, shape)) for a in (self.low, self.high))
        return FakeQuant(low, high, self.num_bits, self.narrow_range, self.name, self.node)


@dataclass(frozen=True)
class Layout:
    """How a constant is laid out for its reader: axes permuted, then reshaped, then cast."""

    perm: Perm | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None

    def apply(self, data: Array) -> Array:
        """`data` in this layout; a view wherever numpy can give one."""
        data = data if self.perm is None else data.transpose(self.perm)
        data = data if self.shape is None else data.reshape(self.shape)
        return data if self.dtype is None else data.astype(self.dtype, copy=False)


@dataclass(eq=False)
class Constant:
    """A known value, as the file lays it out.

    from_shape: it was computed from shapes; arithmetic on it is done on reading. Arithmetic on
    other float constants stays in the graph, where BatchNorm can be recognised in it.
    laid: the tensors that hold it in the graph, by layout.
    """

    name: str
    data: Array
    from_shape: bool = False
    fake_quant: FakeQuant | None = None
    laid: dict[Layout, Tensor] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as the file sees it."""
        return self.data.shape

    @property
    def is_shape_operand(self) -> bool:
        """Whether arithmetic on it is shape arithmetic."""
        return self.fake_quant is None and (self.from_shape or self.data.dtype.kind in "iub")

    def moved(self, layout: Layout, name: str) -> Constant:
        """The same value laid out anew, under another name."""
        fake = self.fake_quant
        moved = fake.moved(layout, self.shape) if fake is not None else None
        return Constant(name, layout.apply(self.data), self.from_shape, moved)


@dataclass(eq=False)
class Unset(Constant):
    """A list of tensors whose shape is not known yet: `data` is [length, 0].

    Lists of tensors (TensorList, TensorArray) of a known shape are their stack, [length, *shape].
    """


@dataclass(eq=False)
class Drawn(Constant):
    """Random numbers from `low` to `high` (without `high` where `open_above`).

    A dropout of rate 0 draws them and compares them with a bound that all of them pass: then
    `low` and `high` are 1, and `data` is that mask. Else `data` is not their value.
    """

    low: float = 0.0
    high: float = 1.0
    open_above: bool = False

    @property
    def settled(self) -> bool:
        """Whether the value is known, and is `data`."""
        return self.low == self.high


Value = Computed | Constant


def identity_perm(rank: int) -> Perm:
    """The permutation that changes nothing."""
    return tuple(range(rank))


def transposition(have: Perm, want: Perm) -> Perm:
    """The operand of a TRANSPOSE that takes a tensor stored under `have` to `want`."""
    operand = [0] * len(have)
    for source, target in zip(have, want, strict=True):
        operand[target] = source
    return tuple(operand)


def moves_units_only(perm: Perm, shape: tuple[int, ...]) -> bool:
    """Whether transposing `shape` by `perm` moves axes of size 1 only: a reshape does it too."""
    kept = [p for p in perm if shape[p] != 1]
    return kept == sorted(kept)


def common_perm(values: list[Value], rank: int) -> Perm:
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
