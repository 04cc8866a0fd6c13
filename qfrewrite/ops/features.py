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
    return lambda op: (
        len({op.operand(i).shape for i in (0, 1)}) > 1
        and rank < max(len(op.operand(i).shape) for i in (0, 1))
    )


def is_set(name: str) -> Feature:
    """Whether an attribute is set."""
    return lambda op: bool(attr(op, name))


def reads(slot: int, *dtypes: str) -> Feature:
    """Whether the operand in `slot` has one of these element types."""
    return lambda op: getattr(op.input(slot), "dtype", None) in dtypes


def has(slot: int) -> Feature:
    """Whether `slot` is filled."""
    return lambda op: op.input(slot) is not None


def lacks(slot: int) -> Feature:
    """Whether `slot` is left out altogether."""
    return lambda op: len(op.inputs) <= slot


def is_hybrid(op: Op) -> bool:
    """Whether a float op reads int8 weights."""
    types = [t and t.dtype for t in (op.input(0), op.input(1))]
    return types == ["float32", "int8"]


def hybrid_per_channel(op: Op) -> bool:
    """Whether a float op reads int8 weights with a scale per channel."""
    return is_hybrid(op) and per_channel(op.input(1))


def per_channel(tensor: Tensor | None) -> bool:
    """Whether a tensor has a scale per channel."""
    return tensor is not None and tensor.quant is not None and tensor.quant.per_channel


def makes(*dtypes: str) -> Feature:
    """Whether the result has one of these element types."""
    return lambda op: op.output.dtype in dtypes


def grouped(op: Op) -> bool:
    """Whether a convolution splits its input channels into groups."""
    x, w = op.operand(0), op.operand(1)
    return len(x.shape) == len(w.shape) == 4 and 0 < w.shape[3] < x.shape[3]


def activates(op: Op) -> bool:
    """Whether the op applies an activation to its result (a fused one)."""
    return op.output.fused or attr(op, "fused_activation_function") != "NONE"


def dilated(op: Op) -> bool:
    """Whether the taps of a convolution lie apart."""
    return (attr(op, "dilation_h_factor"), attr(op, "dilation_w_factor")) != (1, 1)


def multiplies_up(op: Op) -> bool:
    """Whether a product is rescaled by 1 or more."""
    quants = [getattr(t, "quant", None) for t in (op.input(0), op.input(1), op.output)]
    if any(quant is None for quant in quants):
        return False
    a, b, y = (np.float32(quant.scale[0]) for quant in quants if quant is not None)
    return bool(y > 0 and a * b / y >= 1)
