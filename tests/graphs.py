"""Small graphs that several tests rewrite."""

from __future__ import annotations

import numpy as np

from qfrewrite.ir import Array, Graph, Tensor
from qfrewrite.ops.build import GraphBuilder


class Samples(list[dict[str, Array]]):
    """Samples for calibration."""

    description = "samples of a test"


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> Array:
    """Normal values that depend on the arguments alone, not on what ran before."""
    rng = np.random.default_rng((seed, *shape))
    return (rng.normal(size=shape) * scale).astype(np.float32)


def batch_norm(
    b: GraphBuilder, x: Tensor, name: str, variance: Array | None = None, beta: float = 0.5
) -> Tensor:
    channels = x.shape[-1]
    variance = np.linspace(0.5, 2, channels, dtype="f4") if variance is None else variance
    mean = np.where(variance < 1e-6, 0, normal(channels, seed=1)).astype("f4")
    values = {
        "gamma": normal(channels), "beta": np.full(channels, beta, "f4"), "mean": mean,
        "variance": variance,
    }  # fmt: skip
    consts = [b.const(f"{name}/{k}", v) for k, v in values.items()]
    return b.op("BATCH_NORM", x, *consts, name=name, attrs={"epsilon": 1e-3})


def separable(dead: tuple[int, ...] = (), *, next_size: int = 1, beta: float = 0.5) -> Graph:
    """depthwise, BatchNorm, ReLU6, convolution; channels in `dead` have no variance."""
    b = GraphBuilder("separable")
    x = b.input("x", (1, 6, 6, 4))
    w = normal(1, 3, 3, 4)
    variance = np.full(4, 1.0, "f4")
    for channel in dead:
        w[..., channel] = 1e-19
        variance[channel] = 1e-35
    y = b.op("DEPTHWISE_CONV_2D", x, b.const("dw/w", w), name="dw")
    y = b.op("RELU6", batch_norm(b, y, "bn", variance, beta), name="relu6")
    y = b.op("CONV_2D", y, b.const("pw/w", normal(3, next_size, next_size, 4)), name="pw")
    return b.finish(y)
