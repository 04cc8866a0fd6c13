"""What asks for a later version of an op: conditions for `OpSpec.since`."""

from __future__ import annotations

import numpy as np

from qfrewrite.ir import Op, Tensor
from qfrewrite.ops.spec import Feature, attr


def rank_above(rank: int) -> Feature:
    """Whether the first operand has more axes than `rank`."""
    return lambda op: op.input(0) is not None and len(op.operand(0).shape) > rank


def rank_is_not(rank: int) -> Feature:
    """Whether the first operand has another number of axes than `rank`."""
    return lambda op: op.input(0) is not None and len(op.operand(0).shape) != rank


def broadcasts_above(rank: int) -> Feature:
    """Whether operands of different shape, one with more axes than `rank`, are combined."""

    def feature(op: Op) -> bool:
        a, b = op.operand(0).shape, op.operand(1).shape
        return a != b and max(len(a), len(b)) > rank

    return feature


def says(name: str) -> Feature:
    """Whether an attribute is set."""
    return lambda op: bool(attr(op, name))


def reads(slot: int, *dtypes: str) -> Feature:
    """Whether the operand in `slot` has one of these element types."""

    def feature(op: Op) -> bool:
        tensor = op.input(slot)
        return tensor is not None and tensor.dtype in dtypes

    return feature


def has(slot: int) -> Feature:
    """Whether `slot` is filled."""
    return lambda op: op.input(slot) is not None


def lacks(slot: int) -> Feature:
    """Whether `slot` is left out altogether."""
    return lambda op: len(op.inputs) <= slot


def hybrid(op: Op) -> bool:
    """Whether a float op reads int8 weights."""
    x, weights = op.input(0), op.input(1)
    if x is None or weights is None:
        return False
    return x.dtype == "float32" and weights.dtype == "int8"


def hybrid_per_channel(op: Op) -> bool:
    """Whether a float op reads int8 weights with a scale per channel."""
    return hybrid(op) and _per_channel(op.input(1))


def per_channel_operand(op: Op) -> bool:
    """Whether the operand has a scale per channel."""
    return _per_channel(op.input(0))


def per_channel_result(op: Op) -> bool:
    """Whether the result has a scale per channel."""
    return _per_channel(op.output)


def makes(*dtypes: str) -> Feature:
    """Whether the result has one of these element types."""
    return lambda op: op.output.dtype in dtypes


def grouped(op: Op) -> bool:
    """Whether a convolution splits its input channels into groups."""
    x, w = op.operand(0), op.operand(1)
    return len(x.shape) == len(w.shape) == 4 and 0 < w.shape[3] < x.shape[3]


def activates(op: Op) -> bool:
    """Whether the op applies an activation to its result (a fused one)."""
    fused = attr(op, "fused_activation_function") != "NONE"
    return fused or op.output.fused


def dilated(op: Op) -> bool:
    """Whether the taps of a convolution lie apart."""
    return (attr(op, "dilation_h_factor"), attr(op, "dilation_w_factor")) != (1, 1)


def multiplies_up(op: Op) -> bool:
    """Whether a product is rescaled by 1 or more."""
    quants = [t.quant if t is not None else None for t in (op.input(0), op.input(1), op.output)]
    if any(q is None for q in quants):
        return False
    a, b, y = (np.float32(q.scale[0]) for q in quants if q is not None)
    return bool(y > 0 and a * b / y >= 1)


def _per_channel(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.quant is not None and tensor.quant.per_channel
