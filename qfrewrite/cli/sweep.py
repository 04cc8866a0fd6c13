"""`qfrewrite sweep MODEL --sizes`: input size against cost, latency and accuracy."""

from __future__ import annotations

from pathlib import Path

import click

import qfrewrite as qf
from qfrewrite.cli import tables as t
from qfrewrite.cli.options import (
    FORMAT,
    IMAGES,
    MODEL,
    NODES,
    ONE_THREAD,
    QUIET,
    Call,
    command,
    opt,
    rounds,
)
from qfrewrite.errors import UsageError

_COLUMNS = (
    *t.columns(str, "size"),
    *t.columns(t.count, "macs=MACs"),
    *t.columns(t.figure, "ms=int8 ms"),
    *t.columns(t.percent, "padding"),
    *t.columns(str, "unaligned=maps not x8"),
    *t.columns(t.percent, "top1=top-1", "top5=top-5"),
    t.Column("error", "", right=False),
)


_PICTURE = click.Path(path_type=Path, dir_okay=False)
_PLOT = "Write a picture: latency and accuracy by size (needs matplotlib)."


@command(
    MODEL,
    opt("--sizes", "LIST", "128..300:4 (from, to, step) or 128,160,224.", required=True),
    ONE_THREAD,
    rounds(20, "Rounds of timing; in each every size runs once."),
    opt("--plot", _PICTURE, _PLOT, metavar="FILE"),
    *IMAGES,
    *NODES,
    FORMAT,
    *QUIET,
)
def sweep(call: Call) -> None:
    """Resize MODEL's input and print what each size costs.

    Multiply-accumulates, int8 latency, work wasted on padding maps up to multiples of eight, and
    with --data and --labels the accuracy in float.
    """
    from qfrewrite.analyze.sweep import parse_sizes

    sizes = parse_sizes(call["sizes"])
    if (call["data"] is None) != (call["labels"] is None):
        raise UsageError("--data and --labels go together", remedy="give both or none")
    model = call.load()
    qf.dequantize(model)
    images = None if call["data"] is None else call.images()
    how = call.preprocess(model)
    report = qf.sweep(
        model, sizes, images=images, preprocess=how, **call.given("runs"), **call.running
    )
    call.print(report, _COLUMNS, "sizes", ("model",))
    if call["plot"] is not None:
        from qfrewrite.analyze.plots import plot_sizes

        plot_sizes(report, call["plot"])
        click.echo(f"picture in {call['plot']}", err=True)
