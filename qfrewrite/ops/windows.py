"""Arithmetic of sliding windows: output sizes, SAME padding, patches."""

from __future__ import annotations

import numpy as np

from qfrewrite.ir import Array

STRIDES = {"stride_h": 1, "stride_w": 1, "fused_activation_function": "NONE"}
"""Attributes of all window ops, with their defaults."""


def output_size(size: int, window: int, stride: int, dilation: int, padding: str) -> int:
    """Output length of a window op along one axis (TensorFlow's SAME and VALID)."""
    extent = (window - 1) * dilation + 1
    if padding == "SAME":
        return -(-size // stride)
    return max(-(-(size - extent + 1) // stride), 0)


def same_padding(size: int, window: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Zeros before and after one axis under SAME padding; the odd one goes after."""
    extent = (window - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2


def patches(
    x: Array,
    window: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: str,
    fill: float = 0.0,
) -> Array:
    """Windows of x [N, H, W, C] as a view [N, OH, OW, C, KH, KW]; padded with `fill`."""
    if padding == "SAME":
        pads = [same_padding(x.shape[i + 1], window[i], stride[i], dilation[i]) for i in range(2)]
        x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    extent = tuple((w - 1) * d + 1 for w, d in zip(window, dilation, strict=True))
    views = np.lib.stride_tricks.sliding_window_view(x, extent, axis=(1, 2))
    return views[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]
