"""COCO mean average precision of detectors that end in TFLite_Detection_PostProcess."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qfrewrite.analyze.evaluate import run_images
from qfrewrite.data.labels import LabelledImages
from qfrewrite.data.preprocess import Preprocess
from qfrewrite.errors import DataError, QfError, UsageError
from qfrewrite.ir import Array, Model
from qfrewrite.passes import Progress
from qfrewrite.records import Record
from qfrewrite.solve.context import no_progress


@dataclass(frozen=True)
class Precision(Record):
    """Mean average precision of a detector; fractions 0..1."""

    model: str
    """The name of the model."""
    images: int
    """How many annotated images there were."""
    detections: int
    """How many objects the model found in them."""
    map: float = 0.0
    """The mean over IoU 0.50 to 0.95."""
    map50: float = 0.0
    """That at IoU 0.50."""


def evaluate_detector(
    model: Model,
    folder: str | Path,
    annotations: str | Path,
    *,
    preprocess: Preprocess | str | None = None,
    offset: int = 1,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Precision:
    """COCO mAP by pycocotools over the images of an annotation file that lie in `folder`.

    offset: category id of the model's class 0. Boxes [ymin, xmin, ymax, xmax] are fractions of
    the image. Raises DataError, UsageError; QfError where pycocotools is missing.
    """
    truth, folder = _truth(annotations), Path(folder)
    infos = [info for info in truth.imgs.values() if (folder / info["file_name"]).is_file()]
    infos = infos[:limit]
    if not infos:
        remedy = "give the folder that the annotations belong to"
        raise DataError("holds none of the annotated images", where=str(folder), remedy=remedy)
    files = tuple(folder / info["file_name"] for info in infos)
    images = LabelledImages(files, (0,) * len(files), f"{folder.name}/")
    runs = run_images(model, images, preprocess, threads=threads, progress=progress)
    detections = [
        detection
        for info, outputs in zip(infos, runs, strict=True)
        for detection in _detections(info, outputs, offset, model.name)
    ]
    return _scored(model.name, truth, [info["id"] for info in infos], detections)


def _truth(annotations: str | Path) -> Any:
    try:
        from pycocotools.coco import COCO
    except ImportError:
        what = "pycocotools is not installed"
        raise QfError(what, where="--coco", remedy="pip install 'qfrewrite[coco]'") from None
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return COCO(str(annotations))
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        what = f"is no file of COCO annotations ({type(error).__name__})"
        raise DataError(what, where=str(annotations), remedy="give instances_*.json") from None


def _detections(
    info: dict[str, Any], outputs: Sequence[Array], offset: int, name: str
) -> list[dict[str, Any]]:
    """One image's detections in COCO's form: x, y, width, height in pixels."""
    if len(outputs) != 4 or outputs[0].shape[-1] != 4:
        shapes = ", ".join(str(list(v.shape)) for v in outputs)
        what = f"has outputs {shapes}; a detector gives boxes, classes, scores, count"
        raise UsageError(what, where=name, remedy="evaluate a model with its post-processing")
    boxes, classes, scores = (v.reshape(-1, *v.shape[2:]) for v in outputs[:3])
    count = min(int(outputs[3].reshape(-1)[0]), len(scores))
    height, width = info["height"], info["width"]
    detections = zip(*(v[:count].tolist() for v in (boxes, classes, scores)), strict=True)
    return [
        {
            "image_id": info["id"],
            "category_id": int(kind) + offset,
            "score": score,
            "bbox": [left * width, top * height, (right - left) * width, (bottom - top) * height],
        }
        for (top, left, bottom, right), kind, score in detections
    ]


def _scored(name: str, truth: Any, ids: list[int], detections: list[dict[str, Any]]) -> Precision:
    from pycocotools.cocoeval import COCOeval

    if not detections:
        return Precision(name, len(ids), 0)
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(truth, truth.loadRes(detections), "bbox")
        judge.params.imgIds = ids
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return Precision(name, len(ids), len(detections), float(judge.stats[0]), float(judge.stats[1]))
