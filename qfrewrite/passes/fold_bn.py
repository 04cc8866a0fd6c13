"""`fold_bn`: BatchNorm into the weights beside it."""

from __future__ import annotations

from dataclasses import dataclass

from qfrewrite.ir import Graph
from qfrewrite.passes._registry import Pass, register
from qfrewrite.rewrite.fold import fold_batch_norm
from qfrewrite.rewrite.match import NoMatch
from qfrewrite.solve.context import PassRewriter


@register
@dataclass(frozen=True)
class FoldBn(Pass):
    """Fold every BatchNorm into the linear op before it, or after it where nothing pads.

    Given:  y = BATCH_NORM(conv(x, w, b))      Result:  y = conv(x, w', b')
    Given:  y = conv(BATCH_NORM(x), w, b), VALID or 1x1      Result:  y = conv(x, w', b')
    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2.
    """

    exact = True

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """Fold, op by op in execution order."""
        for op in graph.ops_of("BATCH_NORM"):
            folded = fold_batch_norm(rw, op)
            if isinstance(folded, NoMatch):
                rw.skip(op, folded)
