"""Tensors and ops: the values of a graph, and what computes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from qfrewrite.ir.dtypes import NUMPY_DTYPES, Array, dtype_name
from qfrewrite.ir.facts import NO_FACTS, ChannelFacts, TrainedRange
from qfrewrite.ir.quant import Quant

Attrs = Mapping[str, Any]
Precision = Literal["float", "int16"]
Rank = tuple[int, ...]

NO_META: Mapping[str, Any] = MappingProxyType({})


_Node = TypeVar("_Node")


class User(NamedTuple):
    """One slot of one op that reads a tensor."""

    op: Op
    slot: int


@dataclass(slots=True)
class Index:
    """What the tensors of a graph know about it: edges, inputs and outputs."""

    producers: Mapping[Any, Mapping[Op, object]]
    """The edges into a tensor: the very dictionary of networkx, so that nothing goes stale."""
    users: Mapping[Any, Mapping[Op, object]]
    """The edges out of a tensor, likewise."""
    inputs: tuple[Tensor, ...] = ()
    """The graph's inputs."""
    outputs: tuple[Tensor, ...] = ()
    """The graph's outputs."""


_BY_RANK = attrgetter("rank")


def _locked(kind: type[_Node]) -> type[_Node]:
    """Let errors of a frozen class say how its objects are written."""

    def refuse(self: Any, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{self.place}: set {name} through its Graph")

    setattr(kind, "__setattr__", refuse)  # noqa: B010  (no method of its type)
    return kind


@_locked
@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Tensor:
    """A value with a name, a shape and an element type; compared by identity.

    A tensor that a graph holds knows its neighbours there. Whoever keeps it keeps them all.
    Tensors are written through `Graph` only.
    """

    name: str
    """The name, which need not be unique."""
    shape: tuple[int, ...]
    """The shape; 1 stands for a dimension that a file leaves open."""
    dtype: str = "float32"
    """The element type, by TFLite's name in lower case."""
    data: Array | None = None
    """The value of a constant, shaped as `shape`; the raw bytes where numpy has no such element
    type, or where it is sparse. None for everything computed."""
    quant: Quant | None = None
    """Scale and zero point of quantized values."""
    _: KW_ONLY
    shape_signature: tuple[int, ...] | None = None
    """The shape with -1 for each dimension that a file leaves open."""
    has_rank: bool = False
    """Whether a file says that the rank is known, so that the shape [] is one of a scalar."""
    is_variable: bool = False
    """Whether the value is kept from one inference to the next."""
    sparsity: Mapping[str, Any] | None = None
    """How the stored elements of a sparse constant lie in it: TFLite's SparsityParameters."""
    fused: bool = False
    """Whether the value lies between an op and the activation that is fused into it: no file and
    no kernel holds it."""
    channels: ChannelFacts = NO_FACTS
    """What is known of the channels."""
    trained: TrainedRange | None = None
    """The range that training chose for the constant."""
    meta: Mapping[str, Any] = field(default_factory=lambda: NO_META)
    """What only a file format needs to write the tensor back."""
    _index: Index | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(d) for d in self.shape))
        object.__setattr__(
            self, "meta", MappingProxyType(dict(self.meta)) if self.meta else NO_META
        )

    def __repr__(self) -> str:
        const = " const" if self.is_const else ""
        return f"<Tensor {self.name!r} {self.dtype}{list(self.shape)}{const}>"

    def twin(self) -> Tensor:
        """A tensor with all that this one has, in no graph yet."""
        twin = object.__new__(Tensor)
        for slot in Tensor.__slots__:
            object.__setattr__(twin, slot, getattr(self, slot))
        object.__setattr__(twin, "_index", None)
        return twin

    @property
    def place(self) -> str:
        """How errors name the tensor."""
        return f"tensor '{self.name}'"

    @property
    def producer(self) -> Op | None:
        """The op that computes the value; None for inputs and constants."""
        index = self._index
        return None if index is None else next(iter(index.producers[self]), None)

    @property
    def users(self) -> tuple[User, ...]:
        """Every slot that reads the value, in op order; an op that reads it twice stands twice."""
        index = self._index
        if index is None:
            return ()
        ops = sorted(index.users[self], key=_BY_RANK)
        return tuple([User(op, i) for op in ops for i, t in enumerate(op.inputs) if t is self])

    @property
    def is_input(self) -> bool:
        """Whether the value is an input of its graph."""
        return self._index is not None and any(t is self for t in self._index.inputs)

    @property
    def is_output(self) -> bool:
        """Whether the value is an output of its graph."""
        return self._index is not None and any(t is self for t in self._index.outputs)

    @property
    def is_const(self) -> bool:
        """Whether the value is known."""
        return self.data is not None

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape with -1 in the place of every dimension that the file leaves open."""
        signature = self.shape_signature
        if signature is None or len(signature) != len(self.shape):
            return self.shape
        return tuple(-1 if s == -1 else d for s, d in zip(signature, self.shape, strict=True))

    @property
    def has_open_dims(self) -> bool:
        """Whether the file leaves a dimension (or the rank) open."""
        return -1 in (self.shape_signature or ())

    def value(self) -> Array:
        """The constant's value; raises ValueError for a computed tensor."""
        if self.data is None:
            raise ValueError(f"tensor {self.name!r} is not a constant")
        return self.data


@_locked
@dataclass(frozen=True, eq=False, repr=False, slots=True, init=False)
class Op:
    """One operation; compared by identity. Ops are written through `Graph` only."""

    kind: str
    """TFLite's builtin name (`CONV_2D`), or that of an op of our own (`BATCH_NORM`), which is
    written as others."""
    name: str
    """The name; by default that of the first output."""
    attrs: Attrs
    """The attributes by name."""
    inputs: tuple[Tensor | None, ...]
    """What the op reads: the truth for slot order. An optional slot that is not used holds None."""
    outputs: tuple[Tensor, ...]
    """What the op computes."""
    intermediates: tuple[Tensor, ...]
    """Tensors that only the kernel uses."""
    keep: Precision | None
    """The precision that the op shall compute in; None where it is quantized like the others."""
    version: int | None
    """The version that a file asks for; None where the op did not come from a `.tflite`."""
    meta: Mapping[str, Any]
    """What only a file format needs to write the op back (source node, custom options)."""
    rank: Rank
    """The position in the file it came from, extended for ops put in later."""

    def __init__(
        self,
        kind: str,
        inputs: Iterable[Tensor | None],
        outputs: Iterable[Tensor],
        attrs: Attrs | None = None,
        *,
        name: str | None = None,
        intermediates: tuple[Tensor, ...] = (),
        version: int | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "kind", kind)
        put(self, "inputs", tuple(inputs))
        put(self, "outputs", tuple(outputs))
        put(self, "attrs", MappingProxyType(dict(attrs or {})))
        if name is None:
            name = self.outputs[0].name if self.outputs else kind
        put(self, "name", name)
        put(self, "intermediates", tuple(intermediates))
        put(self, "keep", None)
        put(self, "version", version)
        put(self, "meta", MappingProxyType(dict(meta or {})))
        put(self, "rank", ())

    def twin(self, tensors: Mapping[Tensor, Tensor]) -> Op:
        """An op with all that this one has, in no graph yet, on the twins of its tensors."""
        twin = object.__new__(Op)
        for slot in Op.__slots__:
            object.__setattr__(twin, slot, getattr(self, slot))
        for slot in ("inputs", "outputs", "intermediates"):
            old = getattr(self, slot)
            object.__setattr__(twin, slot, tuple([None if t is None else tensors[t] for t in old]))
        return twin

    @property
    def place(self) -> str:
        """How errors name the op."""
        return f"op '{self.name}' ({self.kind})"

    def __repr__(self) -> str:
        return f"<Op {self.kind} {self.name!r}>"

    @property
    def output(self) -> Tensor:
        """The first output."""
        return self.outputs[0]

    def input(self, slot: int) -> Tensor | None:
        """The tensor in `slot`, or None where the slot is empty or absent."""
        return self.inputs[slot] if slot < len(self.inputs) else None

    def operand(self, slot: int) -> Tensor:
        """The tensor in `slot`; raises ValueError where there is none."""
        tensor = self.input(slot)
        if tensor is None:
            raise ValueError(f"op {self.name!r} ({self.kind}) has no input {slot}")
        return tensor


def constant(name: str, data: npt.ArrayLike, dtype: str | None = None) -> Tensor:
    """A constant tensor from an array; `dtype` defaults to the array's own."""
    array = np.asarray(data)
    dtype = dtype or dtype_name(array.dtype)
    array = array.astype(NUMPY_DTYPES[dtype], copy=False)
    return Tensor(name, array.shape, dtype, array)
