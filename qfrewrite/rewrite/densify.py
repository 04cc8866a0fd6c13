"""Sparse constants become dense: no kernel with quantized activations reads them otherwise."""

from __future__ import annotations

import numpy as np

from qfrewrite.ir import NUMPY_DTYPES
from qfrewrite.ops.sparsity import dense_value, is_sparse
from qfrewrite.rewrite.rewriter import Rewriter


def densify(rw: Rewriter) -> None:
    """Given  y = f(DENSIFY(w)), or f(w) with w sparse;  Result  y = f(w) with w dense."""
    graph = rw.graph
    for tensor in graph.tensors:
        if is_sparse(tensor) and tensor.dtype in NUMPY_DTYPES:
            dense = np.ascontiguousarray(dense_value(tensor)).reshape(tensor.shape)
            graph.set_data(tensor, dense, quant=tensor.quant)
    for op in graph.ops_of("DENSIFY"):
        source = op.operand(0)
        if source.is_const and not is_sparse(source) and not op.output.is_output:
            rw.bypass(op, detail="its operand is dense")
