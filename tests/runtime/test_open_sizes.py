"""Models that take images or sequences of any size: data say which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from graphs import normal
from PIL import Image

import qfrewrite as qf
from qfrewrite.cli.main import main
from qfrewrite.errors import DataError, RunError
from qfrewrite.formats.tflite.read import read_tflite
from qfrewrite.formats.tflite.write import write_tflite
from qfrewrite.ir import Array, Graph, Model
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.runtime.metrics import collect, compare
from qfrewrite.runtime.session import Runner


def any_image() -> Graph:
    """Convolution, mean over all positions, dense; rows and columns are open and said to be 1."""
    b = GraphBuilder()
    x = b.input("image", (1, 1, 1, 3))
    b.graph.set_signature(x, (-1, -1, -1, 3))
    y = b.op("CONV_2D", x, b.const("w", normal(8, 3, 3, 3, scale=0.3)), b.const("b", normal(8)),
             name="conv", attrs={"padding": "SAME"})  # fmt: skip
    b.graph.set_signature(y, (-1, -1, -1, 8))
    y = b.op("RELU", y, name="relu")
    z = b.op("MEAN", y, b.const("axes", np.array([1, 2], "i4")), name="mean")
    return b.finish(y, b.op("FULLY_CONNECTED", z, b.const("fc", normal(4, 8)), name="scores"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "any.tflite"
    write_tflite(Model([any_image()]), path)
    return path


def images(*sizes: tuple[int, int]) -> list[Array]:
    return [normal(*size, 3, scale=0.4, seed=k) for k, size in enumerate(sizes)]


def test_ranges_are_those_of_samples_of_several_sizes(source: Path, tmp_path: Path) -> None:
    data = images((12, 16), (9, 5), (12, 16), (20, 8))
    model = qf.load(source)
    qf.run_passes(model, "calibrate", data=data)
    qf.save(model, tmp_path / "int8.tflite")
    whole = [[x[None]] for x in data]
    runs = [collect(Runner(path), whole) for path in (source, tmp_path / "int8.tflite")]
    assert [x.shape for x in runs[1][1]] == [(1, 9, 5, 8), (1, 4)]
    assert compare(*runs).sqnr_db > 35
    back = read_tflite(tmp_path / "int8.tflite").graph
    assert back.inputs[0].shape in {(1, *x.shape) for x in data}
    assert back.inputs[0].shape_signature == (-1, -1, -1, 3)


def test_op_by_op_work_needs_one_size(source: Path) -> None:
    model = qf.load(source)
    with pytest.raises(RunError, match="give samples of one size"):
        qf.run_passes(model, "reconstruct", data=images((12, 16), (9, 5)))
    qf.run_passes(model, "reconstruct", data=images((12, 16), (12, 16)))


def test_the_size_that_stands_for_all_is_said(source: Path) -> None:
    model = qf.load(source)
    notes = qf.run_passes(model, "calibrate").passes[0].diagnostics
    assert any("[1, ?, ?, 3] as [1, 64, 64, 3]" in note.text for note in notes)
    result = CliRunner().invoke(main, ["inspect", str(source)])
    assert "leaves its size open: taken as [1, 64, 64, 3]" in result.output
    assert "885k MACs" in result.output  # 64 x 64 x 8 x 27, and 32


def test_images_are_read_at_the_size_that_a_pass_sets(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    model = qf.load(source)
    with pytest.raises(DataError, match="leaves its size open"):
        qf.run_passes(model, "calibrate", data=folder)
    qf.run_passes(model, "resize_input(size=24x32),calibrate", data=folder)
    assert model.graph.inputs[0].shape == (1, 32, 24, 3)


def test_samples_that_do_not_fit_are_refused(source: Path) -> None:
    with pytest.raises(DataError, match=r"takes \[1, \?, \?, 3\] or \[\?, \?, 3\]"):
        qf.run_passes(qf.load(source), "calibrate", data=[normal(4, 4, 4)])
