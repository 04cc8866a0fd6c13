"""Sparse constants: TFLite's format of them, and DENSIFY.

A sparse constant holds its stored elements as bytes; `tensor.sparsity` has the fields of the
schema's SparsityParameters. Dimensions may be split into blocks, and are stored one after the
other in `traversal_order`: each is DENSE (all its indices are there) or SPARSE_CSR (segments say
which of the listed indices belong to which position of the dimension before).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qfrewrite.errors import ModelFileError
from qfrewrite.ir import NUMPY_DTYPES, Array, Op, Tensor
from qfrewrite.ops.spec import FLOAT_ONLY, OpSpec, define

Ints = npt.NDArray[np.int64]


def is_sparse(tensor: Tensor | None) -> bool:
    """Whether `tensor` is a constant in sparse form."""
    return tensor is not None and tensor.data is not None and tensor.sparsity is not None


def dense_value(tensor: Tensor) -> Array:
    """The value of a sparse constant, in its shape; raises ModelFileError where it is damaged."""
    places = checked_places(tensor)
    dtype = NUMPY_DTYPES[tensor.dtype]
    dense = np.zeros(tensor.size, dtype)
    dense[places] = tensor.value().view(dtype)
    return dense.reshape(tensor.shape)


def checked_places(tensor: Tensor) -> Ints:
    """Where in the flattened dense value each stored element stands, [stored elements].

    Raises ModelFileError where the format is damaged, or the elements are not that many.
    """
    places, size = _places(tensor), NUMPY_DTYPES[tensor.dtype].itemsize
    if len(places) * size != tensor.value().nbytes:
        raise _damaged(tensor, f"holds {tensor.value().nbytes} bytes for {len(places)} elements")
    return places


def _places(tensor: Tensor) -> Ints:
    fields = tensor.sparsity
    assert fields is not None
    rank, levels = len(tensor.shape), fields["dim_metadata"] or []
    order = _ints(fields["traversal_order"])
    blocked = _ints(fields["block_map"])
    if sorted(order) != list(range(rank + len(blocked))) or len(levels) != len(order):
        raise _damaged(tensor, f"orders {len(order)} dimensions of {rank}")
    if any(not 0 <= dim < rank for dim in blocked):
        raise _damaged(tensor, "splits a dimension that it has not")
    # The position of each stored element, level by level, and its index in each dimension.
    index: dict[int, Ints] = {}
    count = 1
    for dim, level in zip(order.tolist(), levels, strict=True):
        parent, own = _expand(tensor, level, count)
        index = {d: i[parent] for d, i in index.items()}
        index[dim], count = own, len(own)
    level_of = {dim: levels[i] for i, dim in enumerate(order.tolist())}
    for k, dim in enumerate(blocked.tolist()):
        if level_of[rank + k]["format"] != "DENSE":
            raise _damaged(tensor, "has a sparse block")
        index[dim] = index[dim] * int(level_of[rank + k]["dense_size"]) + index[rank + k]
    flat = np.zeros(count, np.int64)
    for dim, length in enumerate(tensor.shape):
        if count and not (index[dim].min() >= 0 and index[dim].max() < length):
            raise _damaged(tensor, f"has an index outside dimension {dim} of {length}")
        flat = flat * length + index[dim]
    return flat


def _expand(tensor: Tensor, level: Mapping[str, Any], count: int) -> tuple[Ints, Ints]:
    """For each position of a level: its position in the level before, and its own index.

    count: of positions in the level before.
    """
    if level["format"] == "DENSE":
        size = int(level["dense_size"])
        if size < 0 or size * count > tensor.size:
            raise _damaged(tensor, f"has {size} times {count} places, of {tensor.size}")
        return np.repeat(np.arange(count), size), np.tile(np.arange(size), count)
    segments, indices = (
        _ints((level[k] or {}).get("values")) for k in ("array_segments", "array_indices")
    )
    lengths = np.diff(segments)
    fits = len(segments) == count + 1 and segments[0] == 0 and segments[-1] == len(indices)
    if not fits or (lengths < 0).any():
        raise _damaged(tensor, f"has {len(segments)} segments over {count} places")
    return np.repeat(np.arange(count), lengths), indices


def _ints(values: Any) -> Ints:
    return np.asarray([] if values is None else values, np.int64).reshape(-1)


def _damaged(tensor: Tensor, what: str) -> ModelFileError:
    return ModelFileError(
        f"is a sparse constant that {what}",
        where=f"tensor '{tensor.name}'",
        remedy="the file is damaged",
    )


def _densify(op: Op, x: Array) -> Array:
    source = op.operand(0)
    return dense_value(source) if is_sparse(source) else x


define(OpSpec("DENSIFY", reference=_densify, kernels=FLOAT_ONLY, converts=True))
