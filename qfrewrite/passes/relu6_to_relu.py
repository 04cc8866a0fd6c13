"""`relu6_to_relu`: RELU6 becomes RELU where its clip is (almost) never reached."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated

import numpy as np

from qfrewrite.calibration.statistics import propagate
from qfrewrite.ir import Graph, Op
from qfrewrite.passes._registry import Pass, register
from qfrewrite.rewrite.match import NoMatch
from qfrewrite.solve.context import PassRewriter
from qfrewrite.solve.parameters import Within
from qfrewrite.solve.trial import Trials

_LIMIT = 6.0
# Samples that settle a clip rate; calibration sees the rest.
_JUDGED_ON = 100
# How far a channel's values reach, in standard deviations, where no data say it.
_SIGMAS = 4.0


@register
@dataclass(frozen=True)
class Relu6ToRelu(Pass):
    """Replace RELU6 by RELU where the clip at 6 is (almost) never reached.

    Given:  y = RELU6(x)        Result:  y = RELU(x)
    Swapped where at most a fraction `max_clip` of the values exceeds 6 and none exceeds
    6 * `max_growth`: int8 would spend its codes on what was clipped before. Both are measured on
    data, else follow from BatchNorm statistics (pre-activations ~ N(beta, gamma^2)). With data
    the network's scores must also keep a signal to noise ratio of `min_sqnr` dB; where they do
    not, the layers that clip most are left. `layers` is a name pattern of the RELU6 ops to look
    at; `force=true` swaps all of them, for graphs that will be trained again. Source: Sheng et
    al. 2018, arXiv:1803.08607, section 4.
    """

    max_clip: Annotated[float, Within(0, 1)] = 0.001
    max_growth: Annotated[float, Within(1)] = 1.25
    force: bool = False
    layers: str = "*"
    min_sqnr: Annotated[float, Within(0)] = 40.0

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """Measure first, on the graph as it is; then swap."""
        ops = [op for op in graph.ops_of("RELU6") if fnmatchcase(op.name, self.layers)]
        clips = measure_clips(rw, ops) if ops else {}
        kept: dict[Op, NoMatch] = {}
        if not self.force:
            harms = ((op, self._harmless(clips.get(op))) for op in ops)
            kept = {op: why for op, why in harms if isinstance(why, NoMatch)}
            kept |= self._too_expensive(rw, [op for op in ops if op not in kept], clips)
        for op in ops:
            clip, why = clips.get(op), kept.get(op)
            if clip is not None:
                decision = "swapped" if why is None else "kept"
                rw.layer(op, clip_rate=clip.rate, largest=clip.largest, decision=decision)
            if why is not None:
                rw.skip(op, why)
            else:
                known = "" if clip is None else f", clip rate {_percent(clip.rate)}"
                rw.replace_kind(op, "RELU", detail=f"RELU6 -> RELU{known}")
        worst = max((clip.rate for clip in clips.values()), default=0.0)
        if self.force and worst > self.max_clip:
            rw.warn(
                "train-again",
                f"every RELU6 was swapped, although up to {_percent(worst)} of a layer's values "
                "clipped: the graph must be trained again before it is used",
            )

    def _too_expensive(
        self, rw: PassRewriter, ops: list[Op], clips: dict[Op, Clip]
    ) -> dict[Op, NoMatch]:
        """The ops that cost the scores too much, among those that would be swapped."""
        ops = sorted((op for op in ops if clips[op].rate > 0), key=lambda op: clips[op].rate)
        if not ops or not rw.main or rw.samples is None:
            return {}
        trials = Trials(rw)

        def sqnr(count: int) -> float:
            def edit(copy: PassRewriter, twin: dict[Op, Op]) -> None:
                for op in ops[:count]:
                    copy.replace_kind(twin[op], "RELU")

            return trials.sqnr(edit)

        if sqnr(len(ops)) >= self.min_sqnr:
            return {}
        # The largest number of swaps, from those that clip least, which the scores can take.
        fine, over = 0, len(ops)
        while over - fine > 1:
            middle = (fine + over) // 2
            fine, over = (middle, over) if sqnr(middle) >= self.min_sqnr else (fine, middle)
        why = NoMatch(f"the scores keep less than {self.min_sqnr:g} dB without it")
        return dict.fromkeys(ops[fine:], why)

    def _harmless(self, clip: Clip | None) -> Clip | NoMatch:
        if clip is None:
            return NoMatch("no data and no BatchNorm statistics to judge by")
        if clip.rate > self.max_clip:
            return NoMatch(f"{_percent(clip.rate)} of its values clip, more than max_clip")
        if clip.largest > _LIMIT * self.max_growth:
            return NoMatch(f"its values reach {clip.largest:.3g}, more than max_growth allows")
        return clip


@dataclass(frozen=True)
class Clip:
    """What a RELU6 clips: the fraction of values above 6, and the largest value."""

    rate: float
    largest: float


def measure_clips(rw: PassRewriter, ops: list[Op]) -> dict[Op, Clip]:
    """What each RELU6 clips, as far as it is known."""
    if rw.samples is not None:
        seen = np.zeros((len(ops), 3))  # values above the limit, all values, the largest
        operands, label = [op.operand(0) for op in ops], "measuring how often ReLU6 clips"
        for values in rw.values_of(operands, label, most=_JUDGED_ON):
            for row, v in zip(seen, values, strict=True):
                row[0] += np.count_nonzero(v > _LIMIT)
                row[1] += v.size
                row[2] = max(row[2], v.max(initial=0.0))
        rows = zip(ops, seen.tolist(), strict=True)
        return {op: Clip(above / max(count, 1), largest) for op, (above, count, largest) in rows}
    rw.notice("no-data", "no data: clip rates follow from BatchNorm statistics")
    known = propagate(rw.graph)
    found = {op: known[op.operand(0)] for op in ops if op.operand(0) in known}
    return {op: Clip(float(g.above(_LIMIT).mean()), g.range(_SIGMAS)[1]) for op, g in found.items()}


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"
