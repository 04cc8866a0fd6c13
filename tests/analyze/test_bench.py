"""Latency in turn, layers one by one, costs, and sweeps over sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from networks import conv, depthwise, mobilenet_v1, pooled, unet

import qfrewrite as qf
from qfrewrite.analyze.bench import bench_layers, bench_models, competition_score
from qfrewrite.analyze.costs import model_cost
from qfrewrite.analyze.sweep import parse_sizes, sweep
from qfrewrite.errors import UsageError
from qfrewrite.ir import Model
from qfrewrite.lower.cost import macs
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.runtime.session import Runner
from qfrewrite.runtime.timing import Timing, time_interleaved


@pytest.fixture
def int8(tmp_path: Path) -> Model:
    model = Model([mobilenet_v1(0.25)], source="graphdef")
    qf.run_passes(model, "calibrate")
    return qf.load(qf.save(model, tmp_path / "m_int8.tflite").path)


def test_every_op_is_timed_and_the_work_adds_up(int8: Model) -> None:
    found = bench_layers(int8, runs=5)
    kinds = [layer.op for layer in found.layers]
    assert kinds.count("DEPTHWISE_CONV_2D+RELU6") == 6
    assert kinds.count("CONV_2D+RELU6") == 7
    assert sum(layer.macs for layer in found.layers) == sum(map(macs, int8.graph.ops))
    assert sum(layer.share for layer in found.layers) == pytest.approx(1)
    assert found.whole_ms > 0
    flagged = next(layer for layer in found.layers if layer.op.startswith("DEPTHWISE"))
    assert flagged.flags == ["C"]  # 11 channels, 16 x 16
    assert all(layer.gmacs is None for layer in found.layers if not layer.macs)


def test_models_are_timed_in_turn(int8: Model) -> None:
    rows = bench_models([int8, int8], runs=5).models
    assert rows[0].ratio == 1.0
    assert rows[1].ratio > 0
    assert all(r.p5_ms <= r.median_ms <= r.p95_ms for r in rows)


def test_the_order_turns_around_every_round(monkeypatch: pytest.MonkeyPatch, int8: Model) -> None:
    called: list[int] = []
    runners = [Runner.of(int8, threads=1) for _ in range(3)]
    for i, runner in enumerate(runners):
        monkeypatch.setattr(runner, "again", lambda i=i: called.append(i))
    monkeypatch.setattr("qfrewrite.runtime.timing._calls", lambda runner: 1)
    time_interleaved(runners, runs=3)
    assert called == [0, 1, 2, 2, 1, 0, 0, 1, 2]


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that slows down slows both."""
    drift = np.linspace(1, 3, 9)
    assert Timing(2 * drift).ratio(Timing(drift)) == pytest.approx(2)


def test_the_competitions_metric() -> None:
    """Ten images of which eight are right; 20 ms each, 30 and 15 ms allowed."""
    timing = Timing(np.full(5, 0.020))
    correct = [True] * 8 + [False] * 2
    assert competition_score(correct, timing, 0.030) == pytest.approx((8 / 0.3, 0.8))
    # 150 ms are enough for seven images; the time spent counts.
    assert competition_score(correct, timing, 0.015) == pytest.approx((8 / 0.2, 0.7))


def test_costs_by_hand() -> None:
    b = GraphBuilder("costs")
    y = conv(b, b.input("x", (1, 8, 8, 3)), 4, 3)
    y = b.op("CONCATENATION", y, depthwise(b, y), attrs={"axis": 3})
    found = model_cost(Model([b.finish(pooled(b, y))]))
    first, second, third, last = found.ops
    assert (first.macs, first.parameters) == (64 * 4 * 27, 4 * 27 + 4)
    assert (first.weight_bytes, first.int8_weight_bytes) == (4 * 112, 108 + 16)
    # The input and the first map; then both maps; then both and their concatenation.
    assert [op.int8_arena_bytes for op in found.ops] == [
        64 * (3 + 4),
        64 * (4 + 4),
        64 * (4 + 4 + 8),
        64 * 8 + 8,
    ]
    assert first.arena_bytes == 4 * first.int8_arena_bytes
    assert found.peak() is third
    assert found.total("macs") == first.macs + second.macs
    assert last.op == "MEAN"


def test_the_cost_of_a_quantized_model_is_what_it_holds(int8: Model) -> None:
    found = model_cost(int8)
    assert found.total("weight_bytes") == found.total("int8_weight_bytes")
    assert all(op.arena_bytes == op.int8_arena_bytes for op in found.ops)


@pytest.mark.parametrize(("text", "sizes"), [
    ("128..140:4", [128, 132, 136, 140]), ("32..96", [32, 64, 96]), ("224", [224]),
    ("96, 128", [96, 128]),
])  # fmt: skip
def test_lists_of_sizes(text: str, sizes: list[int]) -> None:
    assert parse_sizes(text) == sizes


@pytest.mark.parametrize("text", ["", "a", "128..64", "10..20:0", "1,,2", "0..5:1", "1..9999:1"])
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="no list of sizes"):
        parse_sizes(text)


def test_a_sweep_gives_cost_and_latency_of_every_size() -> None:
    model = Model([mobilenet_v1(0.25, 32)], source="graphdef")
    points = sweep(model, [32, 64, 128], runs=3).sizes
    work = [p.macs or 0 for p in points]
    assert work[1] == pytest.approx(4 * work[0], rel=0.1)
    assert all(p.ms is not None and p.ms > 0 for p in points)
    assert [p.padding == 0 for p in points] == [False, False, True]
    assert points[2].unaligned == 0
    assert (points[0].unaligned or 0) > 0


def test_sizes_that_do_not_work_say_why() -> None:
    points = sweep(Model([unet()], source="graphdef"), [32, 30], runs=3).sizes
    assert points[0].ms is not None
    assert points[1].ms is None
    assert "CONCATENATION" in str(points[1].error)
