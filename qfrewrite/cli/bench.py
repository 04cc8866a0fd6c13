"""`qfrewrite bench MODEL...`: latency of models, run interleaved, and of their layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import qfrewrite as qf
from qfrewrite.cli import tables as t
from qfrewrite.cli.options import (
    FORMAT,
    IMAGES,
    MODELS,
    ONE_THREAD,
    QUIET,
    Call,
    command,
    opt,
    rounds,
)
from qfrewrite.errors import UsageError

if TYPE_CHECKING:
    from qfrewrite.analyze.bench import LayerTimes

_MODELS = (
    *t.MODEL,
    *t.columns(t.figure, "median_ms=median ms", "p5_ms=p5", "p95_ms=p95"),
    *t.columns("{:.3f}".format, "ratio"),
)
_LAYERS = (
    *t.LAYER,
    *t.SHAPE,
    *t.columns("{:.3f}".format, "ms"),
    *t.columns(lambda share: f"{100 * share:.1f}", "share=%"),
    *t.columns(t.count, "macs=MACs"),
    *t.columns("{:.1f}".format, "gmacs=GMAC/s"),
    *t.columns(" ".join, "flags=no x8", right=False),
)
_SCORES = (
    *t.MODEL,
    *t.columns(t.figure, "median_ms=median ms"),
    *t.columns(t.percent, "top1=top-1", "within=within budget"),
    *t.columns(t.figure, "score=correct / s"),
)


_TIME = click.FloatRange(0, min_open=True)
_BUDGET = "Milliseconds per image for --score."


@command(
    MODELS,
    ONE_THREAD,
    rounds(50, "Rounds; in each every model runs once."),
    opt("--per-layer", None, "Time every op of each model by itself."),
    opt("--score", None, "The competition's metric; needs --data and --labels."),
    opt("--budget", _TIME, _BUDGET, default=30.0, metavar="MS"),
    *IMAGES,
    FORMAT,
    *QUIET,
)
def bench(call: Call) -> None:
    """Time MODELS on LiteRT, or their layers.

    Models are run interleaved, so that drift of the machine cancels. A .tflite runs as it is, a .pb
    in float. Ratios are to the first model.
    """
    if call["score"] and not (call["data"] and call["labels"]):
        what = "needs images and their classes"
        raise UsageError(what, where="--score", remedy="give --data and --labels")
    models = [qf.load(path) for path in call["models"]]
    timing = call.running | call.given("runs")
    if call["per_layer"]:
        for model in models:
            _print_layers(call, qf.bench_layers(model, **timing))
    elif call["score"]:
        from qfrewrite.analyze.bench import score_models

        how = [call.preprocess(model) for model in models]
        images, budget = call.images(), call["budget"]
        scores = score_models(models, images, preprocess=how, budget_ms=budget, **timing)
        call.print(scores, _SCORES, "models", ("samples", "budget_ms"))
    else:
        latencies = qf.bench_models(models, **timing)
        call.reporter.say(*latencies.diagnostics)
        call.print(latencies, _MODELS, "models", ("runs", "threads"))


def _print_layers(call: Call, times: LayerTimes) -> None:
    names = [layer.name for layer in times.layers]
    if call.print(times, _LAYERS, head=("model", "sum_ms", "whole_ms"), names=names):
        click.echo(
            f"{times.model}: {times.whole_ms:.3f} ms as a whole, {times.sum_ms:.3f} ms as the sum "
            f"of {len(times.layers)} ops ({times.sum_ms / times.whole_ms:.2f}x)"
        )
