"""Ops that compute nothing new: arithmetic with a neutral constant, and equal subexpressions."""

from __future__ import annotations

from collections.abc import Hashable
from math import inf
from typing import Any

import numpy as np

from qfrewrite.ir import Op, Tensor
from qfrewrite.ops import OPS
from qfrewrite.ops.spec import attr, clip_bounds, facets, kinds_that
from qfrewrite.rewrite.pattern import Pattern, Patterns
from qfrewrite.rewrite.rewriter import Rewriter


def _neutral() -> Pattern:
    """x * 1, x / 1, x + 0, x - 0 and their like, as the ops say."""
    p = Patterns()
    options = [
        p.op(spec.kind)(*(p.x if i != slot else p.const(value) for i in (0, 1)))
        for spec in OPS.values()
        for value, slots in (spec.neutral or (0.0, ()),)
        for slot in slots
    ]
    return p.any_of(*options)


_NEUTRAL = _neutral()


def drop_neutral(rw: Rewriter) -> None:
    """Given y = x * 1, x / 1, x + 0 or x - 0, the constant no larger than x;  Result y = x."""
    rw.rewrite_all(_NEUTRAL, lambda m: m.x, action="removed", tell=False)


def drop_idle_clips(rw: Rewriter) -> None:
    """Given y = RELU(x) (or another clip), x never beyond its bounds;  Result y = x.

    That is what its producer's kind says: another activation, or one before a MAX_POOL_2D or a
    change of shape.
    """
    for op in rw.graph.ops_of(*kinds_that(lambda op: op.clips)):
        low, high = clip_bounds(op)
        least, most = _bounds(op.operand(0))
        if low <= least and most <= high:
            rw.bypass(op, detail=f"{op.kind} of values within {low:g}..{high:g}")


def _bounds(tensor: Tensor) -> tuple[float, float]:
    """Ends of the values that the kind of the producer lets through."""
    producer = tensor.producer
    while producer is not None and facets(producer).selects:
        producer = producer.operand(0).producer
    return facets(producer).bounds or (-inf, inf)


def merge_equal(rw: Rewriter) -> None:
    """Given y = f(x), z = f(x), f the same with equal constants;  Result y, read for z as well.

    Only ops with a reference: those are functions of their operands alone. Two graph outputs stay
    two tensors, results with different ranges (FAKE_QUANT) stay apart, and so do layers that a
    BATCH_NORM of their own will be folded into.
    """
    graph = rw.graph
    first: dict[Hashable, list[Op]] = {}
    for op in graph.ops:
        computed = any(t is not None and not t.is_const for t in op.inputs)
        if facets(op).reference is None or not computed:
            continue
        # Ops come in order, so operands of equal subexpressions are merged already.
        earlier = first.setdefault((op.kind, *map(_operand, op.inputs)), [])
        other = next((one for one in earlier if _same(op, one) and _may_merge(op, one)), None)
        if other is None:
            earlier.append(op)
            continue
        for mine, theirs in zip(op.outputs, other.outputs, strict=True):
            graph.replace_uses(mine, theirs)
        graph.remove_op(op)
        rw.edit("merged", op, f"equal to '{other.name}'")


def _operand(tensor: Tensor | None) -> Hashable:
    """Equal for operands that may be the same: all but the values of constants."""
    known = tensor is not None and tensor.is_const
    return (tensor.dtype, tensor.shape) if tensor is not None and known else tensor


def _same(a: Op, b: Op) -> bool:
    """Whether ops of a kind, with equal operands up to the values of constants, are the same."""
    results = [[(t.dtype, t.shape) for t in op.outputs] for op in (a, b)]
    pairs = zip(a.inputs, b.inputs, strict=True)
    return (
        results[0] == results[1]
        and a.keep == b.keep
        and _attributes(a) == _attributes(b)
        and all(x is y or (x is not None and y is not None and _equal(x, y)) for x, y in pairs)
    )


def _attributes(op: Op) -> Hashable:
    names = {*op.attrs, *facets(op).attrs}
    return tuple((name, _frozen(attr(op, name))) for name in sorted(names))


def _frozen(value: Any) -> Hashable:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two constants hold the same bytes, with no range or scale of their own."""
    if any(t.quant or t.trained or t.sparsity or t.meta for t in (a, b)):
        return False
    return a.value().tobytes() == b.value().tobytes()


def _may_merge(op: Op, other: Op) -> bool:
    pairs = list(zip(op.outputs, other.outputs, strict=True))
    if any(mine.is_output and theirs.is_output for mine, theirs in pairs):
        return False
    users = (r.op for mine, theirs in pairs for t in (mine, theirs) for r in t.users)
    if facets(op).linear and any(user.kind == "BATCH_NORM" for user in users):
        return False
    return all(_ranges(mine) == _ranges(theirs) for mine, theirs in pairs)


def _ranges(tensor: Tensor) -> set[Hashable]:
    return {_attributes(r.op) for r in tensor.users if r.op.kind == "FAKE_QUANT"}
