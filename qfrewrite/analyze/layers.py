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
        for found in self.layers:
            if name in (found.name, found.output):
                return found
        raise KeyError(name)

    def advice(self) -> dict[str, list[str]]:
        """What helps -> the layers it helps."""
        helped: dict[str, list[str]] = {}
        for layer in self.layers:
            for flag in layer.flags:
                if flag.remedy and layer.name not in helped.setdefault(flag.remedy, []):
                    helped[flag.remedy].append(layer.name)
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
    known = ranges.rows if ranges is not None else {}
    layers, unknown = [], unsettled(graph)
    for op in graph.ops:
        if op.kind == "FAKE_QUANT" or fuses_into(op) is not None or not op.outputs:
            continue
        fused = _fused_activation(op)
        output = fused.output if fused is not None else op.output
        layer = Layer(
            op.name,
            f"{op.kind}+{fused.kind}" if fused is not None else op.kind,
            output.name,
            output.dims if output in unknown else output.shape,
            parameters(op),
            macs(op) if unknown.isdisjoint(op.outputs) else 0,
        )
        _describe_weights(layer, op, before.get(op.name), known.get(output.name))
        _describe_values(layer, output, known.get(output.name), stored.get(output))
        layer.flags = find_flags(layer, stays_float=_stays_float(op, quantized))
        layers.append(layer)
    about_data = context.samples.diagnostics if context and context.samples is not None else ()
    about_ranges = ranges.diagnostics if ranges is not None else ()
    return Inspection(
        model.name, layers, ranges, Diagnostics([*about_data, *diagnostics, *about_ranges])
    )


@dataclass(frozen=True)
class _Unfolded:
    """A linear op before its BatchNorm is folded: weights per channel, gains, dead channels."""

    weights: Array | None
    gain: Array | None
    dead: Array


def _before_folding(op: Op) -> _Unfolded:
    weights = _channel_magnitudes(op)
    nothing = np.zeros(0, np.bool_)
    reader = sole_user(op.output)
    if isinstance(reader, NoMatch) or reader.kind != "BATCH_NORM":
        return _Unfolded(weights, None, nothing)
    found = dead_by_batch_norm(reader)
    dead = found.dead if found is not None else nothing
    return _Unfolded(weights, np.abs(bn_scale_offset(reader)[0]), dead)


def _channel_magnitudes(op: Op) -> Array | None:
    """The largest weight per output channel, [O], real units; None where they are not known."""
    tensor = op.operand(linear_ports(op).weights)
    # Of types that numpy lacks the bytes are kept.
    if tensor.data is None or not tensor.size or tensor.data.shape != tensor.shape:
        return None
    w = tensor.data if tensor.quant is None else dequantize(tensor.data, tensor.quant)
    by_output = np.abs(np.moveaxis(w, linear_ports(op).axis, 0))
    magnitudes: Array = by_output.reshape(len(by_output), -1).max(1)
    return magnitudes


def _describe_weights(layer: Layer, op: Op, before: _Unfolded | None, row: RangeRow | None) -> None:
    if op.kind not in LINEAR:
        return
    magnitudes = _channel_magnitudes(op)
    if magnitudes is None:
        return
    tensor = op.operand(linear_ports(op).weights)
    w = tensor.value()
    if tensor.quant is not None:
        w = dequantize(w, tensor.quant)
    layer.weights = float(w.min()), float(w.max())
    layer.channel_weights = magnitudes
    dead = magnitudes <= _NOTHING * magnitudes.max()
    if before is not None:
        layer.unfolded_weights = before.weights
        if before.gain is not None:
            layer.gain_max = float(before.gain.max())
            layer.gain_median = float(np.median(before.gain))
        if before.dead.size == dead.size:
            dead = dead | before.dead
    stats = row.stats if row is not None else None
    if stats is not None and stats.channel_low is not None and stats.channels == dead.size:
        dead = dead | (stats.channel_low == stats.channel_high)
    layer.dead = np.flatnonzero(dead).tolist()
    live = magnitudes[~dead & (magnitudes > 0)]
    layer.channel_ratio = float(magnitudes.max() / live.min()) if live.size else None


def _describe_values(
    layer: Layer, tensor: Tensor, row: RangeRow | None, stored: Range | None
) -> None:
    layer.row = row
    if row is not None:
        layer.range = row.range
        if row.stats is not None and row.stats.range is not None:
            layer.observed, layer.sparsity = row.stats.range, row.stats.sparsity
        layer.scale, layer.zero_point = float(row.quant.scale[0]), int(row.quant.zero_point[0])
    if stored is not None:
        layer.range = stored
        quant = tensor.quant
        if quant is None:
            quant = RangeRow(layer.output, stored).quant
        layer.scale, layer.zero_point = float(quant.scale[0]), int(quant.zero_point[0])
    values = row.stats.distribution if row is not None and row.stats is not None else None
    # Values of a quantized tensor lie on its grid already.
    if values is not None and values.total and layer.range is not None and tensor.quant is None:
        held = RangeRow(layer.output, layer.range, stats=row.stats if row else None)
        layer.clipped, lost = held.clipped, held.losses
        if lost is not None and lost.total > 0 and values.mean_square > 0:
            layer.sqnr_db = float(10 * np.log10(values.mean_square / lost.total))


def _stored_ranges(graph: Graph) -> dict[Tensor, Range]:
    """Ranges that the file itself holds: of quantized tensors, and of FAKE_QUANT ops."""
    found: dict[Tensor, Range] = {}
    for tensor in graph.tensors:
        if tensor.quant is None or tensor.is_const or tensor.dtype not in ACTIVATION_CODES:
            continue
        if tensor.quant.scale.size == 1:
            scale, zero = float(tensor.quant.scale[0]), int(tensor.quant.zero_point[0])
            first, last = ACTIVATION_CODES[tensor.dtype]
            found[tensor] = (first - zero) * scale, (last - zero) * scale
    for op in graph.ops_of("FAKE_QUANT"):
        if not op.operand(0).is_const:
            ends = holding_zero(*(np.asarray(attr(op, k)).reshape(-1)[0] for k in ("min", "max")))
            found[op.operand(0)] = found[op.output] = (float(ends[0]), float(ends[1]))
    return found


def _fused_activation(op: Op) -> Op | None:
    if len(op.outputs) != 1:
        return None
    reader = sole_user(op.output)
    if isinstance(reader, NoMatch) or fuses_into(reader) is not op:
        return None
    return reader


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
    names = dict(zip(twins.values(), row_names(list(twins)), strict=True))
    table = measure(
        probed,
        {t: Detail(channel_mean=True, full=True) for t in names},
        context,
        MethodChoice.parse(method),
        label="observing",
    )
    rows = {}
    for row, name in zip(table, names.values(), strict=True):
        row.name = name
        rows[name] = row
    table.rows = rows
    return table


def real_twins(graph: Graph) -> tuple[Graph, dict[Tensor, Tensor]]:
    """A copy of `graph`, and the float tensor in it that tells each float or 8-bit one's values."""
    copy, twins = graph.clone()
    wanted: dict[Tensor, Tensor] = {}
    for tensor in (*graph.inputs, *(out for op in graph.ops for out in op.outputs)):
        twin = twins[tensor]
        if (
            tensor.is_const
            or not tensor.size
            or any(fuses_into(r.op) is not None for r in tensor.users)
        ):
            continue
        if tensor.dtype == "float32":
            wanted[tensor] = twin
        elif tensor.quant is not None and tensor.dtype in ACTIVATION_CODES:
            real = Tensor(copy.unique_name(f"{tensor.name}/real"), tensor.shape)
            copy.add_op(Op("DEQUANTIZE", [twin], [real]), anchor=twin.producer)
            wanted[tensor] = real
    return copy, wanted
