"""round_geometry and removing dead channels: exact in float, within a step in int8."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import (
    FAMILIES,
    conv,
    inception,
    mobilenet_v1,
    mobilenet_v2,
    random_network,
)

from qfrewrite.data.source import synthetic
from qfrewrite.errors import PassError
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Graph, Model
from qfrewrite.lower.cost import macs
from qfrewrite.lower.model import lower_model
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.lower.spec_check import check_model
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import Dataset, PassContext, make_passes, run_passes
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.runtime.session import Runner, input_specs
from qfrewrite.testing import check_pass, largest_difference, outputs_of

FORCED = "round_geometry(force=true)"


def widths(graph: Graph) -> list[int]:
    """Output channels of the layers."""
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    return [op.output.shape[-1] for op in graph.ops_of(*kinds)]


def rewritten(graph: Graph, passes: str) -> Graph:
    model = Model([graph.clone()[0]], source="graphdef")
    run_passes(model, passes, PassContext(Dataset(synthetic(input_specs(graph), 8)), threads=1))
    return model.graph


def int8_outputs(graph: Graph, passes: str) -> tuple[list[list[np.ndarray]], list[float]]:
    """Outputs for a few samples, real values, and the step of each output."""
    lowered, _ = lower_model(Model([rewritten(graph, passes)], source="graphdef"), QuantOptions())
    assert check_model(lowered) == []
    runner = Runner(serialize(lowered), threads=1)
    steps = [float(t.quant.scale[0]) if t.quant else 0.0 for t in lowered.graph.outputs]
    fresh = synthetic(input_specs(graph), 4, seed=3)
    return [[v.copy() for v in runner.run(x)] for x in fresh], steps


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("passes", ["round_geometry", FORCED, "round_geometry(multiple=16)"])
def test_the_float_function_stays(name: str, passes: str) -> None:
    graph = FAMILIES[name]()
    report = check_pass(graph, passes, tolerance=1e-5)
    assert report.edits
    note = str(report.log.diagnostics.of("note")[-1])
    assert "MACs" in note
    assert "latency" in note


@pytest.mark.parametrize("name", FAMILIES)
def test_int8_outputs_stay_within_a_step(name: str) -> None:
    graph = FAMILIES[name]()
    plain, steps = int8_outputs(graph, "calibrate")
    rounded, same = int8_outputs(graph, f"{FORCED},calibrate")
    assert same == pytest.approx(steps)
    for one, other in zip(plain, rounded, strict=True):
        for a, b, step in zip(one, other, steps, strict=True):
            assert np.abs(a - b).max() <= 1.01 * step


@pytest.mark.parametrize("name", ["mobilenet_v1 0.25", "mobilenet_v2", "squeeze_excite"])
def test_every_layer_but_the_last_becomes_a_multiple(name: str) -> None:
    graph = rewritten(FAMILIES[name](), "round_geometry")
    assert [c % 8 for c in widths(graph)[:-1]] == [0] * (len(widths(graph)) - 1)


def test_heads_stay_and_say_why() -> None:
    graph = FAMILIES["ssd"]()
    report = check_pass(graph, FORCED, tolerance=1e-5)
    reasons = {entry.where: entry.detail for entry in report.log.skips}
    assert all("mixes channels" in reasons[f"head{i}_{n}"] for i in (0, 1) for n in (4, 7))


def test_what_costs_more_than_it_brings_stays_unless_forced() -> None:
    wide = [c for c in widths(rewritten(inception(), FORCED)) if c == 8]
    careful = check_pass(inception(), "round_geometry", tolerance=1e-5)
    assert len(wide) >= 6
    assert any("more blocks" in entry.detail for entry in careful.log.skips)


def test_padding_does_not_touch_calibration() -> None:
    """Behind the sigmoid padding is 0.5 and behind the addition 3: no real value is."""
    b = GraphBuilder()
    y = conv(b, b.input("x", (1, 8, 8, 3)), 5, act="")
    y = b.op("ADD", y, b.const("offset", np.full(1, 3.0, "f4")))
    y = b.op("ADD", b.op("LOGISTIC", y), b.const("more", np.full(1, 2.0, "f4")), name="sum")
    graph = b.finish(conv(b, y, 4, act=""))
    ranges = []
    for passes in ("calibrate", f"{FORCED},calibrate"):
        after = rewritten(graph, passes)
        found = {op.operand(0).name: op.attrs for op in after.ops_of("FAKE_QUANT")}
        ranges.append({name: (a["min"], a["max"]) for name, a in found.items()})
        means = after.tensor("sum").channels.mean
        assert means.size == after.tensor("sum").shape[-1]
    assert ranges[0] == ranges[1]


def test_rounding_down_drops_the_least_important_channels() -> None:
    graph = mobilenet_v1(0.5)
    first = graph.ops_of("CONV_2D")[0]
    w = LinearView.of(first).weights.copy()
    w[[2, 7, 11]] *= 1e-4
    graph.set_data(first.operand(1), w)
    bias = first.operand(2).value().copy()
    bias[[2, 7, 11]] = 0
    graph.set_data(first.operand(2), bias)
    before = outputs_of(graph)
    model = Model([graph], source="graphdef")
    context = PassContext(Dataset(synthetic(input_specs(graph), 8)), threads=1)
    report = run_passes(model, "round_geometry(down=true)", context).passes[0]
    assert widths(graph)[0] == 16
    assert not report.exact
    assert report.fidelity is not None
    assert "dropped" in report.log.diagnostics.of("warning")[0].text
    # 19 channels became 16: the three that matter least are gone, the first is still there.
    kept = np.abs(LinearView.of(graph.ops_of("CONV_2D")[0]).weights).max((1, 2, 3))
    assert kept.min() > 1e-2
    assert largest_difference(before, outputs_of(graph)) < 1


def test_maps_become_multiples_by_a_larger_input() -> None:
    graph = mobilenet_v1(0.25, 72)
    model = Model([graph], source="graphdef")
    report = run_passes(model, "round_geometry(what=all)", PassContext(threads=1)).passes[0]
    assert graph.inputs[0].shape == (1, 128, 128, 3)
    assert not report.exact
    shapes = [op.output.shape for op in graph.ops_of("CONV_2D")]
    assert all(h % 8 == w % 8 == c % 8 == 0 for _, h, w, c in shapes)
    flat = inception()
    report = run_passes(Model([flat]), "round_geometry(what=spatial)", PassContext(threads=1))[
        "round_geometry"]  # fmt: skip
    assert flat.inputs[0].shape == (1, 16, 16, 3)


@pytest.mark.parametrize("multiple", [0, 7, 128])
def test_multiples_that_no_kernel_has(multiple: int) -> None:
    with pytest.raises(PassError, match="use one of"):
        make_passes(f"round_geometry(multiple={multiple})")


# -- dead channels that leave ------------------------------------------------------------------


def killed(graph: Graph, which: tuple[int, ...] = (0, 3)) -> Graph:
    """Channels of every convolution but the last that are always 0."""
    for op in graph.ops_of("CONV_2D")[:-1]:
        for slot in (1, 2):
            values = op.operand(slot).value().copy()
            values[[c for c in which if c < len(values)]] = 0
            graph.set_data(op.operand(slot), values)
    return graph


def test_dead_channels_leave_and_the_rest_is_rounded() -> None:
    graph = killed(mobilenet_v1(0.25, add=5))
    work = sum(map(macs, graph.ops))
    for op in graph.ops_of("DEPTHWISE_CONV_2D"):
        bias = op.operand(2).value().copy()
        bias[[0, 3]] = 0
        graph.set_data(op.operand(2), bias)
    report = check_pass(graph, "absorb_dead_channels(remove=true)", tolerance=1e-5)
    assert any(entry.action == "narrowed" for entry in report.log.edits)
    assert widths(graph)[:2] == [11, 11]
    assert sum(map(macs, graph.ops)) < 0.9 * work
    check_pass(graph, FORCED, tolerance=1e-5)
    assert widths(graph)[:2] == [16, 16]


def test_a_channel_that_any_reader_uses_stays() -> None:
    """In a residual cycle a channel is dead only where all that write it are, or none reads it."""
    graph = mobilenet_v2()
    before = widths(graph)
    check_pass(killed(graph), "absorb_dead_channels(remove=true)", tolerance=1e-5)
    assert widths(graph) != before
    assert widths(graph)[3] == 11  # the cycle's channels: its readers use all of them


def test_something_is_left_of_a_layer_that_nobody_uses() -> None:
    b = GraphBuilder()
    y = conv(b, b.input("x", (1, 4, 4, 3)), 6)
    y = b.op("CONV_2D", y, b.const("w", np.zeros((4, 1, 1, 6), "f4")), b.const("b", normal(4)))
    graph = b.finish(y)
    check_pass(graph, "absorb_dead_channels(remove=true)", tolerance=1e-6)
    assert widths(graph) == [1, 4]


# -- random graphs -----------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data())
def test_random_graphs_keep_their_function(data: st.DataObject) -> None:
    graph = random_network(data)
    passes = data.draw(st.sampled_from((
        FORCED, "round_geometry", "round_geometry(multiple=4,force=true)",
        f"absorb_dead_channels(remove=true),{FORCED}",
    )))  # fmt: skip
    if "absorb" in passes:
        killed(graph)
    check_pass(graph, passes, tolerance=1e-5, settles=False)
