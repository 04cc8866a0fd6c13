"""One check for every pass: structure, interface, log, idempotence, golden text, numbers."""

from __future__ import annotations

import numpy as np
from conftest import check_golden

from qfrewrite.data.source import synthetic
from qfrewrite.ir import Array, Graph, Model
from qfrewrite.ops.check import verify_graph
from qfrewrite.ops.text import graph_text
from qfrewrite.passes import PassContext, PassReport, run_passes
from qfrewrite.runtime.session import Session, input_specs


def outputs_of(graph: Graph, samples: int = 3) -> list[list[Array]]:
    """What LiteRT computes for a few synthetic inputs, op by op as the graph says.

    Not as it would be written: rewriting must not be measured by what was rewritten alike.
    """
    session = Session(graph, graph.outputs, threads=1, as_it_is=True)
    return [[v.copy() for v in session.run(x)] for x in synthetic(input_specs(graph), samples)]


def largest_difference(a: list[list[Array]], b: list[list[Array]]) -> float:
    """max |a - b| / max |a| over all outputs and samples."""
    scale = max(float(np.abs(v).max(initial=0)) for row in a for v in row) or 1.0
    pairs = [(x, y) for u, v in zip(a, b, strict=True) for x, y in zip(u, v, strict=True)]
    assert all(x.shape == y.shape and x.dtype == y.dtype for x, y in pairs)
    return max(float(np.abs(x.astype("f8") - y).max(initial=0)) for x, y in pairs) / scale


def interface_of(graph: Graph) -> list[tuple[str, tuple[int, ...], str]]:
    """Name, shape and element type of every input and output."""
    return [(t.name, t.shape, t.dtype) for t in (*graph.inputs, *graph.outputs)]


def check_pass(
    graph: Graph,
    passes: str,
    *,
    tolerance: float,
    golden: str | None = None,
    data: bool = False,
    settles: bool = True,
    becomes: Graph | None = None,
) -> PassReport:
    """Run `passes` on `graph` in place and check everything that a pass must keep.

    tolerance: how far outputs may move, relative to the largest of them. becomes: for passes that
    change the interface, a graph with the new one that computes the new outputs.
    """
    wanted = outputs_of(becomes or graph)
    interface, text = interface_of(becomes or graph), graph_text(graph)
    samples = synthetic(input_specs(graph), 8) if data else None
    context = PassContext(data=samples, threads=1)
    report = run_passes(Model([graph]), passes, context)
    verify_graph(graph)
    assert interface_of(graph) == interface
    # What changed is in the log, and what is in the log changed something.
    edits = sum(p.edits for p in report.passes)
    assert edits or graph_text(graph) == text
    if golden is not None:
        check_golden(golden, graph_text(graph))
    found = largest_difference(wanted, outputs_of(graph))
    assert found <= tolerance
    if settles:
        text = graph_text(graph)
        again = run_passes(Model([graph]), passes, context)
        assert [str(e) for p in again.passes for e in p.log.edits] == []
        assert graph_text(graph) == text
    return report.passes[-1]
