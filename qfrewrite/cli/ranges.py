"""`qfrewrite ranges`: ranges files, merged and shown."""

from __future__ import annotations

from pathlib import Path

import click

from qfrewrite.cli.options import FORMAT


@click.group()
def ranges() -> None:
    """Merge and show ranges files."""


@ranges.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The result.")
@click.option("--method", metavar="METHOD", help="Choose ranges anew by this method.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def merge(files: tuple[Path, ...], out: Path, method: str | None, debug: bool) -> None:
    """Add up the statistics of runs over different samples and choose ranges from the whole."""
    from qfrewrite.calibration.range_table import RangeTable

    table = RangeTable.merge([RangeTable.load(path) for path in files])
    if method is not None:
        table = table.choose(method)
    table.save(out)
    click.echo(f"{out}: {len(table)} tensors, {table.samples} samples of {len(files)} files")


@ranges.command()
@click.argument("file", type=click.Path(path_type=Path))
@FORMAT
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def show(file: Path, how: str, debug: bool) -> None:
    """Print the ranges in FILE."""
    from qfrewrite.calibration.range_table import RangeTable
    from qfrewrite.cli import tables as t
    from qfrewrite.cli.render import open_console

    table = RangeTable.load(file)
    columns = (
        t.Column("name", "tensor", right=False),
        t.Column("low", "low", t.figure),
        t.Column("high", "high", t.figure),
        t.Column("method", "method", right=False),
        t.Column("min", "min", t.figure),
        t.Column("max", "max", t.figure),
        t.Column("mean", "mean", t.figure),
        t.Column("std", "std", t.figure),
        t.Column("sparsity", "zeros", t.percent),
        t.Column("clipped", "clipped", t.percent),
        t.Column("quantization_loss", "quant. loss", t.figure),
        t.Column("saturation_loss", "sat. loss", t.figure),
    )
    head = {"model": table.model, "data": table.data, "samples": table.samples}
    t.print_rows(table.records(), columns, how, head, open_console(), key="tensors")
