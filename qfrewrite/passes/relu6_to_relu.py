"""`relu6_to_relu`: RELU6 becomes RELU where its clip is (almost) never reached."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from qfrewrite.calibrate.statistics import propagate
from qfrewrite.ir import Graph, Op
from qfrewrite.passes._base import Pass, register
from qfrewrite.passes._context import PassRewriter

_LIMIT = 6.0


@register
@dataclass(frozen=True)
class Relu6ToRelu(Pass):
    """Replace RELU6 by RELU where at most a fraction `max_clip` of the values exceeds 6.

    Given:  y = RELU6(x)        Result:  y = RELU(x)
    The fraction is measured on data, else follows from BatchNorm statistics (pre-activations
    ~ N(beta, gamma^2)). `layers` is a name pattern of the RELU6 ops to look at; `force=true`
    swaps all of them, for graphs that will be trained again. Source: Sheng et al. 2018,
    arXiv:1803.08607, section 4.
    """

    name: ClassVar[str] = "relu6_to_relu"
    exact: ClassVar[bool] = False

    max_clip: float = 0.001
    force: bool = False
    layers: str = "*"

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """Measure first, on the graph as it is; then swap."""
        ops = [op for op in graph.ops_of("RELU6") if fnmatchcase(op.name, self.layers)]
        rates = clip_rates(rw, ops) if ops else {}
        for op in ops:
            rate = rates.get(op)
            if not self.force and rate is None:
                rw.skip(op, "no data and no BatchNorm statistics to judge by")
                continue
            if not self.force and rate is not None and rate > self.max_clip:
                rw.skip(op, f"{_percent(rate)} of its values clip, more than max_clip")
                rw.layer(op, clip_rate=rate, decision="kept")
                continue
            rw.layer(op, clip_rate=rate, decision="swapped")
            known = "" if rate is None else f", clip rate {_percent(rate)}"
            rw.replace_kind(op, "RELU", detail=f"RELU6 -> RELU{known}")
        worst = max((rates.get(op, 0.0) for op in ops), default=0.0)
        if self.force and worst > self.max_clip:
            rw.warn(
                f"every RELU6 was swapped, although up to {_percent(worst)} of a layer's values "
                "clipped: the graph must be trained again before it is used"
            )


def clip_rates(rw: PassRewriter, ops: list[Op]) -> dict[Op, float]:
    """The fraction of values above 6 at the operand of each RELU6, as far as it is known."""
    if rw.context.data is not None:
        above = [0] * len(ops)
        total = 0
        for values in rw.observe([op.operand(0) for op in ops], "measuring how often ReLU6 clips"):
            total += 1
            above = [a + int((v > _LIMIT).sum()) for a, v in zip(above, values, strict=True)]
        return {
            op: a / max(total * op.operand(0).size, 1) for op, a in zip(ops, above, strict=True)
        }
    rw.note("no data: clip rates follow from BatchNorm statistics")
    known = propagate(rw.graph)
    return {
        op: float(known[op.operand(0)].above(_LIMIT).mean()) for op in ops if op.operand(0) in known
    }


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"
