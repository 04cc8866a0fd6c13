"""What endangers a layer in int8, and the pass or option that helps."""

from __future__ import annotations

from functools import partial

from qfrewrite.analyze.layer import Layer
from qfrewrite.errors import Diagnostics

# BatchNorm's largest gain over its median: the papers' outliers reach hundreds.
_GAIN_RATIO = 10.0
# Beyond this a per-tensor scale leaves the smallest channel fewer than 4 of 127 steps.
_CHANNEL_RATIO = 32.0
# What int8 leaves of a well spread value is above 30 dB.
_POOR_SQNR = 20.0
_MUCH_CLIPPED = 0.01
_LISTED = 8


def find_flags(layer: Layer, *, stays_float: bool) -> Diagnostics:
    """A warning for each figure of the layer that endangers int8."""
    flags = Diagnostics()
    warn = partial(flags.warn, where=layer.name)
    # Weights of dead channels blow up in depthwise layers only, and BatchNorm tells which.
    rewritable = layer.op.startswith("DEPTHWISE") and layer.gain_max is not None
    rewrite = "remove_dw_bn" if rewritable else ""
    if count := len(layer.dead):
        listed = ", ".join(map(str, layer.dead[:_LISTED])) + (", ..." * (count > _LISTED))
        warn("dead", f"{count} dead channel{'s' * (count > 1)} ({listed})", remedy=rewrite)
    gain = layer.gain_max / layer.gain_median if layer.gain_max and layer.gain_median else 0.0
    if gain >= _GAIN_RATIO:
        text = f"BatchNorm gain up to {layer.gain_max:.3g}, {gain:.0f} times the median"
        warn("gain", text, remedy=rewrite)
    if layer.channel_ratio is not None and layer.channel_ratio >= _CHANNEL_RATIO:
        text = f"the largest channel's weights are {layer.channel_ratio:.3g} times the smallest's"
        warn("channels", text, remedy="--weights per-channel")
    if layer.sqnr_db is not None and layer.sqnr_db < _POOR_SQNR:
        text = f"values keep only {layer.sqnr_db:.1f} dB in 8 bits"
        warn("tail", text, remedy="calibrate(method=greedy)")
    if layer.clipped is not None and layer.clipped >= _MUCH_CLIPPED:
        text = f"{100 * layer.clipped:.1f} % of values lie outside the range"
        warn("clipped", text, remedy="calibrate")
    if layer.observed is not None and layer.observed[0] >= layer.observed[1]:
        warn("constant", f"is always {layer.observed[0]:.4g}")
    if stays_float:
        warn("float", "has no int8 kernel: stays float")
    return flags
