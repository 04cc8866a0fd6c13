"""Ranges of fake quantized weights, kept on the constant so that rewrites see the weights.

A model trained with quantization in mind has FAKE_QUANT between a constant and the op that reads
it. Folding, merging and matching want the constant itself; the range goes along with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qfrewrite.ir import Array, Graph, Op, Tensor, TrainedRange, constant
from qfrewrite.ops.spec import attr, facets
from qfrewrite.rewrite.rewriter import Rewriter

# The attributes of FAKE_QUANT that a TrainedRange has under the same names, in their order.
_ATTRS = ("axis", "num_bits", "narrow_range")


def note_weight_ranges(rw: Rewriter) -> None:
    """Given  conv(x, FAKE_QUANT(w));  Result  conv(x, w) with the range on w."""
    graph = rw.graph
    for op in graph.ops_of("FAKE_QUANT"):
        source = op.operand(0)
        weights = {facets(user.op).role(user.slot) for user in op.output.users} == {"weight"}
        if source.data is None or not weights or op.output.is_output:
            continue
        noted = source
        if len(source.users) > 1 or source.is_output:
            noted = graph.add_tensor(constant(graph.unique_name(source.name), source.data))
        graph.set_trained(noted, trained_range(op))
        graph.replace_uses(op.output, noted)
        graph.remove_op(op)
        rw.edit("noted", op, f"the range of '{noted.name}'")


def restore_weight_ranges(graph: Graph) -> None:
    """Put FAKE_QUANT back behind every constant that carries a range."""
    for tensor in graph.tensors:
        trained, users = tensor.trained, tensor.users
        if trained is None or not users:
            continue
        graph.set_trained(tensor, None)
        out = Tensor(graph.unique_name(f"{tensor.name}/fake_quant"), tensor.shape)
        attrs: dict[str, Any] = {key: getattr(trained, key) for key in _ATTRS}
        attrs |= {"min": _plain(trained.low), "max": _plain(trained.high)}
        op = Op("FAKE_QUANT", [tensor], [out], attrs, name=trained.name, meta=trained.meta)
        graph.add_op(op, anchor=users[0].op)
        graph.replace_uses(tensor, out, skip=(op,))


def trained_range(op: Op) -> TrainedRange:
    """What a FAKE_QUANT says of the constant that it reads."""
    low, high = np.asarray(attr(op, "min")), np.asarray(attr(op, "max"))
    axis, bits, narrow = (attr(op, key) for key in _ATTRS)
    return TrainedRange(low, high, axis, bits, narrow, op.name, op.meta)


def _plain(values: Array) -> Any:
    return values.item() if values.ndim == 0 else values
