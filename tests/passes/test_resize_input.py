"""resize_input: the same weights at another size are the network built for that size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from graphs import normal
from networks import conv, dense, mobilenet_v1, mobilenet_v2, pooled, ssd, unet

import qfrewrite as qf
from qfrewrite.data.source import synthetic
from qfrewrite.errors import DataError, PassError, QfError
from qfrewrite.ir import Graph, Model, Op, Tensor
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.check import verify_graph
from qfrewrite.ops.text import graph_text
from qfrewrite.passes import Dataset, PassContext, RunReport, make_passes, run_passes
from qfrewrite.runtime.session import input_specs
from qfrewrite.testing import largest_difference, outputs_of


def resized(graph: Graph, size: str) -> RunReport:
    return run_passes(Model([graph]), f"resize_input(size={size})", PassContext(threads=1))


@pytest.mark.parametrize("build", [
    lambda size: mobilenet_v1(0.25, size), mobilenet_v2, ssd, unet,
])  # fmt: skip
@pytest.mark.parametrize("size", [16, 48, 64])
def test_it_becomes_the_network_built_for_that_size(
    build: Callable[[int], Graph], size: int
) -> None:
    graph, native = build(32), build(size)
    report = resized(graph, str(size))
    verify_graph(graph)
    assert [t.shape for t in graph.tensors if not t.is_const] == [
        t.shape for t in native.tensors if not t.is_const
    ]
    assert largest_difference(outputs_of(native), outputs_of(graph)) < 1e-6
    assert "input 32x32" in str(report.passes[0].log.edits[0])


def test_width_and_height_and_what_is_no_multiple() -> None:
    graph = mobilenet_v1(0.25, 32)
    report = resized(graph, "64x40")
    assert graph.inputs[0].shape == (1, 40, 64, 3)
    assert any("no multiples of 8" in note and "20x32" in note
               for note in map(str, report.passes[0].diagnostics))  # fmt: skip


def repeated(height: int, width: int) -> Graph:
    """Nearest upsampling as Keras 3 writes it: every axis split, joined with itself, merged."""
    b = GraphBuilder("repeated")
    y = conv(b, b.input("x", (1, height, width, 3)), 4)
    for axis, before, after in (
        (3, (1, height, width, 1, 4), (1, height, 2 * width, 4)),
        (2, (-1, height, 1, 2 * width, 4), (-1, 2 * height, 2 * width, 4)),
    ):
        y = b.op("RESHAPE", y, b.const("split", np.array(before, "i4")))
        y = b.op("CONCATENATION", y, y, attrs={"axis": axis})
        y = b.op("RESHAPE", y, b.const("merged", np.array(after, "i4")))
    return b.finish(conv(b, y, 5))


@pytest.mark.parametrize("size", [(16, 16), (8, 16), (16, 8), (12, 20), (24, 8), (5, 8)])
def test_upsampling_by_joining_follows_each_side(size: tuple[int, int]) -> None:
    """24x8 keeps neither side's factor; a batch of -1 would take 16x16 for 4 images of 8x8."""
    graph, native = repeated(8, 12), repeated(*size)
    resized(graph, f"{size[1]}x{size[0]}")
    verify_graph(graph)
    assert graph.outputs[0].shape == native.outputs[0].shape
    assert largest_difference(outputs_of(native), outputs_of(graph)) < 1e-6


def test_sides_that_change_places() -> None:
    """As many values as before, in another order."""
    graph, native = repeated(8, 12), repeated(12, 8)
    resized(graph, "8x12")
    assert largest_difference(outputs_of(native), outputs_of(graph)) < 1e-6


def flattened() -> Graph:
    b = GraphBuilder("flattened")
    y = conv(b, b.input("x", (1, 8, 8, 3)), 4)
    return b.finish(dense(b, y, 5, inputs=256))


def positions() -> Graph:
    b = GraphBuilder("positions")
    y = conv(b, b.input("x", (1, 8, 8, 3)), 4)
    return b.finish(pooled(b, b.op("ADD", y, b.const("where", normal(1, 8, 8, 4)))))


def reshaped() -> Graph:
    b = GraphBuilder("reshaped")
    y = conv(b, b.input("x", (1, 8, 8, 3)), 4)
    return b.finish(b.op("RESHAPE", y, b.const("shape", [1, 16, 16], "int32"), name="cut"))


def detector() -> Graph:
    graph = ssd()
    boxes, scores = graph.outputs
    anchors = Tensor("anchors", (boxes.shape[1], 4), data=normal(boxes.shape[1], 4))
    outs = [Tensor(f"detection{i}", shape) for i, shape in enumerate(((1, 10, 4), (1, 10)))]
    graph.add_op(Op("CUSTOM", [boxes, scores, anchors], outs, {
        "custom_code": "TFLite_Detection_PostProcess"}, name="nms"))  # fmt: skip
    graph.set_io(outputs=outs)
    return graph


@pytest.mark.parametrize(("build", "size", "words"), [
    (flattened, 16, "fully_connected.*256 flattened inputs, would get 1024.*pool before"),
    (positions, 16, "'where' .* baked in for the old size"),
    (reshaped, 24, "op 'cut' .*does not follow"),
    (detector, 64, "op 'nms' .*anchors.*strip_postprocess"),
    (unet, 30, "CONCATENATION.*cannot take an input of 30x30.*try a multiple of 4"),
    (lambda: mobilenet_v1(0.25, 32), 0, "give 236"),
    (lambda: mobilenet_v1(0.25, 32), "ten", "give 236"),
])  # fmt: skip
def test_sizes_that_cannot_be_name_the_op_and_change_nothing(
    build: Callable[[], Graph], size: int | str, words: str
) -> None:
    model = Model([build()])
    before = graph_text(model.graph)
    with pytest.raises(QfError, match=words):
        run_passes(model, f"resize_input(size={size})", PassContext(threads=1))
    assert graph_text(model.graph) == before


def test_data_are_read_again_at_the_new_size(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    path = qf.save(Model([mobilenet_v1(0.25, 32)], source="graphdef"),
                   tmp_path / "m.tflite", scheme="float32").path  # fmt: skip
    report = qf.quantize(path, tmp_path / "out.tflite", passes="resize_input(size=48),calibrate",
                         data=tmp_path, samples=8)  # fmt: skip
    assert qf.load(report.path).graph.inputs[0].shape == (1, 48, 48, 3)
    assert report.fidelity is not None
    assert report.fidelity.sqnr_db > 15


def test_data_that_cannot_be_read_again_say_so() -> None:
    graph = mobilenet_v1(0.25, 32)
    context = PassContext(Dataset(synthetic(input_specs(graph), 4)), threads=1)
    with pytest.raises(DataError, match="another input size"):
        run_passes(Model([graph]), "resize_input(size=48),calibrate", context)


def test_a_size_has_to_be_given() -> None:
    with pytest.raises(PassError, match="needs size"):
        make_passes("resize_input")


def test_a_frozen_graph_of_the_new_size_is_read_again(tmp_path: Path) -> None:
    graph = mobilenet_v1(0.25, 32)
    model = Model([graph], source="graphdef")
    resized(graph, "48")
    model.mark_loaded()
    qf.save(model, tmp_path / "m.pb")
    again = qf.load(tmp_path / "m.pb")
    assert again.graph.inputs[0].shape == (1, 48, 48, 3)
    assert largest_difference(outputs_of(graph), outputs_of(again.graph)) < 1e-5
