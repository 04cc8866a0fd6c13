"""set_nms and strip_postprocess, on a detector that LiteRT runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from graphs import normal
from networks import DETECTION_OPTIONS as OPTIONS
from networks import detector, ssd

import qfrewrite as qf
from qfrewrite.errors import ModelFileError, PassError
from qfrewrite.ir import Graph, Model
from qfrewrite.ops.detection import decode_options
from qfrewrite.passes import PassContext, make_passes, run_passes
from qfrewrite.runtime.session import Runner
from qfrewrite.testing import outputs_of


def changed(passes: str, graph: Graph | None = None) -> Model:
    model = Model([graph or detector()])
    run_passes(model, passes, PassContext(threads=1))
    return model


def test_thresholds_and_counts_reach_the_kernel(tmp_path: Path) -> None:
    model = changed("set_nms(iou=0.15,score=0.25,max_detections=4)")
    found = decode_options(model.graph.op("nms"))
    assert found == {**OPTIONS, "nms_iou_threshold": 0.15, "nms_score_threshold": 0.25,
                     "max_detections": 4}  # fmt: skip
    assert [t.shape for t in model.graph.outputs] == [(1, 4, 4), (1, 4), (1, 4), (1,)]
    path = qf.save(model, tmp_path / "m.tflite", scheme="float32").path
    runner = Runner(path, threads=1)
    boxes, _, scores, count = runner.run([normal(1, 32, 32, 3)])
    assert boxes.shape == (1, 4, 4)
    assert scores[0, : int(count[0])].min(initial=1) >= 0.25
    assert decode_options(qf.load(path).graph.ops_of("CUSTOM")[0]) == found


def test_a_smaller_overlap_keeps_fewer_boxes() -> None:
    counts = []
    for iou in (0.9, 0.05):
        graph = changed(f"set_nms(iou={iou},score=0.5,max_detections=60)").graph
        counts.append(float(outputs_of(graph, 1)[0][3][0]))
    assert counts[0] > counts[1] > 0


def test_the_same_values_are_no_edit() -> None:
    model = Model([detector()])
    report = run_passes(model, "set_nms(iou=0.6)", PassContext(threads=1))
    assert not report.passes[0].edits


def test_stripping_leaves_boxes_and_scores() -> None:
    model = changed("strip_postprocess")
    assert [t.shape[-1] for t in model.graph.outputs] == [4, 7]
    assert not model.graph.ops_of("CUSTOM")
    plain, stripped = outputs_of(ssd()), outputs_of(model.graph)
    assert all((a == b).all() for x, y in zip(plain, stripped, strict=True)
               for a, b in zip(x, y, strict=True))  # fmt: skip


def test_a_stripped_detector_can_be_resized() -> None:
    model = changed("strip_postprocess,resize_input(size=64)")
    assert model.graph.outputs[0].shape[1] == 3 * (32 * 32 + 16 * 16)


def test_graphs_without_the_op_are_left_and_say_so() -> None:
    for name in ("set_nms(iou=0.5)", "strip_postprocess"):
        report = run_passes(Model([ssd()]), name, PassContext(threads=1))
        assert "has no TFLite_Detection_PostProcess" in report.passes[0].diagnostics[0].text


def test_a_frozen_graph_holds_the_new_options(tmp_path: Path) -> None:
    model = changed("set_nms(iou=0.25,max_detections=7)")
    model.source = "graphdef"
    qf.save(model, tmp_path / "m.pb")
    again = qf.load(tmp_path / "m.pb").graph
    (op,) = again.ops_of("CUSTOM")
    assert decode_options(op)["nms_iou_threshold"] == pytest.approx(0.25)
    assert op.outputs[0].shape == (1, 7, 4)


@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff" * 40, b"\x01\x02\x03\x24\x01"])
def test_options_that_are_no_map_are_one_error(content: bytes) -> None:
    graph = detector()
    op = graph.op("nms")
    graph.set_attrs(op, custom_options=content)
    with pytest.raises(ModelFileError, match=r"op 'nms'.*cannot be read"):
        changed("set_nms(iou=0.5)", graph)


@pytest.mark.parametrize("text", ["iou=2", "score=-0.1", "max_detections=0"])
def test_values_outside_their_bounds(text: str) -> None:
    with pytest.raises(PassError, match="give"):
        make_passes(f"set_nms({text})")
