"""Ranges of fake quantized weights, kept on the constant so that rewrites see the weights.

A model trained with quantization in mind has FAKE_QUANT between a constant and the op that reads
it. Folding, merging and matching want the constant itself; the range goes along with it.
"""

from __future__ import annotations

from qfrewrite.ir import Graph, Op, Tensor, constant
from qfrewrite.ops import spec_of
from qfrewrite.rewrite.linear import KEY
from qfrewrite.rewrite.rewriter import Rewriter


def note_weight_ranges(rw: Rewriter) -> None:
    """Given  conv(x, FAKE_QUANT(w));  Result  conv(x, w) with the range in the meta of w."""
    graph = rw.graph
    for op in graph.ops_of("FAKE_QUANT"):
        source, readers = op.operand(0), op.output.users
        weights = all(_is_weight(r.op, r.slot) for r in readers) and bool(readers)
        if source.data is None or not weights or op.output.is_output:
            continue
        said = {**op.attrs, "name": op.name, "node": op.meta.get("node")}
        if len(source.users) == 1 and not source.is_output:
            graph.set_meta(source, {**source.meta, KEY: said})
            noted = source
        else:
            noted = graph.add_tensor(constant(graph.unique_name(source.name), source.data))
            graph.set_meta(noted, {KEY: said})
        graph.replace_uses(op.output, noted)
        graph.remove_op(op)
        rw.edit("noted", op, f"the range of '{noted.name}'")


def restore_weight_ranges(graph: Graph) -> None:
    """Put FAKE_QUANT back behind every constant that carries a range."""
    for tensor in graph.tensors:
        said = tensor.meta.get(KEY)
        readers = tensor.users
        if said is None or not readers:
            continue
        attrs = {k: v for k, v in said.items() if k not in ("name", "node")}
        graph.set_meta(tensor, {k: v for k, v in tensor.meta.items() if k != KEY})
        out = Tensor(graph.unique_name(f"{tensor.name}/fake_quant"), tensor.shape)
        meta = {"node": said["node"]} if said["node"] is not None else None
        op = Op("FAKE_QUANT", [tensor], [out], attrs, name=said["name"], meta=meta)
        graph.add_op(op, anchor=readers[0].op)
        graph.replace_uses(tensor, out, skip=(op,))


def _is_weight(op: Op, slot: int) -> bool:
    spec = spec_of(op)
    port = spec.input_port(slot) if spec is not None else None
    return port is not None and port.role == "weight"
