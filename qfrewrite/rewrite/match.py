"""Look-ups that explain themselves: a match, or the reason there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from qfrewrite.ir import Array, Graph, Op, Tensor
from qfrewrite.ops import spec_of
from qfrewrite.ops.spec import kinds_that

LINEAR = kinds_that(lambda op: op.linear)


@dataclass(frozen=True)
class NoMatch:
    """Why a pattern is not there: the op or tensor `at`, and the reason.

    It has no truth value. A look-up gives a result or a NoMatch, a check gives a NoMatch or None,
    and `if found` would mean the opposite in the two. Use `isinstance` and `is not None`.
    """

    reason: str
    at: str | None = None

    def __bool__(self) -> NoReturn:
        raise TypeError(f"NoMatch has no truth value ({self}): use isinstance or `is not None`")

    def __str__(self) -> str:
        return f"'{self.at}' {self.reason}" if self.at else self.reason


def sole_reader(graph: Graph, tensor: Tensor) -> Op | NoMatch:
    """The only op that reads `tensor`, or why there is none."""
    if graph.is_output(tensor):
        return NoMatch("is a graph output", at=tensor.name)
    readers = graph.readers(tensor)
    if len(readers) == 1:
        return readers[0].op
    return NoMatch(f"has {len(readers)} readers, needs 1", at=tensor.name)


def linear_before(graph: Graph, tensor: Tensor) -> Op | NoMatch:
    """The linear op with constant float weights whose output only `tensor`'s reader takes."""
    op = graph.producer(tensor)
    if op is None:
        return NoMatch("is not computed by an op", at=tensor.name)
    if op.kind not in LINEAR:
        return NoMatch(f"comes from {op.kind}, needs a linear op", at=tensor.name)
    only = sole_reader(graph, tensor)
    if isinstance(only, NoMatch):
        return only
    why = float_weights(op)
    return op if why is None else why


def float_weights(op: Op) -> NoMatch | None:
    """Why the weights (and bias) of a linear op cannot be rewritten; None where they can."""
    for slot in (weight_slot(op), bias_slot(op)):
        tensor = op.input(slot)
        if tensor is None:
            continue
        if tensor.data is None:
            return NoMatch("is not a constant", at=tensor.name)
        if tensor.dtype != "float32":
            return NoMatch(f"is {tensor.dtype}, needs float32", at=tensor.name)
    return None


def operand_orders(op: Op) -> list[tuple[Tensor, Tensor]]:
    """The operands of a binary op in both orders."""
    a, b = op.operand(0), op.operand(1)
    return [(a, b), (b, a)]


def act_slot(op: Op) -> int:
    """The slot of a linear op's input."""
    return _slot(op, "act")


def weight_slot(op: Op) -> int:
    """The slot of a linear op's weights."""
    return _slot(op, "weight")


def bias_slot(op: Op) -> int:
    """The slot of a linear op's bias, filled or not."""
    return _slot(op, "bias")


def channel_axis(op: Op) -> int:
    """The axis of output channels in a linear op's weights."""
    spec = spec_of(op)
    assert spec is not None
    axis = spec.inputs[weight_slot(op)].axis
    assert axis is not None
    return axis


def weights_of(op: Op) -> Array:
    """The constant weights of a linear op."""
    return op.operand(weight_slot(op)).value()


def bias_of(op: Op) -> Array:
    """The bias of a linear op, float64 [O]; zeros where it has none."""
    tensor = op.input(bias_slot(op))
    if tensor is None:
        return np.zeros(weights_of(op).shape[channel_axis(op)])
    return tensor.value().astype(np.float64).reshape(-1)


def per_channel(tensor: Tensor | None, channels: int) -> Array | None:
    """A constant as one value per channel, [C]; None where it is no such thing.

    Takes scalars, and shapes that broadcast along the last axis only.
    """
    if tensor is None or tensor.data is None or tensor.dtype != "float32":
        return None
    flat = tensor.data.reshape(-1)
    if flat.size == 1:
        return np.broadcast_to(flat, (channels,))
    return flat if flat.size == channels and tensor.shape[-1] == channels else None


def _slot(op: Op, role: str) -> int:
    spec = spec_of(op)
    slot = spec.slot(role) if spec else None
    if slot is None:
        raise ValueError(f"op '{op.name}' ({op.kind}) has no {role} slot")
    return slot
