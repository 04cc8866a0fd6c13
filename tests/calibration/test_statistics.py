"""What BatchNorm tells of values, without data."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import normal, separable

from qfrewrite.calibration.statistics import has_statistics, propagate
from qfrewrite.ir import Graph, Model
from qfrewrite.lower.canonical import canonicalise
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import run_passes
from qfrewrite.rewrite.raising import raise_graph


def scaled() -> Graph:
    """A layer whose results are multiplied and shifted: raised to a BATCH_NORM."""
    b = GraphBuilder()
    y = b.op("CONV_2D", b.input("x", (1, 4, 4, 3)), b.const("w", normal(5, 1, 1, 3)))
    y = b.op("MUL", y, b.const("scale", normal(5)))
    return b.finish(b.op("ADD", y, b.const("shift", normal(5, seed=1))))


def test_a_scale_and_a_shift_are_no_statistics() -> None:
    graph = scaled()
    raise_graph(graph)
    assert graph.ops_of("BATCH_NORM")
    assert not has_statistics(graph)


@pytest.mark.parametrize("passes", ["", "fold_bn"])
def test_statistics_are_known_before_and_after_folding(passes: str) -> None:
    graph = separable()
    if passes:
        run_passes(Model([graph]), passes)
    assert has_statistics(graph)


def test_statistics_survive_where_batch_norm_becomes_arithmetic() -> None:
    """Behind a concatenation there is no layer to fold into."""
    b = GraphBuilder()
    x = b.input("x", (1, 4, 4, 2))
    y = b.op("CONCATENATION", b.op("ABS", x), x, attrs={"axis": 3})
    values = [np.full(4, v, "f4") for v in (2.0, 0.5, 0.1, 1.0)]
    y = b.op("BATCH_NORM", y, *[b.const(f"c{i}", v) for i, v in enumerate(values)],
             attrs={"epsilon": 0.0})  # fmt: skip
    graph = b.finish(b.op("RELU", y))
    canonicalise(graph)
    assert [op.kind for op in graph.ops][-3:] == ["MUL", "ADD", "RELU"]
    known = propagate(graph)[graph.ops[-2].output]
    assert known.mean == pytest.approx(np.full(4, 0.5))
    assert known.std == pytest.approx(np.full(4, 2.0))
