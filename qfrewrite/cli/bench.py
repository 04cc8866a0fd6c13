"""`qfrewrite bench MODEL...`: latency of models in turn, and of their layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qfrewrite.cli.options import POSITIVE, image_options, preprocessing, print_options
from qfrewrite.errors import Diagnostic

if TYPE_CHECKING:
    from qfrewrite.cli.render import Reporter
    from qfrewrite.ir import Model

# 95 % of the rounds of a machine that does nothing else lie below so many medians.
_UNSTEADY = 1.5


@click.command()
@click.argument("models", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--threads", type=POSITIVE, default=1, show_default=True, help="Threads for the runtime."
)
@click.option(
    "--runs",
    type=click.IntRange(3),
    default=50,
    show_default=True,
    help="Rounds; in each every model runs once.",
)
@click.option("--per-layer", is_flag=True, help="Time every op of each model by itself.")
@click.option("--score", is_flag=True, help="The competition's metric; needs --data and --labels.")
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    metavar="MS",
    show_default=True,
    help="Milliseconds per image for --score.",
)
@image_options
@print_options
def bench(models: tuple[Path, ...], how: str, **given: Any) -> None:
    """Time MODELS on LiteRT, or their layers.

    Models are run interleaved, so that drift of the machine cancels. A .tflite runs as it is, a .pb
    in float. Ratios are to the first model.
    """
    from qfrewrite import api
    from qfrewrite.cli.render import Reporter
    from qfrewrite.errors import UsageError

    if given["score"] and not (given["data"] and given["labels"]):
        raise UsageError(
            "needs images and their classes", where="--score", remedy="give --data and --labels"
        )
    loaded = [api.load(path) for path in models]
    with Reporter(quiet=given["quiet"]) as reporter:
        if given["per_layer"]:
            for model in loaded:
                _layers(model, how, given, reporter)
        elif given["score"]:
            _scores(loaded, how, given, reporter)
        else:
            _models(loaded, how, given, reporter)


def _models(loaded: list[Model], how: str, given: dict[str, Any], reporter: Reporter) -> None:
    from qfrewrite.analyze.bench import bench_models
    from qfrewrite.cli import tables as t
    from qfrewrite.cli.render import open_console

    rows = bench_models(
        loaded, runs=given["runs"], threads=given["threads"], progress=reporter.progress
    )
    if any(row.p95_ms > _UNSTEADY * row.median_ms for row in rows):
        text = "timings vary much: the machine is busy with other things"
        reporter.say(Diagnostic("warning", "unsteady", text))
    columns = (
        t.Column("model", "model", right=False),
        t.Column("median_ms", "median ms", t.figure),
        t.Column("p5_ms", "p5", t.figure),
        t.Column("p95_ms", "p95", t.figure),
        t.Column("ratio", "ratio", lambda v: f"{v:.3f}"),
    )
    head = {"runs": given["runs"], "threads": given["threads"]}
    t.print_rows([r.record() for r in rows], columns, how, head, open_console(), key="models")


def _layers(model: Model, how: str, given: dict[str, Any], reporter: Reporter) -> None:
    from qfrewrite.analyze.bench import bench_layers
    from qfrewrite.cli import tables as t
    from qfrewrite.cli.render import open_console

    found = bench_layers(
        model, runs=given["runs"], threads=given["threads"], progress=reporter.progress
    )
    records = [layer.record() for layer in found.layers]
    t.shorten_names(records, how)
    columns = (
        t.Column("name", "layer", right=False),
        t.Column("op", "op", right=False),
        t.Column("shape", "output", t.shape),
        t.Column("ms", "ms", lambda v: f"{v:.3f}"),
        t.Column("share", "%", lambda v: f"{100 * v:.1f}"),
        t.Column("macs", "MACs", t.count),
        t.Column("gmacs", "GMAC/s", lambda v: f"{v:.1f}"),
        t.Column("flags", "no x8", " ".join, right=False),
    )
    console = open_console()
    head = {"model": model.name, "sum_ms": found.sum_ms, "whole_ms": found.whole_ms}
    t.print_rows(records, columns, how, head, console)
    if how == "table":
        console.print(
            f"{model.name}: {found.whole_ms:.3f} ms as a whole, {found.sum_ms:.3f} ms as the sum "
            f"of {len(found.layers)} ops ({found.sum_ms / found.whole_ms:.2f}x)",
            soft_wrap=True,
        )


def _scores(loaded: list[Model], how: str, given: dict[str, Any], reporter: Reporter) -> None:
    from qfrewrite.analyze.bench import competition_score, time_models
    from qfrewrite.analyze.evaluate import evaluate
    from qfrewrite.cli import tables as t
    from qfrewrite.cli.render import open_console
    from qfrewrite.data.labels import read_labels

    images = read_labels(given["data"], given["labels"], given["limit"])
    timings = time_models(
        loaded, runs=given["runs"], threads=given["threads"], progress=reporter.progress
    )
    records = []
    for model, timing in zip(loaded, timings, strict=True):
        found = evaluate(
            model, images, preprocess=preprocessing(given, model), progress=reporter.progress
        )
        score, within = competition_score(found.first.tolist(), timing, given["budget"] / 1e3)
        records.append(
            {
                "model": model.name,
                "median_ms": 1e3 * timing.median,
                "top1": found.top1,
                "within": within,
                "score": score,
            }
        )
    columns = (
        t.Column("model", "model", right=False),
        t.Column("median_ms", "median ms", t.figure),
        t.Column("top1", "top-1", t.percent),
        t.Column("within", "within budget", t.percent),
        t.Column("score", "correct / s", t.figure),
    )
    head = {"samples": len(images.files), "budget_ms": given["budget"]}
    t.print_rows(records, columns, how, head, open_console(), key="models")
