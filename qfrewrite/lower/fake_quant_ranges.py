"""Ranges out of FAKE_QUANT ops: the only place where the int8 writer learns them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qfrewrite.errors import VerifyError
from qfrewrite.ir import Array, Graph, Op, Tensor, TrainedRange
from qfrewrite.lower.canonical import drop_identities
from qfrewrite.ops.quantization import fake_quant_grid, holding_zero, nudged
from qfrewrite.ops.spec import attr, clip_bounds, kinds_that
from qfrewrite.rewrite.rewriter import Rewriter
from qfrewrite.rewrite.weight_ranges import trained_range

Range = tuple[float, float]


@dataclass
class Ranges:
    """Ranges in real units: of activations, and of weights (per channel: arrays [C])."""

    activations: dict[Tensor, Range] = field(default_factory=dict)
    weights: dict[Tensor, tuple[Array, Array]] = field(default_factory=dict)


def take_ranges(graph: Graph) -> Ranges:
    """Remove every FAKE_QUANT from `graph` and return their ranges."""
    rw, found = Rewriter(graph), Ranges()
    for op in graph.ops_of("FAKE_QUANT"):
        source = op.operand(0)
        low, high = np.asarray(attr(op, "min")), np.asarray(attr(op, "max"))
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
            what = f"range {low.min()}..{high.max()} is not valid"
            remedy = "min and max must be finite numbers, min below max"
            raise VerifyError(what, where=f"op '{op.name}' (FAKE_QUANT)", remedy=remedy)
        if source.is_const:
            clipped = rw.set_constant(op, 0, _clipped(source.value(), trained_range(op)))
            found.weights[clipped] = holding_zero(low, high)
        else:
            ends = nudged(low, high, attr(op, "num_bits"), attr(op, "narrow_range"))
            found.activations[source] = _full_grid(op, float(ends[0].min()), float(ends[1].max()))
        rw.bypass(op)
    drop_identities(rw)
    for tensor in graph.tensors:
        trained = tensor.trained
        if trained is not None:
            found.weights[tensor] = holding_zero(trained.low, trained.high)
            graph.set_data(tensor, _clipped(tensor.value(), trained))
    _fill_activations(graph, found.activations)
    return found


def _clipped(data: Array, trained: TrainedRange) -> Array:
    """Constants as fake quantization bounds them.

    Quantized weights may reach beyond that range, as they lie symmetrically about 0.
    """
    low, high, _ = fake_quant_grid(
        trained.low, trained.high, trained.num_bits, trained.narrow_range
    )
    if trained.axis is not None:
        shape = [1] * data.ndim
        shape[trained.axis] = -1
        low, high = low.reshape(shape), high.reshape(shape)
    clipped: Array = np.clip(data, low, high).astype(data.dtype)
    return clipped


def _full_grid(op: Op, low: float, high: float) -> Range:
    """A range in 8 bits without the lowest code, as the range with it that has the same steps."""
    if not attr(op, "narrow_range") or attr(op, "num_bits") != 8:
        return low, high
    return low - (high - low) / 254, high


def _fill_activations(graph: Graph, ranges: dict[Tensor, Range]) -> None:
    """Where only the operand of an activation has a range, its result has one too."""
    for op in graph.ops_of(*kinds_that(lambda op: op.clips)):
        known = ranges.get(op.operand(0))
        if known is not None and op.output not in ranges:
            ranges[op.output] = clip_range(op, known)


def clip_range(op: Op, known: Range) -> Range:
    """The range of an activation's result."""
    low, high = clip_bounds(op)
    return min(max(known[0], low), high), max(min(known[1], high), low)
