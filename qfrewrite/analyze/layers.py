"""One row per layer of a model: geometry, values, ranges, weights, and what endangers int8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qfrewrite.analyze.flags import find_flags
from qfrewrite.analyze.layer import Layer
from qfrewrite.calibration.observers import Detail
from qfrewrite.calibration.range_row import RangeRow
from qfrewrite.calibration.range_table import RangeTable
from qfrewrite.errors import Diagnostics
from qfrewrite.ir import Array, Graph, Model, Op, Tensor
from qfrewrite.ir.quant import ACTIVATION_CODES, dequantize
from qfrewrite.lower.canonical import canonicalise, fuses_into
from qfrewrite.lower.cost import macs, parameters
from qfrewrite.lower.fake_quant_ranges import Range
from qfrewrite.ops import spec_of
from qfrewrite.ops.check import verify_graph
from qfrewrite.ops.quantization import holding_zero
from qfrewrite.ops.shapes import unsettled
from qfrewrite.ops.spec import attr
from qfrewrite.passes import PassContext, measure, row_names
from qfrewrite.records import Record
from qfrewrite.rewrite.dead_channels import dead_by_batch_norm
from qfrewrite.rewrite.dequantize import computes_quantized
from qfrewrite.rewrite.fold import bn_scale_offset
from qfrewrite.rewrite.linear import linear_ports
from qfrewrite.rewrite.match import LINEAR, NoMatch, sole_user
from qfrewrite.rewrite.raising import raise_graph
from qfrewrite.runtime.session import take_usual_sizes
from qfrewrite.runtime.units import units

# Weights this small beside the largest change nothing: the channel is its bias.
_NOTHING = 1e-6


@dataclass(repr=False)
class Inspection(Record):
    """All layers of a model's main graph in execution order, and what they rest on."""

    model: str
    """The name of the model."""
    layers: list[Layer]
    """One for each op, with what is fused into it."""
    ranges: RangeTable | None = field(default=None, repr=False)
    """What was observed, or read from a file."""
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    """What was assumed, and what speaks against the data."""

    def layer(self, name: str) -> Layer:
        """The layer called `name`, by its op or its output; raises KeyError."""
        for layer in self.layers:
            if name in (layer.name, layer.output):
                return layer
        raise KeyError(name)

    def advice(self) -> dict[str, list[str]]:
        """What helps -> the layers it helps."""
        helped: dict[str, list[str]] = {}
        for layer in self.layers:
            for remedy in dict.fromkeys(flag.remedy for flag in layer.flags if flag.remedy):
                helped.setdefault(remedy, []).append(layer.name)
        return helped


def inspect_model(
    model: Model,
    *,
    ranges: RangeTable | None = None,
    context: PassContext | None = None,
    method: str = "minmax",
) -> Inspection:
    """Look at the main graph of `model`, which stays as it is.

    ranges: a table for it; or context: with data to observe it on, ranges then by `method`.
    """
    graph, _ = model.graph.clone()
    diagnostics = take_usual_sizes(graph)
    verify_graph(graph)
    raise_graph(graph)
    before = {op.name: _before_folding(op) for op in graph.ops_of(*LINEAR)}
    quantized = computes_quantized(graph)
    if not quantized:
        canonicalise(graph)
    if ranges is None and context is not None and context.samples is not None:
        ranges = _observe(graph, context, method)
    stored = _stored_ranges(graph)
    by_name = ranges.rows if ranges is not None else {}
    layers, unknown = [], unsettled(graph)
    for unit in units(graph):
        op, output = unit.op, unit.results[0]
        if op.kind == "FAKE_QUANT":
            continue
        layer = Layer(
            op.name,
            unit.kind,
            output.name,
            output.dims if output in unknown else output.shape,
            parameters(op),
            macs(op) if unknown.isdisjoint(op.outputs) else 0,
            row=by_name.get(output.name),
        )
        _describe_weights(layer, op, before.get(op.name))
        _describe_values(layer, output, stored.get(output))
        layer.flags = find_flags(layer, stays_float=_stays_float(op, quantized))
        layers.append(layer)
    about_data = context.samples.diagnostics if context and context.samples is not None else ()
    about_ranges = ranges.diagnostics if ranges is not None else ()
    return Inspection(
        model.name, layers, ranges, Diagnostics([*about_data, *diagnostics, *about_ranges])
    )


@dataclass(frozen=True)
class _Unfolded:
    """A linear op before its BatchNorm is folded."""

    weights: Array | None
    """The largest |weight| per channel, [O]; None where weights are not known."""
    gain: Array | None = None
    """The gain of the BatchNorm per channel, [O]; None where there is no BatchNorm."""
    dead: Array | None = None
    """Whether the BatchNorm makes a channel constant, [O]."""


def _before_folding(op: Op) -> _Unfolded:
    w, norm = _channel_weights(op), sole_user(op.output)
    magnitudes = None if w is None else np.abs(w).max(1)
    if isinstance(norm, NoMatch) or norm.kind != "BATCH_NORM":
        return _Unfolded(magnitudes)
    judged = dead_by_batch_norm(norm)
    dead = None if isinstance(judged, NoMatch) else judged.dead
    return _Unfolded(magnitudes, np.abs(bn_scale_offset(norm)[0]), dead)


def _channel_weights(op: Op) -> Array | None:
    """The weights of each output channel, [O, N], real units; None where they are not known."""
    tensor = op.operand(linear_ports(op).weights)
    # Of types that numpy lacks the bytes are kept.
    if tensor.data is None or not tensor.size or tensor.data.shape != tensor.shape:
        return None
    w = tensor.data if tensor.quant is None else dequantize(tensor.data, tensor.quant)
    by_output = np.moveaxis(w, linear_ports(op).axis, 0)
    return by_output.reshape(len(by_output), -1)


def _describe_weights(layer: Layer, op: Op, before: _Unfolded | None) -> None:
    w = _channel_weights(op) if op.kind in LINEAR else None
    if w is None:
        return
    layer.weights = float(w.min()), float(w.max())
    layer.channel_weights = magnitudes = np.abs(w).max(1)
    dead = magnitudes <= _NOTHING * magnitudes.max()
    if before is not None:
        layer.unfolded_weights = before.weights
        if before.gain is not None:
            layer.gain_max = float(before.gain.max())
            layer.gain_median = float(np.median(before.gain))
        if before.dead is not None and before.dead.size == dead.size:
            dead = dead | before.dead
    stats = layer.stats
    if stats is not None and stats.channel_low is not None and stats.channels == dead.size:
        dead = dead | (stats.channel_low == stats.channel_high)
    layer.dead = np.flatnonzero(dead).tolist()
    live = magnitudes[~dead & (magnitudes > 0)]
    layer.channel_ratio = float(magnitudes.max() / live.min()) if live.size else None


def _describe_values(layer: Layer, tensor: Tensor, stored: Range | None) -> None:
    """stored: the range in the file, which holds whatever was observed."""
    layer.range = stored or (layer.row.range if layer.row is not None else None)
    if layer.range is None:
        return
    stats = layer.stats
    row = RangeRow(layer.output, layer.range, stats=stats)
    quant = tensor.quant if stored is not None and tensor.quant is not None else row.quant
    layer.scale, layer.zero_point = float(quant.scale[0]), int(quant.zero_point[0])
    if stats is not None and stats.range is not None:
        layer.observed, layer.sparsity = stats.range, stats.sparsity
    values = stats.distribution if stats is not None else None
    # Values of a quantized tensor lie on its grid already.
    if values is not None and values.total and tensor.quant is None:
        layer.clipped, lost = row.clipped, row.losses
        if lost is not None and lost.total > 0 and values.mean_square > 0:
            layer.sqnr_db = float(10 * np.log10(values.mean_square / lost.total))


def _stored_ranges(graph: Graph) -> dict[Tensor, Range]:
    """Ranges that the file itself holds: of quantized tensors, and of FAKE_QUANT ops."""
    stored: dict[Tensor, Range] = {}
    for tensor in graph.tensors:
        if tensor.quant is None or tensor.is_const or tensor.dtype not in ACTIVATION_CODES:
            continue
        if tensor.quant.scale.size == 1:
            scale, zero = float(tensor.quant.scale[0]), int(tensor.quant.zero_point[0])
            low, high = ((code - zero) * scale for code in ACTIVATION_CODES[tensor.dtype])
            stored[tensor] = low, high
    for op in graph.ops_of("FAKE_QUANT"):
        if not op.operand(0).is_const:
            ends = holding_zero(*(np.asarray(attr(op, k)).reshape(-1)[0] for k in ("min", "max")))
            stored[op.operand(0)] = stored[op.output] = (float(ends[0]), float(ends[1]))
    return stored


def _stays_float(op: Op, quantized: bool) -> bool:
    """Whether int8 lowering has no kernel for this op."""
    if quantized or not any(t.dtype == "float32" for t in op.outputs):
        return False
    spec = spec_of(op)
    return spec is None or "int8" not in spec.kernels


def _observe(graph: Graph, context: PassContext, method: str) -> RangeTable:
    """Full statistics of every value a layer writes; 8-bit ones as the real values they mean."""
    from qfrewrite.calibration.search import MethodChoice

    twins: Mapping[Tensor, Tensor]
    probed, twins = real_twins(graph)
    details = {twin: Detail(channel_mean=True, full=True) for twin in twins.values()}
    table = measure(probed, details, context, MethodChoice.parse(method), label="observing")
    for row, name in zip(table, row_names(list(twins)), strict=True):
        row.name = name
    table.rows = {row.name: row for row in table}
    return table


def real_twins(graph: Graph) -> tuple[Graph, dict[Tensor, Tensor]]:
    """A copy of `graph`, and the float tensor in it that tells each float or 8-bit one's values."""
    copy, twins = graph.clone()
    wanted: dict[Tensor, Tensor] = {}
    for tensor in (*graph.inputs, *(out for op in graph.ops for out in op.outputs)):
        twin, fused = twins[tensor], any(isinstance(fuses_into(use.op), Op) for use in tensor.users)
        if tensor.is_const or not tensor.size or fused:
            continue
        if tensor.dtype == "float32":
            wanted[tensor] = twin
        elif tensor.quant is not None and tensor.dtype in ACTIVATION_CODES:
            real = Tensor(copy.unique_name(f"{tensor.name}/real"), tensor.shape)
            copy.add_op(Op("DEQUANTIZE", [twin], [real]), anchor=twin.producer)
            wanted[tensor] = real
    return copy, wanted
