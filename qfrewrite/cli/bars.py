"""One layer in the terminal: figures, its histogram and its channels as bars."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
import numpy as np
from rich.console import Console
from rich.markup import escape

from qfrewrite.cli import tables as t
from qfrewrite.cli.render import open_console

if TYPE_CHECKING:
    from qfrewrite.analyze.layer import Layer
    from qfrewrite.calibration.observers import TensorStats
    from qfrewrite.ir import Array

_BINS = 24
_CHANNELS = 64
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def print_layer(layer: Layer, how: str) -> None:
    """All that is known of one layer."""
    if how == "json":
        click.echo(json.dumps({**layer.record(), **_details(layer)}, indent=1))
        return
    console = open_console()
    console.print(f"[bold]{escape(layer.name)}[/bold]  {escape(layer.op)}", soft_wrap=True)
    for label, text in _figures(layer):
        console.print(f"  {label:<12} {escape(text)}", soft_wrap=True)
    for flag in layer.flags:
        console.print(
            f"  [yellow]{escape(flag.text)}[/yellow]"
            + (f"  -> {escape(flag.remedy)}" if flag.remedy else ""),
            soft_wrap=True,
        )
    stats = layer.row.stats if layer.row is not None else None
    if stats is not None and stats.histogram is not None and not stats.histogram.empty:
        _histogram(console, layer, stats)
        _channel_ranges(console, stats)
    if layer.channel_weights is not None:
        _bars(console, "largest weight per channel", layer.channel_weights, dead=layer.dead)


def _details(layer: Layer) -> dict[str, object]:
    """What JSON adds for one layer: the histogram and the channels."""
    found: dict[str, object] = {}
    if layer.channel_weights is not None:
        found["channel_weights"] = layer.channel_weights.tolist()
    stats = layer.row.stats if layer.row is not None else None
    if stats is not None and stats.channel_low is not None and stats.channel_high is not None:
        found["channel_low"] = stats.channel_low.tolist()
        found["channel_high"] = stats.channel_high.tolist()
    if stats is not None and stats.histogram is not None:
        h = stats.histogram
        found["histogram"] = {"width": h.width, "first": h.first, "counts": h.counts.tolist()}
    return found


def _figures(layer: Layer) -> Iterable[tuple[str, str]]:
    yield "output", f"{layer.output}  {t.shape(layer.shape)}"
    yield "cost", f"{t.count(layer.parameters)} parameters, {t.count(layer.macs)} MACs"
    if layer.weights is not None:
        ratio = (
            "" if layer.channel_ratio is None else f", channels differ {layer.channel_ratio:.4g}x"
        )
        yield "weights", t.pair(layer.weights) + ratio
    if layer.gain_max is not None and layer.gain_median is not None:
        yield "BatchNorm", f"gain up to {layer.gain_max:.4g}, median {layer.gain_median:.4g}"
    if layer.observed is not None:
        stats = layer.row.stats if layer.row is not None else None
        mean, std = (stats.mean, stats.std) if stats is not None else (None, None)
        spread = f", mean {mean:.4g}, std {std:.4g}" if mean is not None and std is not None else ""
        yield "observed", t.pair(layer.observed) + spread
    if layer.range is not None and layer.scale is not None:
        how = layer.row.method if layer.row is not None else "in the file"
        yield (
            "range",
            (
                f"{t.pair(layer.range)} ({how}), scale {layer.scale:.6g}, "
                f"zero point {layer.zero_point}"
            ),
        )
    if layer.clipped is not None and layer.sparsity is not None:
        yield "values", f"{t.percent(layer.clipped)} clipped, {t.percent(layer.sparsity)} zero"
    losses = layer.row.losses if layer.row is not None else None
    if losses is not None and layer.sqnr_db is not None:
        yield (
            "int8",
            (
                f"SQNR {t.decibel(layer.sqnr_db)} dB; quantization loss "
                f"{losses.quantization:.3g}, saturation loss {losses.saturation:.3g}"
            ),
        )


def _histogram(console: Console, layer: Layer, stats: TensorStats) -> None:
    """Shares of values, on a scale that shows tails: longest bar = the fullest bin."""
    values = stats.distribution
    assert values is not None
    edges = np.linspace(values.low, values.high, _BINS + 1)
    where = np.append(values.center, 0.0)
    count = np.append(values.count, float(values.zeros))
    shares = np.histogram(where, edges, weights=count)[0] / max(values.total, 1.0)
    console.print("\n  values (bars in powers of ten, | = outside the range)")
    width = max(console.width - 34, 10)
    # From one in ten million up to all: seven decades.
    length = np.clip(np.log10(np.maximum(shares, 1e-7)) + 7, 0, 7) / 7 * width
    for k in range(_BINS):
        out = layer.range is not None and not (
            edges[k + 1] > layer.range[0] and edges[k] < layer.range[1]
        )
        mark = "|" if out else " "
        share = f"{100 * shares[k]:7.3f} %" if shares[k] else ""
        console.print(f"  {edges[k]:>11.4g} {share:>9} {mark}{_bar(length[k])}", soft_wrap=True)


def _channel_ranges(console: Console, stats: TensorStats) -> None:
    if stats.channel_low is None or stats.channel_high is None:
        return
    reach = np.maximum(np.abs(stats.channel_low), np.abs(stats.channel_high))
    _bars(console, "largest value per channel", np.where(np.isfinite(reach), reach, 0))


def _bars(console: Console, title: str, values: Array, dead: Iterable[int] = ()) -> None:
    gone, largest = set(dead), float(values.max(initial=0.0))
    order = np.argsort(-values, kind="stable")
    shown = order if values.size <= _CHANNELS else np.r_[order[:16], order[-16:]]
    console.print(
        f"\n  {title}"
        + (f" (the 16 largest and smallest of {values.size})" if shown.size < values.size else "")
    )
    width = max(console.width - 34, 10)
    for k in shown:
        length = values[k] / largest * width if largest > 0 else 0.0
        note = " dead" if int(k) in gone else ""
        console.print(
            f"  {int(k):>5} {values[k]:>11.4g}{note:<5} {_bar(float(length))}", soft_wrap=True
        )


def _bar(length: float) -> str:
    whole = int(length)
    return "█" * whole + _EIGHTHS[int((length - whole) * 8)].strip()
