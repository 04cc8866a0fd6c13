"""Lower a whole model to the form that the `.tflite` writer takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qfrewrite.ir import Graph, Model
from qfrewrite.lower.canonical import canonicalise, fuse_activations, spell_out
from qfrewrite.lower.fake_quant import lower_fake_quant
from qfrewrite.lower.fake_quant_ranges import take_ranges
from qfrewrite.lower.quantized import has_ranges, lower_quantized
from qfrewrite.lower.scheme import QuantOptions, QuantReport, check_patterns, with_whole_names
from qfrewrite.lower.spec_check import check_graph
from qfrewrite.lower.weight_schemes import lower_weights
from qfrewrite.lower.weights import mean_response, on_grid, weight_bounds
from qfrewrite.ops.check import verify_model
from qfrewrite.ops.shapes import settle_shapes
from qfrewrite.ops.subgraphs import run_graphs
from qfrewrite.rewrite.activations import lower_erf
from qfrewrite.rewrite.densify import densify
from qfrewrite.rewrite.linear import linear_views
from qfrewrite.rewrite.raising import raise_graph
from qfrewrite.rewrite.rewriter import Rewriter
from qfrewrite.rewrite.weight_ranges import restore_weight_ranges


def lower_model(model: Model, options: QuantOptions | None = None) -> tuple[Model, QuantReport]:
    """A copy of `model` ready to be written as `.tflite`, and what became of its ops.

    Activations are quantized wherever FAKE_QUANT gives ranges, if the scheme quantizes them; with
    scheme float32 (or no options) FAKE_QUANT ops are left in. An unedited `.tflite` is copied as
    it is, unless the scheme asks for other weights or it brings ranges that the scheme uses. Ops
    that would break the specification stay float.
    """
    options = options or QuantOptions("float32")
    weights_only = options.kind.activations is None and options.kind.weights is not None
    ranged = options.kind.activations is not None and any(has_ranges(g) for g in model.graphs)
    if model.source == "tflite" and not (model.edited or weights_only or ranged):
        return model.clone(), QuantReport()
    impossible: dict[Graph, dict[tuple[str, str], str]] = {graph: {} for graph in model.graphs}
    while True:
        copy, report = _lowered(model, options, impossible)
        if weights_only or ranged:
            check_patterns([op for graph in copy.graphs for op in graph.ops], options)
        if not (ranged and _add_broken(copy, model, impossible)):
            return copy, report


def _lowered(
    model: Model, options: QuantOptions, impossible: Mapping[Graph, Mapping[tuple[str, str], str]]
) -> tuple[Model, QuantReport]:
    copy, report = model.clone(), QuantReport()
    _check_read(copy)
    inside = {
        body for graph in copy.graphs for op in graph.ops for _, body in run_graphs(op, copy.graphs)
    }
    for source, graph in zip(model.graphs, copy.graphs, strict=True):
        if options.kind.activations is not None and has_ranges(graph):
            # What runs a subgraph gives it real values.
            own = replace(options, io="float32") if graph in inside else options
            report.add(lower_quantized(graph, own, impossible[source]))
        elif options.kind.activations is None and options.kind.weights is not None:
            canonicalise(graph)
            own = with_whole_names(options, graph.ops)
            lower_weights(graph, own, report, take_ranges(graph).weights)
            lower_erf(Rewriter(graph))
            fuse_activations(graph)
        else:
            lower_float(graph)
    return copy, report


def _add_broken(
    lowered: Model, model: Model, impossible: Mapping[Graph, dict[tuple[str, str], str]]
) -> bool:
    """Add the ops that break the specification to those that stay float; whether any is new."""
    grown = False
    for source, graph in zip(model.graphs, lowered.graphs, strict=True):
        for violation in check_graph(graph):
            op = violation.op
            if op is not None and (op.name, op.kind) not in impossible[source]:
                impossible[source][op.name, op.kind] = violation.text
                grown = True
    return grown


def _check_read(model: Model) -> None:
    """Raise VerifyError where a `.tflite` says what no op is, before anything is made of it."""
    if model.source == "tflite" and not model.edited:
        for graph in model.graphs:
            settle_shapes(graph)
        verify_model(model)


def lower_graphdef(model: Model) -> Model:
    """A copy of `model` ready to be written as `.pb`.

    Where calibration noted the mean inputs of a linear layer its weights are put on the int8 grid
    (per channel, largest magnitude at 127, as TensorFlow's converter will find it) and its bias
    is corrected for that, so that what a converter makes of the graph is what `.tflite` holds.
    Weights that a `.tflite` stores in another form (float16, sparse, 8 bits beside float values)
    become float constants.
    """
    copy = model.clone()
    _check_read(copy)
    if model.edited:
        for graph in copy.graphs:
            _bake_weights(graph)
    if model.source == "tflite":
        for graph in copy.graphs:
            raise_graph(graph)
    for graph in copy.graphs:
        densify(Rewriter(graph))
        restore_weight_ranges(graph)
    return copy


def _bake_weights(graph: Graph) -> None:
    rw = Rewriter(graph)
    for view in linear_views(graph):
        fake = view.x.producer
        # Where training chose a range, it chose the grid too.
        if fake is None or fake.kind != "FAKE_QUANT" or view.trained is not None:
            continue
        response = mean_response(view, fake.operand(0))
        if response is not None:
            w, axis = view.weights, view.ports.axis
            rounded = on_grid(w, weight_bounds(w, axis, per_channel=True), axis)
            bias = view.bias + response(w - rounded.astype(np.float64))
            rw.set_linear(view.with_weights(rounded, bias))


def lower_float(graph: Graph) -> None:
    """Bring `graph` into the form of a float `.tflite`, in place."""
    canonicalise(graph)
    lower_erf(Rewriter(graph))
    restore_weight_ranges(graph)
    lower_fake_quant(graph)
    fuse_activations(graph)


def lower_as_it_is(graph: Graph) -> None:
    """Change no more of `graph`, in place, than the kernels of a float `.tflite` ask for.

    What rewriting is measured by: nothing is raised, folded, merged or dropped.
    """
    spell_out(graph)
    lower_erf(Rewriter(graph))
    restore_weight_ranges(graph)
    lower_fake_quant(graph)
