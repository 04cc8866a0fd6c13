"""`qfrewrite eval MODEL [OTHER]`: accuracy on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qfrewrite.cli.options import POSITIVE, image_options, preprocessing, print_options

if TYPE_CHECKING:
    from qfrewrite.cli.render import Reporter
    from qfrewrite.ir import Model


@click.command(name="eval")
@click.argument("models", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--threads", type=POSITIVE, help="Threads for the runtime  [default: all cores]")
@click.option(
    "--class-offset",
    "offset",
    type=click.IntRange(0),
    metavar="N",
    help="The model's class of label 0  [default: 1 with 1,001 classes; COCO: 1]",
)
@click.option(
    "--coco",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="COCO annotations: mAP of detectors instead (needs pycocotools).",
)
@image_options
@print_options
def evaluate(models: tuple[Path, ...], how: str, **given: Any) -> None:
    """Measure accuracy on labelled images.

    Top-1 and top-5 of classifiers (.pb or .tflite), or with --coco the mAP of detectors. Of further
    models also the difference to the first, image by image.
    """
    from qfrewrite import api
    from qfrewrite.cli.render import Reporter
    from qfrewrite.errors import UsageError

    if given["data"] is None or (given["labels"] is None) == (given["coco"] is None):
        raise UsageError(
            "needs images and what they show", remedy="give --data and either --labels or --coco"
        )
    loaded = [api.load(path) for path in models]
    with Reporter(quiet=given["quiet"]) as reporter:
        if given["coco"] is not None:
            _detectors(loaded, how, given, reporter)
        else:
            _classifiers(loaded, how, given, reporter)


def _classifiers(loaded: list[Model], how: str, given: dict[str, Any], reporter: Reporter) -> None:
    from qfrewrite.analyze.evaluate import evaluate as run
    from qfrewrite.analyze.evaluate import paired
    from qfrewrite.cli import tables as t
    from qfrewrite.cli.render import open_console
    from qfrewrite.data.labels import read_labels

    images = read_labels(given["data"], given["labels"], given["limit"])
    found = [
        run(
            model,
            images,
            preprocess=preprocessing(given, model),
            offset=given["offset"],
            threads=given["threads"],
            progress=reporter.progress,
        )
        for model in loaded
    ]
    records = []
    for one in found:
        record = {**one.record(), "interval": [100 * one.low, 100 * one.high]}
        if one is not found[0]:
            record["paired"] = str(paired(found[0], one))
        records.append(record)
    columns = (
        t.Column("model", "model", right=False),
        t.Column("samples", "images", str),
        t.Column("top1", "top-1", _percent),
        t.Column("top5", "top-5", _percent),
        t.Column("interval", "95 % of top-1", lambda v: f"{v[0]:.1f}..{v[1]:.1f}"),
    )
    console = open_console()
    t.print_rows(records, columns, how, {"data": images.name}, console, key="models")
    if how == "table":
        for record in records[1:]:
            console.print(
                f"{record['model']} against {found[0].model}: {record['paired']}", soft_wrap=True
            )


def _detectors(loaded: list[Model], how: str, given: dict[str, Any], reporter: Reporter) -> None:
    from dataclasses import asdict

    from qfrewrite.analyze.coco import evaluate_detector
    from qfrewrite.cli import tables as t
    from qfrewrite.cli.render import open_console

    offset = 1 if given["offset"] is None else given["offset"]
    records = [
        asdict(
            evaluate_detector(
                model,
                given["data"],
                given["coco"],
                preprocess=preprocessing(given, model),
                offset=offset,
                limit=given["limit"],
                threads=given["threads"],
                progress=reporter.progress,
            )
        )
        for model in loaded
    ]
    columns = (
        t.Column("model", "model", right=False),
        t.Column("images", "images", str),
        t.Column("detections", "detections", str),
        t.Column("map", "mAP", _percent),
        t.Column("map50", "mAP 0.50", _percent),
    )
    t.print_rows(records, columns, how, {}, open_console(), key="models")


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"
