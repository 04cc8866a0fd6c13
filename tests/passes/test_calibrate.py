from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN
from graphs import separable

from qfrewrite.api import calibrate
from qfrewrite.data.source import synthetic
from qfrewrite.ir import Graph, Model
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import Dataset, PassContext, run_passes
from qfrewrite.runtime.session import input_specs
from qfrewrite.testing import check_pass


def test_every_float_activation_gets_a_range_that_holds_zero() -> None:
    graph = separable()
    check_pass(graph, "calibrate", tolerance=0.014, data=True)
    ranges = [(op.attrs["min"], op.attrs["max"]) for op in graph.ops_of("FAKE_QUANT")]
    assert len(ranges) == 3  # input, after ReLU6, output
    assert all(low <= 0 <= high for low, high in ranges)
    assert ranges[1][0] == 0


def test_zero_is_a_code_of_every_range() -> None:
    graph = separable()
    check_pass(graph, "calibrate", tolerance=0.014, data=True)
    for op in graph.ops_of("FAKE_QUANT"):
        step = (op.attrs["max"] - op.attrs["min"]) / 255
        assert op.attrs["min"] / step == pytest.approx(round(op.attrs["min"] / step), abs=1e-3)


def test_golden_text_without_data() -> None:
    graph = separable(dead=(0,))
    report = check_pass(
        graph, "calibrate", tolerance=0.021, golden=GOLDEN / "calibrate_no_data.txt"
    )
    assert report.diagnostics[0].text.startswith(
        "no data: ranges of 2 tensors from BatchNorm statistics"
    )


def test_only_the_main_graph_is_calibrated() -> None:
    body = separable()
    model = Model([separable(), body])
    samples = synthetic(input_specs(model.graph), 4)
    passes = "remove_dw_bn,relu6_to_relu,calibrate"
    report = run_passes(model, passes, PassContext(Dataset(samples), threads=1))
    assert model.graph.ops_of("FAKE_QUANT")
    assert not body.ops_of("FAKE_QUANT")
    assert not body.ops_of("BATCH_NORM")
    assert any("stays float" in str(note) for note in report["calibrate"].diagnostics)


class Poisoned:
    """Samples of which a quarter is NaN."""

    description = "1 sample"

    def __len__(self) -> int:
        return 1

    def __iter__(self):  # type: ignore[no-untyped-def]
        x = np.ones((1, 6, 6, 4), "f4")
        x[..., 0] = np.nan
        yield {"x": x}


def test_nan_is_left_out_and_named() -> None:
    report = run_passes(Model([separable()]), "calibrate", PassContext(Dataset(Poisoned())))
    [said] = [str(w) for w in report["calibrate"].log.diagnostics.of("warning") if "NaN" in w.text]
    assert "36 values of 'x' are NaN or infinite, the first of" in said


def test_ranges_without_data_are_replayed_with_their_means(tmp_path: Path) -> None:
    """Bias correction needs the means that BatchNorm statistics tell: a file keeps them."""
    table = calibrate(Model([separable()]), passes="fold_bn")
    path = table.save(tmp_path / "r.json")
    means = []
    for text in ("fold_bn,calibrate", f"fold_bn,calibrate(ranges={path})"):
        model = Model([separable()])
        run_passes(model, text)
        means.append({
            t.name: t.channels.mean.tolist()
            for t in model.graph.tensors if t.channels.mean is not None
        })  # fmt: skip
    assert means[0] == means[1] != {}


def imagined(shape: tuple[int, ...]) -> Dataset | None:
    b = GraphBuilder()
    return PassContext().imagine(b.finish(b.op("RELU", b.input("x", shape))))


def test_procedural_images_stand_in_where_inputs_look_like_images() -> None:
    samples = imagined((1, 64, 64, 3))
    assert samples is not None
    assert samples.calibration.description == "150 procedural images"
    assert imagined((1, 64, 64, 2)) is None


def test_of_large_images_fewer_are_drawn() -> None:
    samples = imagined((1, 2048, 2048, 3))
    assert samples is not None
    assert samples.calibration.description == "10 procedural images"


def test_final_scores_get_headroom_on_images_that_show_nothing() -> None:
    """Without it the largest score of a real image is clipped, and classes tie."""
    b = GraphBuilder()
    x = b.input("x", (1, 32, 32, 3))
    w = b.const("w", np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    pooled = b.op(
        "MEAN", x, b.const("axes", np.array([1, 2], np.int32)), attrs={"keep_dims": False}
    )
    scores = b.op("FULLY_CONNECTED", pooled, w)
    graph = b.finish(b.op("SOFTMAX", scores))
    data = imagined((1, 32, 32, 3))
    assert data is not None
    tables = []
    for context in (PassContext(threads=1), PassContext(Dataset(data.calibration), threads=1)):
        report = run_passes(Model([graph.clone()[0]]), "calibrate", context)
        tables.append(report.ranges[None])
    made_up, as_data = tables
    for name in as_data.rows:
        wider = 2.0 if name == scores.name else 1.0
        assert made_up.rows[name].range == pytest.approx(
            [wider * end for end in as_data.rows[name].range], rel=1e-5
        )


@pytest.mark.parametrize("passes", ["calibrate", "fold_bn,calibrate"])
def test_statistics_come_before_procedural_images(passes: str) -> None:
    """Also where BatchNorm is still an op when the first pass is run."""
    report = run_passes(Model([batch_normed((1, 32, 32, 3))]), passes, PassContext(threads=1))
    assert "from BatchNorm statistics" in report.passes[-1].diagnostics[0].text


def batch_normed(shape: tuple[int, ...]) -> Graph:
    b, rng = GraphBuilder(), np.random.default_rng(0)
    w = b.const("w", rng.normal(size=(4, 3, 3, shape[-1])).astype(np.float32))
    attrs = {"padding": "SAME", "stride_w": 1, "stride_h": 1}
    y = b.op("CONV_2D", b.input("x", shape), w, attrs=attrs)
    vectors = [b.const(f"v{i}", np.full(4, 1.0, np.float32)) for i in range(4)]
    return b.finish(b.op("RELU", b.op("BATCH_NORM", y, *vectors, attrs={"epsilon": 1e-3})))
