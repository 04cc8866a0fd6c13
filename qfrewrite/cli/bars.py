"""One layer in the terminal: figures, its histogram and its channels as bars."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from qfrewrite.cli import tables as t
from qfrewrite.cli.render import open_console
from qfrewrite.records import json_value

if TYPE_CHECKING:
    from qfrewrite.analyze.layer import Layer
    from qfrewrite.calibration.observers import TensorStats
    from qfrewrite.ir import Array

_BINS = 24
_CHANNELS = 64
_EIGHTHS = " ▏▎▍▌▋▊▉█"
# What stands before a bar.
_LABELS = 34


def print_layer(layer: Layer, how: str) -> None:
    """All that is known of one layer."""
    stats = layer.stats
    if how == "json":
        click.echo(json.dumps(layer.to_dict() | json_value(_details(layer)), indent=1))
        return
    width = max(open_console().width - _LABELS, 10)
    click.echo(f"{click.style(layer.name, bold=True)}  {layer.op}")
    for label, text in _figures(layer):
        click.echo(f"  {label:<12} {text}")
    for flag in layer.flags:
        click.echo(f"  {click.style(t.flag(flag), fg='yellow')}")
    if stats is not None and stats.histogram is not None and not stats.histogram.empty:
        _print_histogram(layer, stats, width)
        if stats.channel_low is not None and stats.channel_high is not None:
            reach = np.maximum(np.abs(stats.channel_low), np.abs(stats.channel_high))
            reach = np.where(np.isfinite(reach), reach, 0)
            _print_channels("largest value per channel", reach, width)
    if layer.channel_weights is not None:
        _print_channels("largest weight per channel", layer.channel_weights, width, layer.dead)


def _details(layer: Layer) -> dict[str, Any]:
    """What JSON adds for one layer: the histogram and the channels."""
    details: dict[str, Any] = {"channel_weights": layer.channel_weights}
    if (stats := layer.stats) is not None:
        details |= {"channel_low": stats.channel_low, "channel_high": stats.channel_high}
        if (h := stats.histogram) is not None:
            details["histogram"] = {"width": h.width, "first": h.first, "counts": h.counts}
    return {name: value for name, value in details.items() if value is not None}


def _figures(layer: Layer) -> Iterator[tuple[str, str]]:
    yield "output", f"{layer.output}  {t.shape(layer.shape)}"
    yield "cost", f"{t.count(layer.parameters)} parameters, {t.count(layer.macs)} MACs"
    if layer.weights is not None:
        ratio = layer.channel_ratio
        differ = "" if ratio is None else f", channels differ {ratio:.4g}x"
        yield "weights", t.pair(layer.weights) + differ
    if layer.gain_max is not None and layer.gain_median is not None:
        yield "BatchNorm", f"gain up to {layer.gain_max:.4g}, median {layer.gain_median:.4g}"
    if layer.observed is not None:
        mean, std = (None, None) if layer.stats is None else (layer.stats.mean, layer.stats.std)
        spread = "" if mean is None or std is None else f", mean {mean:.4g}, std {std:.4g}"
        yield "observed", t.pair(layer.observed) + spread
    if layer.range is not None and layer.scale is not None:
        how = layer.row.method if layer.row is not None else "in the file"
        grid = f"scale {layer.scale:.6g}, zero point {layer.zero_point}"
        yield "range", f"{t.pair(layer.range)} ({how}), {grid}"
    if layer.clipped is not None and layer.sparsity is not None:
        yield "values", f"{t.percent(layer.clipped)} clipped, {t.percent(layer.sparsity)} zero"
    losses = layer.row.losses if layer.row is not None else None
    if losses is not None and layer.sqnr_db is not None:
        quantization, saturation = f"{losses.quantization:.3g}", f"{losses.saturation:.3g}"
        yield (
            "int8",
            f"SQNR {t.decibel(layer.sqnr_db)} dB; quantization loss {quantization}, saturation "
            f"loss {saturation}",
        )


def _print_histogram(layer: Layer, stats: TensorStats, width: int) -> None:
    """Shares of values, on a scale that shows tails: longest bar = the fullest bin."""
    values = stats.distribution
    assert values is not None
    edges = np.linspace(values.low, values.high, _BINS + 1)
    where = np.append(values.center, 0.0)
    count = np.append(values.count, float(values.zeros))
    shares = np.histogram(where, edges, weights=count)[0] / max(values.total, 1.0)
    click.echo("\n  values (bars in powers of ten, | = outside the range)")
    # From one in ten million up to all: seven decades.
    lengths = np.clip(np.log10(np.maximum(shares, 1e-7)) + 7, 0, 7) / 7 * width
    low, high = layer.range or (-np.inf, np.inf)
    for start, end, share, length in zip(edges, edges[1:], shares, lengths, strict=False):
        mark = " " if end > low and start < high else "|"
        percent = f"{100 * share:7.3f} %" if share else ""
        click.echo(f"  {start:>11.4g} {percent:>9} {mark}{_bar(length)}")


def _print_channels(title: str, values: Array, width: int, dead: Iterable[int] = ()) -> None:
    gone, largest = set(dead), float(values.max(initial=0.0))
    order = np.argsort(-values, kind="stable").tolist()
    if values.size > _CHANNELS:
        order = order[:16] + order[-16:]
        title += f" (the 16 largest and smallest of {values.size})"
    click.echo(f"\n  {title}")
    for k in order:
        length = float(values[k]) / largest * width if largest > 0 else 0.0
        note = " dead" if k in gone else ""
        click.echo(f"  {k:>5} {values[k]:>11.4g}{note:<5} {_bar(length)}")


def _bar(length: float) -> str:
    whole = int(length)
    return "█" * whole + _EIGHTHS[int((length - whole) * 8)].strip()
