"""`qfrewrite sensitivity MODEL --data PATH`: which layers quantization costs most."""

from __future__ import annotations

from dataclasses import replace

import click

import qfrewrite as qf
from qfrewrite.cli import options as o
from qfrewrite.cli import tables as t
from qfrewrite.cli.options import Call, command

_COLUMNS = (
    *t.LAYER,
    *t.columns(t.decibel, "alone_db=alone, dB", "without_db=all but it, dB"),
)


_PASSES = "Passes to run first; may be given again  [default: calibrate]"


@command(
    o.MODEL,
    o.PLUGIN,
    o.pass_option(default="calibrate", help=_PASSES),
    o.WEIGHT_SCALES,
    o.opt("--scheme", ("int8", "uint8", "int16x8"), "How to quantize.", default="int8"),
    o.FORMAT,
    o.top("N worst layers"),
    *o.DATA,
    *o.NODES,
    *o.QUIET,
)
def sensitivity(call: Call) -> None:
    """Show what quantizing each layer of MODEL costs.

    Each layer is quantized alone, and left out alone; the costliest layers come first.
    """
    model = call.load()
    report = qf.sensitivity(
        model,
        passes=call["pass_list"],
        preprocess=call.preprocess(model),
        **call.given("data", "samples", "seed", "scheme", "weights"),
        **call.running,
    )
    call.reporter.say(*report.diagnostics)
    costliest = replace(report, layers=sorted(report.layers, key=lambda layer: layer.alone_db))
    names = [layer.name for layer in report.layers]
    shown = call.print(costliest, _COLUMNS, head=("samples", "whole_sqnr_db"), names=names)
    if shown and report.whole is not None:
        click.echo(f"all layers: {report.whole}")
