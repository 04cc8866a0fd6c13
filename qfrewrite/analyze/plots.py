"""Pictures of layers: how values lie in their range, and weights per channel around folding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qfrewrite.analyze.layer import Layer
from qfrewrite.analyze.sweep import SizePoint, SizeSweep
from qfrewrite.errors import OutputError, UsageError

_BLUE, _ORANGE, _GREY = "#2a6fbb", "#d9772b", "#8a8a8a"
_DOTS_PER_INCH = 120
# Circles around points, and a legend below the axes.
_RING = {"facecolors": "none", "edgecolors": _ORANGE, "linewidths": 1.5}
_BELOW: dict[str, Any] = {"fontsize": 8, "frameon": False, "loc": "outside lower center"}


def plot_layers(model: str, layers: Sequence[Layer], folder: str | Path) -> list[Path]:
    """Write a PNG per picture into `folder`, made where it is missing; returns their paths.

    For each layer with a histogram: its values and the chosen range. For each with weights: the
    largest magnitude per channel, before and after BatchNorm is folded (Sheng et al. 2018,
    arXiv:1803.08607, figure 1). Raises UsageError without matplotlib, OutputError.
    """
    plt = _matplotlib()
    folder = Path(folder)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, layer in enumerate(layers):
            name = f"{number:03d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', layer.name)[-80:]}"
            for kind, draw in (("values", _draw_values), ("weights", _draw_weights)):
                figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
                if draw(axes, layer):
                    axes.set_title(f"{layer.name}\n{layer.op}", fontsize=9, loc="left")
                    axes.spines[["top", "right"]].set_visible(False)
                    written.append(folder / f"{name}_{kind}.png")
                    figure.savefig(written[-1], dpi=_DOTS_PER_INCH, metadata={"Title": model})
                plt.close(figure)
    except OSError as error:
        raise OutputError(error.strerror or "cannot be written", where=str(folder)) from None
    if not written:
        what = "these layers have neither weights nor observed values to draw"
        remedy = "give --data or --ranges, or choose other layers"
        raise UsageError(what, where="--plot", remedy=remedy)
    return written


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError:
        what = "matplotlib is not installed"
        raise UsageError(what, where="--plot", remedy="pip install 'qfrewrite[plot]'") from None
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt


def _draw_values(axes: Any, layer: Layer) -> bool:
    values = None if layer.stats is None else layer.stats.distribution
    if values is None or not values.total or values.low == values.high:
        return False
    edges = np.linspace(values.low, values.high, 201)
    counts = np.histogram(values.center, edges, weights=values.count)[0]
    # Exact zeros would tower over everything: the text says how many there are.
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=_BLUE)
    axes.set_yscale("log")
    axes.set_xlabel("value (real units)")
    axes.set_ylabel("values per bin")
    if layer.range is not None:
        low, high = layer.range
        axes.axvspan(low, high, color=_ORANGE, alpha=0.12, lw=0)
        for end in (low, high):
            axes.axvline(end, color=_ORANGE, lw=1.5)
        clipped = f", {100 * layer.clipped:.2g} % clipped" if layer.clipped else ""
        zeros = f", {100 * layer.sparsity:.3g} % zeros not drawn" if layer.sparsity else ""
        axes.set_xlabel(f"value (real units); range {low:.4g}..{high:.4g}{clipped}{zeros}")
    return True


def _draw_weights(axes: Any, layer: Layer) -> bool:
    after, before = layer.channel_weights, layer.unfolded_weights
    if after is None:
        return False
    folded = before is not None and before.shape == after.shape and (before != after).any()
    channels, size = np.arange(after.size), 18 if after.size <= 64 else 8
    if folded:
        axes.scatter(channels, _visible(before), s=size, color=_GREY, label="before folding")
    label = "after folding" if folded else "weights"
    axes.scatter(channels, _visible(after), s=size, color=_BLUE, label=label)
    if layer.dead:
        dead = _visible(after)[layer.dead]
        axes.scatter(layer.dead, dead, s=3 * size, label="dead channels", **_RING)
    axes.set_yscale("log")
    largest = float(after.max(initial=0.0))
    if largest > 0:
        axes.axhline(largest / 127, color=_ORANGE, lw=1, ls="--", label="one int8 step, per tensor")
    axes.set(xlabel="output channel", ylabel="largest |weight|")
    # Below the axis: points may lie anywhere inside.
    axes.figure.legend(ncols=4, **_BELOW)
    return True


def _visible(magnitudes: Any) -> Any:
    """Magnitudes on a logarithmic axis: those next to nothing lie at its foot."""
    foot = max(float(magnitudes.max(initial=0.0)), 1e-30) * 1e-6
    return np.maximum(magnitudes, foot)


def plot_sizes(sweep: SizeSweep, path: Path) -> None:
    """Latency by input size, and accuracy where it is known; sizes without unaligned maps marked.

    Raises UsageError without matplotlib, OutputError.
    """
    plt = _matplotlib()
    timed = [p for p in sweep.sizes if p.ms is not None]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")

    def points(marked: list[SizePoint]) -> tuple[list[int], list[float | None]]:
        return [p.size for p in marked], [p.ms for p in marked]

    axes.plot(*points(timed), "o-", color=_BLUE, ms=4, label="int8 latency")
    aligned = points([p for p in timed if not p.unaligned])
    axes.scatter(*aligned, s=60, zorder=3, label="all maps multiples of 8", **_RING)
    axes.set_xlabel("input size")
    axes.set_ylabel("int8 latency, ms", color=_BLUE)
    axes.set_ylim(bottom=0)
    if scores := {p.size: 100 * p.top1 for p in timed if p.top1 is not None}:
        right = axes.twinx()
        right.plot(
            *zip(*scores.items(), strict=True), "s--", color=_GREY, ms=4, label="top-1, float"
        )
        right.set_ylabel("top-1, %", color=_GREY)
    figure.legend(ncols=3, **_BELOW)
    axes.set_title(sweep.model, fontsize=10)
    axes.spines[["top"]].set_visible(False)
    try:
        figure.savefig(path, dpi=_DOTS_PER_INCH, metadata={"Title": sweep.model})
    except (OSError, ValueError) as error:
        what = f"cannot be written: {error}"
        raise OutputError(what, where=str(path), remedy="give a name that ends in .png") from None
    finally:
        plt.close(figure)
