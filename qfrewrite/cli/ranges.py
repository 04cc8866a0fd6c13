"""`qfrewrite ranges`: ranges files, merged and shown."""

from __future__ import annotations

import click
from click import argument

import qfrewrite as qf
from qfrewrite.cli import tables as t
from qfrewrite.cli.options import DEBUG, FILE, FORMAT, Call, command, opt

_COLUMNS = (
    *t.columns(str, "name=tensor", right=False),
    *t.columns(t.figure, "low", "high"),
    *t.columns(str, "method", right=False),
    *t.columns(t.figure, "min", "max", "mean", "std"),
    *t.columns(t.percent, "sparsity=zeros", "clipped"),
    *t.columns(t.figure, "quantization_loss=quant. loss", "saturation_loss=sat. loss"),
)


@command(
    argument("files", nargs=-1, required=True, type=FILE),
    opt("-o --out", FILE, "The result.", required=True),
    opt("--method", "METHOD", "Choose ranges anew by this method."),
    DEBUG,
)
def merge(call: Call) -> None:
    """Add up the statistics of runs over different samples and choose ranges from the whole."""
    files, out, method = call["files"], call["out"], call["method"]
    table = qf.RangeTable.merge([qf.RangeTable.load(path) for path in files])
    if method is not None:
        table = table.choose(method)
    table.save(out)
    click.echo(f"{out}: {len(table)} tensors, {table.samples} samples of {len(files)} files")


@command(argument("file", type=FILE), FORMAT, DEBUG)
def show(call: Call) -> None:
    """Print the ranges in FILE."""
    table = qf.RangeTable.load(call["file"])
    call.print(table, _COLUMNS, "tensors", ("model", "data", "samples"))


@click.group(commands=[merge, show])
def ranges() -> None:
    """Merge and show ranges files."""
