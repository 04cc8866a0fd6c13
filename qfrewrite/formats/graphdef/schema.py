"""Message classes of the GraphDef subset in `schemas/graphdef.proto`.

They are built from a checked-in descriptor set, in a descriptor pool of their own: generated code
would refuse older protobuf runtimes, and the default pool may hold TensorFlow's messages.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "qfrewrite.graphdef"


def _load_pool() -> Any:
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(
        files(__package__).joinpath("graphdef.binpb").read_bytes()
    )
    pool = descriptor_pool.DescriptorPool()
    for file in descriptors.file:
        pool.Add(file)
    return pool


_POOL = _load_pool()


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


GraphDef: Any = _message("GraphDef")
NodeDef: Any = _message("NodeDef")
FunctionDef: Any = _message("FunctionDef")
AttrValue: Any = _message("AttrValue")
TensorProto: Any = _message("TensorProto")
TensorShapeProto: Any = _message("TensorShapeProto")
MetaGraphDef: Any = _message("MetaGraphDef")
SavedModel: Any = _message("SavedModel")

DATA_TYPES: dict[str, int] = {
    value.name: value.number for value in _POOL.FindEnumTypeByName(f"{PACKAGE}.DataType").values
}
"""Numbers of the element types by name (`DT_FLOAT`)."""

DATA_TYPE_NAMES: dict[int, str] = {number: name for name, number in DATA_TYPES.items()}
"""Names of the element types by number."""


def data_type_name(number: int) -> str:
    """`DT_FLOAT` for 1; `type 77` for a number this schema does not know."""
    return DATA_TYPE_NAMES.get(number, f"type {number}")
