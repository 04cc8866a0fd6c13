"""What an edit does to a network's scores, tried on a copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qfrewrite.ir import Array, Graph, Op, Tensor
from qfrewrite.ops.spec import facets
from qfrewrite.runtime.metrics import compare, graph_outputs
from qfrewrite.solve.context import PassRewriter
from qfrewrite.solve.sensitivity import fidelity_of

# Samples that say what quantizing alone costs.
_CALIBRATED_ON = 100


class Trials:
    """Edits to copies of a graph, each judged by the SQNR of the scores, in dB.

    Scores are the graph's outputs, or what a final SOFTMAX reads: behind it a few large
    probabilities drown the rest. Judged on the measuring samples, in float.
    """

    def __init__(self, rw: PassRewriter) -> None:
        self._rw = rw
        copy, _ = self._copy()
        self._reference = self._outputs(copy)

    def sqnr(self, edit: Callable[[PassRewriter, dict[Op, Op]], None]) -> float:
        """With `edit` made to a copy; it gets the copy's rewriter and the map to its ops."""
        copy, twins = self._copy()
        producers = ((op, twins[op.outputs[0]].producer) for op in self._rw.graph.ops)
        ops = {op: twin for op, twin in producers if twin is not None}
        edit(PassRewriter(copy, self._rw.context), ops)
        return compare(self._reference, self._outputs(copy)).sqnr_db

    def quantized_sqnr(self) -> float:
        """After plain calibration, as it will be written."""
        copy, context = self._copy()[0], self._rw.context
        self._rw.run_nested(f"calibrate(samples={_CALIBRATED_ON})", copy, context.aside())
        options = replace(context.quant, io="float32")
        return fidelity_of(
            copy, self._reference, context.judged_on, options, context.threads
        ).sqnr_db

    def _copy(self) -> tuple[Graph, dict[Tensor, Tensor]]:
        copy, twins = self._rw.graph.clone()
        copy.set_io(outputs=[_scores(t) for t in copy.outputs])
        return copy, twins

    def _outputs(self, copy: Graph) -> list[list[Array]]:
        context = self._rw.context
        return graph_outputs(copy, context.judged_on, threads=context.threads)


def _scores(output: Tensor) -> Tensor:
    """What a final SOFTMAX or its like reads, else the output: behind it differences are hidden."""
    producer = output.producer
    while producer is not None and (facets(producer).reshapes or producer.kind == "IDENTITY"):
        producer = producer.operand(0).producer
    return (
        producer.operand(0) if producer and facets(producer).scores == "probabilities" else output
    )
