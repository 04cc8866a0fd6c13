"""Ranges of fake quantized weights, kept on the constant so that rewrites see the weights.

A model trained with quantization in mind has FAKE_QUANT between a constant and the op that reads
it. Folding, merging and matching want the constant itself; the range goes along with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qfrewrite.ir import Array, Graph, Op, Tensor, TrainedRange, constant
from qfrewrite.ops import spec_of
from qfrewrite.ops.spec import attr
from qfrewrite.rewrite.rewriter import Rewriter


def note_weight_ranges(rw: Rewriter) -> None:
    """Given  conv(x, FAKE_QUANT(w));  Result  conv(x, w) with the range on w."""
    graph = rw.graph
    for op in graph.ops_of("FAKE_QUANT"):
        source, readers = op.operand(0), op.output.users
        weights = all(_is_weight(r.op, r.slot) for r in readers) and bool(readers)
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
        attrs = {
            "min": _plain(trained.low),
            "max": _plain(trained.high),
            "axis": trained.axis,
            "num_bits": trained.num_bits,
            "narrow_range": trained.narrow_range,
        }
        op = Op("FAKE_QUANT", [tensor], [out], attrs, name=trained.name, meta=trained.meta)
        graph.add_op(op, anchor=users[0].op)
        graph.replace_uses(tensor, out, skip=(op,))


def trained_range(op: Op) -> TrainedRange:
    """What a FAKE_QUANT says of the constant that it reads."""
    low, high = np.asarray(attr(op, "min")), np.asarray(attr(op, "max"))
    axis, bits, narrow = (attr(op, k) for k in ("axis", "num_bits", "narrow_range"))
    return TrainedRange(low, high, axis, bits, narrow, op.name, op.meta)


def _plain(values: Array) -> Any:
    return values.item() if values.ndim == 0 else values


def _is_weight(op: Op, slot: int) -> bool:
    spec = spec_of(op)
    port = spec.input_port(slot) if spec is not None else None
    return port is not None and port.role == "weight"
