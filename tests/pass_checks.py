"""One check for every pass: structure, signature, idempotence, golden text, numbers."""

from __future__ import annotations

import numpy as np
from conftest import check_golden

from qfrewrite.calibration.data import synthetic
from qfrewrite.ir import Array, Graph, Model
from qfrewrite.ir.text import graph_text
from qfrewrite.ops.check import verify_graph
from qfrewrite.passes import PassContext, PassReport, run_passes
from qfrewrite.runtime.session import Session, input_specs


def outputs_of(graph: Graph, samples: int = 3) -> list[list[Array]]:
    """What LiteRT computes for a few synthetic inputs."""
    session = Session(graph, graph.outputs, threads=1)
    return [[v.copy() for v in session.run(x)] for x in synthetic(input_specs(graph), samples)]


def largest_difference(a: list[list[Array]], b: list[list[Array]]) -> float:
    """max |a - b| / max |a| over all outputs and samples."""
    scale = max(float(np.abs(v).max()) for row in a for v in row) or 1.0
    pairs = [(x, y) for u, v in zip(a, b, strict=True) for x, y in zip(u, v, strict=True)]
    return max(float(np.abs(x - y).max()) for x, y in pairs) / scale


def check_pass(
    graph: Graph,
    passes: str,
    *,
    tolerance: float | None,
    golden: str | None = None,
    data: bool = False,
    settles: bool = True,
) -> PassReport:
    """Run `passes` on `graph` in place and hold it against everything a pass must keep.

    tolerance: relative to the largest output; None only for passes that are not exact.
    """
    before = outputs_of(graph)
    signature = [(t.name, t.shape, t.dtype) for t in (*graph.inputs, *graph.outputs)]
    samples = synthetic(input_specs(graph), 8) if data else None
    context = PassContext(data=samples, threads=1)
    report = run_passes(Model([graph]), passes, context)
    verify_graph(graph)
    assert [(t.name, t.shape, t.dtype) for t in (*graph.inputs, *graph.outputs)] == signature
    if golden is not None:
        check_golden(golden, graph_text(graph))
    if tolerance is not None:
        assert largest_difference(before, outputs_of(graph)) <= tolerance
    if settles:
        again = run_passes(Model([graph]), passes, context)
        assert sum(p.edits for p in again.passes) == 0
    return report.passes[-1]
