"""Tensors: the values that flow between ops, and the constants."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from qfrewrite.ir.quant import Quant

Array = npt.NDArray[Any]

# Element types carry TFLite's names in lower case. A type that numpy lacks is kept as its raw
# bytes (a one-dimensional uint8 array), so that it survives a round trip.
NUMPY_DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "float32": np.dtype("<f4"),
        "float16": np.dtype("<f2"),
        "float64": np.dtype("<f8"),
        "int8": np.dtype("i1"),
        "uint8": np.dtype("u1"),
        "int16": np.dtype("<i2"),
        "uint16": np.dtype("<u2"),
        "int32": np.dtype("<i4"),
        "uint32": np.dtype("<u4"),
        "int64": np.dtype("<i8"),
        "uint64": np.dtype("<u8"),
        "bool": np.dtype("?"),
        "complex64": np.dtype("<c8"),
        "complex128": np.dtype("<c16"),
    }
)

_NO_META: Mapping[str, Any] = MappingProxyType({})


class Tensor:
    """A value with a name, a shape and an element type; compared by identity.

    `data` holds the value of a constant (shaped as `shape`, or the raw bytes where numpy has no
    such element type) and is None for everything computed. `shape_signature` marks unknown
    dimensions by -1. Tensors are written through `Graph` only.
    """

    __slots__ = ("data", "dtype", "meta", "name", "quant", "shape", "shape_signature")

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: Array | None
    quant: Quant | None
    shape_signature: tuple[int, ...] | None
    meta: Mapping[str, Any]

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...] | list[int],
        dtype: str = "float32",
        data: Array | None = None,
        quant: Quant | None = None,
        *,
        shape_signature: tuple[int, ...] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "name", name)
        put(self, "shape", tuple(int(d) for d in shape))
        put(self, "dtype", dtype)
        put(self, "data", data)
        put(self, "quant", quant)
        put(self, "shape_signature", shape_signature)
        put(self, "meta", MappingProxyType(dict(meta)) if meta else _NO_META)

    def __setattr__(self, field: str, value: object) -> NoReturn:
        raise AttributeError(f"tensor {self.name!r}: set {field} through Graph.update_tensor")

    def __repr__(self) -> str:
        const = " const" if self.is_const else ""
        return f"<Tensor {self.name!r} {self.dtype}{list(self.shape)}{const}>"

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


def constant(name: str, data: npt.ArrayLike, dtype: str | None = None) -> Tensor:
    """A constant tensor from an array; `dtype` defaults to the array's own."""
    array = np.asarray(data)
    dtype = dtype or dtype_name(array.dtype)
    array = array.astype(NUMPY_DTYPES[dtype], copy=False)
    return Tensor(name, array.shape, dtype, array)


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The name this package uses for a numpy element type."""
    name = str(np.dtype(dtype).name)
    if name not in NUMPY_DTYPES:
        raise ValueError(f"no tensor type for numpy's {name}")
    return name
