"""Channels whose output never changes: their constant moves into the next layer's bias.

The root cause of the collapse of per-tensor int8 MobileNets (Sheng et al. 2018,
arXiv:1803.08607, section 3): where a channel's variance is about 0, BatchNorm's gain
gamma / sqrt(variance + epsilon) explodes, and folding it blows up weights that do nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from qfrewrite.ir import Op
from qfrewrite.ir.dtypes import Float64
from qfrewrite.ops.spec import attr, computed, facets
from qfrewrite.rewrite.fold import bn_parameters
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.rewrite.match import NoMatch, followed
from qfrewrite.rewrite.rewriter import Rewriter

# A BatchNorm variance below this is that of a channel that never changed in training.
DEAD_VARIANCE = 1e-6
# A channel is constant when what is left of it lies far below the finest int8 step.
_LEAST_STD = 1e-3


@dataclass(frozen=True)
class DeadChannels:
    """Channels of a linear op that are constant."""

    dead: npt.NDArray[np.bool_]
    """Which are, [O]."""
    value: Float64
    """At what value, [O]."""


def dead_by_batch_norm(bn: Op, tol: float = DEAD_VARIANCE) -> DeadChannels | NoMatch:
    """Channels whose BATCH_NORM saw a variance below `tol`: their output is beta.

    The normalized output's own deviation |gamma| sqrt(variance / (variance + epsilon)) must be
    small too: with a tiny epsilon even a tiny variance is normalized to one.
    """
    gamma, beta, _, variance = bn_parameters(bn)
    if variance is None:
        return NoMatch("has no variance", at=bn.name)
    std = np.sqrt(variance / (variance + attr(bn, "epsilon")))
    std = std if gamma is None else np.abs(gamma) * std
    value = np.zeros(variance.size) if beta is None else beta
    return DeadChannels((variance < tol) & (std < _LEAST_STD), value)


def dead_by_weights(view: LinearView) -> DeadChannels:
    """Channels whose weights are all zero: their output is the bias."""
    w = view.by_output.reshape(view.outputs, -1)
    dead: npt.NDArray[np.bool_] = np.logical_not(w.any(axis=1))
    return DeadChannels(dead, view.bias)


def settle_values(view: LinearView, channels: DeadChannels) -> DeadChannels:
    """The constants of dead channels after BatchNorm was folded into the linear op.

    BatchNorm says beta, which holds if its mean is the channel's constant input. Where the folded
    weights are next to nothing the output is the bias, whatever a lagging moving mean says.
    """
    w = np.abs(view.by_output.astype(np.float64)).reshape(view.outputs, -1)
    small = w.sum(1) < _LEAST_STD**2
    return DeadChannels(channels.dead, np.where(small, view.bias, channels.value))


def absorb(rw: Rewriter, view: LinearView, channels: DeadChannels) -> int | NoMatch:
    """Move the constants of dead channels of a linear op into the next layer's bias.

    Their weights and bias become zero, and so do the weights that read them. Returns how many
    channels were absorbed; exact, since the next layer reads them unpadded (or they are 0).
    """
    if not channels.dead.any():
        return 0
    target = next_linear(view.op)
    if isinstance(target, NoMatch):
        return target
    user, through = target
    dead = channels.dead
    constant = np.where(dead, channels.value, 0.0)
    for activation in through:
        constant = computed(activation, [constant])[0]
    constant = np.where(dead, constant, 0.0)
    # A constant inside is no constant at a padded border, unless it is 0.
    if constant.any() and user.pads:
        return NoMatch("pads what it reads", at=user.op.name)
    done = int((dead & _still_there(view, user)).sum())
    if done:
        rw.set_linear(_without(view, dead))
        for tensor in (activation.output for activation in through):
            rw.graph.set_channels(tensor, tensor.channels.scaled(np.where(dead, 0.0, 1.0)))
        rw.set_linear(_not_reading(user, dead).corrected(user.response(constant)))
    return done


def next_linear(op: Op) -> tuple[LinearView, list[Op]] | NoMatch:
    """The linear op that alone reads `op`, and the activations on the way."""
    through, user = followed(op.output, lambda op: facets(op).activation)
    if isinstance(user, NoMatch):
        return user
    read = through[-1].output if through else op.output
    if not facets(user).gathers:
        return NoMatch(f"is read by {user.kind}", at=read.name)
    view = LinearView.of(user)
    if isinstance(view, LinearView) and not view.reads_every_channel:
        return NoMatch("is read by a grouped or flattening op", at=read.name)
    return view if isinstance(view, NoMatch) else (view, through)


def _still_there(view: LinearView, user: LinearView) -> npt.NDArray[np.bool_]:
    """Which output channels have weights, a bias or weights that read them, [O]."""
    weights = view.by_output.reshape(view.outputs, -1).any(1)
    read = user.weights
    users = read.reshape(-1, read.shape[-1]).any(0).reshape(weights.size, -1).any(1)
    there: npt.NDArray[np.bool_] = np.logical_or.reduce([weights, view.bias != 0, users])
    return there


def _without(view: LinearView, dead: npt.NDArray[np.bool_]) -> LinearView:
    """The op with the weights and the bias of dead output channels zero."""
    weights = np.where(view.along_outputs(~dead), view.weights, 0)
    zeroed = view.with_weights(weights, np.where(dead, 0.0, view.bias))
    return replace(zeroed, channels=view.channels.scaled(np.where(dead, 0.0, 1.0)))


def _not_reading(view: LinearView, dead: npt.NDArray[np.bool_]) -> LinearView:
    """The op with the weights that read dead input channels zero."""
    return view.with_weights(np.where(view.along_inputs(dead), 0, view.weights))
