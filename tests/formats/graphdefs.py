"""GraphDefs built by hand, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from qfrewrite.formats.graphdef.emit import Kind, attr_value
from qfrewrite.formats.graphdef.schema import AttrValue, GraphDef
from qfrewrite.formats.graphdef.tensor_proto import numpy_to_tensor

FLOAT = Kind("DT_FLOAT")


class Nodes:
    """A GraphDef under construction.

    >>> g = Nodes()
    >>> g.placeholder("x", (1, 4)); g.add("Relu", "y", ["x"])
    """

    def __init__(self) -> None:
        self.message = GraphDef()

    def add(self, op: str, name: str, inputs: list[str] | None = None, **attrs: Any) -> str:
        node = self.message.node.add()
        node.op, node.name = op, name
        node.input.extend(inputs or [])
        for key, value in {"T": FLOAT, **attrs}.items():
            node.attr[key].CopyFrom(attr_value(value))
        return name

    def placeholder(self, name: str, shape: tuple[int, ...], dtype: str = "DT_FLOAT") -> str:
        attr = AttrValue()
        attr.shape.SetInParent()
        for size in shape:
            attr.shape.dim.add().size = size
        return self.add("Placeholder", name, shape=attr, dtype=Kind(dtype))

    def const(self, name: str, value: Any, data_type: str | None = None) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        array = array.astype(np.int32) if array.dtype == np.int64 else array
        node = self.message.node.add()
        node.op, node.name = "Const", name
        tensor = numpy_to_tensor(array, data_type)
        node.attr["dtype"].type = tensor.dtype
        node.attr["value"].tensor.CopyFrom(tensor)
        return name

    def bytes(self) -> bytes:
        return bytes(self.message.SerializeToString())
