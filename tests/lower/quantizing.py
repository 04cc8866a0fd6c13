"""Calibrating, lowering and running small graphs, for the tests of this folder."""

from __future__ import annotations

from typing import Any

from qfrewrite.data.source import synthetic
from qfrewrite.formats.tflite.read import parse_tflite
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Graph, Model
from qfrewrite.lower.model import lower_model
from qfrewrite.lower.scheme import QuantOptions, QuantReport
from qfrewrite.lower.spec_check import check_model
from qfrewrite.passes import Dataset, PassContext, run_passes
from qfrewrite.runtime.metrics import Fidelity, collect, compare
from qfrewrite.runtime.session import Runner, Session, input_specs


def quantized(
    graph: Graph, *, passes: str = "calibrate", **options: Any
) -> tuple[Graph, QuantReport, Fidelity]:
    """`graph` as a file holds it after `passes`, and how close it comes to float on LiteRT.

    Whatever comes out obeys the specification.
    """
    samples = synthetic(input_specs(graph), 12)
    float_run = Session(graph, graph.outputs, threads=1)
    model = Model([graph.clone()[0]], source="graphdef")
    if passes:
        run_passes(model, passes, PassContext(Dataset(samples), threads=1))
    lowered, report = lower_model(model, QuantOptions(**options))
    assert check_model(lowered) == []
    content = serialize(lowered)
    back = parse_tflite(content)
    assert check_model(back) == []
    fidelity = compare(collect(float_run, samples), collect(Runner(content, threads=1), samples))
    return back.graph, report, fidelity
