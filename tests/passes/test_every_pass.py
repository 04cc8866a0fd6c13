"""Every pass through `check_pass`, on a graph that it changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from conftest import GOLDEN
from graphs import normal, separable
from networks import detector, mobilenet_v1, residual, ssd

from qfrewrite.ir import Graph
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.text import graph_text
from qfrewrite.passes import all_passes
from qfrewrite.testing import check_golden, check_pass


def large_bias() -> Graph:
    b = GraphBuilder("large_bias")
    y = b.op("CONV_2D", b.input("x", (1, 4, 4, 3)), b.const("w", normal(4, 1, 1, 3, scale=0.1)),
             b.const("b", np.array([20, 0.1, 20, -1], "f4")), name="first")  # fmt: skip
    return b.finish(b.op("CONV_2D", b.op("RELU", y), b.const("v", normal(2, 1, 1, 4))))


def low_rank() -> Graph:
    b = GraphBuilder("low_rank")
    w = normal(32, 4) @ normal(4, 24, seed=1) + 0.01 * normal(32, 24, seed=2)
    return b.finish(b.op("FULLY_CONNECTED", b.input("x", (1, 24)), b.const("w", w), name="dense"))


def small_clip() -> Graph:
    b = GraphBuilder("small_clip")
    w = np.full((2, 1, 1, 3), 5 / 3, "f4")
    y = b.op("CONV_2D", b.input("x", (1, 4, 4, 3)), b.const("w", w), name="conv")
    return b.finish(b.op("RELU6", y, name="y"))


class Row(NamedTuple):
    """A pass as text, its graph, how far outputs may move (measured, and a little), and whether it
    gets data. becomes: the graph whose interface and outputs the result has. settles: whether a
    second run must change nothing."""

    passes: str
    build: Callable[[], Graph]
    tolerance: float
    data: bool = True
    becomes: Callable[[], Graph] | None = None
    settles: bool = True

    def text(self, graph: Graph) -> str:
        """The graph afterwards, without the numbers where those depend on the runtime's kernels."""
        text = graph_text(graph)
        return re.sub(r"#\w{8}|-?\d+\.\d[\de.+-]*", "..", text) if self.data else text


ROWS = (
    Row("absorb_bias", large_bias, 1e-6),
    Row("absorb_dead_channels", lambda: separable(dead=(1, 3)), 1e-6),
    Row("absorb_dead_channels(remove=true)", lambda: separable(dead=(1, 3)), 1e-6, False),
    Row("auto(max_drop=100)", separable, 0.014),
    Row("calibrate", separable, 0.014),
    Row("calibrate", residual, 0.0065, False),
    Row("correct_bias", separable, 1e-6),
    Row("equalize", residual, 1e-6),
    # Goes part of the way by its power: a second run goes on.
    Row("equalize(mode=fill)", separable, 1e-6, False, settles=False),
    Row("equalize(mode=fill,power=1)", separable, 1e-6, False),
    Row("fold_bn", separable, 1e-6),
    Row("reconstruct", residual, 0.0035),
    Row("relu6_to_relu", small_clip, 0),
    Row("remove_dw_bn", separable, 1e-6),
    Row("resize_input(size=48)", lambda: mobilenet_v1(0.25, 32), 1e-6, False,
        lambda: mobilenet_v1(0.25, 48)),
    Row("round_geometry", lambda: mobilenet_v1(0.25), 1e-6),
    Row("set_nms(iou=0.2,score=0.1)", detector, 0, False,
        lambda: detector(nms_iou_threshold=0.2, nms_score_threshold=0.1)),
    Row("set_nms(max_detections=4)", detector, 0, False, lambda: detector(max_detections=4)),
    Row("strip_postprocess", detector, 0, False, ssd),
    Row("svd_factorize(rank=4)", low_rank, 0.005),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.passes} {row.data}")
def test_a_pass_keeps_what_it_must(row: Row) -> None:
    graph, native = row.build(), row.becomes() if row.becomes is not None else None
    report = check_pass(
        graph,
        row.passes,
        tolerance=row.tolerance,
        data=row.data,
        becomes=native,
        settles=row.settles,
    )
    title = re.sub(r"\W+", "_", f"{row.passes} {graph.name}")
    check_golden(GOLDEN / f"{title}.txt", row.text(graph))
    assert report.edits
    assert all(entry.where and entry.detail for entry in report.log.edits)


def test_no_pass_is_left_out() -> None:
    assert {row.passes.partition("(")[0] for row in ROWS} == set(all_passes())
