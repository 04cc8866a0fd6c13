from __future__ import annotations

import numpy as np
from graphs import separable
from pass_checks import check_pass


def test_batch_norm_goes_exactly_and_relu6_stays_where_it_matters() -> None:
    graph = separable()
    report = check_pass(graph, "remove_dw_bn", tolerance=1e-5, data=True)
    assert not graph.ops_of("BATCH_NORM")
    assert graph.ops_of("RELU6")
    assert "ReLU6 stays" in str(report.log.skips[0])


def test_dead_channels_move_into_the_next_bias() -> None:
    graph = separable(dead=(1, 3))
    report = check_pass(graph, "remove_dw_bn", tolerance=1e-5, golden="remove_dw_bn_dead.txt")
    assert "2 dead channels" in " ".join(map(str, report.log.edits))
    dw, pw = graph.ops_of("DEPTHWISE_CONV_2D")[0], graph.ops_of("CONV_2D")[0]
    assert not dw.operand(1).value()[..., [1, 3]].any()
    assert not pw.operand(1).value()[..., [1, 3]].any()


def test_dead_channels_stay_where_the_next_layer_pads() -> None:
    graph = separable(dead=(1,), next_size=3)
    report = check_pass(graph, "remove_dw_bn", tolerance=1e-5)
    assert "pads what it reads" in " ".join(map(str, report.log.skips))


def test_dead_channels_that_are_zero_go_even_so() -> None:
    graph = separable(dead=(1,), next_size=3, beta=-0.5)
    report = check_pass(graph, "remove_dw_bn", tolerance=1e-5)
    assert "1 dead channels" in " ".join(map(str, report.log.edits))


def test_relu6_goes_where_it_does_nothing() -> None:
    graph = separable(beta=3.0)
    dw = graph.ops_of("DEPTHWISE_CONV_2D")[0].operand(1)
    gamma = graph.tensor("bn/gamma")
    graph.update_tensor(gamma, data=np.full(4, 1e-3, "f4"))
    assert dw.value().any()
    report = check_pass(graph, "remove_dw_bn", tolerance=1e-4, data=True)
    assert not graph.ops_of("RELU6")
    assert report.log.layers[0]["decision"] == "removed"


def test_forced_removal_says_that_training_must_follow() -> None:
    graph = separable()
    report = check_pass(graph, "remove_dw_bn(layers=all)", tolerance=None, data=True)
    assert not graph.ops_of("RELU6")
    assert "trained again" in report.log.warnings[0]
    assert report.fidelity is not None
    assert report.fidelity.sqnr_db < 40


def test_without_data_the_statistics_decide() -> None:
    graph = separable()
    report = check_pass(graph, "remove_dw_bn", tolerance=1e-5)
    assert any("BatchNorm statistics" in note for note in report.log.notes)
    assert report.log.layers[0]["sqnr_db"] < 40


def test_a_pattern_chooses_layers() -> None:
    graph = separable()
    check_pass(graph, 'remove_dw_bn(layers="other*")', tolerance=1e-5)
    assert graph.ops_of("RELU6")
