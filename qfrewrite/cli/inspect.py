"""`qfrewrite inspect MODEL`: one row per layer, and what endangers int8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import qfrewrite as qf
from qfrewrite.cli import tables as t
from qfrewrite.cli.options import DATA, FILE, FORMAT, MODEL, NODES, QUIET, Call, command, opt, top
from qfrewrite.errors import UsageError

if TYPE_CHECKING:
    from qfrewrite.analyze.layer import Layer

_LAYERS = (
    *t.LAYER,
    *t.SHAPE,
    *t.columns(t.count, "parameters=params", "macs=MACs"),
    *t.columns(t.pair, "weights"),
    *t.columns(t.figure, "channel_ratio=ch. ratio", "gain_max=gain max", "gain_median=median"),
    *t.columns(t.sizes, "dead"),
    *t.columns(t.pair, "observed", "range"),
    *t.columns(t.figure, "scale"),
    *t.columns(str, "zero_point=zero"),
    *t.columns(t.percent, "clipped", "sparsity=zeros"),
    *t.columns(t.decibel, "sqnr_db=SQNR dB"),
    *t.columns(lambda flags: " ".join(flag["what"] for flag in flags), "flags", right=False),
)
_COSTS = (
    *t.LAYER,
    *t.SHAPE,
    *t.columns(t.count, "macs=MACs", "parameters=params"),
    *t.columns(t.count, "weight_bytes=weights, B", "arena_bytes=memory, B"),
    *t.columns(t.count, "int8_weight_bytes=int8 weights", "int8_arena_bytes=int8 memory"),
)
_SORTS = [
    "order",
    "name",
    "op",
    "parameters",
    "macs",
    "channel_ratio",
    "gain_max",
    "dead",
    "clipped",
    "sparsity",
    "sqnr_db",
]
# What the line below the costs gives.
_WORK = (("macs", "MACs"), ("parameters", "parameters"))
_BYTES = ("weight_bytes", "int8_weight_bytes", "peak_arena_bytes", "peak_int8_arena_bytes")
# Where less is worse.
_ASCENDING = ("name", "op", "sqnr_db")


_METHOD = "How ranges are chosen from --data: minmax, greedy, percentile(99.9), ..."
_COST = "MACs, parameters, bytes and memory of each op instead, in float and int8."
_PLOT = "Write pictures there: histograms and weights per channel (needs matplotlib)."
_FOLDER = click.Path(path_type=Path, file_okay=False)


@command(
    MODEL,
    opt("--ranges", FILE, "A ranges file for this model."),
    *DATA,
    opt("--method", click.STRING, _METHOD, default="minmax"),
    opt("--layer", "NAME", "Show one layer: histogram and channels as bars."),
    FORMAT,
    opt("--sort", _SORTS, "By execution order, or the worst first.", default=_SORTS[0]),
    opt("--filter pattern", "PATTERN", "Layers whose name or op matches."),
    opt("--flagged", None, "Only layers that will quantize badly."),
    opt("--cost", None, _COST),
    top("first N rows"),
    opt("--plot", _FOLDER, _PLOT, metavar="DIR"),
    *NODES,
    *QUIET,
)
def inspect(call: Call) -> None:
    """Show the layers of MODEL and what quantizes badly."""
    if call["ranges"] is not None and call["data"] is not None:
        raise UsageError("--ranges and --data exclude each other", remedy="give one of them")
    model = call.load()
    if call["cost"]:
        _print_costs(call, model)
        return
    inspection = qf.inspect_model(
        model,
        context=call.context(model),
        method=call["method"],
        ranges=None if call["ranges"] is None else qf.RangeTable.load(call["ranges"]),
    )
    call.reporter.say(*inspection.diagnostics)
    layers = inspection.layers
    shown = [_named(layers, call["layer"])] if call["layer"] else _chosen(layers, call)
    if call["plot"] is not None:
        from qfrewrite.analyze.plots import plot_layers

        written = plot_layers(inspection.model, shown, call["plot"])
        click.echo(f"{len(written)} pictures in {call['plot']}", err=True)
    if call["layer"]:
        from qfrewrite.cli.bars import print_layer

        print_layer(shown[0], call["how"])
        return
    names = [layer.name for layer in layers]
    if call.print(replace(inspection, layers=shown), _LAYERS, head=("model",), names=names):
        _summary(inspection, shown)


def _print_costs(call: Call, model: qf.Model) -> None:
    """A row per op, and the sums."""
    cost = qf.model_cost(model)
    call.reporter.say(*cost.diagnostics)
    figures = cost.figures()
    head = [name for name in figures if name not in ("ops", "diagnostics")]
    if not call.print(cost, _COSTS, "ops", head, names=[op.name for op in cost.ops]):
        return
    work = ", ".join(f"{t.count(figures[name])} {what}" for name, what in _WORK)
    weights, weights8, peak, peak8 = (t.byte_count(figures[name]) for name in _BYTES)
    op = cost.peak("int8_arena_bytes")
    where = "" if op is None else f" (at {op.name})"
    click.echo(
        f"{work}; weights {weights} as they are, {weights8} in int8; activations at their peak "
        f"{peak}, {peak8} in int8{where}"
    )


def _named(layers: Sequence[Layer], name: str) -> Layer:
    """The one layer that --layer means; raises UsageError."""
    from difflib import get_close_matches

    matches = _by_name(layers, name) or [x for x in layers if name.lower() in x.name.lower()]
    if len(matches) == 1:
        return matches[0]
    names = [x.name for x in matches or layers]
    close = get_close_matches(name, names, n=3, cutoff=0.3) or names[:3]
    what = f"{'is the name of several layers' if matches else 'no such layer'}: '{name}'"
    raise UsageError(what, where="--layer", remedy=f"did you mean {' or '.join(close)}?")


def _by_name(layers: Sequence[Layer], name: str) -> list[Layer]:
    """The layers that `name` stands for, by their op or their output, whole or as printed."""
    from qfrewrite.ir.names import closest

    for names in ([x.name for x in layers], [x.output for x in layers]):
        if meant := closest(name, names):
            return [x for x, own in zip(layers, names, strict=True) if own in meant]
    return []


def _chosen(layers: Sequence[Layer], call: Call) -> list[Layer]:
    """The layers to show, in the order to show them."""
    rows = _matching(layers, call["pattern"]) if call["pattern"] else list(layers)
    if call["flagged"]:
        rows = [row for row in rows if row.flags]
    key = call["sort"]
    if key != "order":

        def size(row: Layer) -> Any:
            value = getattr(row, key)
            return len(value) if isinstance(value, list) else value

        ranked = [row for row in rows if size(row) is not None]
        ranked.sort(key=size, reverse=key not in _ASCENDING)
        rows = ranked + [row for row in rows if size(row) is None]
    return rows[: call["top"]]


def _matching(layers: Sequence[Layer], pattern: str) -> list[Layer]:
    """The layers of this name; else those whose name or op matches, or holds the word."""
    from fnmatch import fnmatch

    if named := _by_name(layers, pattern):
        return named
    if any(c in pattern for c in "*?["):
        ways = (pattern, f"*/{pattern}")
        return [x for x in layers if any(fnmatch(n, w) for n in (x.name, x.op) for w in ways)]
    word = pattern.lower()
    return [x for x in layers if word in x.name.lower() or word in x.op.lower()]


def _summary(inspection: qf.Inspection, shown: Sequence[Layer]) -> None:
    from qfrewrite.ir.names import shorten

    whole = [layer.name for layer in inspection.layers]
    click.echo(
        f"{len(whole)} layers, {t.count(sum(x.parameters for x in inspection.layers))} parameters, "
        f"{t.count(sum(x.macs for x in inspection.layers))} MACs"
    )
    for layer, name in zip(shown, shorten([x.name for x in shown], whole), strict=True):
        for flag in layer.flags:
            click.echo(f"  {click.style(name, fg='yellow')}: {t.flag(flag)}")
    for remedy, helped in inspection.advice().items():
        names = shorten(helped, whole)
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        click.echo(f"{click.style(remedy, bold=True)} helps {', '.join(names[:2])}{more}")
