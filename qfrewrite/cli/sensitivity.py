"""`qfrewrite sensitivity MODEL --data PATH`: which layers quantization costs most."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from qfrewrite.cli.options import (
    FORMAT,
    PLUGIN,
    WEIGHTS,
    data_options,
    model_options,
    pass_option,
    preprocessing,
)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@PLUGIN
@pass_option(
    default="calibrate", help="Passes to run first; may be given again  [default: calibrate]"
)
@click.option(
    "--weights",
    type=click.Choice(WEIGHTS),
    show_default=True,
    default="per-channel",
    help="Scales of 8-bit weights.",
)
@click.option(
    "--scheme",
    type=click.Choice(["int8", "uint8", "int16x8"]),
    default="int8",
    show_default=True,
    help="How to quantize.",
)
@FORMAT
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="Only the N worst layers.")
@data_options
@model_options
def sensitivity(model: Path, pass_list: str, how: str, top: int | None, **given: Any) -> None:
    """Show what quantizing each layer of MODEL costs.

    Each layer is quantized alone, and left out alone; the costliest layers come first.
    """
    from qfrewrite import api
    from qfrewrite.cli import tables as t
    from qfrewrite.cli.render import RANKED_ONLY, Reporter, open_console
    from qfrewrite.ir.dtypes import json_value

    loaded = api.load(model, inputs=given["inputs"], outputs=given["outputs"])
    with Reporter(quiet=given["quiet"]) as reporter:
        whole, rows = api.sensitivity(
            loaded,
            given["data"],
            passes=pass_list,
            samples=given["samples"],
            preprocess=preprocessing(given, loaded),
            seed=given["seed"],
            threads=given["threads"],
            progress=reporter.progress,
            scheme=given["scheme"],
            weights=given["weights"],
        )
        if given["data"] is None:
            reporter.say(RANKED_ONLY)
    shown = sorted(rows, key=lambda row: row.alone_db)[:top]
    records = [asdict(row) for row in shown]
    t.shorten_names(records, how, [row.name for row in rows])
    columns = (
        t.Column("name", "layer", right=False),
        t.Column("op", "op", right=False),
        t.Column("alone_db", "alone, dB", t.decibel),
        t.Column("without_db", "all but it, dB", t.decibel),
    )
    console = open_console()
    head = {
        "samples": 0 if whole is None else whole.samples,
        "whole_sqnr_db": None if whole is None else json_value(whole.sqnr_db),
    }
    t.print_rows(records, columns, how, head, console)
    if how == "table" and whole is not None:
        console.print(f"all layers: {whole}", soft_wrap=True)
