"""`auto`: from cheap to expensive, until the result is close enough to float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from qfrewrite.data.labels import class_offset, read_table
from qfrewrite.errors import DataError, UsageError
from qfrewrite.ir import Graph
from qfrewrite.ir.nodes import Precision
from qfrewrite.passes._registry import Pass, register
from qfrewrite.rewrite.rewriter import Entry
from qfrewrite.runtime.metrics import Fidelity, Outputs
from qfrewrite.solve.context import PassContext, PassRewriter
from qfrewrite.solve.parameters import Within
from qfrewrite.solve.sensitivity import Sensitivity, fidelity_of, sensitivities

# Networks are a little too sure of themselves: what was lost on labelled images is so many times
# what their own probabilities say (docs/accuracy.md).
_OVERCONFIDENCE = 1.2
# Where there are no probabilities: of the images whose top-1 changes about one in eight was right
# before and is wrong after.
_LOST_PER_CHANGED = 1 / 8
# Layers stay out of 8 bits where that leaves no more than this share of the drop.
_WORTH_IT = 0.9
# How much of a network may be taken out of 8 bits.
_MOST_KEPT = 0.25


@register
@dataclass(frozen=True)
class Auto(Pass):
    """Try pipelines, the cheapest first, until the loss of accuracy is small enough.

    `@fast`, then `@per-tensor` or `@per-channel`, as the result will be written; where that does
    not do, the layers that cost most by measured sensitivity compute with int16 activations (int8,
    per channel), or stay float, at most a quarter of them. max_drop: points of top-1, estimated on
    held-back samples without labels: where the class changes, by how much less probable the new
    one is to the float network; or counted, where `labels` names a CSV of file,label that holds
    the images of the data. For outputs that are no scores the SQNR must be 20 dB. Needs data.
    """

    measured = False
    gives_ranges = True
    # A point of top-1 is a small thing to see.
    judges_on = 200

    max_drop: Annotated[float, Within(0, 100, above=True)] = 1.0
    labels: str | None = None

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """Work on copies; the graph becomes the one that does."""
        if not rw.main:
            rw.run_nested("calibrate")
            return
        context = rw.context
        if context.samples is None or context.imagined:
            raise UsageError("needs data to judge by", where="auto", remedy="give --data")
        judge = _Judge(context, context.outputs(graph), self.labels)
        expensive = "@per-channel" if context.quant.per_channel else "@per-tensor"
        best: tuple[Graph, Fidelity, list[Entry]] | None = None
        for name in ("@fast", expensive):
            copy, found, edits = _tried(rw, judge, name)
            if best is None or found.sqnr_db > best[1].sqnr_db:
                best = copy, found, edits
            rw.note("tried", f"{name}: {found}, estimated drop {estimated_drop(found):.1f} points")
            if self._meets(found):
                best = copy, found, edits
                break
        assert best is not None
        if not self._meets(best[1]):
            self._widen(rw, judge, *best[:2])
        graph.become(best[0])
        rw.log.edits.extend(best[2])

    def _meets(self, found: Fidelity) -> bool:
        return estimated_drop(found) <= self.max_drop

    def _widen(self, rw: PassRewriter, judge: _Judge, copy: Graph, before: Fidelity) -> None:
        """Take the layers that cost most out of 8 bits, a few more each time."""
        context = judge.context
        _, rows = sensitivities(copy, judge.reference, context.judged_on, context)
        rows = sorted(rows, key=lambda r: r.alone_db)
        # With one scale for all weights it is these that cost, and 16 bits do not mend them.
        fine = context.quant.scheme == "int8" and context.quant.per_channel
        keep: Precision = "int16" if fine else "float"
        kept, most = 1, max(int(_MOST_KEPT * len(rows)), 1)
        while True:
            _mark(copy, rows[:kept], keep)
            found = judge.fidelity(copy)
            if self._meets(found) or kept == most:
                break
            kept = min(2 * kept, most)
        if estimated_drop(found) > _WORTH_IT * estimated_drop(before):
            _mark(copy, rows, None)
            rw.warn(
                "max-drop",
                f"a drop of {self.max_drop} points is not reached, and not by taking layers out of "
                f"8 bits: {before}, estimated drop {estimated_drop(before):.1f} points",
            )
            return
        marked = {op.name for op in copy.ops if op.keep is not None}
        names = [row.name for row in rows if row.name in marked]
        what = f"{len(names)} layers in {keep}: {', '.join(names)}"
        text = f"{what}; {found}, estimated drop {estimated_drop(found):.1f} points"
        if self._meets(found):
            rw.note("kept-layers", text)
        else:
            rw.warn("max-drop", f"a drop of {self.max_drop} points is not reached with {text}")


class _Judge:
    """Holds quantized copies against the float network.

    context: for tries on the side, which show their progress. labels: a table of classes, or None.
    """

    def __init__(self, context: PassContext, reference: Outputs, labels: str | None) -> None:
        self.context = replace(context.aside(), progress=context.progress)
        self.reference = reference
        self._labels = None if labels is None else _classes(labels, context, reference)

    def fidelity(self, copy: Graph) -> Fidelity:
        """How close `copy` comes once it is quantized."""
        context, on = self.context, self.context.judged_on
        options = replace(context.quant, io="float32")
        return fidelity_of(copy, self.reference, on, options, context.threads, self._labels)


def _tried(rw: PassRewriter, judge: _Judge, name: str) -> tuple[Graph, Fidelity, list[Entry]]:
    """A copy after the passes of the pipeline `name`, how close it comes, and what they edited."""
    copy = rw.graph.clone()[0]
    edits = rw.run_nested(name, copy, judge.context).edits
    return copy, judge.fidelity(copy), edits


def estimated_drop(found: Fidelity) -> float:
    """Points of top-1 that the change of outputs costs, or is likely to."""
    if found.lost is not None:
        return 100 * found.lost
    if found.expected_drop is not None:
        return 100 * found.expected_drop * _OVERCONFIDENCE
    if found.agreement is None:
        return 0.0 if found.sqnr_db >= 20 else 100.0
    return 100 * (1 - found.agreement) * _LOST_PER_CHANGED


def _classes(table: str, context: PassContext, reference: Outputs) -> list[int]:
    """The model's class of each sample that is judged on, by the name of its file."""
    known = dict(read_table(table))
    named = getattr(context.judged_on, "labels", None)
    if named is None:
        raise UsageError("needs images in files", where="auto(labels)", remedy="give a folder")
    names = [Path(name).name for name in named()]
    missing = [name for name in names if name not in known]
    if missing:
        what = f"holds no label of '{missing[0]}' and {len(missing) - 1} others"
        remedy = "give a row for every image of --data, or leave out labels"
        raise DataError(what, where=table, remedy=remedy)
    offset = class_offset(reference[0][0].size, [known[name] for name in names])
    return [known[name] + offset for name in names]


def _mark(graph: Graph, rows: Sequence[Sensitivity], keep: Precision | None) -> None:
    """Say how layers shall compute; None: like the others."""
    names = {row.name for row in rows}
    for op in graph.ops:
        if op.name in names:
            graph.set_keep(op, keep)
