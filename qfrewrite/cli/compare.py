"""`qfrewrite compare FLOAT INT8 --data PATH`: where a quantized model departs from its source."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qfrewrite.cli.options import FORMAT, data_options, model_options, open_data_context

if TYPE_CHECKING:
    from qfrewrite.analyze.compare import Comparison


@click.command()
@click.argument("reference", metavar="FLOAT", type=click.Path(path_type=Path))
@click.argument("quantized", metavar="INT8", type=click.Path(path_type=Path))
@data_options
@FORMAT
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="Only the N worst layers.")
@model_options
def compare(reference: Path, quantized: Path, **given: Any) -> None:
    """Compare INT8 with FLOAT, layer by layer.

    The worst layers come first; below them stands the output.
    """
    from qfrewrite import api
    from qfrewrite.analyze.compare import compare_models
    from qfrewrite.cli.render import RANKED_ONLY, Reporter

    source = api.load(reference, inputs=given["inputs"], outputs=given["outputs"])
    other = api.load(quantized)
    with Reporter(quiet=given["quiet"]) as reporter:
        context = open_data_context(source, given, reporter)
        if context is None:
            from qfrewrite.data.source import synthetic
            from qfrewrite.runtime.session import input_specs

            samples: Any = synthetic(input_specs(source.graph), 16, seed=given["seed"])
            reporter.say(RANKED_ONLY)
        else:
            assert context.samples is not None
            samples = context.samples.calibration
        found = compare_models(source, other, samples, threads=given["threads"])
    described = samples.description if context is not None else None
    _print(found, given["how"], given["top"], described)


def _print(found: Comparison, how: str, top: int | None, described: str | None) -> None:
    """described: the samples; None where they were made up, which is no measure of the output."""
    from rich.markup import escape

    from qfrewrite.cli import tables as t
    from qfrewrite.cli.render import open_console
    from qfrewrite.ir.dtypes import json_value

    console = open_console()
    shown = found.layers[:top]
    records = [{k: v for k, v in asdict(row).items() if not k.startswith("_")} for row in shown]
    t.shorten_names(records, how, [row.name for row in found.layers])
    columns = (
        t.Column("name", "layer", right=False),
        t.Column("op", "op", right=False),
        t.Column("order", "order"),
        t.Column("sqnr_db", "SQNR dB", t.decibel),
        t.Column("lost_db", "lost dB", t.decibel),
        t.Column("cosine", "cosine", lambda v: f"{v:.5f}"),
        t.Column("max_error", "max error", t.figure),
    )
    head = {
        "samples": found.samples,
        "output_sqnr_db": None if described is None else json_value(found.output.sqnr_db),
        "output_agreement": None if described is None else found.output.agreement,
        "first_drop": found.dropped.name if found.dropped is not None else None,
    }
    t.print_rows(records, columns, how, head, console)
    if how != "table":
        return
    if described is not None:
        console.print(f"output: {found.output}, {escape(described)}", soft_wrap=True)
    if found.dropped is not None:
        console.print(
            f"quality first drops at [yellow]{escape(found.dropped.name)}[/yellow] "
            f"({found.dropped.op}): {found.dropped.sqnr_db:.1f} dB",
            soft_wrap=True,
        )
    if found.only_float:
        console.print(
            f"{len(found.only_float)} layers have no tensor of their name in INT8, e.g. "
            f"{escape(found.only_float[0])}",
            soft_wrap=True,
        )
