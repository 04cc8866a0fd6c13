"""`qfrewrite sensitivity MODEL --data PATH`: which layers quantization costs most."""

from __future__ import annotations

from dataclasses import replace

import click

import qfrewrite as qf
from qfrewrite.cli import options as o
from qfrewrite.cli import tables as t
from qfrewrite.cli.options import Call, command

_COLUMNS = (
    t.NAME,
    t.OP,
    t.Column("alone_db", "alone, dB", t.decibel),
    t.Column("without_db", "all but it, dB", t.decibel),
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
    found = qf.sensitivity(
        model,
        passes=call["pass_list"],
        preprocess=call.preprocess(model),
        **call.given("data", "samples", "seed", "scheme", "weights"),
        **call.running,
    )
    call.say(found.diagnostics)
    costliest = replace(found, layers=sorted(found.layers, key=lambda layer: layer.alone_db))
    names = [layer.name for layer in found.layers]
    shown = call.print(costliest, _COLUMNS, head=("samples", "whole_sqnr_db"), names=names)
    if shown and found.whole is not None:
        click.echo(f"all layers: {found.whole}")
