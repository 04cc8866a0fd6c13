"""Schemes that keep activations float: int8 weights in hybrid ops or behind DEQUANTIZE, float16.

Where calibration left the mean input of a layer, its bias takes up the mean error of rounding.
Biases and weights too small to matter stay float, as the TensorFlow converter leaves them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qfrewrite.ir import Array, Graph, Op, Quant, Tensor
from qfrewrite.ir.quant import dequantize
from qfrewrite.lower.conversions import Conversions
from qfrewrite.lower.scheme import QuantOptions, QuantReport, matches
from qfrewrite.lower.weights import given_bounds, mean_response, weight_bounds
from qfrewrite.ops import OpSpec, spec_of
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.rewrite.match import NoMatch
from qfrewrite.rewrite.rewriter import Rewriter

# Constants with fewer elements gain nothing.
_LEAST_ELEMENTS = 1024
# Hybrid kernels that refuse one scale for all weights: it is written for each channel.
_ONE_SCALE_EACH = ("DEPTHWISE_CONV_2D",)
_FLOAT16_LARGEST = float(np.finfo(np.float16).max)


def lower_weights(
    graph: Graph,
    options: QuantOptions,
    report: QuantReport,
    ranges: Mapping[Tensor, tuple[Array, Array]],
) -> None:
    """Store the weights of `graph`, a canonical float graph, in the scheme's type, in place.

    ranges: of weights that a model brings from training.
    """
    convert = Conversions(graph, {})
    for op in graph.ops:
        spec = spec_of(op)
        if spec is None:
            continue
        for slot in range(len(op.inputs)):
            # Another slot of `op` may have replaced it.
            weights = _weights(op, spec, slot, options)
            if isinstance(weights, Tensor):
                _lower_one(graph, convert, op, slot, options, ranges.get(weights))
                report.count(f"with {options.kind.weights} weights")
            elif weights.near:
                report.float_ops.append((op.name, op.kind, str(weights)))


def _weights(op: Op, spec: OpSpec, slot: int, options: QuantOptions) -> Tensor | NoMatch:
    """The constant in `slot`, if it shall have the scheme's type, or why it stays float."""
    tensor, port = op.input(slot), spec.input_port(slot)
    half = options.kind.weights == "float16"
    if tensor is None or tensor.data is None or tensor.dtype != "float32" or port is None:
        return NoMatch("holds no float constant", near=False)
    if port.role != "weight" and not (half and port.role in ("act", "bias")):
        return NoMatch("holds no weights", near=False)
    if matches(op, options.keep_float):
        return NoMatch("kept float by name")
    if half:
        large = np.abs(tensor.data).max(initial=0.0) > _FLOAT16_LARGEST
        return NoMatch("is too large for float16", at=tensor.name) if large else tensor
    if options.kind.hybrid and not spec.hybrid:
        return NoMatch("no kernel takes int8 weights with float activations")
    if tensor.size < _LEAST_ELEMENTS:
        return NoMatch(f"has only {tensor.size} elements", at=tensor.name)
    finite = np.isfinite(tensor.data).all()
    return tensor if finite else NoMatch("is not finite", at=tensor.name)


def _lower_one(
    graph: Graph,
    convert: Conversions,
    op: Op,
    slot: int,
    options: QuantOptions,
    given: tuple[Array, Array] | None,
) -> None:
    tensor = op.operand(slot)
    if options.kind.weights == "float16":
        _behind_dequantize(graph, op, slot, tensor.value().astype(np.float16), None)
        return
    spec = spec_of(op)
    port = spec.input_port(slot) if spec is not None else None
    assert port is not None
    axis = port.axis or 0
    bounds = given_bounds(given, per_channel=options.per_channel_for(op))
    if bounds is None:
        bounds = weight_bounds(tensor.value(), axis, per_channel=options.per_channel_for(op))
    codes, quant = _codes(tensor.value(), bounds, axis)
    _correct_bias(graph, op, tensor.value() - dequantize(codes, quant))
    if options.kind.hybrid:
        if op.kind in _ONE_SCALE_EACH and not quant.per_channel:
            count = tensor.shape[axis]
            quant = Quant(np.repeat(quant.scale, count), np.repeat(quant.zero_point, count), axis)
        convert.put(op, slot, codes, quant)
    else:
        _behind_dequantize(graph, op, slot, codes, quant)


def _correct_bias(graph: Graph, op: Op, error: Array) -> None:
    """Let the bias take up what rounding the weights makes of the mean input, where it is known."""
    view = LinearView.of(op)
    if isinstance(view, LinearView) and view.has_bias:
        response = mean_response(view, view.x)
        if response is not None:
            Rewriter(graph).set_linear(view.shifted(response(error)))


def _codes(w: Array, bounds: Array, axis: int) -> tuple[Array, Quant]:
    scale = np.where(bounds > 0, bounds / 127.0, 1.0).astype(np.float32)
    quant = Quant(scale, np.zeros(scale.size, np.int64), axis)
    shape = [1] * w.ndim
    shape[axis] = scale.size
    codes = np.rint(w.astype(np.float64) / scale.astype(np.float64).reshape(shape))
    return np.clip(codes, -127, 127).astype(np.int8), quant


def _behind_dequantize(graph: Graph, op: Op, slot: int, data: Array, quant: Quant | None) -> None:
    """Store the constant in `slot` as `data`, made float again by a DEQUANTIZE for all readers."""
    tensor = op.operand(slot)
    stored = Tensor(
        graph.unique_name(f"{tensor.name}/{data.dtype.name}"),
        tensor.shape,
        data.dtype.name,
        data,
        quant,
    )
    real = Tensor(graph.unique_name(f"{tensor.name}/float32"), tensor.shape)
    first = tensor.users[0].op
    graph.add_op(Op("DEQUANTIZE", [graph.add_tensor(stored)], [real]), anchor=first)
    graph.replace_uses(tensor, real)
    graph.prune(keep=lambda o: not o.outputs)
