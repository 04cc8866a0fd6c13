"""`qfrewrite compare FLOAT INT8 --data PATH`: where a quantized model departs from its source."""

from __future__ import annotations

import click
from click import argument

import qfrewrite as qf
from qfrewrite.cli import tables as t
from qfrewrite.cli.options import DATA, FILE, FORMAT, NODES, QUIET, Call, command, top

_COLUMNS = (
    *t.LAYER,
    *t.columns(str, "order"),
    *t.columns(t.decibel, "sqnr_db=SQNR dB", "lost_db=lost dB"),
    *t.columns("{:.5f}".format, "cosine"),
    *t.columns(t.figure, "max_error=max error"),
)


@command(
    argument("reference", metavar="FLOAT", type=FILE),
    argument("quantized", metavar="INT8", type=FILE),
    *DATA,
    FORMAT,
    top("N worst layers"),
    *NODES,
    *QUIET,
)
def compare(call: Call) -> None:
    """Compare INT8 with FLOAT, layer by layer.

    The worst layers come first; below them stands the output.
    """
    reference, quantized = call.load("reference"), qf.load(call["quantized"])
    context = call.context(reference)
    samples = None if context is None or context.samples is None else context.samples.calibration
    comparison = qf.compare_models(reference, quantized, samples, **call.given("seed", "threads"))
    call.reporter.say(*comparison.diagnostics)
    head = ("samples", "output_sqnr_db", "output_agreement", "first_drop")
    if not call.print(
        comparison, _COLUMNS, head=head, names=[row.name for row in comparison.layers]
    ):
        return
    if comparison.output is not None:
        click.echo(f"output: {comparison.output}, {comparison.measured_on}")
    if (layer := comparison.dropped) is not None:
        name = click.style(layer.name, fg="yellow")
        click.echo(f"quality first drops at {name} ({layer.op}): {layer.sqnr_db:.1f} dB")
    if missing := comparison.only_float:
        click.echo(f"{len(missing)} layers have no tensor of their name in INT8, e.g. {missing[0]}")
