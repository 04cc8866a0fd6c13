"""Tensors and ops: the values of a graph, and what computes them."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from qfrewrite.ir.dtypes import NUMPY_DTYPES, Array, dtype_name
from qfrewrite.ir.facts import NO_FACTS, ChannelFacts, TrainedRange
from qfrewrite.ir.quant import Quant

Attrs = Mapping[str, Any]
Precision = Literal["float", "int16"]
Rank = tuple[int, ...]

NO_META: Mapping[str, Any] = MappingProxyType({})


class User(NamedTuple):
    """One slot of one op that reads a tensor."""

    op: Op
    slot: int


class Index(Protocol):
    """What a graph knows about the neighbours of its tensors."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The graph's inputs."""

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The graph's outputs."""

    def producer(self, tensor: Tensor) -> Op | None:
        """The op that computes `tensor`."""

    def users(self, tensor: Tensor) -> tuple[User, ...]:
        """Every slot that reads `tensor`."""


class Tensor:
    """A value with a name, a shape and an element type; compared by identity.

    A tensor that a graph holds knows its neighbours there, for as long as the graph lives.
    Tensors are written through `Graph` only.
    """

    __slots__ = (
        "_index",
        "channels",
        "data",
        "dtype",
        "fused",
        "has_rank",
        "is_variable",
        "meta",
        "name",
        "quant",
        "shape",
        "shape_signature",
        "sparsity",
        "trained",
    )

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: Array | None
    """The value of a constant, shaped as `shape`; the raw bytes where numpy has no such element
    type, or where it is sparse. None for everything computed."""
    quant: Quant | None
    """Scale and zero point of quantized values."""
    shape_signature: tuple[int, ...] | None
    """The shape with -1 for each dimension that a file leaves open."""
    has_rank: bool
    """Whether a file says that the rank is known, so that the shape [] is one of a scalar."""
    is_variable: bool
    """Whether the value is kept from one inference to the next."""
    sparsity: Mapping[str, Any] | None
    """How the stored elements of a sparse constant lie in it: TFLite's SparsityParameters."""
    fused: bool
    """Whether the value lies between an op and the activation that is fused into it: no file and
    no kernel holds it."""
    channels: ChannelFacts
    """What is known of the channels."""
    trained: TrainedRange | None
    """The range that training chose for the constant."""
    meta: Mapping[str, Any]
    """What only a file format needs to write the tensor back."""
    # Weak: a graph that nobody holds any more is freed at once, with the weights it was given.
    _index: weakref.ref[Index] | None

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...] | list[int],
        dtype: str = "float32",
        data: Array | None = None,
        quant: Quant | None = None,
        *,
        shape_signature: tuple[int, ...] | None = None,
        has_rank: bool = False,
        is_variable: bool = False,
        sparsity: Mapping[str, Any] | None = None,
        fused: bool = False,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "name", name)
        put(self, "shape", tuple(int(d) for d in shape))
        put(self, "dtype", dtype)
        put(self, "data", data)
        put(self, "quant", quant)
        put(self, "shape_signature", shape_signature)
        put(self, "has_rank", has_rank)
        put(self, "is_variable", is_variable)
        put(self, "sparsity", sparsity)
        put(self, "fused", fused)
        put(self, "channels", NO_FACTS)
        put(self, "trained", None)
        put(self, "meta", MappingProxyType(dict(meta)) if meta else NO_META)
        put(self, "_index", None)

    def __setattr__(self, field: str, value: object) -> NoReturn:
        raise AttributeError(f"tensor {self.name!r}: set {field} through its Graph")

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
    def index(self) -> Index | None:
        """The index of the graph that holds the tensor; None where no graph does.

        Raises ReferenceError where that graph is gone.
        """
        if self._index is None:
            return None
        index = self._index()
        if index is None:
            raise ReferenceError(f"the graph of tensor {self.name!r} is gone: keep its model")
        return index

    @property
    def producer(self) -> Op | None:
        """The op that computes the value; None for inputs and constants."""
        index = self.index
        return None if index is None else index.producer(self)

    @property
    def users(self) -> tuple[User, ...]:
        """Every slot that reads the value, in op order; an op that reads it twice stands twice."""
        index = self.index
        return () if index is None else index.users(self)

    @property
    def is_input(self) -> bool:
        """Whether the value is an input of its graph."""
        index = self.index
        return index is not None and any(t is self for t in index.inputs)

    @property
    def is_output(self) -> bool:
        """Whether the value is an output of its graph."""
        index = self.index
        return index is not None and any(t is self for t in index.outputs)

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


class Op:
    """One operation; compared by identity.

    `kind` is TFLite's builtin name (`CONV_2D`), or that of an op of our own (`BATCH_NORM`), which
    is written as others. Ops are written through `Graph` only.
    """

    __slots__ = (
        "attrs",
        "inputs",
        "intermediates",
        "keep",
        "kind",
        "meta",
        "name",
        "outputs",
        "rank",
        "version",
    )

    kind: str
    name: str
    attrs: Attrs
    inputs: tuple[Tensor | None, ...]
    """What the op reads: the truth for slot order. An optional slot that is not used holds None."""
    outputs: tuple[Tensor, ...]
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
        inputs: tuple[Tensor | None, ...] | list[Tensor | None] | list[Tensor],
        outputs: tuple[Tensor, ...] | list[Tensor],
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
        put(self, "name", name if name is not None else (outputs[0].name if outputs else kind))
        put(self, "intermediates", tuple(intermediates))
        put(self, "keep", None)
        put(self, "version", version)
        put(self, "meta", MappingProxyType(dict(meta or {})))
        put(self, "rank", ())

    def __setattr__(self, field: str, value: object) -> NoReturn:
        raise AttributeError(f"op {self.name!r}: set {field} through its Graph")

    def twin(self, tensors: Mapping[Tensor, Tensor]) -> Op:
        """An op with all that this one has, in no graph yet, on the twins of its tensors."""
        twin = object.__new__(Op)
        for slot in Op.__slots__:
            object.__setattr__(twin, slot, getattr(self, slot))
        for slot in ("inputs", "outputs", "intermediates"):
            old = getattr(self, slot)
            object.__setattr__(twin, slot, tuple(None if t is None else tensors[t] for t in old))
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
