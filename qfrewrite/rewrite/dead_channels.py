"""Channels whose output never changes: their constant moves into the next layer's bias.

The root cause of the collapse of per-tensor int8 MobileNets (Sheng et al. 2018,
arXiv:1803.08607, section 3): where a channel's variance is about 0, BatchNorm's gain
gamma / sqrt(variance + epsilon) explodes, and folding it blows up weights that do nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qfrewrite.ir import Graph, Op, Tensor
from qfrewrite.ops.spec import attr, computed, facets
from qfrewrite.rewrite.fold import Float64, constant_response, pads, restate, set_weights
from qfrewrite.rewrite.match import (
    NoMatch,
    bias_of,
    channel_axis,
    float_weights,
    sole_reader,
    weights_of,
)
from qfrewrite.rewrite.rewriter import Rewriter

# A BatchNorm variance below this is that of a channel that never changed in training.
DEAD_VARIANCE = 1e-6
# A channel is constant when what is left of it lies far below the finest int8 step.
_LEAST_STD = 1e-3


@dataclass(frozen=True)
class DeadChannels:
    """Which channels of a linear op are constant, [O] bool, and at what value, [O]."""

    dead: npt.NDArray[np.bool_]
    value: Float64


def dead_by_statistics(
    variance: Float64, gamma: Float64, beta: Float64, epsilon: float, tol: float
) -> DeadChannels:
    """Channels whose BatchNorm saw a variance below `tol`: their output is beta.

    All [C]. The normalized output's own deviation |gamma| sqrt(variance / (variance + epsilon))
    must be small too: with a tiny epsilon even a tiny variance is normalized to one.
    """
    std = np.abs(gamma) * np.sqrt(variance / (variance + epsilon))
    return DeadChannels((variance < tol) & (std < _LEAST_STD), beta)


def dead_by_batch_norm(bn: Op, tol: float = DEAD_VARIANCE) -> DeadChannels | None:
    """Dead channels by the statistics in a BATCH_NORM op, or None where it has none."""
    variance, gamma, beta = bn.input(4), bn.input(1), bn.input(2)
    if variance is None:
        return None
    size = variance.size
    return dead_by_statistics(
        variance.value().astype(np.float64).reshape(-1),
        np.ones(size) if gamma is None else gamma.value().astype(np.float64).reshape(-1),
        np.zeros(size) if beta is None else beta.value().astype(np.float64).reshape(-1),
        attr(bn, "epsilon"),
        tol,
    )


def dead_by_weights(op: Op) -> DeadChannels:
    """Channels whose weights are all zero: their output is the bias."""
    w = np.moveaxis(weights_of(op), channel_axis(op), 0)
    dead: npt.NDArray[np.bool_] = np.logical_not(w.reshape(w.shape[0], -1).any(axis=1))
    return DeadChannels(dead, bias_of(op))


def settle_values(op: Op, channels: DeadChannels) -> DeadChannels:
    """The constants of dead channels after BatchNorm was folded into `op`.

    BatchNorm says beta, which holds if its mean is the channel's constant input. Where the folded
    weights are next to nothing the output is the bias, whatever a lagging moving mean says.
    """
    w = np.moveaxis(weights_of(op), channel_axis(op), 0).astype(np.float64)
    small = np.abs(w).reshape(w.shape[0], -1).sum(1) < _LEAST_STD**2
    return DeadChannels(channels.dead, np.where(small, bias_of(op), channels.value))


def absorb(rw: Rewriter, op: Op, channels: DeadChannels) -> int | NoMatch:
    """Move the constants of dead channels of the linear `op` into the next layer's bias.

    Their weights and bias become zero, and so do the weights that read them. Returns how many
    channels were absorbed; exact, since the next layer reads them unpadded (or they are 0).
    """
    if not channels.dead.any():
        return 0
    if (why := float_weights(op)) is not None:
        return why
    target = next_linear(rw.graph, op)
    if isinstance(target, NoMatch):
        return target
    reader, through = target
    dead = channels.dead
    constant = np.where(dead, channels.value, 0.0)
    for activation in through:
        constant = computed(activation, [constant])[0]
    constant = np.where(dead, constant, 0.0)
    # A constant inside is no constant at a padded border, unless it is 0.
    if constant.any() and pads(reader):
        return NoMatch("pads what it reads", at=reader.name)
    done = int((dead & _still_there(op, reader)).sum())
    if done:
        _zero(rw, op, dead)
        for tensor in (op.output, *(activation.output for activation in through)):
            restate(rw.graph, tensor, scale=np.where(dead, 0.0, 1.0))
        _absorb_into(rw, reader, dead, constant)
    return done


def next_linear(graph: Graph, op: Op) -> tuple[Op, list[Op]] | NoMatch:
    """The linear op that alone reads `op`, and the activations on the way."""
    through: list[Op] = []
    tensor: Tensor = op.output
    while True:
        reader = sole_reader(graph, tensor)
        if isinstance(reader, NoMatch):
            return reader
        if facets(reader).activation:
            through.append(reader)
            tensor = reader.output
            continue
        if not facets(reader).gathers:
            return NoMatch(f"is read by {reader.kind}", at=tensor.name)
        if (why := float_weights(reader)) is not None:
            return why
        inputs = weights_of(reader).shape[-1]
        if reader.kind != "DEPTHWISE_CONV_2D" and inputs != tensor.shape[-1]:
            return NoMatch("is read by a grouped or flattening op", at=tensor.name)
        return reader, through


def _still_there(op: Op, reader: Op) -> npt.NDArray[np.bool_]:
    """Which channels of `op` have weights, a bias or weights that read them, [O]."""
    own = np.moveaxis(weights_of(op), channel_axis(op), 0)
    weights = own.reshape(own.shape[0], -1).any(1)
    read = weights_of(reader)
    readers = read.reshape(-1, read.shape[-1]).any(0).reshape(weights.size, -1).any(1)
    there: npt.NDArray[np.bool_] = np.logical_or.reduce([weights, bias_of(op) != 0, readers])
    return there


def _zero(rw: Rewriter, op: Op, dead: npt.NDArray[np.bool_]) -> None:
    w = np.array(weights_of(op))
    np.moveaxis(w, channel_axis(op), 0)[dead] = 0
    set_weights(rw, op, w, np.where(dead, 0.0, bias_of(op)))


def _absorb_into(rw: Rewriter, reader: Op, dead: npt.NDArray[np.bool_], constant: Float64) -> None:
    w = np.array(weights_of(reader))
    extra = constant_response(reader, w, constant)
    if reader.kind == "DEPTHWISE_CONV_2D":
        dead = np.repeat(dead, w.shape[3] // dead.size)
    w[..., dead] = 0
    set_weights(rw, reader, w, bias_of(reader) + extra)
