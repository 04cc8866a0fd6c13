"""`set_nms`: thresholds of a detector's suppression of overlapping boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from qfrewrite.ir import Graph, Op
from qfrewrite.ops.detection import decode_options, encode_options, is_detection, output_shapes
from qfrewrite.passes._registry import Pass, register
from qfrewrite.solve.context import PassRewriter
from qfrewrite.solve.parameters import Within


@register
@dataclass(frozen=True)
class SetNms(Pass):
    """Set what TFLite_Detection_PostProcess keeps.

    iou: boxes that overlap a better one by more are dropped; score: those below it are; both
    0 to 1. max_detections: at most so many are given, which changes the shapes of the outputs.
    What is not given stays. Lower thresholds of overlap were worth accuracy in the Low-Power
    Image Recognition Challenge (Feng et al. 2018).
    """

    # The outputs are lists of detections: their difference says nothing.
    measured = False

    iou: Annotated[float, Within(0, 1)] | None = None
    score: Annotated[float, Within(0, 1)] | None = None
    max_detections: Annotated[int, Within(1, 10_000)] | None = None

    @property
    def keeps_interface(self) -> bool:
        """The number of detections is the size of the outputs."""
        return self.max_detections is None

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """Edit the options where they differ."""
        found = [op for op in graph.ops_of("CUSTOM") if is_detection(op)]
        if not found:
            rw.note("nothing-to-do", "the graph has no TFLite_Detection_PostProcess")
        given = {
            "nms_iou_threshold": self.iou,
            "nms_score_threshold": self.score,
            "max_detections": self.max_detections,
        }
        for op in found:
            self._set(rw, op, {k: v for k, v in given.items() if v is not None})

    def _set(self, rw: PassRewriter, op: Op, wanted: dict[str, Any]) -> None:
        options = decode_options(op)
        changed = {k: v for k, v in wanted.items() if options.get(k) != v}
        if not changed:
            return
        if "max_detections" in changed:
            users = [r.op.name for out in op.outputs for r in out.users]
            if users:
                rw.skip(op, f"max_detections stays: '{users[0]}' reads its outputs")
                del changed["max_detections"]
        text = ", ".join(f"{k} {options.get(k)} -> {v}" for k, v in changed.items())
        options |= changed
        rw.graph.set_attrs(op, custom_options=encode_options(options))
        if "max_detections" in changed:
            for out, shape in zip(op.outputs, output_shapes(options), strict=False):
                rw.graph.set_shape(out, shape)
                rw.graph.set_signature(out, None)
        rw.edit("set", op, text)
