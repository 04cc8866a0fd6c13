"""TensorProto to numpy and back.

Source: tensorflow/core/framework/tensor.proto. The values are either raw bytes
(`tensor_content`) or a list in the field of the element type; a list shorter than the tensor
repeats its last value.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.graphdef.schema import DATA_TYPES, TensorProto, data_type_name
from qfrewrite.ir import NUMPY_DTYPES, Array

# A shape is a claim of the file: a few bytes can stand for any number of repeated values.
MAX_REPEATED = 1 << 26
MAX_RANK = 16


# The fields of a TensorProto that hold lists of values -> the element types that they are for.
_LISTS = {
    "float_val": "FLOAT",
    "double_val": "DOUBLE",
    "half_val": "HALF BFLOAT16",
    "int_val": "INT8 UINT8 INT16 UINT16 INT32 QINT8 QUINT8 QINT16 QUINT16 QINT32",
    "int64_val": "INT64",
    "uint32_val": "UINT32",
    "uint64_val": "UINT64",
    "bool_val": "BOOL",
    "scomplex_val": "COMPLEX64",
    "dcomplex_val": "COMPLEX128",
}
_FIELDS: Mapping[str, str] = {
    f"DT_{name}": field for field, names in _LISTS.items() for name in names.split()
}


def _stored(data_type: str) -> np.dtype[Any]:
    """How raw bytes hold an element."""
    name = data_type.removeprefix("DT_").lower().removeprefix("q")
    others = {"float": "float32", "double": "float64", "half": "float16", "bfloat16": "uint16"}
    return NUMPY_DTYPES[others.get(name, name)]


DATA_TYPE_OF: Mapping[str, str] = {
    name: {"float32": "DT_FLOAT", "float64": "DT_DOUBLE", "float16": "DT_HALF"}.get(
        name, f"DT_{name.upper()}"
    )
    for name in NUMPY_DTYPES
}
"""Our element type -> GraphDef's."""


def tensor_to_numpy(proto: Any, where: str) -> Array:
    """The value of a TensorProto: read-only, a view where the bytes allow it.

    DT_BFLOAT16 becomes float32, the quantized types become the integers of their width, DT_STRING
    an object array of bytes. `where` names the node in errors. Raises ModelFileError where the
    message contradicts itself, UnsupportedError for a type numpy cannot hold.
    """
    name = data_type_name(proto.dtype)
    shape = _shape_of(proto, where)
    if name == "DT_STRING":
        return _fill(np.array(list(proto.string_val), object), shape, where)
    if name not in _FIELDS:
        remedy = "cut the graph before it, or store the constant as DT_FLOAT"
        raise UnsupportedError(f"holds a constant of {name}", where=where, remedy=remedy)
    content = proto.tensor_content
    if content:
        values = _from_content(content, _stored(name), shape, where)
    else:
        values = _fill(_from_list(proto, name, where), shape, where)
    if name == "DT_BFLOAT16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    values.flags.writeable = False
    return values


def numpy_to_tensor(array: Array, data_type: str | None = None) -> Any:
    """A TensorProto that holds `array` as raw bytes; a single value goes into its list field.

    `data_type` names the element type where the array's own does not say it (`DT_QUINT8`).
    Raises UnsupportedError for an array that no element type fits.
    """
    name = data_type or DATA_TYPE_OF.get(array.dtype.name)
    if name is None:
        raise UnsupportedError(f"a constant of numpy's {array.dtype} has no form in a GraphDef")
    proto = TensorProto(dtype=DATA_TYPES[name])
    # An empty shape means a scalar, an absent one an unknown shape.
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    if array.ndim == 0 and name in ("DT_FLOAT", "DT_INT32", "DT_INT64", "DT_BOOL"):
        getattr(proto, _FIELDS[name]).append(array.item())
    elif array.size:
        proto.tensor_content = np.ascontiguousarray(array, _stored(name)).tobytes()
    return proto


def _shape_of(proto: Any, where: str) -> tuple[int, ...]:
    if proto.tensor_shape.unknown_rank:
        raise ModelFileError("is a constant of unknown rank", where=where)
    shape = tuple(int(d.size) for d in proto.tensor_shape.dim)
    if len(shape) > MAX_RANK or min(shape, default=0) < 0:
        raise ModelFileError(f"is a constant of impossible shape {list(shape)}", where=where)
    return shape


def _from_content(
    content: bytes, stored: np.dtype[Any], shape: tuple[int, ...], where: str
) -> Array:
    if len(content) != prod(shape) * stored.itemsize:
        raise ModelFileError(
            f"says shape {list(shape)}, which takes {prod(shape) * stored.itemsize} bytes, "
            f"and holds {len(content)}",
            where=where,
        )
    return np.frombuffer(content, stored).reshape(shape)


def _from_list(proto: Any, data_type: str, where: str) -> Array:
    dtype, field = _stored(data_type), _FIELDS[data_type]
    values = getattr(proto, field)
    if dtype.kind == "c":
        # Real and imaginary parts alternate, as complex numbers lie in memory.
        whole = np.array(values[: len(values) // 2 * 2], f"<f{dtype.itemsize // 2}")
        return whole.view(dtype)
    if field == "half_val":
        return np.array(values, np.int64).astype(np.uint16).view(dtype)
    wide = np.array(values) if len(values) else np.zeros(0, dtype)
    narrow = wide.astype(dtype)
    if field == "int_val" and not np.array_equal(narrow, wide):
        raise ModelFileError(f"holds values that no {dtype} can", where=where)
    return narrow


def _fill(values: Array, shape: tuple[int, ...], where: str) -> Array:
    """`values` as an array of `shape`, its last value repeated; zeros where there is none."""
    size = prod(shape)
    if values.size > size:
        what = f"says shape {list(shape)} and holds {values.size} values"
        raise ModelFileError(what, where=where)
    if values.size == size:
        return values.reshape(shape)
    if size > MAX_REPEATED:
        what = f"says shape {list(shape)} and holds {values.size} values only"
        raise ModelFileError(what, where=where)
    if values.size <= 1:
        empty = b"" if values.dtype == object else values.dtype.type(0)
        one = values.reshape(()) if values.size else np.array(empty, values.dtype)
        return np.broadcast_to(one, shape)
    last = np.broadcast_to(values[-1:], (size - values.size,))
    return np.concatenate([values, last]).reshape(shape)
