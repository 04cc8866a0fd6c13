"""Element types of tensors, and what numpy calls them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

# Element types carry TFLite's names in lower case. A type that numpy lacks is kept as its raw
# bytes (a one-dimensional uint8 array), so that it survives a round trip.
_SIZES = (8, 16, 32, 64)
_BITS = {"float": _SIZES[1:], "int": _SIZES, "uint": _SIZES, "complex": (64, 128)}
NUMPY_DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        f"{kind}{bits}": np.dtype(f"<{kind[0]}{bits // 8}")
        for kind, sizes in _BITS.items()
        for bits in sizes
    }
    | {"bool": np.dtype("?")}
)


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The name this package uses for a numpy element type."""
    name = str(np.dtype(dtype).name)
    if name not in NUMPY_DTYPES:
        raise ValueError(f"no tensor type for numpy's {name}")
    return name
