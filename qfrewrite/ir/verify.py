"""Structure every graph must have, whatever its ops mean.

Rules that depend on what an op is (operands, shapes) are in `qfrewrite.ops.check`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qfrewrite.errors import VerifyError
from qfrewrite.ir.dtypes import NUMPY_DTYPES
from qfrewrite.ir.graph import Graph
from qfrewrite.ir.model import Model
from qfrewrite.ir.nodes import Tensor


def verify_structure(graph: Graph) -> None:
    """Raise VerifyError at the first broken rule of `graph`."""
    for where, what in _violations(graph):
        raise VerifyError(what, where=f"graph '{graph.name}': {where}")


def verify_signatures(model: Model) -> None:
    """Raise VerifyError where a signature points outside its subgraph."""
    for s in model.signatures:
        if not 0 <= s.subgraph < len(model.graphs):
            raise VerifyError(f"names subgraph {s.subgraph}", where=f"signature '{s.key}'")
        graph = model.graphs[s.subgraph]
        for pairs, io in ((s.inputs, graph.inputs), (s.outputs, graph.outputs)):
            for name, position in pairs:
                if not 0 <= position < len(io):
                    what = f"'{name}' is at position {position} of {len(io)}"
                    raise VerifyError(what, where=f"signature '{s.key}'")


def _violations(graph: Graph) -> Iterator[tuple[str, str]]:
    known: set[Tensor] = {t for t in graph.tensors if t.is_const}
    known |= set(graph.inputs) | {t for t in graph.tensors if t.is_variable}
    for tensor in graph.tensors:
        yield from _tensor_violations(tensor)
    for op in graph.ops:
        place = op.place
        for slot, operand in enumerate(op.inputs):
            if operand is None:
                continue
            if operand not in graph:
                yield place, f"input {slot} '{operand.name}' is not in the graph"
            elif operand not in known:
                yield place, f"input {slot} '{operand.name}' has no value"
        for out in op.outputs:
            if out.producer is not op:
                yield place, f"output '{out.name}' is not linked to it"
            known.add(out)
    for out in graph.outputs:
        if out not in known:
            yield f"output '{out.name}'", "has no value"


def _tensor_violations(tensor: Tensor) -> Iterator[tuple[str, str]]:
    place, data = tensor.place, tensor.data
    if tensor.quant is not None:
        scale = tensor.quant.scale
        if not np.isfinite(scale).all() or (scale < 0).any():
            yield place, "has a scale that is negative or no finite number"
    if tensor.channels.sizes - {*tensor.shape[-1:]}:
        yield place, f"of {list(tensor.shape)} has facts of other channels"
    if data is None:
        if tensor.trained is not None:
            yield place, "has a trained range and no value"
        return
    if tensor.producer is not None:
        yield place, "is a constant, and is computed by an op as well"
    dtype = NUMPY_DTYPES.get(tensor.dtype)
    if dtype is None or tensor.sparsity is not None:  # raw bytes
        return
    if data.dtype != dtype:
        yield place, f"is stated as {tensor.dtype} and holds {data.dtype}"
    if data.shape != tensor.shape:
        yield place, f"is stated as {list(tensor.shape)} and holds {list(data.shape)}"
