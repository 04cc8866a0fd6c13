"""Look-ups that explain themselves: a match, or the reason there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from qfrewrite.ir import Array, Op, Tensor
from qfrewrite.ops.spec import kinds_that

LINEAR = kinds_that(lambda op: op.linear)


@dataclass(frozen=True)
class NoMatch:
    """Why a pattern is not there.

    It has no truth value. A look-up gives a result or a NoMatch, a check gives a NoMatch or None,
    and `if found` would mean the opposite in the two. Use `isinstance` and `is not None`.
    """

    reason: str
    """What is missing."""
    at: str | None = None
    """The op or tensor where it is missing."""
    near: bool = True
    """Whether the ops are those that were looked for, and a condition fails: worth telling."""

    def __bool__(self) -> NoReturn:
        raise TypeError(f"NoMatch has no truth value ({self}): use isinstance or `is not None`")

    def __str__(self) -> str:
        return f"'{self.at}' {self.reason}" if self.at else self.reason


def sole_user(tensor: Tensor) -> Op | NoMatch:
    """The only op that reads `tensor`, or why there is none."""
    if tensor.is_output:
        return NoMatch("is a graph output", at=tensor.name)
    readers = tensor.users
    if len(readers) == 1:
        return readers[0].op
    return NoMatch(f"has {len(readers)} readers, needs 1", at=tensor.name)


def operand_orders(op: Op) -> list[tuple[Tensor, Tensor]]:
    """The operands of a binary op in both orders."""
    a, b = op.operand(0), op.operand(1)
    return [(a, b), (b, a)]


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
