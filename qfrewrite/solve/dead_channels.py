"""Dead channels, absorbed with a word in the report; shared by the passes that do it."""

from __future__ import annotations

from qfrewrite.ir import Op
from qfrewrite.rewrite.dead_channels import (
    DEAD_VARIANCE,
    DeadChannels,
    absorb,
    dead_by_batch_norm,
    settle_values,
)
from qfrewrite.rewrite.fold import fold_batch_norm
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.rewrite.match import NoMatch, sole_user
from qfrewrite.solve.context import PassRewriter


def fold_and_absorb(rw: PassRewriter, op: Op, tol: float = DEAD_VARIANCE) -> int:
    """Fold the BatchNorm behind the linear `op`; absorb, and count, what it shows dead."""
    user = sole_user(op.output)
    if not isinstance(user, Op) or user.kind != "BATCH_NORM":
        return 0
    if isinstance(LinearView.of(op), NoMatch):
        return 0
    channels = dead_by_batch_norm(user, tol)
    folded = fold_batch_norm(rw, user)
    if isinstance(folded, NoMatch):
        rw.skip(user, folded)
        return 0
    view = LinearView.of(op)
    if isinstance(channels, NoMatch) or isinstance(view, NoMatch):
        return 0
    return absorb_reported(rw, view, settle_values(view, channels), "by BatchNorm")


def absorb_reported(rw: PassRewriter, view: LinearView, channels: DeadChannels, how: str) -> int:
    """`absorb`, and what became of it in the log; returns how many channels went."""
    if not channels.dead.any():
        return 0
    done = absorb(rw, view, channels)
    if isinstance(done, NoMatch):
        rw.skip(view.op, f"{int(channels.dead.sum())} dead channels stay: {done}")
        return 0
    if done:
        rw.edit("absorbed", view.op, f"{done} dead channels ({how}) into the next bias")
    return done
