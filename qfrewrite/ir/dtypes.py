"""Element types of tensors, and what numpy calls them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

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


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The name this package uses for a numpy element type."""
    name = str(np.dtype(dtype).name)
    if name not in NUMPY_DTYPES:
        raise ValueError(f"no tensor type for numpy's {name}")
    return name
