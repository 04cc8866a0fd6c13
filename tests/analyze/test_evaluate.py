"""Accuracy on labelled images, intervals, paired differences, and mAP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared_path
from graphs import normal
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import qfrewrite as qf
from qfrewrite.analyze.coco import evaluate_detector
from qfrewrite.analyze.evaluate import Accuracy, evaluate, paired, wilson
from qfrewrite.data.labels import read_labels
from qfrewrite.errors import DataError, UsageError
from qfrewrite.ir import Graph, Model, Op, Tensor
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.detection import CODE, encode_options


def colours(classes: int = 3) -> Model:
    """The class is the colour that prevails: red, green or blue; others never."""
    b = GraphBuilder("colours")
    x = b.op("MEAN", b.input("x", (1, 8, 8, 3)), b.const("axes", [1, 2], "int32"))
    w = np.zeros((classes, 3), "f4")
    shift = int(classes == 1001)
    w[range(shift, 3 + shift), range(3)] = 1
    bias = np.full(classes, -9, "f4")
    bias[shift : 3 + shift] = 0
    y = b.op("FULLY_CONNECTED", x, b.const("w", w), b.const("b", bias))
    return Model([b.finish(b.op("SOFTMAX", y))], source="graphdef")


@pytest.fixture
def painted(tmp_path: Path) -> Path:
    """Nine images, three of each colour, and labels of which the last is wrong."""
    rows = ["file,label"]
    for i in range(9):
        pixels = np.zeros((12, 10, 3), np.uint8)
        pixels[..., i % 3] = 200
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{i % 3 if i < 8 else 0}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path


@pytest.mark.parametrize("classes", [3, 1000, 1001])
def test_top_1_and_top_5(painted: Path, classes: int) -> None:
    images = read_labels(painted, painted / "labels.csv")
    found = evaluate(colours(classes), images)
    assert found.samples == 9
    assert found.top1 == pytest.approx(8 / 9)
    assert found.first.tolist() == [True] * 8 + [False]
    assert found.top5 == (None if classes == 3 else 1.0)
    assert found.low < found.top1 < found.high


def test_quantized_models_are_fed_real_values(painted: Path, tmp_path: Path) -> None:
    model = colours()
    qf.run_passes(model, "calibrate", data=painted, samples=9)
    for io in ("int8", "uint8", "float32"):
        path = qf.save(model, tmp_path / f"{io}.tflite", io=io).path
        found = evaluate(qf.load(path), read_labels(painted, painted / "labels.csv"))
        assert found.top1 == pytest.approx(8 / 9), io


@pytest.mark.parametrize(("table", "words"), [
    ("file,label\nabsent.png,1", "'absent.png', which is not in"),
    ("0.png,cat\n1.png,dog", "row 1 is '1.png,dog'"),
    ("0.png", "row 1"),
    ("file,label", "holds no labels"),
    ("0.png,-1", "row 1"),
    ("0.png,7", "label 7 is beyond the 3 classes"),
])  # fmt: skip
def test_tables_that_do_not_fit(painted: Path, table: str, words: str) -> None:
    (painted / "wrong.csv").write_text(table)
    with pytest.raises(DataError, match=words):
        evaluate(colours(), read_labels(painted, painted / "wrong.csv"))


def test_files_that_are_not_there(painted: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_labels(painted / "nowhere", painted / "labels.csv")
    with pytest.raises(DataError, match="cannot be read as a table"):
        read_labels(painted, painted / "nothing.csv")


def test_a_detector_is_no_classifier(painted: Path) -> None:
    model, _ = detector()
    with pytest.raises(UsageError, match="--coco"):
        evaluate(model, read_labels(painted, painted / "labels.csv"))


@given(hits=st.integers(0, 400), more=st.integers(0, 400))
def test_intervals_hold_the_proportion_and_lie_within_0_and_1(hits: int, more: int) -> None:
    low, high = wilson(hits, hits + more)
    assert 0 <= low <= high <= 1
    if hits + more:
        assert low - 1e-12 <= hits / (hits + more) <= high + 1e-12


def test_the_interval_is_wilsons() -> None:
    """Newcombe 1998 (Statistics in Medicine 17), table I, method 3: 81 of 263, 15 of 148."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)


def hits(values: list[int]) -> Accuracy:
    first = np.array(values, bool)
    return Accuracy("m", first.size, float(first.mean()), 0, 1, None, first)


def test_differences_are_paired() -> None:
    one, two = hits([1, 1, 1, 0, 0, 0, 0, 1]), hits([1, 1, 0, 1, 1, 1, 0, 1])
    found = paired(one, two)
    assert (found.gained, found.lost) == (3, 1)
    assert found.difference == pytest.approx(2 / 8)
    assert found.p == pytest.approx(0.625)  # 2 (C(4,0) + C(4,1)) / 2^4
    assert found.low < found.difference < found.high
    same = paired(one, one)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_real_classifiers_reach_what_is_known_of_them() -> None:
    folder = shared_path("imagenet/val")
    images = read_labels(folder, folder / "labels.csv")
    name = "models/mobilenet_v1_0.25_128_2017_06_frozen_graph.pb"
    found = evaluate(qf.load(shared_path(name)), images)
    assert found.low <= 0.55 <= found.high
    assert found.top5 is not None
    assert found.top5 > 0.75


# -- detectors ---------------------------------------------------------------------------------


def detector() -> tuple[Model, np.ndarray]:
    """Two anchors, each found with certainty as its own class; and their boxes."""
    b = GraphBuilder("detector")
    x = b.op("MEAN", b.input("x", (1, 8, 8, 3)), b.const("axes", [1, 2], "int32"))
    zero = b.op("MUL", x, b.const("zero", np.zeros(1, "f4")))
    wide = [b.op("FULLY_CONNECTED", zero, b.const(f"w{n}", normal(2 * n, 3)),
                 b.const(f"b{n}", bias.reshape(-1))) for n, bias in (
        (4, np.zeros((2, 4), "f4")), (3, np.array([[0, 1, 0], [0, 0, 0.9]], "f4")),
    )]  # fmt: skip
    boxes, scores = (
        b.op("RESHAPE", t, b.const("shape", [1, 2, n], "int32"))
        for t, n in zip(wide, (4, 3), strict=True)
    )
    anchors = np.array([[0.25, 0.25, 0.5, 0.5], [0.7, 0.6, 0.2, 0.4]], "f4")
    outs = [Tensor(f"d{i}", s) for i, s in enumerate(((1, 2, 4), (1, 2), (1, 2), (1,)))]
    options = {"max_detections": 2, "max_classes_per_detection": 1, "num_classes": 2,
               "nms_iou_threshold": 0.5, "nms_score_threshold": 0.1, "y_scale": 10.0,
               "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0}  # fmt: skip
    graph: Graph = b.graph
    graph.add_op(
        Op(
            "CUSTOM",
            [boxes, scores, b.const("anchors", anchors)],
            outs,
            {"custom_code": CODE, "custom_options": encode_options(options)},
            name="nms",
        )
    )
    graph.set_io(outputs=outs)
    return Model([graph], source="graphdef"), anchors


def annotated(folder: Path, anchors: np.ndarray, shift: float = 0.0) -> Path:
    images, boxes = [], []
    for i in range(2):
        Image.fromarray(np.full((40, 80, 3), 99, np.uint8)).save(folder / f"{i}.jpg")
        images.append({"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 80})
        for kind, (y, x, h, w) in enumerate(anchors.tolist()):
            box = [(x - w / 2 + shift) * 80, (y - h / 2) * 40, w * 80, h * 40]
            boxes.append({"id": len(boxes) + 1, "image_id": i, "category_id": kind + 1,
                          "bbox": box, "area": box[2] * box[3], "iscrowd": 0})  # fmt: skip
    categories = [{"id": k, "name": str(k)} for k in (1, 2)]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories,
                                "info": {}}))  # fmt: skip
    return path


def test_detections_in_place_have_full_precision(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    model, anchors = detector()
    found = evaluate_detector(model, tmp_path, annotated(tmp_path, anchors))
    assert (found.images, found.detections) == (2, 4)
    assert found.map == pytest.approx(1.0)
    aside = evaluate_detector(model, tmp_path, annotated(tmp_path, anchors, shift=0.08))
    assert aside.map < 0.7
    assert evaluate_detector(model, tmp_path, annotated(tmp_path, anchors), offset=2).map < 0.5


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"images": 3}'])
def test_annotations_that_are_none(tmp_path: Path, content: str) -> None:
    pytest.importorskip("pycocotools")
    path = tmp_path / "wrong.json"
    path.write_text(content)
    with pytest.raises(DataError):
        evaluate_detector(detector()[0], tmp_path, path)


def test_a_classifier_is_no_detector(painted: Path) -> None:
    pytest.importorskip("pycocotools")
    known: dict[str, Any] = {"images": [{"id": 1, "file_name": "0.png", "height": 1, "width": 1}],
                             "annotations": [], "categories": [], "info": {}}  # fmt: skip
    (painted / "i.json").write_text(json.dumps(known))
    with pytest.raises(UsageError, match="boxes, classes, scores, count"):
        evaluate_detector(colours(), painted, painted / "i.json")
