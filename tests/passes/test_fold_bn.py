from __future__ import annotations

import numpy as np
import pytest
from conftest import GOLDEN
from graphs import batch_norm, normal, separable

from qfrewrite.ir import Graph
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.testing import check_pass, largest_difference, outputs_of


def linear_then_bn(kind: str) -> Graph:
    b = GraphBuilder("linear")
    x = b.input("x", (1, 5, 5, 3) if kind != "FULLY_CONNECTED" else (1, 6))
    w = {"CONV_2D": (4, 3, 3, 3), "DEPTHWISE_CONV_2D": (1, 3, 3, 6), "FULLY_CONNECTED": (4, 6)}[
        kind
    ]
    attrs = {"depth_multiplier": 2} if kind == "DEPTHWISE_CONV_2D" else {}
    y = b.op(kind, x, b.const("w", normal(*w)), b.const("b", normal(w[-1] if attrs else w[0])),
             attrs=attrs)  # fmt: skip
    return b.finish(b.op("RELU6", batch_norm(b, y, "bn"), name="y"))


@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
def test_folds_into_the_op_before(kind: str) -> None:
    report = check_pass(linear_then_bn(kind), "fold_bn", tolerance=1e-6)
    assert report.edits == 1


def test_golden_text() -> None:
    b = GraphBuilder("golden")
    x = b.input("x", (1, 2, 2, 2))
    w = np.arange(4, dtype="f4").reshape(2, 1, 1, 2)
    y = b.op("CONV_2D", x, b.const("w", w), name="conv")
    stats = [b.const(n, np.array(v, "f4")) for n, v in
             (("g", [2, 1]), ("b", [0, 1]), ("m", [1, 0]), ("v", [1, 4]))]  # fmt: skip
    y = b.op("BATCH_NORM", y, *stats, attrs={"epsilon": 0.0}, name="bn")
    check_pass(b.finish(y), "fold_bn", tolerance=1e-6, golden=GOLDEN / "fold_bn.txt")


@pytest.mark.parametrize(("padding", "folds"), [("VALID", True), ("SAME", False)])
def test_folds_into_the_op_after_only_where_nothing_pads(padding: str, folds: bool) -> None:
    b = GraphBuilder()
    y = batch_norm(b, b.input("x", (1, 5, 5, 3)), "bn")
    y = b.op("CONV_2D", y, b.const("w", normal(4, 3, 3, 3)), attrs={"padding": padding})
    report = check_pass(b.finish(y), "fold_bn", tolerance=1e-6)
    assert (report.edits, report.skips) == ((1, 0) if folds else (0, 1))


def test_says_why_it_skips() -> None:
    b = GraphBuilder()
    conv = b.op(
        "CONV_2D", b.input("x", (1, 3, 3, 2)), b.const("w", normal(2, 1, 1, 2)), name="conv"
    )
    y = b.op("ADD", b.op("RELU", batch_norm(b, conv, "bn")), conv)
    report = check_pass(b.finish(y), "fold_bn", tolerance=1e-6)
    assert str(report.log.skips[0]) == "skipped bn: 'conv' has 2 users, needs 1"


def test_shared_weights_are_folded_for_each_reader_alone() -> None:
    b = GraphBuilder()
    x, w = b.input("x", (1, 4, 4, 2)), b.const("w", normal(2, 3, 3, 2))
    # Apart in beta: two equal layers would be one.
    first, second = (batch_norm(b, b.op("CONV_2D", x, w), f"bn{i}", beta=i) for i in (1, 2))
    report = check_pass(b.finish(b.op("ADD", first, second)), "fold_bn", tolerance=1e-6)
    assert report.edits == 2


def test_a_wrong_fold_would_be_noticed() -> None:
    graph = separable()
    before = outputs_of(graph)
    check_pass(graph, "fold_bn", tolerance=1e-6)
    w = graph.ops_of("DEPTHWISE_CONV_2D")[0].operand(1)
    graph.set_data(w, w.value() * np.float32(1.001))
    assert largest_difference(before, outputs_of(graph)) > 1e-5
