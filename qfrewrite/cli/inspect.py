"""`qfrewrite inspect MODEL`: one row per layer, and what endangers int8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qfrewrite.cli.options import FORMAT, data_options, model_options, open_data_context

if TYPE_CHECKING:
    from qfrewrite.analyze.layer import Layer
    from qfrewrite.analyze.layers import Inspection

_SORTS = (
    "order", "name", "op", "parameters", "macs", "channel_ratio", "gain_max", "dead", "clipped",
    "sparsity", "sqnr_db",
)  # fmt: skip
# Where less is worse.
_ASCENDING = ("order", "name", "op", "sqnr_db")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--ranges", type=click.Path(path_type=Path), help="A ranges file for this model.")
@data_options
@click.option(
    "--method",
    default="minmax",
    show_default=True,
    help="How ranges are chosen from --data: minmax, greedy, percentile(99.9), ...",
)
@click.option("--layer", metavar="NAME", help="Show one layer: histogram and channels as bars.")
@FORMAT
@click.option(
    "--sort",
    type=click.Choice(_SORTS),
    default="order",
    show_default=True,
    help="By execution order, or the worst first.",
)
@click.option("--filter", "pattern", metavar="PATTERN", help="Layers whose name or op matches.")
@click.option("--flagged", is_flag=True, help="Only layers that will quantize badly.")
@click.option(
    "--cost",
    is_flag=True,
    help="MACs, parameters, bytes and memory of each op instead, in float and int8.",
)
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="Only the first N rows.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write pictures there: histograms and weights per channel (needs matplotlib).",
)
@model_options
def inspect(model: Path, **given: Any) -> None:
    """Show the layers of MODEL and what quantizes badly."""
    from qfrewrite import api
    from qfrewrite.analyze.layers import inspect_model
    from qfrewrite.calibration.range_table import RangeTable
    from qfrewrite.cli.render import Reporter
    from qfrewrite.errors import UsageError

    if given["ranges"] is not None and given["data"] is not None:
        raise UsageError("--ranges and --data exclude each other", remedy="give one of them")
    loaded = api.load(model, inputs=given["inputs"], outputs=given["outputs"])
    if given["cost"]:
        from qfrewrite.cli.costs import print_costs

        print_costs(loaded, given["how"], given["top"], quiet=given["quiet"])
        return
    with Reporter(quiet=given["quiet"]) as reporter:
        context = open_data_context(loaded, given, reporter)
        found = inspect_model(
            loaded,
            context=context,
            method=given["method"],
            ranges=None if given["ranges"] is None else RangeTable.load(given["ranges"]),
        )
        if context is not None and context.samples is not None:
            for one in context.samples.diagnostics:
                reporter.say(one)
        for one in found.diagnostics:
            reporter.say(one)
        for one in found.ranges.diagnostics if found.ranges is not None else ():
            reporter.say(one)
    if given["plot"] is not None:
        from qfrewrite.analyze.plots import plot_layers

        shown = [_named(found, given["layer"])] if given["layer"] else _chosen(found, given)
        written = plot_layers(found.model, shown, given["plot"])
        click.echo(f"{len(written)} pictures in {given['plot']}", err=True)
    if given["layer"]:
        from qfrewrite.cli.bars import print_layer

        print_layer(_named(found, given["layer"]), given["how"])
    else:
        _print(found, _chosen(found, given), given["how"])


def _named(found: Inspection, name: str) -> Layer:
    from difflib import get_close_matches

    from qfrewrite.errors import UsageError

    inside = _by_name(found.layers, name) or [
        x for x in found.layers if name.lower() in x.name.lower()
    ]
    if len(inside) == 1:
        return inside[0]
    names = [x.name for x in inside or found.layers]
    close = get_close_matches(name, names, n=3, cutoff=0.3) or names[:3]
    raise UsageError(
        f"{'is the name of several layers' if inside else 'no such layer'}: '{name}'",
        where="--layer",
        remedy=f"did you mean {' or '.join(close)}?",
    )


def _by_name(layers: Sequence[Layer], name: str) -> list[Layer]:
    """The layers that `name` stands for, by their op or their output, whole or as printed."""
    from qfrewrite.ir.names import closest

    for names in ([x.name for x in layers], [x.output for x in layers]):
        if meant := set(closest(name, names)):
            return [x for x, known in zip(layers, names, strict=True) if known in meant]
    return []


def _chosen(found: Inspection, given: dict[str, Any]) -> list[Layer]:
    """The layers to show, in the order to show them."""
    from fnmatch import fnmatch

    rows = list(found.layers)
    if given["pattern"]:
        pattern = given["pattern"]
        if named := _by_name(rows, pattern):
            rows = named
        elif any(c in pattern for c in "*?["):
            ways = (pattern, f"*/{pattern}")
            rows = [r for r in rows if any(fnmatch(n, w) for n in (r.name, r.op) for w in ways)]
        else:
            word = pattern.lower()
            rows = [r for r in rows if word in r.name.lower() or word in r.op.lower()]
    if given["flagged"]:
        rows = [r for r in rows if r.flags]
    if given["sort"] != "order":
        key = given["sort"]

        def rank(row: Layer) -> tuple[bool, Any]:
            value = getattr(row, key)
            value = len(value) if isinstance(value, list) else value
            if value is None:
                return True, 0
            return False, value if key in _ASCENDING else -value

        rows.sort(key=rank)
    return rows[: given["top"]]


def _print(found: Inspection, rows: list[Layer], how: str) -> None:
    from qfrewrite.cli import tables as t
    from qfrewrite.cli.render import open_console

    console = open_console()
    records = [row.record() for row in rows]
    t.shorten_names(records, how, [layer.name for layer in found.layers])
    columns = (
        t.Column("name", "layer", right=False), t.Column("op", "op", right=False),
        t.Column("shape", "output", t.shape), t.Column("parameters", "params", t.count),
        t.Column("macs", "MACs", t.count), t.Column("weights", "weights", t.pair),
        t.Column("channel_ratio", "ch. ratio", t.figure),
        t.Column("gain_max", "gain max", t.figure), t.Column("gain_median", "median", t.figure),
        t.Column("dead", "dead", t.sizes), t.Column("observed", "observed", t.pair),
        t.Column("range", "range", t.pair), t.Column("scale", "scale", t.figure),
        t.Column("zero_point", "zero", str), t.Column("clipped", "clipped", t.percent),
        t.Column("sparsity", "zeros", t.percent), t.Column("sqnr_db", "SQNR dB", t.decibel),
        t.Column("flags", "flags", lambda v: " ".join(f["what"] for f in v), right=False),
    )  # fmt: skip
    t.print_rows(records, columns, how, {"model": found.model}, console)
    if how == "table":
        _summary(found, rows, console)


def _summary(found: Inspection, rows: list[Layer], console: Any) -> None:
    from rich.markup import escape

    from qfrewrite.cli.tables import count
    from qfrewrite.ir.names import shorten

    total = found.layers
    whole = [layer.name for layer in total]
    console.print(
        f"{len(total)} layers, {count(sum(r.parameters for r in total))} parameters, "
        f"{count(sum(r.macs for r in total))} MACs"
    )
    for row, name in zip(rows, shorten([r.name for r in rows], whole), strict=True):
        for flag in row.flags:
            helps = f"  -> {flag.remedy}" if flag.remedy else ""
            click.echo(f"  {click.style(name, fg='yellow')}: {flag.text}{helps}")
    for remedy, helped in found.advice().items():
        names = shorten(helped, whole)
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        console.print(
            f"[bold]{escape(remedy)}[/bold] helps {escape(', '.join(names[:2]) + more)}",
            soft_wrap=True,
        )
