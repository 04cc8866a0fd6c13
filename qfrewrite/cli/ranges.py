"""`qfrewrite ranges`: ranges files, merged and shown."""

from __future__ import annotations

import click
from click import argument

import qfrewrite as qf
from qfrewrite.cli import tables as t
from qfrewrite.cli.options import DEBUG, FILE, FORMAT, Call, command, opt

_COLUMNS = (
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
