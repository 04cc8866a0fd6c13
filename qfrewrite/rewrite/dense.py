"""Dense layers that a graph computes as a product of batches of matrices."""

from __future__ import annotations

import numpy as np

from qfrewrite.ir import Array, Op, constant
from qfrewrite.ops.build import append_op
from qfrewrite.ops.spec import attr
from qfrewrite.rewrite.rewriter import Rewriter


def raise_dense(rw: Rewriter) -> None:
    """Given  y = BATCH_MATMUL(x, w), w constant and the same for the whole batch
    Result y = FULLY_CONNECTED(x, w^T), which takes a bias and a scale per output.

    Keras writes the dense layers of attention this way.
    """
    for op in rw.graph.ops_of("BATCH_MATMUL"):
        weights = _matrix(op)
        if weights is None:
            continue
        w = constant(op.operand(1).name, np.ascontiguousarray(weights))
        attrs = {"keep_num_dims": len(op.output.shape) != 2}
        new = append_op(
            rw.graph, "FULLY_CONNECTED", [op.operand(0), w], name=op.name, attrs=attrs, anchor=op
        )
        rw.replace(op, new, action="raised", detail="BATCH_MATMUL of constants -> FULLY_CONNECTED")


def _matrix(op: Op) -> Array | None:
    """The weights as [outputs, inputs]; None where there is not one constant matrix for all."""
    x, w = op.operand(0), op.operand(1)
    if w.data is None or x.is_const or attr(op, "adj_x") or {x.dtype, w.dtype} != {"float32"}:
        return None
    if len(x.shape) < len(w.shape) or any(d != 1 for d in w.shape[:-2]) or w.meta:
        return None
    matrix = w.data.reshape(w.shape[-2:])
    return matrix if attr(op, "adj_y") else matrix.T
