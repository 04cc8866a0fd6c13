"""The float model tells whether the images are scaled as in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, shared_path

import qfrewrite as qf
from qfrewrite.analyze.preprocessing import PreprocessVerdict, judge_data, judge_preprocess
from qfrewrite.cli.main import run
from qfrewrite.data.preprocess import Preprocess
from qfrewrite.data.source import open_data
from qfrewrite.formats.tflite.metadata import ENTRY, metadata_bytes
from qfrewrite.ir import Model, constant
from qfrewrite.runtime.session import input_specs
from qfrewrite.solve.context import open_context

MODEL = ROOT / "examples" / "digits" / "digits_mobilenet.pb"
CALIB = ROOT / "examples" / "digits" / "calib"
CENTRED = "mean=123.68:116.779:103.939,std=1.0"
SCALES = ("mobilenet", "unit", "imagenet", "raw", CENTRED)

Output = pytest.CaptureFixture[str]


def judged(model: Model, how: str, data: Path = CALIB, samples: int = 50) -> PreprocessVerdict:
    source = open_data(data, input_specs(model.graph), preprocess=how)
    return judge_preprocess(model, source, samples, threads=1)


def folded() -> Model:
    """Without BatchNorm, as most `.tflite` are."""
    model = qf.load(MODEL)
    qf.run_passes(model, "fold_bn")
    return model


def of_pixels() -> Model:
    """The same network on pixels: x / 127.5 - 1 is in its first convolution and its BatchNorm."""
    model = qf.load(MODEL)
    graph = model.graph
    conv, norm = graph.ops_of("CONV_2D")[0], graph.ops_of("BATCH_NORM")[0]
    w, mean = conv.operand(1).value(), norm.operand(3).value()
    scaled = constant("scaled", (w / 127.5).astype("f4"))
    shifted = constant("shifted", (mean + w.sum((1, 2, 3))).astype("f4"))
    for op, slot, new in ((conv, 1, scaled), (norm, 3, shifted)):
        graph.set_input(op, slot, new)
    return model


@pytest.mark.parametrize("how", SCALES)
def test_batch_norm_remembers_the_right_scale(how: str) -> None:
    found = judged(qf.load(MODEL), how)
    assert found.fits == (how == "mobilenet")
    assert found.better == (None if how == "mobilenet" else Preprocess.parse("mobilenet"))
    assert (found.warning(Preprocess.parse(how)) is None) == found.fits


@pytest.mark.parametrize(("how", "wrong"), [
    ("mobilenet", False), ("raw", True), (CENTRED, True),
])  # fmt: skip
def test_the_first_bias_tells_a_scale_that_is_far_off(how: str, wrong: bool) -> None:
    found = judged(folded(), how)
    assert (found.better is not None) == wrong
    assert found.fits == (not wrong)
    if wrong:
        assert str(found.better) in ("mobilenet", "unit", "imagenet")
        assert "layer's bias" in found.why


def test_pixels_are_right_where_the_model_scales_them_itself() -> None:
    """So no scale is the right one by itself; fails where raw pixels are always suspected."""
    assert judged(of_pixels(), "raw").fits
    assert judged(of_pixels(), "mobilenet").better == Preprocess.parse("raw")
    model = of_pixels()
    qf.run_passes(model, "fold_bn")
    assert judged(model, "raw").better is None
    assert str(judged(model, "mobilenet").better) in ("raw", CENTRED)


def test_the_crop_is_kept() -> None:
    found = judged(qf.load(MODEL), "unit,crop=0.875")
    assert found.better == Preprocess.parse("mobilenet,crop=0.875")


def test_what_is_no_image_has_no_preprocessing() -> None:
    model = qf.load(MODEL)
    source = open_data(np.zeros((4, 32, 32, 3), "f4"), input_specs(model.graph))
    assert judge_preprocess(model, source) == PreprocessVerdict()


def test_the_summary_names_it_and_a_wrong_one_is_warned_about(
    tmp_path: Path, capsys: Output
) -> None:
    argv = [str(MODEL), "-p", "calibrate", "--data", str(CALIB), "--samples", "60",
            "-o", str(tmp_path / "x.tflite")]  # fmt: skip
    assert run(argv) == 0
    said = capsys.readouterr()
    assert "  preprocess       mobilenet\n" in said.out
    assert "does not fit" not in said.err
    assert run([*argv, "--preprocess", "unit"]) == 0
    said = capsys.readouterr()
    assert "  preprocess       unit\n" in said.out
    assert "preprocess 'unit' does not fit the float model" in said.err
    assert "give --preprocess mobilenet\n" in said.err
    report = qf.quantize(MODEL, tmp_path / "x.tflite", data=CALIB, samples=60, preprocess="unit")
    assert report.preprocess == "unit"
    assert any("give --preprocess mobilenet" in str(one) for one in report.warnings)


def test_right_pixels_are_not_warned_about(tmp_path: Path) -> None:
    """They look like raw pixels, which is what they must be; unseen by the float model they are
    suspected."""
    model = of_pixels()
    context = open_context(model, CALIB, samples=60, preprocess="raw")
    assert judge_data(model, context) == ("raw", [])
    list(context.samples.calibration)
    assert context.samples.diagnostics == ()
    context = open_context(model, CALIB, samples=60, preprocess="raw")
    list(context.samples.calibration)
    assert any(one.code == "raw-pixels" for one in context.samples.diagnostics)


def with_metadata(path: Path, mean: float, std: float) -> Path:
    model = folded()
    unit = {"options_type": "NormalizationOptions", "options": {"mean": [mean], "std": [std]}}
    tensor = {"process_units": [unit]}
    content = metadata_bytes({"subgraph_metadata": [{"input_tensor_metadata": [tensor]}]})
    model.metadata.append((ENTRY, content))
    return qf.save(model, path).path


def test_what_the_metadata_say_is_the_default(tmp_path: Path, capsys: Output) -> None:
    source = with_metadata(tmp_path / "m.tflite", 0.0, 255.0)
    argv = [str(source), "-p", "calibrate", "--data", str(CALIB), "--samples", "20",
            "-o", str(tmp_path / "x.tflite")]  # fmt: skip
    assert run(argv) == 0
    assert "preprocess       unit (as the model's metadata say)" in capsys.readouterr().out
    assert run([*argv, "--preprocess", "mobilenet"]) == 0
    assert "is not what the model's metadata say: 'unit'" in capsys.readouterr().err
    assert run([*argv, "--crop", "0.5"]) == 0
    assert "unit,crop=0.5 (as the model's metadata say)" in capsys.readouterr().out


def test_eval_takes_what_the_metadata_say(tmp_path: Path) -> None:
    images = qf.read_labels(str(CALIB), _labels(tmp_path), None)
    source = with_metadata(tmp_path / "m.tflite", 0.0, 255.0)
    found = {how: qf.evaluate(qf.load(source), images, preprocess=how).first.tolist()
             for how in (None, "unit", "raw")}  # fmt: skip
    assert found[None] == found["unit"] != found["raw"]


def _labels(folder: Path) -> str:
    table = folder / "labels.csv"
    files = sorted(CALIB.rglob("*.png"))[:40]
    names = (f"{file.relative_to(CALIB)},{k % 10}\n" for k, file in enumerate(files))
    table.write_text("file,label\n" + "".join(names))
    return str(table)


def test_a_float_model_that_gives_the_same_for_all_samples(tmp_path: Path) -> None:
    flat = np.full((20, 32, 32, 3), 0.5, "f4") + np.random.default_rng(0).normal(
        scale=1e-4, size=(20, 32, 32, 3)
    ).astype("f4")
    report = qf.quantize(MODEL, tmp_path / "x.tflite", passes="calibrate", data=flat, samples=10)
    assert any("nearly the same output for all 10 samples" in str(one) for one in report.warnings)


V1 = "mobilenet_v1_{}_frozen_graph.pb"
RIGHT = {
    V1.format("0.25_128_2017_06"): "mobilenet",
    V1.format("0.25_224_2017_06"): "mobilenet",
    V1.format("0.75_224_fusedbn"): "mobilenet",
    "mobilenet_v2_1.0_224_folded_frozen_graph.pb": "mobilenet",
    "vww_96_float.tflite": "unit",
    "flowers_mobilenet_v1_0.25_128_retrained_graph.pb": "mobilenet",
    "mobilenet_v1_0.25_224_glasses2_toco_float.tflite": "mobilenet",
}
# Of like scale, where BatchNorm is folded: too close to call.
UNSEEN = {
    "mobilenet_v2_1.0_224_folded_frozen_graph.pb": ("unit",),
    "vww_96_float.tflite": ("imagenet",),
    "mobilenet_v1_0.25_224_glasses2_toco_float.tflite": ("unit", "imagenet"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_trained_networks(name: str) -> None:
    """The right preprocessing of each is never warned about, also where images are of another
    domain than the model's; the wrong ones are, and the right one is named."""
    model = qf.load(shared_path(f"models/{name}"))
    for how in SCALES:
        found = judged(model, how, shared_path("imagenet/calib"))
        quiet = how == RIGHT[name] or how in UNSEEN.get(name, ())
        assert str(found.better) == ("None" if quiet else RIGHT[name]), how
