"""A digest of everything a graph computes: statistics of one graph are not those of another."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from qfrewrite.ir.graph import Graph
from qfrewrite.ir.nodes import Op, Tensor


def graph_fingerprint(graph: Graph) -> str:
    """32 hex digits: of structure, names, attributes, all values of all constants, and bodies.

    Equal for the same file and passes on every machine. Names count, since ranges are found by
    them; everything else counts to the last bit.
    """
    digest = hashlib.blake2b(digest_size=16)
    for one in (graph, *graph.bodies):
        for part in _graph_parts(one):
            _feed(digest, part)
    return digest.hexdigest()


def _graph_parts(graph: Graph) -> Iterator[object]:
    ops = graph.ops
    # Tensors that no op and no output touches compute nothing.
    touched = dict.fromkeys(_touched(graph, ops))
    numbers = {tensor: number for number, tensor in enumerate(touched)}
    for tensor in touched:
        yield from _tensor_parts(tensor)
    yield [numbers[t] for t in graph.inputs]
    for op in ops:
        yield (op.kind, op.attrs)
        for tensors in (op.inputs, op.outputs, op.intermediates):
            yield [None if t is None else numbers[t] for t in tensors]
    yield [numbers[t] for t in graph.outputs]


def _touched(graph: Graph, ops: Iterable[Op]) -> Iterator[Tensor]:
    yield from graph.inputs
    for op in ops:
        yield from (t for t in (*op.inputs, *op.outputs, *op.intermediates) if t is not None)
    yield from graph.outputs


def _tensor_parts(tensor: Tensor) -> Iterator[object]:
    yield (tensor.name, tensor.dtype, tensor.shape, tensor.shape_signature)
    quant = tensor.quant
    yield None if quant is None else (quant.scale, quant.zero_point, quant.axis)
    yield tensor.data
    yield (tensor.is_variable, tensor.sparsity)
    yield (tensor.channels.normal, tensor.channels.live)
    if (t := tensor.trained) is not None:
        yield (t.low, t.high, t.axis, t.num_bits, t.narrow_range)


def _feed(digest: Any, value: Any) -> None:
    """Feed `value` with its type and length before it, so that no two values feed alike."""
    if isinstance(value, np.ndarray):
        little = value.dtype.newbyteorder("<")
        _feed(digest, (little.str, value.shape))
        digest.update(np.ascontiguousarray(value, little).reshape(-1).view(np.uint8))
    elif isinstance(value, np.generic):
        _feed(digest, value.item())
    elif isinstance(value, float):
        digest.update(b"f" + struct.pack("<d", value))
    elif value is None or isinstance(value, bool | int):
        digest.update(f"{type(value).__name__} {value};".encode())
    elif isinstance(value, str | bytes):
        data = value.encode() if isinstance(value, str) else value
        digest.update(f"{type(value).__name__} {len(data)};".encode() + data)
    elif isinstance(value, Mapping):
        digest.update(f"map {len(value)};".encode())
        for key in sorted(value, key=str):
            _feed(digest, str(key))
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)};".encode())
        for one in value:
            _feed(digest, one)
    else:
        raise TypeError(f"no digest of a {type(value).__name__}")
