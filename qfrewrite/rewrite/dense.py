"""Dense layers that a graph computes as a product of batches of matrices."""

from __future__ import annotations

import numpy as np

from qfrewrite.ir import Tensor, constant
from qfrewrite.ops.spec import attr
from qfrewrite.rewrite.match import NoMatch
from qfrewrite.rewrite.pattern import Match, Patterns
from qfrewrite.rewrite.rewriter import Rewriter

_p = Patterns()
_PRODUCT = _p.BATCH_MATMUL(_p.x, _p.const("w")).where(adj_x=False)


def raise_dense(rw: Rewriter) -> None:
    """Given  y = BATCH_MATMUL(x, w), w constant and the same for the whole batch
    Result y = FULLY_CONNECTED(x, w^T), which takes a bias and a scale per output.

    Keras writes the dense layers of attention this way.
    """
    rw.rewrite_all(_PRODUCT, _dense, action="raised", tell=False)


def _dense(m: Match) -> Tensor | NoMatch:
    x, w = m.x, m.w
    batch = len(x.shape) < len(w.shape) or any(d != 1 for d in w.shape[:-2])
    if batch or {x.dtype, w.dtype} != {"float32"} or w.trained or w.sparsity:
        return NoMatch("is not one matrix of float32 for the whole batch", at=w.name)
    matrix = w.data.reshape(w.shape[-2:])
    weights = np.ascontiguousarray(matrix if attr(m.root, "adj_y") else matrix.T)
    attrs = {"keep_num_dims": len(m.root.output.shape) != 2}
    return m.new("FULLY_CONNECTED", x, constant(w.name, weights), attrs=attrs)
