"""GraphDef nodes under construction: names, constants, attributes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qfrewrite.errors import UnsupportedError
from qfrewrite.formats.graphdef.node_types import RESULT, TYPES, Types
from qfrewrite.formats.graphdef.nodes import Ref, parse_ref
from qfrewrite.formats.graphdef.schema import DATA_TYPES, AttrValue, GraphDef, data_type_name
from qfrewrite.formats.graphdef.tensor_proto import DATA_TYPE_OF, numpy_to_tensor
from qfrewrite.ir import Graph, Op, Tensor
from qfrewrite.ir.names import numbered
from qfrewrite.ir.nodes import Attrs

# Attributes of a source node that describe the graph as it was, not as it is.
_STALE = ("_output_shapes", "explicit_paddings", "_class")

# Our element types that a node's attribute can name.
_STATED_TYPES = "float32 float16 float64 int8 uint8 int16 int32 int64 bool"
_STATED = frozenset(_STATED_TYPES.split())

# A node name that TensorFlow accepts (tensorflow/core/graph/graph_constructor.cc); `>` separates.
_PART = r"[A-Za-z0-9.][A-Za-z0-9_./-]*"
_LEGAL = re.compile(rf"{_PART}(>{_PART})*")
_ILLEGAL = re.compile(r"[^A-Za-z0-9_./-]+")

# One node of a chain: its op, the operands beside the value that goes through the chain, and
# its attributes but those that state element types.
Step = tuple[str, list[str], Attrs]


class Kind(str):
    """A string that stands for an element type (`DT_FLOAT`) in an attribute."""


def kind_of(tensor: Tensor) -> Kind:
    """The element type of `tensor` as an attribute; raises UnsupportedError."""
    if tensor.dtype not in _STATED or tensor.quant is not None:
        stored = "quantized" if tensor.quant is not None else tensor.dtype
        what = f"is {stored}, which has no form in a GraphDef"
        remedy = "make the model float first (--dequantize), or write a .tflite"
        raise UnsupportedError(what, where=f"tensor '{tensor.name}'", remedy=remedy)
    return Kind(DATA_TYPE_OF[tensor.dtype])


def legal_name(name: str) -> str:
    """`name` where TensorFlow accepts it, else a name like it that it accepts."""
    if _LEGAL.fullmatch(name):
        return name
    return _ILLEGAL.sub("_", name).lstrip("_/-") or "node"


class Emitter:
    """Appends nodes to a GraphDef message.

    renamed: the graph's inputs and outputs that could not keep their names, old -> new.
    """

    def __init__(self, graph: Graph, source: Any = None) -> None:
        self.graph = graph
        self.message = GraphDef()
        if source is not None:
            self.message.CopyFrom(source)
            del self.message.node[:]
        self.renamed: dict[str, str] = {}
        self._refs: dict[Tensor, str] = {}
        self._kinds: dict[str, Kind] = {}
        self._taken: set[str] = set()
        self._names: dict[Tensor, str] = {}
        self._reserve_names()

    def _reserve_names(self) -> None:
        """Choose the names of inputs and outputs first, then those of the other ops."""
        graph = self.graph
        interface = dict.fromkeys((*graph.inputs, *graph.outputs))
        for exact in (True, False):
            # Names that can stay are taken before any that must change.
            for tensor in interface:
                wanted = legal_name(self._wanted(tensor))
                if tensor in self._names or self._port_of_first(tensor) is not None:
                    continue
                if not exact or (wanted == self._wanted(tensor) and wanted not in self._taken):
                    self._names[tensor] = self.unique(wanted)
        for op in graph.ops:
            if op.outputs and op.output not in self._names:
                self._names[op.output] = self.unique(legal_name(self._wanted(op.output)))
        for tensor in interface:
            name = self.public_name(tensor)
            if parse_ref(name) != parse_ref(tensor.name):
                self.renamed[tensor.name] = name

    def _wanted(self, tensor: Tensor) -> str:
        """`name` of `name:0`; another port belongs to the name, as the node is not that one."""
        ref = parse_ref(tensor.name)
        return tensor.name if ref.port else ref.node

    def _port_of_first(self, tensor: Tensor) -> Ref | None:
        """The name of `tensor` where it is `op:n`, and `op` the name of the op's first output."""
        op = tensor.producer
        ref = parse_ref(tensor.name)
        if op is None or not ref.port or op.outputs[0] is tensor:
            return None
        same = parse_ref(op.outputs[0].name) == Ref(ref.node, 0)
        return ref if same and op.outputs[ref.port : ref.port + 1] == (tensor,) else None

    def public_name(self, tensor: Tensor) -> str:
        """How a user of the file asks for `tensor`, an input or an output of the graph."""
        if tensor in self._names:
            return self._names[tensor]
        op, ref = tensor.producer, self._port_of_first(tensor)
        assert op is not None
        assert ref is not None
        return str(Ref(self.main_name(op), ref.port))

    def unique(self, name: str) -> str:
        """A node name like `name` that TensorFlow accepts and nobody has."""
        name = numbered(legal_name(name), self._taken)
        self._taken.add(name)
        return name

    def node(
        self,
        kind: str,
        name: str,
        inputs: Sequence[str],
        attrs: Attrs,
        *,
        like: Any = None,
        gives: Kind | None = None,
        types: Types | None = None,
    ) -> str:
        """Append one node and return its reference.

        attrs: its attributes but those that state element types; an attribute of value None is
        left to its default. like: a node whose other fields it takes, if it is of the same op.
        gives: the element type of its result, if it is not that of its operands.
        types: which attributes state the element types of which operands, if not as `TYPES` says.
        """
        node = self.message.node.add()
        if like is not None and like.op == kind:
            node.CopyFrom(like)
            del node.input[:]
            for stale in _STALE:
                node.attr.pop(stale, None)
        node.name, node.op = name, kind
        node.input.extend(inputs)
        kinds = [self._kinds[ref] for ref in inputs]
        if types is None:
            types = TYPES.get(kind, {"T": 0})
        slots = {key: slot for key, slot in types.items() if slot is not None}
        stated = {key: gives if slot == RESULT else kinds[slot] for key, slot in slots.items()}
        self._kinds[name] = gives or stated.get("T") or kinds[0]
        for key, value in {**dict.fromkeys(types), **stated, **attrs}.items():
            if value is None:
                node.attr.pop(key, None)
            else:
                node.attr[key].CopyFrom(attr_value(value))
        return name

    def ref(self, tensor: Tensor) -> str:
        """How a node reads `tensor`; a constant gets its node on first use."""
        if tensor not in self._refs:
            if tensor.data is None:
                raise UnsupportedError("has no producer", where=f"tensor '{tensor.name}'")
            kind_of(tensor)
            name = self._names.get(tensor) or self.unique(parse_ref(tensor.name).node)
            self._refs[tensor] = self._const_node(tensor.data, name)
        return self._refs[tensor]

    def bind(self, tensor: Tensor, ref: str) -> None:
        """Say how nodes read `tensor` from now on."""
        self._refs[tensor] = ref
        self._kinds[ref] = kind_of(tensor)

    def const(self, data: npt.ArrayLike, name: str) -> str:
        """A Const node named like `name`."""
        return self._const_node(data, self.unique(name))

    def _const_node(self, data: npt.ArrayLike, name: str) -> str:
        array = np.asarray(data)
        proto = numpy_to_tensor(array)
        node = self.message.node.add()
        node.name, node.op = name, "Const"
        node.attr["dtype"].type = proto.dtype
        node.attr["value"].tensor.CopyFrom(proto)
        self._kinds[name] = Kind(data_type_name(proto.dtype))
        return name

    def main_name(self, op: Op) -> str:
        """The name of the last node of `op`: its output's, so that graph outputs keep theirs."""
        return self._names[op.output]

    def ints(self, op: Op, values: npt.ArrayLike, suffix: str) -> str:
        """A constant operand of `op`: integers."""
        return self.const(np.array(values, np.int32), f"{self.main_name(op)}/{suffix}")

    def inner(self, op: Op, kind: str, inputs: Sequence[str], attrs: Attrs) -> str:
        """A node that computes a part of `op`."""
        name = self.unique(f"{self.main_name(op)}/{kind}")
        return self.node(kind, name, inputs, attrs, like=op.meta.get("node"))

    def finish(
        self, op: Op, kind: str, inputs: Sequence[str], attrs: Attrs, types: Types | None = None
    ) -> None:
        """The last node of `op`: it bears the name of the op's output."""
        like, gives = op.meta.get("node"), kind_of(op.output)
        name = self.main_name(op)
        self.node(kind, name, inputs, attrs, like=like, gives=gives, types=types)
        for port, out in enumerate(op.outputs):
            self.bind(out, str(Ref(name, port)))

    def chain(self, op: Op, first: Step, *rest: Step) -> None:
        """The nodes of `op`, each but the first applied to the one before it."""
        kind, inputs, attrs = first
        for next_kind, beside, next_attrs in rest:
            inputs = [self.inner(op, kind, inputs, attrs), *beside]
            kind, attrs = next_kind, next_attrs
        self.finish(op, kind, inputs, attrs)


def attr_value(value: Any) -> Any:
    """An AttrValue from a plain value."""
    if isinstance(value, AttrValue):
        return value
    if isinstance(value, Kind):
        return AttrValue(type=DATA_TYPES[value])
    if isinstance(value, str):
        return AttrValue(s=value.encode())
    # A bool is an int too.
    for field, kind in {"b": bool, "i": int, "f": float}.items():
        if isinstance(value, kind):
            return AttrValue(**{field: value})
    attr = AttrValue()
    attr.list.SetInParent()
    numbers = attr.list.f if any(isinstance(v, float) for v in value) else attr.list.i
    numbers.extend(value)
    return attr
