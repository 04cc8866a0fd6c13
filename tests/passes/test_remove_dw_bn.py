from __future__ import annotations

import numpy as np
import pytest
from conftest import GOLDEN
from graphs import normal, separable

from qfrewrite.ir import Graph
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.testing import check_pass


def test_batch_norm_goes_exactly_and_relu6_stays_where_it_matters() -> None:
    graph = separable()
    report = check_pass(graph, "remove_dw_bn", tolerance=1e-6, data=True)
    assert not graph.ops_of("BATCH_NORM")
    assert graph.ops_of("RELU6")
    assert "ReLU6 stays" in str(report.log.skips[0])


def test_dead_channels_move_into_the_next_bias() -> None:
    graph = separable(dead=(1, 3))
    report = check_pass(
        graph, "remove_dw_bn", tolerance=1e-6, golden=GOLDEN / "remove_dw_bn_dead.txt"
    )
    assert "2 dead channels" in " ".join(map(str, report.log.edits))
    dw, pw = graph.ops_of("DEPTHWISE_CONV_2D")[0], graph.ops_of("CONV_2D")[0]
    assert not dw.operand(1).value()[..., [1, 3]].any()
    assert not pw.operand(1).value()[..., [1, 3]].any()


def test_dead_channels_stay_where_the_next_layer_pads() -> None:
    graph = separable(dead=(1,), next_size=3)
    report = check_pass(graph, "remove_dw_bn", tolerance=1e-6)
    assert "pads what it reads" in " ".join(map(str, report.log.skips))


def test_dead_channels_that_are_zero_go_even_so() -> None:
    graph = separable(dead=(1,), next_size=3, beta=-0.5)
    report = check_pass(graph, "remove_dw_bn", tolerance=1e-6)
    assert "1 dead channels" in " ".join(map(str, report.log.edits))


def test_relu6_goes_where_it_does_nothing() -> None:
    graph = separable(beta=3.0)
    dw = graph.ops_of("DEPTHWISE_CONV_2D")[0].operand(1)
    gamma = graph.tensor("bn/gamma")
    graph.set_data(gamma, np.full(4, 1e-3, "f4"))
    assert dw.value().any()
    report = check_pass(graph, "remove_dw_bn", tolerance=1e-6, data=True)
    assert not graph.ops_of("RELU6")
    assert report.log.layers[0]["decision"] == "removed"


def correlated() -> Graph:
    """Depthwise channels in pairs of opposite sign: what ReLU takes from one the other keeps."""
    b = GraphBuilder("correlated")
    w = np.zeros((1, 3, 3, 8), "f4")
    w[0, 1, 1] = np.repeat(np.linspace(0.5, 1.5, 4), 2)
    x = b.input("x", (1, 6, 6, 4))
    y = b.op("CONV_2D", x, b.const("in/w", np.kron(np.eye(4), [[1], [-1]]).reshape(8, 1, 1, 4)))
    y = b.op("DEPTHWISE_CONV_2D", y, b.const("dw/w", w), b.const("dw/b", np.full(8, 0.4, "f4")))
    v = np.kron(normal(5, 4), [[1.0, -1.0]]) + 0.03 * normal(5, 8, seed=1)
    y = b.op("CONV_2D", b.op("RELU", y), b.const("pw/w", v.reshape(5, 1, 1, 8).astype("f4")))
    return b.finish(y)


def sqnr_without_relu(passes: str, tolerance: float) -> float:
    report = check_pass(correlated(), passes, tolerance=tolerance, data=True, settles=False)
    return float(report.log.layers[0]["sqnr_db"])


def test_a_refit_of_the_pointwise_layer_makes_up_for_the_activation() -> None:
    plain = sqnr_without_relu("remove_dw_bn(layers=all,refit=false)", 0.38)
    assert sqnr_without_relu("remove_dw_bn(layers=all)", 0.13) > plain + 5


@pytest.mark.parametrize(("most", "decision"), [(0, "kept"), (0.001, "kept"), (60, "removed")])
def test_removal_goes_on_while_the_scores_lose_little(most: float, decision: str) -> None:
    graph = correlated()
    report = check_pass(graph, f"remove_dw_bn(max_drop_db={most})", data=True,
                        tolerance=0 if decision == "kept" else 0.13, settles=False)  # fmt: skip
    (row,) = report.log.layers
    assert row["decision"] == decision
    assert bool(graph.ops_of("RELU")) == (decision == "kept")
    if most:
        assert (row["drop_db"] > most) == (decision == "kept")
        assert decision == "removed" or "would lose" in str(report.log.skips[0])


def test_forced_removal_says_that_training_must_follow() -> None:
    graph = separable()
    report = check_pass(graph, "remove_dw_bn(layers=all)", tolerance=0.6, data=True)
    assert not graph.ops_of("RELU6")
    assert report.log.diagnostics.of("warning")[0].code == "train-again"
    assert report.fidelity is not None
    assert report.fidelity.sqnr_db < 40


def test_without_data_the_statistics_decide() -> None:
    graph = separable()
    report = check_pass(graph, "remove_dw_bn", tolerance=1e-6)
    assert any("BatchNorm statistics" in str(one) for one in report.diagnostics)
    assert report.log.layers[0]["sqnr_db"] < 40


def test_a_pattern_chooses_layers() -> None:
    graph = separable()
    check_pass(graph, 'remove_dw_bn(layers="other*")', tolerance=1e-6)
    assert graph.ops_of("RELU6")
