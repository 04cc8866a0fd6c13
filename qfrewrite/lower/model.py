"""Lower a whole model to the form that the `.tflite` writer takes."""

from __future__ import annotations

from qfrewrite.ir import Graph, Model
from qfrewrite.lower.canonical import canonicalise, fuse_activations
from qfrewrite.lower.int8 import Int8Options, Int8Report, has_ranges, lower_int8
from qfrewrite.ops.spec import attr, spec_of
from qfrewrite.rewrite.rewriter import Rewriter


def lower_model(model: Model, options: Int8Options | None = None) -> tuple[Model, Int8Report]:
    """A copy of `model` ready to be written as `.tflite`, and what became of its ops.

    Int8 wherever FAKE_QUANT gives ranges, unless `options` is None: then float, with FAKE_QUANT
    ops left in. An unedited `.tflite` is copied as it is.
    """
    copy = model.clone()
    report = Int8Report()
    if model.source == "tflite" and not model.edited:
        return copy, report
    for graph in copy.graphs:
        if options is not None and has_ranges(graph):
            report = lower_int8(graph, options)
        else:
            lower_float(graph)
    return copy, report


def lower_float(graph: Graph) -> None:
    """Bring `graph` into the form of a float `.tflite`, in place."""
    canonicalise(graph)
    _apply_channel_ranges(graph)
    fuse_activations(graph)


def _apply_channel_ranges(graph: Graph) -> None:
    """TFLite's FAKE_QUANT has one range: a per-channel one on weights is applied to them."""
    rw = Rewriter(graph)
    for op in graph.ops_of("FAKE_QUANT"):
        source = op.operand(0)
        if attr(op, "axis") is None or source.data is None:
            continue
        spec = spec_of(op)
        assert spec is not None
        assert spec.reference is not None
        values = spec.reference(op, [source.data])[0]
        for reader in graph.readers(op.output):
            rw.set_constant(reader.op, reader.slot, values, name=f"{source.name}/quantized")
        graph.remove_op(op)
