"""What endangers a layer in int8, and the pass or option that helps: rules as a table."""

from __future__ import annotations

from collections.abc import Callable

from qfrewrite.analyze.layer import Flag, Layer

# BatchNorm's largest gain over its median: the papers' outliers reach hundreds.
_GAIN_RATIO = 10.0
# Beyond this a per-tensor scale leaves the smallest channel fewer than 4 of 127 steps.
_CHANNEL_RATIO = 32.0
# What int8 leaves of a well spread value is above 30 dB.
_POOR_SQNR = 20.0
_MUCH_CLIPPED = 0.01
_LISTED = 8


def find_flags(layer: Layer, *, stays_float: bool) -> list[Flag]:
    """Every rule that the layer's figures meet."""
    flags = [flag for rule in _RULES if (flag := rule(layer)) is not None]
    if stays_float:
        flags.append(Flag("float", "has no int8 kernel: stays float"))
    return flags


def _dead(layer: Layer) -> Flag | None:
    if not layer.dead:
        return None
    listed = ", ".join(map(str, layer.dead[:_LISTED])) + (", ..." * (len(layer.dead) > _LISTED))
    many = "s" if len(layer.dead) > 1 else ""
    return Flag("dead", f"{len(layer.dead)} dead channel{many} ({listed})", _rewrite(layer))


def _gain(layer: Layer) -> Flag | None:
    if layer.gain_max is None or not layer.gain_median:
        return None
    ratio = layer.gain_max / layer.gain_median
    if ratio < _GAIN_RATIO:
        return None
    text = f"BatchNorm gain up to {layer.gain_max:.3g}, {ratio:.0f} times the median"
    return Flag("gain", text, _rewrite(layer))


def _rewrite(layer: Layer) -> str:
    """Weights of dead channels blow up in depthwise layers only, and BatchNorm tells which."""
    known = layer.op.startswith("DEPTHWISE") and layer.gain_max is not None
    return "remove_dw_bn" if known else ""


def _channels(layer: Layer) -> Flag | None:
    ratio = layer.channel_ratio
    if ratio is None or ratio < _CHANNEL_RATIO:
        return None
    text = f"the largest channel's weights are {ratio:.3g} times the smallest's"
    return Flag("channels", text, "--weights per-channel")


def _tail(layer: Layer) -> Flag | None:
    if layer.sqnr_db is None or layer.sqnr_db >= _POOR_SQNR:
        return None
    return Flag(
        "tail", f"values keep only {layer.sqnr_db:.1f} dB in 8 bits", "calibrate(method=greedy)"
    )


def _clipped(layer: Layer) -> Flag | None:
    if layer.clipped is None or layer.clipped < _MUCH_CLIPPED:
        return None
    return Flag(
        "clipped", f"{100 * layer.clipped:.1f} % of values lie outside the range", "calibrate"
    )


def _constant(layer: Layer) -> Flag | None:
    if layer.observed is None or layer.observed[0] < layer.observed[1]:
        return None
    return Flag("constant", f"is always {layer.observed[0]:.4g}")


_RULES: tuple[Callable[[Layer], Flag | None], ...] = (
    _dead,
    _gain,
    _channels,
    _tail,
    _clipped,
    _constant,
)
