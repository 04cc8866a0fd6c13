"""Two linear layers that follow each other, and what lies between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qfrewrite.calibrate.statistics import propagate
from qfrewrite.ir import Op, Tensor
from qfrewrite.passes._context import PassRewriter
from qfrewrite.rewrite.match import LINEAR, NoMatch, float_weights, sole_reader, weights_of

Float64 = npt.NDArray[np.float64]

# Positive homogeneous: f(t x) = t f(x) for t > 0. ReLU6 only where it does not clip.
_HOMOGENEOUS = ("RELU", "LEAKY_RELU", "PRELU", "MAX_POOL_2D", "AVERAGE_POOL_2D", "PAD", "MEAN")
_SIGMAS = 6.0


@dataclass
class Pair:
    """Two linear layers, the tensor between them, and the largest value of its channels [C]."""

    first: Op
    second: Op
    activation: Tensor
    clips_at_6: bool
    most: Float64


def find_pair(rw: PassRewriter, op: Op) -> Pair | None:
    """The pair that `op` begins; says why where there is none."""
    if float_weights(op) is not None:
        return None
    tensor, clips, seen = op.output, False, op.output
    while True:
        reader = sole_reader(rw.graph, tensor)
        if isinstance(reader, NoMatch):
            rw.skip(op, reader)
            return None
        if reader.kind in LINEAR:
            break
        if reader.kind == "RELU6":
            clips = True
        elif reader.kind not in _HOMOGENEOUS or reader.output.shape[-1:] != op.output.shape[-1:]:
            rw.skip(op, f"is read by {reader.kind}")
            return None
        tensor = reader.output
        seen = tensor if reader.kind in ("RELU6", "RELU") else seen
    inputs = weights_of(reader).shape[-1] if float_weights(reader) is None else -1
    channels = op.output.shape[-1]
    fits = inputs % channels == 0 if reader.kind == "DEPTHWISE_CONV_2D" else inputs == channels
    if not fits or tensor.shape[-1] != channels:
        rw.skip(op, f"{reader.kind} '{reader.name}' reads its channels grouped or flattened")
        return None
    return Pair(op, reader, seen, clips, np.zeros(channels))


def look(rw: PassRewriter, pairs: list[Pair]) -> None:
    """The largest activation of each channel, from data or BatchNorm statistics."""
    if rw.main and rw.context.data is not None:
        for values in rw.observe([p.activation for p in pairs], "looking at activations"):
            for pair, value in zip(pairs, values, strict=True):
                flat = np.abs(value.reshape(-1, value.shape[-1]))
                pair.most = np.maximum(pair.most, flat.max(0))
    else:
        known = propagate(rw.graph)
        for pair in pairs:
            stats = known.get(pair.first.output)
            if stats is not None:
                pair.most = np.maximum(stats.mean + _SIGMAS * stats.std, 0.0)
            else:
                pair.most = np.full(pair.first.output.shape[-1], 6.0 if pair.clips_at_6 else 0.0)
