"""A model against its quantized form."""

from __future__ import annotations

from math import inf
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from graphs import normal, separable

from qfrewrite import api
from qfrewrite.analyze.compare import LayerFidelity, compare_models
from qfrewrite.errors import UsageError
from qfrewrite.ir import Model

MODEL = ROOT / "examples" / "digits" / "digits_mobilenet.pb"
CALIB = ROOT / "examples" / "digits" / "calib"


def quantized(path: Path, weights: str) -> Model:
    model = api.load(MODEL)
    api.run_passes(model, "calibrate", data=CALIB, samples=40)
    api.save(model, path, weights=weights)
    return api.load(path)


def test_figures_by_hand() -> None:
    row = LayerFidelity("y", "RELU", 0)
    x, q = np.array([3.0, 4.0], "f4"), np.array([3.0, 3.5], "f4")
    row.add(x, q)
    row.add(x, x)
    row.finish()
    assert row.sqnr_db == pytest.approx(10 * np.log10(50 / 0.25))
    assert row.max_error == pytest.approx(0.5)
    a, b = np.r_[x, x], np.r_[q, x]
    assert row.cosine == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_worst_first_and_where_it_drops(tmp_path: Path) -> None:
    source = api.load(MODEL)
    context = api.open_context(source, CALIB, samples=20)
    assert context.samples is not None
    good, bad = (
        compare_models(source, quantized(tmp_path / f"{w}.tflite", w), context.samples.calibration)
        for w in ("per-channel", "per-tensor")
    )
    for found in (good, bad):
        figures = [x.sqnr_db for x in found.layers]
        assert figures == sorted(figures)
        assert found.samples == 20
        assert not found.only_float
    assert good.output is not None
    assert bad.output is not None
    assert good.output.agreement == 1.0
    assert good.output.sqnr_db > 20 > bad.output.sqnr_db
    # Dead channels blow up depthwise weights: quality drops there.
    assert bad.dropped is not None
    assert "dw" in bad.dropped.name


def test_a_model_equals_itself() -> None:
    source = api.load(MODEL)
    context = api.open_context(source, CALIB, samples=3)
    assert context.samples is not None
    found = compare_models(source, api.load(MODEL), context.samples.calibration)
    assert {x.sqnr_db for x in found.layers} == {inf}
    assert found.dropped is None


def test_other_inputs_are_refused() -> None:
    with pytest.raises(UsageError, match=r"different inputs: \[1, .*\] and \[1, "):
        compare_models(api.load(MODEL), Model([separable()]), [{"x": normal(1, 6, 6, 4)}])
