"""Look-ups that explain themselves: a match, or the reason there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import numpy as np

from qfrewrite.ir import Array, Op, Tensor
from qfrewrite.ops.spec import kinds_that

T = TypeVar("T")
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
    users = tensor.users
    if len(users) == 1:
        return users[0].op
    return NoMatch(f"has {len(users)} users, needs 1", at=tensor.name)


def followed(tensor: Tensor, passes: Callable[[Op], bool]) -> tuple[list[Op], Op | NoMatch]:
    """The ops behind `tensor`, each the sole user of the one before, as far as `passes` holds.

    Also the op behind them for which it does not hold, or why there is none.
    """
    ops: list[Op] = []
    while isinstance(user := sole_user(tensor), Op) and passes(user):
        ops.append(user)
        tensor = user.output
    return ops, user


def all_of(values: Iterable[T | NoMatch]) -> list[T] | NoMatch:
    """All of these, or the first reason why one of them is not there."""
    found: list[T] = []
    for value in values:
        if isinstance(value, NoMatch):
            return value
        found.append(value)
    return found


def per_channel(tensor: Tensor, channels: int) -> Array | NoMatch:
    """A constant as one value per channel, [C], or why it is no such thing.

    Takes scalars, and shapes that broadcast along the last axis only.
    """
    if tensor.data is not None and tensor.dtype == "float32":
        flat = tensor.data.reshape(-1)
        if flat.size == 1 or (flat.size == channels and tensor.shape[-1] == channels):
            return np.broadcast_to(flat, (channels,))
    return NoMatch(f"is {list(tensor.shape)}, needs a value per channel", at=tensor.name)
