"""absorb_dead_channels, equalize, absorb_bias, correct_bias, reconstruct and pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from graphs import batch_norm, normal, separable
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_network, residual

from qfrewrite.data.source import synthetic
from qfrewrite.errors import DataError, PassError
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Graph, Model, Signature
from qfrewrite.ir.quant import dequantize
from qfrewrite.lower.model import lower_model
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.lower.spec_check import check_model
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import Dataset, PassContext, RunReport, make_passes, run_passes
from qfrewrite.passes.auto import estimated_drop
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.runtime.metrics import FidelityMeter, collect, compare
from qfrewrite.runtime.session import Runner, Session, input_specs


def changed(
    graph: Graph, passes: str, *, data: bool = True, count: int = 24
) -> tuple[Graph, float, RunReport]:
    """The graph after exact passes, the SQNR of its float output, and the report."""
    samples = synthetic(input_specs(graph), count)
    model = Model([graph.clone()[0]], source="graphdef")
    report = run_passes(model, passes, PassContext(Dataset(samples) if data else None, threads=1))
    one, two = (collect(Session(g, g.outputs, threads=1), samples) for g in (graph, model.graph))
    return model.graph, compare(one, two).sqnr_db, report


def int8_db(graph: Graph, passes: str, *, per_channel: bool = True, scheme: str = "int8") -> float:
    """SQNR of the int8 model on samples that no pass saw."""
    model = Model([graph.clone()[0]], source="graphdef")
    options = QuantOptions(scheme, per_channel)
    seen, fresh = (synthetic(input_specs(graph), n, seed=s) for n, s in ((96, 1), (48, 2)))
    run_passes(
        model, passes, PassContext(Dataset(seen, fresh, held_out=True), threads=1, quant=options)
    )
    lowered, _ = lower_model(model, options)
    assert check_model(lowered) == []
    want = collect(Session(graph, graph.outputs, threads=1), fresh)
    return compare(want, collect(Runner(serialize(lowered), threads=1), fresh)).sqnr_db


# -- dead channels -------------------------------------------------------------------------


def test_dead_channels_go_by_batch_norm_and_the_output_stays() -> None:
    graph = separable(dead=(1, 3))
    after, db, report = changed(graph, "absorb_dead_channels", data=False)
    assert db > 90
    (dw,) = after.ops_of("DEPTHWISE_CONV_2D")
    assert not LinearView.of(dw).weights[..., [1, 3]].any()
    assert not LinearView.of(dw).bias[[1, 3]].any()
    assert not LinearView.of(after.ops_of("CONV_2D")[0]).weights[..., [1, 3]].any()
    assert report["absorb_dead_channels"].log.layers[0]["dead"] == 2


def test_a_constant_does_not_cross_padding() -> None:
    after, db, report = changed(separable(dead=(1,), next_size=3), "absorb_dead_channels")
    assert db > 90
    assert "pads what it reads" in str(report["absorb_dead_channels"].log.skips[0])
    assert after.ops_of("DEPTHWISE_CONV_2D")
    # Below zero ReLU6 makes the constant 0, which padding is too.
    _, db, report = changed(separable(dead=(1,), next_size=3, beta=-1.0), "absorb_dead_channels")
    assert db > 90
    assert report["absorb_dead_channels"].edits


def test_dead_channels_show_in_data() -> None:
    b = GraphBuilder()
    w = normal(4, 1, 1, 3)
    w[2] *= 1e-9
    y = b.op("CONV_2D", b.input("x", (1, 4, 4, 3)), b.const("w", w), b.const("b", [1.0, 1, 0.5, 2]))
    y = b.op("CONV_2D", b.op("RELU", y), b.const("v", normal(2, 1, 1, 4)), b.const("c", normal(2)))
    after, db, _ = changed(b.finish(y), "absorb_dead_channels")
    assert db > 90
    assert not LinearView.of(after.ops_of("CONV_2D")[0]).weights[2].any()


# -- equalization --------------------------------------------------------------------------


def chain(pick: Callable[[str, list[str]], str]) -> Graph:
    """Convolutions of random kinds with unequal channels, and what may lie between them."""
    b = GraphBuilder()
    y = b.input("x", (1, 6, 6, 3))
    for i in range(3):
        kind = pick(f"kind {i}", ["CONV_2D", "DEPTHWISE_CONV_2D"])
        c = y.shape[3]
        shape = (4, 3, 3, c) if kind == "CONV_2D" else (1, 3, 3, c)
        axis = 0 if kind == "CONV_2D" else 3
        w = normal(*shape, seed=i) * 0.3
        spread = np.geomspace(0.05, 1, shape[axis])
        w = w * (spread.reshape(-1, 1, 1, 1) if axis == 0 else spread)
        y = b.op(kind, y, b.const("w", w.astype("f4")), b.const("b", normal(shape[axis], seed=i)))
        between = pick(f"between {i}", ["RELU", "RELU6", "LEAKY_RELU", "NONE", "RELU MAX_POOL_2D"])
        for act in [] if between == "NONE" else between.split():
            y = b.op(act, y, attrs={"filter_height": 2, "filter_width": 2} if "POOL" in act else {})
    y = b.op("CONV_2D", y, b.const("last", normal(3, 1, 1, y.shape[3])), b.const("lb", normal(3)))
    return b.finish(y)


@pytest.mark.parametrize("mode", ["exact", "fill"])
@settings(max_examples=25)
@given(data=st.data())
def test_equalization_keeps_the_function(mode: str, data: st.DataObject) -> None:
    graph = chain(lambda label, kinds: data.draw(st.sampled_from(kinds), label=label))
    _, db, _ = changed(graph, f"equalize(mode={mode})")
    assert db > 90


def test_equalization_helps_weights_of_one_scale() -> None:
    spread = np.geomspace(0.003, 1, 8).astype("f4")
    b = GraphBuilder()
    w, v = normal(8, 3, 3, 3) * spread.reshape(-1, 1, 1, 1), normal(5, 1, 1, 8) / spread
    y = b.op("CONV_2D", b.input("x", (1, 6, 6, 3)), b.const("w", w), b.const("b", np.zeros(8)))
    y = b.op("CONV_2D", b.op("RELU", y), b.const("v", v), b.const("c", np.zeros(5)))
    graph = b.finish(y)
    plain, equalized = (
        int8_db(graph, p, per_channel=False) for p in ("calibrate", "equalize,calibrate")
    )
    assert equalized > plain + 10


@pytest.mark.parametrize("build", ["residual", "branches", "split", "flattened"])
@pytest.mark.parametrize("mode", ["exact", "fill"])
def test_equalization_follows_sums_joins_and_splits(build: str, mode: str) -> None:
    graph = {"residual": residual, "branches": branches, "split": split_network,
             "flattened": flattened}[build]()  # fmt: skip
    _, db, report = changed(graph, f"equalize(mode={mode})")
    assert db > 90
    assert report["equalize"].edits >= 1
    if build == "residual":
        assert "added to it" in " ".join(map(str, report["equalize"].log.edits))


@pytest.mark.parametrize("mode", ["exact", "fill"])
@settings(max_examples=40)
@given(data=st.data())
def test_equalization_keeps_random_networks(mode: str, data: st.DataObject) -> None:
    _, db, _ = changed(random_network(data), f"equalize(mode={mode})", count=6)
    assert db > 90


def test_a_sum_with_a_constant_or_an_output_holds_its_channels() -> None:
    b = GraphBuilder()
    y = b.op("CONV_2D", b.input("x", (1, 4, 4, 3)), b.const("w", normal(4, 1, 1, 3)))
    y = b.op("ADD", y, b.const("offset", normal(4, 4, 4)))
    graph = b.finish(b.op("CONV_2D", y, b.const("v", normal(2, 1, 1, 4))))
    _, db, report = changed(graph, "equalize")
    assert db > 90
    assert any("is added to by" in entry.detail for entry in report["equalize"].log.skips)


def test_statistics_follow_what_is_scaled_and_absorbed() -> None:
    """Without data ranges come from BatchNorm statistics, so these must stay true.

    The scales are read off the weights, not off the statistics: fails where `restate` does
    nothing, or forgets the mean, the deviation, or the mean input that calibration noted.
    """
    graph = separable(dead=(1,))
    folded, _, _ = changed(graph, "fold_bn", data=False)
    after, _, _ = changed(graph, "absorb_dead_channels,correct_bias", data=False)
    known = folded.op("dw").output.channels.normal
    mean, std = after.op("dw").output.channels.normal
    alive = np.array([True, False, True, True])
    for found, before in zip((mean, std), known, strict=True):
        assert found.tolist() == np.where(alive, before, 0).tolist()
    scaled, _, _ = changed(after, "equalize", data=False)
    new, old = (LinearView.of(g.op("dw")).weights[0, 0, 0, alive] for g in (scaled, after))
    scale = new / old
    assert np.abs(np.log(scale)).min() > 0.1
    found = scaled.op("dw").output.channels.normal
    for now, before in zip(found, (mean, std), strict=True):
        assert now[alive] == pytest.approx(before[alive] * scale, rel=1e-5)
    inputs, now = (g.op("relu6").output.channels.mean[alive] for g in (after, scaled))
    assert now == pytest.approx(inputs * scale, rel=1e-5)


def test_statistics_follow_biases_that_move_on() -> None:
    """Fails where `absorb_bias` does not shift the facts of the channels."""
    b = GraphBuilder()
    y = b.op("CONV_2D", b.input("x", (1, 4, 4, 3)), b.const("w", normal(4, 1, 1, 3)), name="first")
    y = b.op("RELU", batch_norm(b, y, "bn", beta=30.0), name="relu")
    graph = b.finish(b.op("CONV_2D", y, b.const("v", normal(2, 1, 1, 4))))
    folded, _, _ = changed(graph, "fold_bn", data=False)
    after, _, _ = changed(folded, "absorb_bias", data=False)
    shift = LinearView.of(after.op("first")).bias - LinearView.of(folded.op("first")).bias
    assert shift.max() < -20
    (mean, std), (before, spread) = (g.op("first").output.channels.normal for g in (after, folded))
    assert mean == pytest.approx(before + shift, abs=1e-4)
    assert std.tolist() == spread.tolist()


def test_channels_that_clip_stay() -> None:
    graph = separable()
    (dw,) = graph.ops_of("DEPTHWISE_CONV_2D")
    w = graph.tensor("dw/w")
    graph.set_data(w, (w.value() * np.array([50, 0.1, 0.1, 0.1], "f4")))
    after, db, report = changed(graph, "equalize")
    assert db > 90
    assert report["equalize"].log.layers[0]["clipping"] >= 1
    assert after.op(dw.name)


def test_without_data_batch_norm_says_how_large_activations_are() -> None:
    _, db, report = changed(separable(), "equalize", data=False)
    assert report["equalize"].edits
    assert db > 40


# -- biases --------------------------------------------------------------------------------


def offset_network(bias: float) -> Graph:
    b = GraphBuilder()
    y = b.op("CONV_2D", b.input("x", (1, 4, 4, 3)), b.const("w", normal(4, 1, 1, 3, scale=0.1)),
             b.const("b", np.array([bias, 0.1, bias, -1], "f4")), name="first")  # fmt: skip
    y = b.op("RELU", y)
    return b.finish(b.op("CONV_2D", y, b.const("v", normal(2, 1, 1, 4)), b.const("c", normal(2))))


def test_high_biases_move_on() -> None:
    after, db, _ = changed(offset_network(20.0), "absorb_bias")
    assert db > 90
    assert LinearView.of(after.op("first")).bias.max() < 8
    graph = offset_network(20.0)
    assert int8_db(graph, "absorb_bias,calibrate") > int8_db(graph, "calibrate") + 3


@pytest.mark.parametrize("data", [True, False])
def test_correct_bias_notes_mean_inputs(data: bool) -> None:
    """Fails with all means zero, or with the mean of another tensor."""
    graph = separable()
    after, db, report = changed(graph, "correct_bias", data=data)
    assert db > 120
    noted = {t.name: m for t in after.tensors if (m := t.channels.mean) is not None}
    samples = synthetic(input_specs(graph), 24)
    session = Session(graph, [graph.tensor("x"), graph.tensor("relu6")], threads=1)
    values = [np.stack(v) for v in zip(*collect(session, samples), strict=True)]
    if data:
        wanted = {n: v.mean((0, 1, 2, 3)) for n, v in zip(("x", "relu6"), values, strict=True)}
    else:
        # N(0.5, gamma^2 * variance / (variance + epsilon)) through ReLU6, by drawing from it.
        std = np.abs(normal(4)) / np.sqrt(1.001)
        drawn = 0.5 + std * np.random.default_rng(0).normal(size=(1_000_000, 4))
        wanted = {"relu6": np.clip(drawn, 0, 6).mean(0)}
    assert noted.keys() == wanted.keys()
    for name, mean in wanted.items():
        assert noted[name] == pytest.approx(mean, abs=1e-6 if data else 2e-3)
    edits = [str(e) for e in report["correct_bias"].log.edits]
    assert edits == [f"noted {graph.tensor(n).users[0].op.name}: the mean of '{n}'"
                     for n in wanted]  # fmt: skip


def test_biases_take_up_what_rounding_makes_of_the_mean() -> None:
    """b + (w - w') E[x], and by much more than a step of the bias."""
    graph = offset_network(1.0)
    samples = synthetic(input_specs(graph), 24)
    relu = next(op for op in graph.ops if op.kind == "RELU").output
    values = collect(Session(graph, [relu], threads=1), samples)
    mean = np.stack([v for (v,) in values]).astype("f8").mean((0, 1, 2, 3))
    biases = {}
    for passes in ("correct_bias,calibrate(bias=false)", "calibrate(bias=false)"):
        model = Model([graph.clone()[0]], source="graphdef")
        run_passes(model, passes, PassContext(Dataset(samples), threads=1))
        lowered, _ = lower_model(model, QuantOptions(per_channel=False))
        w, b = (lowered.graph.ops_of("CONV_2D")[1].operand(slot) for slot in (1, 2))
        assert w.quant is not None
        assert b.quant is not None
        lost = graph.tensor("v").value() - dequantize(w.value(), w.quant)
        biases[passes] = dequantize(b.value(), b.quant), lost.reshape(2, 4).astype("f8") @ mean
        step = float(b.quant.scale[0])
    (corrected, response), (plain, _) = biases.values()
    assert corrected - plain == pytest.approx(response, abs=1.01 * step)
    assert np.abs(response).max() > 10 * step


# -- reconstruction ------------------------------------------------------------------------


def layered_norm() -> Graph:
    """Ops without a kernel in 8 bits between those that have one, as in a transformer."""
    b = GraphBuilder()
    x = b.op("CONV_2D", b.input("x", (1, 4, 4, 8)), b.const("w", normal(8, 1, 1, 8)))
    axis = b.const("axis", np.array([3], "i4"))
    mean = b.op("MEAN", x, axis, attrs={"keep_dims": True})
    centred = b.op("ADD", x, b.op("NEG", mean))
    variance = b.op("MEAN", b.op("SQUARE", centred), axis, attrs={"keep_dims": True})
    y = b.op("MUL", centred, b.op("RSQRT", b.op("ADD", variance, b.const("eps", np.float32(0.1)))))
    last = b.op("CUMSUM", y, b.const("along", np.array(1, "i4")), name="sum")
    y = b.op("CONV_2D", b.op("RELU", last), b.const("v", normal(4, 1, 1, 8)))
    return b.finish(y)


def test_reconstruction_leaves_no_more_in_float_than_calibration() -> None:
    """NEG and SQUARE have substitutes; what reads the float CUMSUM computes in 8 bits."""
    left = {}
    for passes in ("calibrate", "reconstruct(refit=false)"):
        model = Model([layered_norm()], source="graphdef")
        samples = synthetic(input_specs(model.graph), 16)
        run_passes(model, passes, PassContext(Dataset(samples), threads=1))
        lowered, report = lower_model(model, QuantOptions())
        left[passes] = [name for name, _, _ in report.float_ops]
        assert check_model(lowered) == []
    assert list(left.values()) == [["sum"], ["sum"]]


def test_what_was_reconstructed_can_be_looked_at_again() -> None:
    """Its weights carry narrow ranges, which no runtime takes as an op."""
    graph = residual()
    context = PassContext(Dataset(synthetic(input_specs(graph), 16)), threads=1)
    report = run_passes(
        Model([graph], source="graphdef"), "reconstruct(weights=per-tensor),absorb_dead_channels",
        context, verify="numeric",
    )  # fmt: skip
    assert report["reconstruct"].edits


def test_weights_of_four_bits_lie_on_the_grid_of_eight() -> None:
    graph = residual()
    context = PassContext(Dataset(synthetic(input_specs(graph), 32)), threads=1)
    model = Model([graph], source="graphdef")
    run_passes(model, "reconstruct(bits=4,weights=per-channel)", context)
    lowered, _ = lower_model(model, QuantOptions())
    for op in lowered.graph.ops_of("CONV_2D"):
        codes = np.unique(op.operand(1).value())
        assert len(codes) <= 15
        assert not (codes % 18).any()


def split_network() -> Graph:
    b = GraphBuilder()
    w, v = normal(8, 3, 3, 3), normal(8, 1, 1, 8)
    y = b.op("RELU6", b.op("CONV_2D", b.input("x", (1, 6, 6, 3)), b.const("w", w * 0.1)))
    b.op("SPLIT", b.const("axis", 3, "int32"), y, attrs={"num_splits": 2})
    left, right = b.graph.ops[-1].outputs
    left = b.op("CONV_2D", left, b.const("l", normal(4, 1, 1, 4) * np.geomspace(0.01, 1, 4)))
    y = b.op("CONCATENATION", b.op("RELU", left), right, attrs={"axis": 3})
    return b.finish(b.op("CONV_2D", y, b.const("v", v)))


def flattened() -> Graph:
    b = GraphBuilder()
    w = normal(5, 3, 3, 3) * np.geomspace(0.01, 1, 5).reshape(-1, 1, 1, 1)
    y = b.op("CONV_2D", b.input("x", (1, 6, 6, 3)), b.const("w", w))
    y = b.op("MAX_POOL_2D", b.op("RELU", y), attrs={"filter_height": 2, "filter_width": 2})
    return b.finish(b.op("FULLY_CONNECTED", y, b.const("fc", normal(4, y.size))))


def branches() -> Graph:
    b = GraphBuilder()
    x = b.input("x", (1, 8, 8, 3))
    parts = [
        b.op("RELU", b.op("CONV_2D", x, b.const(f"w{k}", normal(4, k, k, 3, scale=1 / k)),
                          b.const(f"b{k}", normal(4))))
        for k in (1, 3, 5)
    ]  # fmt: skip
    y = b.op("CONCATENATION", *parts, attrs={"axis": 3})
    y = b.op("RELU6", b.op("DEPTHWISE_CONV_2D", y, b.const("dw", normal(1, 3, 3, 12)),
                           b.const("db", normal(12))))  # fmt: skip
    return b.finish(
        b.op("CONV_2D", y, b.const("last", normal(5, 1, 1, 12)), b.const("lb", normal(5)))
    )


def upsampling() -> Graph:
    b = GraphBuilder()
    x = b.input("x", (1, 6, 6, 3))
    y = b.op("RELU", b.op("CONV_2D", x, b.const("w", normal(8, 3, 3, 3)), b.const("b", normal(8))))
    shape = b.const("shape", np.array([1, 12, 12, 4], "i4"))
    y = b.op("TRANSPOSE_CONV", shape, b.const("t", normal(4, 3, 3, 8, scale=0.3)), y,
             b.const("tb", normal(4)), attrs={"stride_h": 2, "stride_w": 2})  # fmt: skip
    return b.finish(b.op("CONV_2D", b.op("RELU", y), b.const("v", normal(2, 3, 3, 4)),
                         b.const("vb", normal(2))))  # fmt: skip


NETWORKS = {"residual": residual, "branches": branches, "upsampling": upsampling}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("pipeline", "per_channel"), [("@per-tensor", False), ("@per-channel", True)]
)
def test_pipelines_are_never_worse_than_plain_calibration(
    name: str, pipeline: str, per_channel: bool
) -> None:
    graph = NETWORKS[name]()
    plain = int8_db(graph, "calibrate", per_channel=per_channel)
    assert int8_db(graph, pipeline, per_channel=per_channel) > plain - 0.2


@pytest.mark.parametrize("rounding", ["gptq", "descent", "nearest"])
def test_reconstruction_helps_a_network_of_one_scale(rounding: str) -> None:
    graph = branches()
    plain = int8_db(graph, "calibrate", per_channel=False)
    fitted = int8_db(graph, f"reconstruct(rounding={rounding})", per_channel=False)
    assert fitted > plain + (0.5 if rounding != "nearest" else -0.2)


@pytest.mark.parametrize("scheme", ["uint8", "int16x8"])
def test_reconstruction_for_other_schemes(scheme: str) -> None:
    graph = branches()
    assert int8_db(graph, "reconstruct", scheme=scheme) > int8_db(graph, "calibrate", scheme=scheme)


def test_weights_lie_on_the_grid_that_is_written() -> None:
    graph = residual()
    model = Model([graph], source="graphdef")
    run_passes(
        model, "reconstruct", PassContext(Dataset(synthetic(input_specs(graph), 32)), threads=1)
    )
    before = {op.name: LinearView.of(op).weights for op in model.graph.ops_of("CONV_2D")}
    lowered, _ = lower_model(model, QuantOptions())
    for op in lowered.graph.ops_of("CONV_2D"):
        w = op.operand(1)
        assert w.quant is not None
        step = w.quant.scale.reshape(-1, 1, 1, 1)
        np.testing.assert_allclose(w.value() * step, before[op.name], rtol=1e-5, atol=1e-7)


def test_where_plain_calibration_is_better_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    import qfrewrite.passes.reconstruct as module
    from qfrewrite.solve.sequential import FittedLayer, Solution

    real = module._apply

    def damaged(rw: module.PassRewriter, solution: Solution) -> None:
        layers = {op: FittedLayer(layer.weights * 0, layer.bias, layer.bounds, {})
                  for op, layer in solution.layers.items()}  # fmt: skip
        real(rw, Solution(layers, solution.quants))

    monkeypatch.setattr(module, "_apply", damaged)
    graph = residual()
    model = Model([graph.clone()[0]], source="graphdef")
    report = run_passes(
        model, "reconstruct", PassContext(Dataset(synthetic(input_specs(graph), 32)), threads=1)
    )
    assert any(one.code == "plain-is-better" for one in report["reconstruct"].diagnostics)
    np.testing.assert_array_equal(
        LinearView.of(model.graph.ops_of("CONV_2D")[0]).weights,
        LinearView.of(graph.ops_of("CONV_2D")[0]).weights,
    )


def test_without_data_it_says_so_and_calibrates() -> None:
    graph = separable()
    model = Model([graph], source="graphdef")
    report = run_passes(model, "reconstruct", PassContext())
    assert report["reconstruct"].log.diagnostics.of("warning")[0].code == "no-data"
    assert model.graph.ops_of("FAKE_QUANT")


# -- pipelines -----------------------------------------------------------------------------


def test_pipelines_expand() -> None:
    assert [str(p) for p in make_passes("@per-tensor(samples=100,sweeps=3),fold_bn")] == [
        "absorb_dead_channels", "equalize(sweeps=3)",
        "reconstruct(samples=100, scale=search, weights=per-tensor)", "fold_bn",
    ]  # fmt: skip
    with pytest.raises(PassError, match="did you mean '@per-tensor'"):
        make_passes("@per-tenser")
    with pytest.raises(PassError, match="no such parameter: 'colour'"):
        make_passes("@fast(colour=red)")


# -- auto and sensitivity ------------------------------------------------------------------


def auto(graph: Graph, max_drop: float) -> tuple[Model, RunReport]:
    model = Model([graph.clone()[0]], source="graphdef")
    options = QuantOptions(per_channel=False)
    seen, fresh = (synthetic(input_specs(graph), n, seed=s) for n, s in ((64, 1), (40, 2)))
    context = PassContext(Dataset(seen, fresh, held_out=True), threads=1, quant=options)
    return model, run_passes(model, f"@auto(max_drop={max_drop})", context)


def test_auto_stops_at_the_cheapest_that_does() -> None:
    model, report = auto(separable(dead=(1,)), 100)
    notes = [one.text for one in report["auto"].log.diagnostics.of("note")]
    assert notes[0].startswith("@fast: ")
    assert len(notes) == 1
    assert report["auto"].edits
    assert model.graph.ops_of("FAKE_QUANT")
    assert lower_model(model, QuantOptions(per_channel=False))[1].counts["int8"] == 2


def test_auto_calibrates_other_signatures_as_they_will_be_written() -> None:
    """Fails where the BatchNorm of the second one is left between its layer and the range."""
    graphs = [separable(), separable()]
    signatures = [
        Signature(name, i, (("x", 0),), (("y", 0),)) for i, name in enumerate(("first", "second"))
    ]
    model = Model(graphs, signatures=signatures)
    samples = synthetic(input_specs(graphs[0]), 16)
    run_passes(model, "@auto(max_drop=100)", PassContext(Dataset(samples), threads=1))
    assert [len(g.ops_of("BATCH_NORM")) for g in graphs] == [0, 0]
    assert lower_model(model, QuantOptions())[1].counts == {"int8": 4}


def classifier() -> Graph:
    """Scores that lie so close together that 8 bits change the first."""
    b = GraphBuilder()
    y = b.op("FULLY_CONNECTED", b.input("x", (1, 32)), b.const("w", normal(64, 32)),
             b.const("b", normal(64)), name="first")  # fmt: skip
    y = b.op("FULLY_CONNECTED", b.op("TANH", y), b.const("v", normal(200, 64, scale=0.1)),
             b.const("c", np.zeros(200)), name="scores")  # fmt: skip
    return b.finish(y)


def test_auto_takes_layers_out_of_8_bits_and_names_them() -> None:
    model, report = auto(classifier(), 0.01)
    log = report["auto"].log
    notes = log.diagnostics.of("note")
    assert [n.text.split(":")[0] for n in notes[:2]] == ["@fast", "@per-tensor"]
    said = [one.text for one in (*notes[2:], *log.diagnostics.of("warning"))]
    assert any("layers in float: " in text for text in said)
    _, lowering = lower_model(model, QuantOptions(per_channel=False))
    assert any("its error is too large" in why for _, _, why in lowering.float_ops)


def test_auto_leaves_layers_in_8_bits_where_taking_them_out_does_not_help(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qfrewrite.passes.auto._WORTH_IT", 0.0)
    model, report = auto(classifier(), 1e-6)
    assert "not by taking layers out" in report["auto"].log.diagnostics.of("warning")[0].text
    assert not any(op.keep is not None for op in model.graph.ops)
    assert not lower_model(model, QuantOptions(per_channel=False))[1].counts.get("float")


def test_labels_are_counted_where_they_are_given(tmp_path: Path) -> None:
    from PIL import Image

    import qfrewrite as qf

    b = GraphBuilder()
    x = b.op("MEAN", b.input("x", (1, 8, 8, 3)), b.const("axes", [1, 2], "int32"))
    y = b.op("FULLY_CONNECTED", x, b.const("w", np.eye(3)), b.const("b", np.zeros(3)))
    model = Model([b.finish(b.op("SOFTMAX", y))], source="graphdef")
    rows = []
    for i in range(24):
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[..., i % 3] = 200
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{i % 3}")
    table = tmp_path / "classes.csv"
    table.write_text("\n".join(rows))
    auto_ = f'@auto(labels="{table}")'
    report = qf.run_passes(model.clone(), auto_, data=tmp_path, samples=12)
    assert "estimated drop 0.0 points" in report["auto"].log.diagnostics[0].text
    table.write_text("\n".join(rows[:5]))
    with pytest.raises(DataError, match="holds no label of"):
        qf.run_passes(model.clone(), auto_, data=tmp_path, samples=12)
    known = FidelityMeter()
    for other, label in (([[0, 1, 0]], 0), ([[0, 1, 0]], 1), ([[0, 1, 0]], 0)):
        known.add([np.array([[0.9, 0.1, 0]])], [np.array(other)], label)
    assert known.result().lost == pytest.approx(1 / 3)
    assert estimated_drop(known.result()) == pytest.approx(100 / 3)


def test_the_expected_drop_is_what_the_probabilities_say() -> None:
    p = np.array([[0.5, 0.3, 0.2]], "f4")
    meter = FidelityMeter()
    for other in ([[0.9, 0.1, 0]], [[0, 1, 0]], [[0, 0, 1]], [[1, 0, 0]]):
        meter.add([p], [np.array(other, "f4")])
    found = meter.result()
    assert found.expected_drop == pytest.approx((0 + 0.2 + 0.3 + 0) / 4)
    assert found.agreement == 0.5
    assert estimated_drop(found) == pytest.approx(100 * 0.125 * 1.2)
    logits = FidelityMeter()
    logits.add([p * 9], [p * 9])
    assert logits.result().expected_drop is None


def test_sensitivity_finds_the_layer_that_costs() -> None:
    import qfrewrite as qf

    # A dead channel's weights, a thousand times larger, ruin the scale of all.
    gain, alive = np.array([1000, 1, 1, 1], "f4"), np.array([0, 1, 1, 1], "f4")
    first = normal(4, 1, 1, 4) * alive.reshape(-1, 1, 1, 1)
    b = GraphBuilder()
    y = b.op("RELU", b.op("CONV_2D", b.input("x", (1, 6, 6, 4)), b.const("w", first)))
    y = b.op("DEPTHWISE_CONV_2D", y, b.const("dw", normal(1, 3, 3, 4) * gain))
    graph = b.finish(b.op("CONV_2D", y, b.const("v", normal(3, 1, 1, 4))))
    data = [dict(s) for s in synthetic(input_specs(graph), 40)]
    model = Model([graph], source="graphdef")
    found = qf.sensitivity(model, data, weights="per-tensor", samples=24)
    rows, whole = found.layers, found.whole
    assert whole is not None
    worst = min(rows, key=lambda row: row.alone_db)
    assert worst.op == "DEPTHWISE_CONV_2D"
    assert worst.without_db == max(row.without_db for row in rows)
    assert worst.alone_db >= whole.sqnr_db - 1
