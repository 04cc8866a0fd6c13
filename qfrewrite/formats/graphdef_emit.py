"""GraphDef nodes under construction: names, constants, attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qfrewrite.errors import UnsupportedError
from qfrewrite.formats.graphdef_nodes import parse_ref
from qfrewrite.formats.graphdef_schema import DATA_TYPES, AttrValue, GraphDef
from qfrewrite.formats.tensor_proto import numpy_to_tensor
from qfrewrite.ir import Graph, Op, Tensor

# Attributes of a source node that describe the graph as it was, not as it is.
_STALE = ("_output_shapes", "explicit_paddings", "_class")

DATA_TYPE_OF: Mapping[str, str] = {
    "float32": "DT_FLOAT",
    "float16": "DT_HALF",
    "float64": "DT_DOUBLE",
    "int8": "DT_INT8",
    "uint8": "DT_UINT8",
    "int16": "DT_INT16",
    "int32": "DT_INT32",
    "int64": "DT_INT64",
    "bool": "DT_BOOL",
}
"""Our element type -> GraphDef's, for those a node's attribute can name."""


class Kind(str):
    """A string that stands for an element type (`DT_FLOAT`) in an attribute."""


def kind_of(tensor: Tensor) -> Kind:
    """The element type of `tensor` as an attribute; raises UnsupportedError."""
    name = DATA_TYPE_OF.get(tensor.dtype)
    if name is None or tensor.quant is not None:
        what = "is quantized" if tensor.quant is not None else f"is {tensor.dtype}"
        raise UnsupportedError(
            f"{what}, which has no form in a GraphDef", where=f"tensor '{tensor.name}'",
            remedy="write a .tflite instead",
        )  # fmt: skip
    return Kind(name)


class Emitter:
    """Appends nodes to a GraphDef message."""

    def __init__(self, graph: Graph, source: Any = None) -> None:
        self.graph = graph
        self.message = GraphDef()
        if source is not None:
            self.message.CopyFrom(source)
            del self.message.node[:]
        self._refs: dict[Tensor, str] = {}
        # Names that graph inputs and outputs must keep are taken before anything else.
        self._taken = {parse_ref(t.name).node for op in graph.ops for t in op.outputs}
        self._taken |= {t.name for t in graph.inputs}

    def unique(self, name: str) -> str:
        """A node name nobody has."""
        base, n = name, 1
        while name in self._taken:
            name, n = f"{base}_{n}", n + 1
        self._taken.add(name)
        return name

    def node(
        self,
        kind: str,
        name: str,
        inputs: Sequence[str],
        attrs: Mapping[str, Any],
        *,
        like: Any = None,
    ) -> str:
        """Append one node and return its reference; `like`: a node whose other fields it takes."""
        node = self.message.node.add()
        if like is not None and like.op == kind:
            node.CopyFrom(like)
            del node.input[:]
            for stale in _STALE:
                node.attr.pop(stale, None)
        node.name, node.op = name, kind
        node.input.extend(inputs)
        for key, value in attrs.items():
            node.attr[key].CopyFrom(attr_value(value))
        return name

    def ref(self, tensor: Tensor) -> str:
        """How a node reads `tensor`; a constant gets its node on first use."""
        if tensor not in self._refs:
            if tensor.data is None:
                raise UnsupportedError("has no producer", where=f"tensor '{tensor.name}'")
            kind_of(tensor)
            self._refs[tensor] = self.const(tensor.data, tensor.name)
        return self._refs[tensor]

    def bind(self, tensor: Tensor, ref: str) -> None:
        """Say how nodes read `tensor` from now on."""
        self._refs[tensor] = ref

    def const(self, data: npt.ArrayLike, name: str) -> str:
        """A Const node."""
        array = np.asarray(data)
        proto = numpy_to_tensor(array)
        node = self.message.node.add()
        node.name, node.op = self.unique(name), "Const"
        node.attr["dtype"].type = proto.dtype
        node.attr["value"].tensor.CopyFrom(proto)
        return str(node.name)

    def main_name(self, op: Op) -> str:
        """The name of the last node of `op`: its output's, so that graph outputs keep theirs."""
        return parse_ref(op.output.name).node


def attr_value(value: Any) -> Any:
    """An AttrValue from a plain value."""
    attr = AttrValue()
    if isinstance(value, Kind):
        attr.type = DATA_TYPES[value]
    elif isinstance(value, bool):
        attr.b = value
    elif isinstance(value, int):
        attr.i = value
    elif isinstance(value, float):
        attr.f = value
    elif isinstance(value, str):
        attr.s = value.encode()
    elif isinstance(value, AttrValue):
        return value
    else:
        attr.list.SetInParent()
        attr.list.i.extend(int(v) for v in value)
    return attr
