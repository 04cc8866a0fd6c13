"""`strip_postprocess`: a detector's raw boxes and scores."""

from __future__ import annotations

from dataclasses import dataclass

from qfrewrite.ir import Graph
from qfrewrite.ops.detection import is_detection
from qfrewrite.passes._registry import Pass, register
from qfrewrite.solve.context import PassRewriter


@register
@dataclass(frozen=True)
class StripPostprocess(Pass):
    """Take TFLite_Detection_PostProcess off the end of a detector.

    Given:  boxes, classes, scores, count = TFLite_Detection_PostProcess(b, s, anchors)
    Result: b [1, anchors, 4] and s [1, anchors, classes] are the outputs
    Chips and most runtimes for microcontrollers lack that op; what runs behind the network then
    decodes boxes and suppresses overlapping ones.
    """

    measured = False
    changes_interface = True

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """The op's outputs go, what it read takes their place."""
        for op in graph.ops_of("CUSTOM"):
            if not is_detection(op):
                continue
            if any(out.users for out in op.outputs):
                rw.skip(op, "its outputs are read by other ops")
                continue
            taken = [op.operand(0), op.operand(1)]
            place = next(i for i, t in enumerate(graph.outputs) if t in op.outputs)
            outputs = [t for t in graph.outputs if t not in op.outputs]
            outputs[place:place] = [t for t in taken if t not in outputs]
            graph.set_io(outputs=outputs)
            graph.remove_op(op)
            graph.prune()
            rw.edit("removed", op, f"outputs are now {', '.join(t.name for t in taken)}")
        if not rw.log.edits and not rw.log.skips:
            rw.note("nothing-to-do", "the graph has no TFLite_Detection_PostProcess")
