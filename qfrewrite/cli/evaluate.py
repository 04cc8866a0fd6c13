"""`qfrewrite eval MODEL [OTHER]`: accuracy on labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

import qfrewrite as qf
from qfrewrite.cli import tables as t
from qfrewrite.cli.options import CORES, FILE, FORMAT, IMAGES, MODELS, QUIET, Call, command, opt
from qfrewrite.errors import UsageError
from qfrewrite.records import Record


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


_CLASSIFIERS = (
    *t.MODEL,
    *t.columns(str, "samples=images"),
    *t.columns(_percent, "top1=top-1", "top5=top-5"),
    *t.columns(lambda ends: f"{ends[0]:.1f}..{ends[1]:.1f}", "interval=95 % of top-1"),
)
_DETECTORS = (
    *t.MODEL,
    *t.columns(str, "images", "detections"),
    *t.columns(_percent, "map=mAP", "map50=mAP 0.50"),
)


@dataclass
class _Evaluation(Record):
    """What is printed of several models on the same images."""

    models: Sequence[Any]
    """The figures of each model."""
    data: str = ""
    """The name of the folder of images."""


_OFFSET = "The model's class of label 0  [default: 1 with 1,001 classes; COCO: 1]"
_COCO = "COCO annotations: mAP of detectors instead (needs pycocotools)."


@command(
    MODELS,
    CORES,
    opt("--class-offset offset", click.IntRange(0), _OFFSET, metavar="N"),
    opt("--coco", FILE, _COCO, metavar="FILE"),
    *IMAGES,
    FORMAT,
    *QUIET,
    name="eval",
)
def evaluate(call: Call) -> None:
    """Measure accuracy on labelled images.

    Top-1 and top-5 of classifiers (.pb or .tflite), or with --coco the mAP of detectors. Of further
    models also the difference to the first, image by image.
    """
    if call["data"] is None or (call["labels"] is None) == (call["coco"] is None):
        what = "needs images and what they show"
        raise UsageError(what, remedy="give --data and either --labels or --coco")
    models = [qf.load(path) for path in call["models"]]
    if call["coco"] is None:
        _classifiers(call, models)
    else:
        _detectors(call, models)


def _classifiers(call: Call, models: Sequence[qf.Model]) -> None:
    from qfrewrite.analyze.evaluate import paired

    images = call.images()
    settings = call.given("offset") | call.running
    first, *others = (
        qf.evaluate(model, images, preprocess=call.preprocess(model), **settings)
        for model in models
    )
    rows = [
        one.figures() | {"interval": [100 * one.low, 100 * one.high]} for one in (first, *others)
    ]
    for row, other in zip(rows[1:], others, strict=True):
        row["paired"] = str(paired(first, other))
    if call.print(_Evaluation(rows, images.name), _CLASSIFIERS, "models", ("data",)):
        for row in rows[1:]:
            click.echo(f"{row['model']} against {first.model}: {row['paired']}")


def _detectors(call: Call, models: Sequence[qf.Model]) -> None:
    from qfrewrite.analyze.coco import evaluate_detector

    images = call["data"], call["coco"]
    settings = {"offset": 1 if call["offset"] is None else call["offset"], "limit": call["limit"]}
    settings |= call.running
    rows = [
        evaluate_detector(model, *images, preprocess=call.preprocess(model), **settings)
        for model in models
    ]
    call.print(_Evaluation(rows), _DETECTORS, "models")
