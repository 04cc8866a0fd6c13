from __future__ import annotations

import numpy as np
import pytest
from conftest import GOLDEN
from graphs import normal

from qfrewrite.data.source import synthetic
from qfrewrite.ir import Graph
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.runtime.session import input_specs
from qfrewrite.testing import check_pass


def relu6_of(scale: float) -> Graph:
    b = GraphBuilder("relu6")
    w = np.full((2, 1, 1, 3), scale / 3, "f4")
    y = b.op("CONV_2D", b.input("x", (1, 4, 4, 3)), b.const("w", w), name="conv")
    return b.finish(b.op("RELU6", y, name="y"))


@pytest.mark.parametrize(("scale", "kind"), [(5.0, "RELU"), (60.0, "RELU6")])
def test_swaps_only_where_the_clip_is_not_reached(scale: float, kind: str) -> None:
    graph = relu6_of(scale)
    report = check_pass(graph, "relu6_to_relu", tolerance=1e-6, data=True)
    assert graph.ops[-1].kind == kind
    assert report.log.layers[0]["clip_rate"] == (0 if kind == "RELU" else clip_rate(scale))


def clip_rate(scale: float) -> float:
    """How often the scaled mean of three inputs is above 6, in the samples of `check_pass`."""
    graph = relu6_of(scale)
    means = [s["x"].mean(-1) for s in synthetic(input_specs(graph), 8)]
    rate = float((scale * np.stack(means) > 6).mean())
    assert 0.3 < rate < 0.5
    return rate


def test_force_swaps_and_says_what_it_costs() -> None:
    graph = relu6_of(60.0)
    report = check_pass(graph, "relu6_to_relu(force=true)", tolerance=7.5, data=True)
    assert graph.ops[-1].kind == "RELU"
    assert report.log.diagnostics.of("warning")[0].code == "train-again"
    assert report.fidelity is not None


def test_golden_text() -> None:
    check_pass(
        relu6_of(5.0),
        "relu6_to_relu",
        tolerance=1e-6,
        data=True,
        golden=GOLDEN / "relu6_to_relu.txt",
    )


def test_nothing_to_judge_by_means_nothing_is_swapped() -> None:
    report = check_pass(relu6_of(5.0), "relu6_to_relu", tolerance=1e-6)
    assert "no data and no BatchNorm statistics" in str(report.log.skips[0])


def test_rare_large_values_stay_clipped() -> None:
    b = GraphBuilder()
    w = normal(64, 1, 1, 3, scale=0.1)
    w[0] = 10.0
    y = b.op("CONV_2D", b.input("x", (1, 16, 16, 3)), b.const("w", w), name="conv")
    graph = b.finish(b.op("RELU6", y, name="y"))
    report = check_pass(graph, "relu6_to_relu(max_clip=0.5)", tolerance=1e-6, data=True)
    assert "max_growth" in str(report.log.skips[0])


def test_scores_decide_where_the_clip_rate_would_allow_it() -> None:
    """Two layers that clip as rarely; the scores hang on the second one's largest values."""
    b = GraphBuilder()
    y = b.input("x", (1, 16, 16, 3))
    for i, scale in enumerate((4.2, 6.6)):
        w = np.zeros((3, 1, 1, 3), "f4")
        w[range(3), 0, 0, range(3)] = scale if i == 0 else scale / 4
        y = b.op("CONV_2D", y, b.const("w", w), name=f"conv{i}")
        y = b.op("RELU6", y, name=f"relu{i}")
    graph = b.finish(y)
    limits = "max_clip=1,max_growth=100"
    clips = check_pass(graph.clone()[0], f"relu6_to_relu({limits},min_sqnr=0)", tolerance=0.16,
                       data=True).log.layers  # fmt: skip
    report = check_pass(graph, f"relu6_to_relu({limits},min_sqnr=80)", tolerance=1e-6, data=True)
    assert any(row["clip_rate"] > 0 for row in clips)
    assert any("keep less than 80 dB" in entry.detail for entry in report.log.skips)
    assert graph.ops_of("RELU6")
