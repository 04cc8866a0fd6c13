"""Back to float: a quantized graph as the float graph it stands for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qfrewrite.errors import UnsupportedError
from qfrewrite.ir import Graph, Op, Tensor
from qfrewrite.ir.quant import ACTIVATION_CODES, dequantize
from qfrewrite.ops.spec import facets, kinds_that
from qfrewrite.ops.subgraphs import variables
from qfrewrite.rewrite.densify import densify
from qfrewrite.rewrite.rewriter import Rewriter

_CODES = ("int8", "uint8", "int16", "int32", "int64")


def quantized_graphs(graphs: Sequence[Graph]) -> list[Graph]:
    """The subgraphs of a model that compute with quantized values, or pass them on.

    A subgraph that only assigns constants to quantized variables is one of them: its variables
    must have one type everywhere. Raises UnsupportedError where one has several scales.
    """
    passing: set[Graph] = set()
    for variable in variables(graphs):
        coded = [use for use in variable.uses if _coded(use.value)]
        passing.update(use.graph for use in coded)
        if any(not _same_codes(use.value, coded[0].value) for use in coded):
            what = "is read and written at different scales"
            remedy = "start from the float model"
            raise UnsupportedError(what, where=f"variable '{variable.name}'", remedy=remedy)
    return [
        graph
        for graph in graphs
        if graph in passing or computes_quantized(graph) or any(_coded(t) for t in graph.outputs)
    ]


def computes_quantized(graph: Graph) -> bool:
    """Whether `graph` has quantized values that are no constants."""
    return any(_coded(t) and not t.is_const for t in graph.tensors)


def _same_codes(a: Tensor, b: Tensor) -> bool:
    """Whether a quantized value means the same in both tensors."""
    assert a.quant is not None
    assert b.quant is not None
    same_zero = np.array_equal(a.quant.zero_point, b.quant.zero_point)
    scales = a.quant.scale, b.quant.scale
    # Scales in files went through float32 arithmetic in another order.
    return a.dtype == b.dtype and same_zero and np.allclose(*scales, rtol=1e-5, atol=0)


def dequantize_graph(rw: Rewriter) -> int:
    """Make every quantized tensor float32, in place; returns how many.

    QUANTIZE and DEQUANTIZE go. Where a zero point at the lowest code made a linear op clip at
    zero without an activation, a RELU takes its place. Raises UnsupportedError for ops that only
    exist quantized.
    """
    graph = rw.graph
    densify(rw)
    clipped = [op for op in graph.ops if facets(op).clips_freely and _clips_at_zero(op)]
    tensors = [t for t in graph.tensors if _coded(t)]
    for op in graph.ops:
        _refuse(op)
        if any(_coded(t) for t in (*filter(None, op.inputs), *op.outputs)):
            # The version was that of the quantized kernel.
            graph.set_version(op, None)
    for tensor in tensors:
        if tensor.data is not None and tensor.quant is not None:
            data = np.asarray(dequantize(tensor.value(), tensor.quant), order="C")
            graph.set_data(tensor, data, dtype="float32")
        graph.set_type(tensor, "float32", None)
    for op in graph.ops_of(*kinds_that(lambda op: op.quantizes)):
        # As IDENTITY it goes where nothing outside sees it.
        graph.set_kind(op, "IDENTITY")
    for op in clipped:
        rw.insert_after(op.output, "RELU", {}, suffix="relu", detail="clipped by its zero point")
    return len(tensors)


def _coded(tensor: Tensor) -> bool:
    return tensor.quant is not None and tensor.dtype in _CODES


def _clips_at_zero(op: Op) -> bool:
    out = op.output
    if out.quant is None or out.dtype not in ACTIVATION_CODES or out.fused:
        return False
    lowest, _ = ACTIVATION_CODES[out.dtype]
    return bool(out.quant.zero_point[0] == lowest) and not out.is_input


def _refuse(op: Op) -> None:
    if any(t.quant is not None for t in op.intermediates):
        what = "has a quantized state that no float op holds"
        raise UnsupportedError(what, where=op.place, remedy="start from the float model")
