"""The graph under construction while a GraphDef is read, and the view one node's converter has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from qfrewrite.errors import Diagnostics, ModelFileError, UnsupportedError
from qfrewrite.formats.graphdef.functions import CallStack, Function, Library
from qfrewrite.formats.graphdef.nodes import attribute, place
from qfrewrite.formats.graphdef.values import (
    Computed,
    Constant,
    FakeQuant,
    Layout,
    Perm,
    Value,
    common_perm,
    fake_quant_attrs,
    identity_perm,
    is_known,
    moves_units_only,
    transposition,
)
from qfrewrite.ir import NUMPY_DTYPES, Array, Graph, Op, Tensor, constant
from qfrewrite.ops import require_spec
from qfrewrite.ops.spec import computed, inferred, output_types

# Beyond this a shape in a file is a mistake or an attack, not a tensor.
MAX_ELEMENTS = 1 << 40
# Shape arithmetic is done on reading up to this many elements.
MAX_FOLDED = 1 << 16

_INT32 = np.iinfo(np.int32)


@dataclass(eq=False)
class Program:
    """What all graphs that are made of one file share."""

    library: Library
    """The functions of the file."""
    run: Run
    """How a function is read into the graph of an importer; gives its results."""
    structured: dict[Function, Mapping[str, Any]] = field(default_factory=dict)
    """The nodes of the functions that were read, without frames."""
    bodies: list[Graph] = field(default_factory=list)
    """The subgraphs made of functions. Ops name them by number; the main graph is number 0."""
    calls: CallStack = field(default_factory=CallStack)
    """The functions that are being read."""
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    """What the user must know about the reading."""


class Importer:
    """Puts ops and constants into `graph`; knows no op of GraphDef."""

    def __init__(self, graph: Graph, program: Program) -> None:
        self.graph = graph
        self.program = program
        self.diagnostics = program.diagnostics
        # What stands before the names of nodes: those of a function are its own.
        self.prefix = ""

    def inside(self, graph: Graph) -> Importer:
        """An importer of the same file for another graph."""
        return Importer(graph, self.program)

    def run(self, function: Function, args: Sequence[Value], prefix: str) -> list[Value]:
        """The results of `function`, read into the graph.

        prefix: what stands before the names of its nodes; if empty, what does before those here.

        Raises UnsupportedError where the function is being read already.
        """
        outer = self.prefix
        self.program.calls.enter(function)
        try:
            self.prefix = prefix or outer
            return self.program.run(self, function, args)
        finally:
            self.prefix = outer
            self.program.calls.leave()

    def add(
        self,
        kind: str,
        inputs: Sequence[Tensor | None],
        attrs: Mapping[str, Any] | None,
        *,
        name: str,
        dtype: str | None = None,
        node: Any = None,
        fold: bool = False,
    ) -> list[Tensor]:
        """Append an op and return its outputs; compute it instead where `fold` allows it."""
        dtype = dtype or _result_type(kind, inputs)
        draft = Op(kind, tuple(inputs), (Tensor(name, (), dtype),), attrs, name=name)
        shapes = inferred(draft)
        if max((prod(s) for s in shapes), default=0) > MAX_ELEMENTS:
            raise ModelFileError(f"has an output of impossible shape {[list(s) for s in shapes]}")
        names = [f"{name}:{i}" if i else name for i in range(len(shapes))]
        types = output_types(draft, dtype, len(shapes))
        folds = fold and require_spec(draft).reference is not None and _foldable(inputs, shapes)
        outputs = [
            Tensor(n if folds else self.graph.unique_name(n), shape, made)
            for n, shape, made in zip(names, shapes, types, strict=True)
        ]
        op = Op(
            kind,
            tuple(inputs),
            outputs,
            attrs,
            name=outputs[0].name,
            meta=None if node is None else {"node": node},
        )
        if not folds:
            return list(self.graph.add_op(op).outputs)
        results = computed(op, [None if t is None else t.data for t in inputs])
        return [
            Tensor(t.name, r.shape, t.dtype, np.asarray(r))
            for t, r in zip(outputs, results, strict=True)
        ]

    def laid_out(self, value: Value, perm: Perm) -> Tensor:
        """`value` as a tensor in which its axis i lies at `perm[i]`."""
        if isinstance(value, Constant):
            order = transposition(value.perm, perm)
            return self.constant(value, Layout(None if order == value.perm else order))
        if value.perm == perm:
            return value.tensor
        if perm not in value.laid:
            value.laid[perm] = self._transposed(value, perm)
        return value.laid[perm]

    def plain(self, value: Value) -> Tensor:
        """`value` as a tensor laid out as the file sees it."""
        return self.laid_out(value, identity_perm(len(value.shape)))

    def reshaped(self, tensor: Tensor, shape: Sequence[int], name: str) -> Tensor:
        """`tensor` in another shape of the same size, by a RESHAPE called `name`."""
        operand = self.ints(shape, f"{name}/shape")
        return self.add("RESHAPE", [tensor, operand], {}, name=name)[0]

    def _transposed(self, value: Computed, perm: Perm) -> Tensor:
        order = transposition(value.perm, perm)
        plain = perm == identity_perm(len(perm))
        name = value.name if plain else f"{value.tensor.name}/transposed"
        shape = tuple(value.tensor.shape[p] for p in order)
        if moves_units_only(order, value.tensor.shape):
            return self.reshaped(value.tensor, shape, name)
        operand = self.ints(order, f"{name}/perm")
        return self.add("TRANSPOSE", [value.tensor, operand], {}, name=name)[0]

    def constant(self, value: Constant, layout: Layout) -> Tensor:
        """The tensor that holds `value` in `layout`, fake quantized where it is."""
        if layout not in value.laid:
            value.laid[layout] = self._lay_constant(value, layout)
        return value.laid[layout]

    def _lay_constant(self, value: Constant, layout: Layout) -> Tensor:
        if value.data.dtype == object:
            what = "holds text that an op reads"
            remedy = "cut the graph behind it"
            raise UnsupportedError(what, where=f"constant '{value.name}'", remedy=remedy)
        name = self.graph.unique_name(value.name)
        tensor = constant(name, layout.apply(value.data))
        if value.fake_quant is None:
            return self.graph.add_tensor(tensor)
        fake = value.fake_quant.moved(layout, value.shape)
        attrs = fake_quant_attrs(fake)
        if attrs is not None:
            return self._fake_quant(tensor, attrs, fake)
        # Ranges along several axes: quantize as the file has it, then move the values.
        attrs = fake_quant_attrs(value.fake_quant)
        if attrs is None:
            raise UnsupportedError("is fake quantized along more than one axis")
        ranged = self._fake_quant(constant(name, value.data), attrs, fake)
        moved = Computed(ranged, value.perm, name)
        out = self.laid_out(moved, transposition(layout.perm or moved.perm, moved.perm))
        if layout.shape is None:
            return out
        return self.reshaped(out, layout.shape, f"{name}/reshaped")

    def _fake_quant(self, tensor: Tensor, attrs: Mapping[str, Any], fake: FakeQuant) -> Tensor:
        return self.add("FAKE_QUANT", [tensor], attrs, name=fake.name, node=fake.node)[0]

    def ints(self, values: npt.ArrayLike, name: str) -> Tensor:
        """A constant int32 operand; values beyond int32 are taken as its bounds."""
        data = np.clip(np.asarray(values, np.int64), _INT32.min, _INT32.max)
        return self.operand(data, name, "int32")

    def operand(self, data: npt.ArrayLike, name: str, dtype: str | None = None) -> Tensor:
        """A constant operand; `dtype` defaults to the element type of `data`."""
        return constant(self.graph.unique_name(name), data, dtype)


Run: TypeAlias = Callable[[Importer, Function, Sequence[Value]], list[Value]]


class NodeContext:
    """One node, the values it reads, and the importer its ops go to."""

    def __init__(self, importer: Importer, node: Any, inputs: Sequence[Value]) -> None:
        self.importer = importer
        self.node = node
        self.inputs = tuple(inputs)
        self.name = f"{importer.prefix}{node.name}"
        constants = [value for value in inputs if is_known(value)]
        # Shape arithmetic is done here and now.
        self.fold = 0 < len(constants) == len(inputs) and (
            any(value.from_shape for value in constants)
            or all(value.is_shape_operand for value in constants)
        )

    # -- reading ---------------------------------------------------------------------------

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute of the node, see `attribute`."""
        return attribute(self.node, name, default)

    def require(self, count: int) -> None:
        """Raise ModelFileError where the node reads fewer than `count` values."""
        if len(self.inputs) < count:
            raise ModelFileError(f"reads {len(self.inputs)} values, needs {count}")

    def value(self, slot: int) -> Value:
        """What the node reads in `slot`; raises ModelFileError where it reads nothing there."""
        self.require(slot + 1)
        return self.inputs[slot]

    def shape(self, slot: int) -> tuple[int, ...]:
        """The shape in `slot`, as the file sees it."""
        return self.value(slot).shape

    def plain(self, slot: int) -> Tensor:
        """The tensor in `slot`, laid out as the file sees it."""
        return self.importer.plain(self.value(slot))

    def stored(self, slot: int, perm: Perm) -> Tensor:
        """The tensor in `slot` with axis i at `perm[i]`; raises ModelFileError on another rank."""
        value = self.value(slot)
        if len(value.shape) != len(perm):
            raise ModelFileError(f"input {slot} has shape {list(value.shape)}, needs {len(perm)}D")
        return self.importer.laid_out(value, perm)

    def perm(self, slot: int) -> Perm:
        """The permutation under which `slot` is stored."""
        return self.value(slot).perm

    def last_axis_kept(self, slot: int) -> Perm:
        """The permutation under which `slot` is stored, if its last axis is stored last.

        Else that of the layout that the file sees.
        """
        perm = self.perm(slot)
        return perm if perm[-1:] == (len(perm) - 1,) else identity_perm(len(perm))

    def known(self, slot: int) -> Constant | None:
        """The constant in `slot`; None where it is computed from an input."""
        value = self.value(slot)
        if isinstance(value, Constant):
            return value if value.fake_quant is None else None
        data = evaluate(value.tensor)
        return None if data is None else Constant(value.name, data.transpose(value.perm))

    def constant(self, slot: int) -> Constant:
        """The constant in `slot`; raises UnsupportedError where it is computed."""
        known = self.known(slot)
        if known is None:
            what = f"input {slot} must be a constant, and is computed from an input"
            raise UnsupportedError(what, remedy="freeze the graph, or cut it before this node")
        return known

    def array(self, slot: int) -> Array:
        """The value of the constant in `slot`."""
        return self.constant(slot).data

    def holds_ints(self, slot: int) -> bool:
        """Whether the value in `slot` is known and consists of integers."""
        value = self.value(slot)
        return isinstance(value, Constant) and value.data.dtype.kind in "iu"

    def ints(self, slot: int) -> tuple[int, ...]:
        """The integers of the constant in `slot`, flattened; raises ModelFileError on floats."""
        data = self.array(slot)
        if data.dtype.kind not in "iu" or data.size > MAX_FOLDED:
            raise ModelFileError(f"input {slot} must be integers, and is {data.dtype}")
        return tuple(int(v) for v in data.reshape(-1))

    def integer(self, slot: int) -> int:
        """The one integer in `slot`; raises ModelFileError where it is not one."""
        values = self.ints(slot)
        if len(values) != 1:
            raise ModelFileError(f"input {slot} must be one integer, and is {list(values)}")
        return values[0]

    def axis(self, value: int, rank: int) -> int:
        """`value` counted from the front; raises ModelFileError outside [-rank, rank)."""
        if not -rank <= value < rank:
            raise ModelFileError(f"axis {value} is outside rank {rank}")
        return value % rank

    # -- writing ---------------------------------------------------------------------------

    def operand(self, values: npt.ArrayLike, suffix: str, slot: int | None = None) -> Tensor:
        """A constant int32 operand, named after the constant in `slot` it was made from."""
        value = self.value(slot) if slot is not None else None
        if not isinstance(value, Constant):
            return self.importer.ints(values, f"{self.name}/{suffix}")
        if np.array_equal(values, value.data):
            return self.importer.constant(value, Layout(dtype="int32"))
        return self.importer.ints(values, value.name)

    def number(self, value: float, dtype: str, suffix: str) -> Tensor:
        """A constant scalar operand."""
        return self.importer.operand(value, f"{self.name}/{suffix}", dtype)

    def part(
        self,
        kind: str,
        operands: Sequence[Tensor],
        suffix: str,
        *,
        dtype: str | None = None,
        **attrs: Any,
    ) -> Tensor:
        """The result of an op that computes a part of the node."""
        name = f"{self.name}/{suffix}"
        return self.importer.add(kind, operands, attrs, name=name, dtype=dtype, fold=self.fold)[0]

    def reshaped(self, tensor: Tensor, shape: Sequence[int], suffix: str) -> Tensor:
        """`tensor` in another shape of the same size, as a part of the node."""
        return self.importer.reshaped(tensor, shape, f"{self.name}/{suffix}")

    def emit_reshape(
        self, tensor: Tensor, shape: Sequence[int], perm: Perm | None = None
    ) -> list[Value]:
        """Append a RESHAPE as the last op of the node; `perm` as in `emit`."""
        return self.emit("RESHAPE", [tensor, self.operand(shape, "shape")], perm=perm)

    def emit(
        self,
        kind: str,
        inputs: Sequence[Tensor | None],
        attrs: Mapping[str, Any] | None = None,
        *,
        perm: Perm | None = None,
        dtype: str | None = None,
        name: str | None = None,
    ) -> list[Value]:
        """Append an op; its outputs are stored under `perm` (default: as the file sees them)."""
        outputs = self.importer.add(
            kind,
            inputs,
            attrs or {},
            name=name or self.name,
            dtype=dtype,
            fold=self.fold,
            node=self.node if name is None else None,
        )
        return [self.as_value(t, perm or identity_perm(len(t.shape))) for t in outputs]

    def as_value(self, tensor: Tensor, perm: Perm) -> Value:
        """`tensor`, stored under `perm`, as a result of the node."""
        if tensor.data is not None and tensor not in self.importer.graph:
            from_shape = any(isinstance(v, Constant) and v.from_shape for v in self.inputs)
            return Constant(tensor.name, tensor.data, from_shape)
        plain = perm == identity_perm(len(perm))
        return Computed(tensor, perm, tensor.name if plain else f"{tensor.name}/transposed")

    def unary(
        self,
        kind: str,
        attrs: Mapping[str, Any] | None = None,
        *operands: Tensor,
        perm: Perm | None = None,
        dtype: str | None = None,
    ) -> list[Value]:
        """Append an op on input 0 and `operands`, stored under `perm` (default: as input 0 is)."""
        perm = perm or self.perm(0)
        return self.emit(kind, [self.stored(0, perm), *operands], attrs, perm=perm, dtype=dtype)

    def binary(self, kind: str, slots: tuple[int, int] = (0, 1)) -> list[Value]:
        """Append an element-wise op of two inputs that broadcast."""
        values = [self.value(s) for s in slots]
        rank = max(len(v.shape) for v in values)
        perm = common_perm(values, rank)
        return self.emit(kind, [self.broadcast(v, perm) for v in values], perm=perm)

    def broadcast(self, value: Value, perm: Perm) -> Tensor:
        """`value` laid out so that it broadcasts against tensors stored under `perm`."""
        rank, missing = len(value.shape), len(perm) - len(value.shape)
        if perm == identity_perm(len(perm)) or not rank:
            return self.importer.laid_out(value, identity_perm(rank))
        if not missing:
            if isinstance(value, Constant):
                return self._constant_for(value, perm)
            return self.importer.laid_out(value, perm)
        full = (*[1] * missing, *value.shape)
        if isinstance(value, Constant):
            return self._constant_for(value.moved(Layout(shape=full), value.name), perm)
        plain = self.importer.laid_out(value, identity_perm(rank))
        return self.importer.laid_out(Computed.plain(self.reshaped(plain, full, "broadcast")), perm)

    def _constant_for(self, value: Constant, perm: Perm) -> Tensor:
        """A constant under `perm` without leading axes of size 1: a per-channel one is [C]."""
        order = transposition(value.perm, perm)
        shape = [value.shape[p] for p in order]
        while len(shape) > 1 and shape[0] == 1:
            del shape[0]
        return self.importer.constant(value, Layout(order, tuple(shape)))


def evaluate(tensor: Tensor) -> Array | None:
    """The value of a tensor computed from small constants alone; None where it is not."""
    if tensor.data is not None:
        return tensor.data
    values: dict[Tensor, Array] = {}
    stack = [tensor]
    while stack:
        t = stack[-1]
        op = t.producer
        spec = None if op is None else require_spec(op)
        if op is None or spec is None or spec.reference is None or t.size > MAX_FOLDED:
            return None
        for source in op.inputs:
            if source is not None and source.data is not None:
                values.setdefault(source, source.data)
        waiting = [s for s in op.inputs if s is not None and s not in values]
        if waiting:
            stack += waiting
            continue
        results = computed(op, [None if s is None else values[s] for s in op.inputs])
        values.update(zip(op.outputs, results, strict=True))
        stack.pop()
    return values[tensor]


def _result_type(kind: str, inputs: Sequence[Tensor | None]) -> str:
    spec = require_spec(Op(kind, (), (), name=kind))
    for slot, tensor in enumerate(inputs):
        port = spec.input_port(slot)
        if tensor is not None and port is not None and port.role == "act":
            return tensor.dtype
    return "float32"


def _foldable(inputs: Sequence[Tensor | None], shapes: Sequence[tuple[int, ...]]) -> bool:
    known = all(t is None or t.is_const for t in inputs)
    small = sum(prod(s) for s in shapes) <= MAX_FOLDED
    return known and small and all(t is None or t.dtype in NUMPY_DTYPES for t in inputs)


def unsupported(node: Any, remedy: str | None = None) -> UnsupportedError:
    """The error for a node that has no form in the IR."""
    return UnsupportedError(
        f"op {node.op} is not supported",
        where=place(node),
        remedy=remedy or "cut the graph before it with --output, or after it with --input",
    )
