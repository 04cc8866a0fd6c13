"""What `inspect` says of a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, shared_path
from graphs import normal, separable

from qfrewrite import api
from qfrewrite.analyze.layers import Inspection, inspect_model
from qfrewrite.errors import UsageError
from qfrewrite.ir import Model
from qfrewrite.lower.cost import macs, parameters
from qfrewrite.ops.build import GraphBuilder

MODEL = ROOT / "examples" / "digits" / "digits_mobilenet.pb"
CALIB = ROOT / "examples" / "digits" / "calib"


def inspect(data: bool, method: str = "minmax") -> Inspection:
    model = api.load(MODEL)
    context = api.open_context(model, CALIB, samples=20) if data else None
    return inspect_model(model, context=context, method=method)


def test_rows_are_layers_in_execution_order() -> None:
    found = inspect(data=False)
    assert [x.op for x in found.layers[:3]] == [
        "CONV_2D+RELU6", "DEPTHWISE_CONV_2D+RELU6", "CONV_2D+RELU6",
    ]  # fmt: skip
    assert found.layers[-1].op == "SOFTMAX"
    assert all(x.gain_max and x.gain_median for x in found.layers[:3])
    assert not any("BATCH_NORM" in x.op or x.observed for x in found.layers)


def test_dead_channels_and_gains_name_the_pass() -> None:
    """The shipped model has depthwise channels that died in training, as the published ones do."""
    found = inspect(data=False)
    dead = {x.name: x.dead for x in found.layers if x.op.startswith("DEPTHWISE") and x.dead}
    assert sum(map(len, dead.values())) == 26
    for name in dead:
        [flag] = [f for f in found.layer(name).flags if f.code == "dead"]
        assert flag.remedy == "remove_dw_bn"
        assert str(dead[name][0]) in flag.text
    assert set(dead) <= set(found.advice()["remove_dw_bn"])


def test_data_fills_in_values_and_ranges() -> None:
    found = inspect(data=True, method="greedy")
    first = found.layers[0]
    assert first.observed is not None
    assert first.range is not None
    assert 0 == first.range[0] < first.range[1] <= first.observed[1] + 1e-6
    assert 0 <= (first.sparsity or 0) <= 1
    assert first.sqnr_db is not None
    assert first.sqnr_db > 30
    assert first.row is not None
    assert first.row.method == "greedy"


def test_a_saved_table_gives_the_same_rows(tmp_path: Path) -> None:
    table = api.calibrate(MODEL, CALIB, samples=20)
    loaded = api.load(MODEL)
    again = type(table).load(table.save(tmp_path / "r.json"))
    with_data, with_file = (inspect_model(loaded, ranges=t) for t in (table, again))
    assert [x.to_dict() for x in with_data.layers] == [x.to_dict() for x in with_file.layers]


@pytest.mark.parametrize("scheme", ["int8", "float32"])
def test_ranges_in_the_file_are_shown(scheme: str, tmp_path: Path) -> None:
    """Int8 tensors carry scales, float models with FAKE_QUANT carry ranges."""
    model = api.load(MODEL)
    api.run_passes(model, "calibrate", data=CALIB, samples=20)
    api.save(model, tmp_path / "q.tflite", scheme=scheme)
    found = inspect_model(api.load(tmp_path / "q.tflite"))
    for layer in found.layers:
        assert layer.range is not None, layer.name
        low, high = layer.range
        assert layer.scale == pytest.approx((high - low) / 255, rel=1e-5)
        assert low <= 0 <= high


def test_an_int8_model_is_observed_in_real_values(tmp_path: Path) -> None:
    model = api.load(MODEL)
    before = inspect_model(model, context=api.open_context(model, CALIB, samples=20))
    api.run_passes(model, "calibrate", data=CALIB, samples=20)
    api.save(model, tmp_path / "q.tflite")
    coded = api.load(tmp_path / "q.tflite")
    after = inspect_model(coded, context=api.open_context(coded, CALIB, samples=20))
    x, y = before.layers[0], after.layers[0]
    assert x.observed is not None
    assert y.observed is not None
    assert y.observed == pytest.approx(x.observed, abs=0.05)
    assert y.weights == pytest.approx(x.weights, rel=0.02)


def test_costs_by_hand() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 8, 8, 4))
    conv = b.op("CONV_2D", x, b.const("w", normal(6, 3, 3, 4)), b.const("b", np.zeros(6)),
                name="conv", attrs={"padding": "SAME"})  # fmt: skip
    depthwise = b.op("DEPTHWISE_CONV_2D", conv, b.const("dw", normal(1, 3, 3, 6)), name="dw",
                     attrs={"padding": "SAME", "stride_h": 2, "stride_w": 2})  # fmt: skip
    flat = b.op("RESHAPE", depthwise, b.const("shape", np.array([1, 96], np.int32)), name="flat")
    y = b.op("FULLY_CONNECTED", flat, b.const("fc", normal(10, 96)), name="fc")
    graph = b.finish(y)
    figures = {op.kind: (parameters(op), macs(op)) for op in graph.ops}
    assert figures == {
        "CONV_2D": (6 * 36 + 6, 64 * 6 * 36), "DEPTHWISE_CONV_2D": (54, 16 * 54),
        "RESHAPE": (0, 0), "FULLY_CONNECTED": (960, 960),
    }  # fmt: skip


def test_the_model_stays_as_it_was() -> None:
    model = Model([separable(dead=(1,))])
    before = [op.kind for op in model.graph.ops]
    found = inspect_model(model)
    assert [op.kind for op in model.graph.ops] == before
    assert found.layers[0].dead == [1]


def test_records_are_json() -> None:
    assert json.loads(json.dumps([x.to_dict() for x in inspect(data=True).layers]))


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    from qfrewrite.analyze.plots import plot_layers

    written = plot_layers("digits", inspect(data=True).layers[:2], tmp_path / "new" / "plots")
    assert [p.name.rpartition("_")[2] for p in written] == ["values.png", "weights.png"] * 2
    with Image.open(written[0]) as picture:
        assert picture.size > (600, 300)
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20  # not blank
    with pytest.raises(UsageError, match="neither weights nor"):
        plot_layers("digits", inspect(data=False).layers[-1:], tmp_path)


def test_the_published_mobilenet_shows_its_outliers() -> None:
    """Depthwise channels of variance 4e-35, whose gain is 1 / sqrt(0.001) times gamma."""
    name = "models/mobilenet_v1_0.25_128_2017_06_frozen_graph.pb"
    found = inspect_model(api.load(shared_path(name)))
    first = next(x for x in found.layers if "Conv2d_1_depthwise" in x.name)
    assert first.dead == [3, 7]
    assert first.gain_max is not None
    assert first.gain_median is not None
    assert first.gain_max / first.gain_median > 300
    assert {f.code for f in first.flags} >= {"dead", "gain", "channels"}
    assert first.name in found.advice()["remove_dw_bn"]
