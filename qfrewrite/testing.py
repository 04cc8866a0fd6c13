"""Checks for passes: structure, interface, log, idempotence, golden text, numbers.

Passes of your own are tested with it as those of the package are; see docs/writing-a-pass.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qfrewrite.data.source import synthetic
from qfrewrite.ir import Array, Graph, Model
from qfrewrite.ops.check import verify_graph
from qfrewrite.ops.text import graph_text
from qfrewrite.passes import Dataset, Pass, PassContext, PassReport, run_passes
from qfrewrite.runtime.session import Session, input_specs

GOLDEN = "QFREWRITE_GOLDEN"
"""The environment variable that makes golden files anew where it is `write`."""


def check_golden(path: str | Path, text: str) -> None:
    """Compare `text` with the file; raises AssertionError where it differs."""
    path = Path(path)
    if os.environ.get(GOLDEN) == "write":
        path.write_text(text)
    assert path.read_text() == text, f"differs from {path}; {GOLDEN}=write rewrites it"


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
    assert all(x.shape == y.shape and x.dtype == y.dtype for x, y in pairs), "other shapes or types"
    return max(float(np.abs(x.astype("f8") - y).max(initial=0)) for x, y in pairs) / scale


def check_pass(
    graph: Graph,
    passes: str | Sequence[Pass],
    *,
    tolerance: float,
    golden: str | Path | None = None,
    data: bool = False,
    settles: bool = True,
    becomes: Graph | None = None,
) -> PassReport:
    """Run `passes` on `graph` in place and check everything that a pass must keep.

    The structure is verified, the interface stays, the log tells of every change, a second run
    changes nothing, and outputs stay within `tolerance`. Returns the report of the last pass.

    tolerance: how far outputs may move, relative to the largest of them. golden: a file with the
    text of the result; with QFREWRITE_GOLDEN=write it is written. data: whether the passes get
    synthetic samples. settles: whether a second run must change nothing. becomes: for passes that
    change the interface, a graph with the new one that computes the new outputs. Raises
    AssertionError.
    """
    wanted = outputs_of(becomes or graph)
    # What is learnt of a value is no edit.
    interface, text = (becomes or graph).interface, graph_text(graph, facts=False)
    samples = Dataset(synthetic(input_specs(graph), 8)) if data else None
    context = PassContext(samples, threads=1)
    report = run_passes(Model([graph]), passes, context)
    verify_graph(graph)
    now = graph.interface
    assert now == interface, f"the interface was {interface} and is {now}"
    edits = sum(p.edits for p in report.passes)
    kept = graph_text(graph, facts=False) == text
    assert edits or kept, "the graph has changed, and the log has no edit"
    if golden is not None:
        check_golden(golden, graph_text(graph))
    moved = largest_difference(wanted, outputs_of(graph))
    assert moved <= tolerance, f"outputs moved by {moved:.3g}, may by {tolerance:.3g}"
    if settles:
        text = graph_text(graph)
        again = run_passes(Model([graph]), passes, context)
        more = [str(e) for p in again.passes for e in p.log.edits]
        assert not more, f"a second run changed more: {more}"
        assert graph_text(graph) == text, "a second run changed the graph"
    return report.passes[-1]
