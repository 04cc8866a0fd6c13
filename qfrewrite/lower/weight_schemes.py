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
from qfrewrite.lower.weights import grid_scale, in_steps, mean_response, weight_bounds
from qfrewrite.ops.spec import facets
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
        for slot in range(len(op.inputs)):
            # Another slot of `op` may have replaced it.
            weights = _weights(op, slot, options)
            if isinstance(weights, Tensor):
                _lower_one(graph, convert, op, slot, options, ranges.get(weights))
                report.count(f"with {options.kind.weights} weights")
            elif weights.near:
                report.float_ops.append((op.name, op.kind, str(weights)))


def _weights(op: Op, slot: int, options: QuantOptions) -> Tensor | NoMatch:
    """The constant in `slot`, if it shall have the scheme's type, or why it stays float."""
    tensor, role = op.input(slot), facets(op).role(slot)
    half = options.kind.weights == "float16"
    if tensor is None or tensor.data is None or tensor.dtype != "float32":
        return NoMatch("holds no float constant", near=False)
    if role != "weight" and not (half and role in ("act", "bias")):
        return NoMatch("holds no weights", near=False)
    if matches(op, options.keep_float):
        return NoMatch("kept float by name")
    if half:
        large = np.abs(tensor.data).max(initial=0.0) > _FLOAT16_LARGEST
        return NoMatch("is too large for float16", at=tensor.name) if large else tensor
    if options.kind.hybrid and not facets(op).hybrid:
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
    tensor, port = op.operand(slot), facets(op).input_port(slot)
    axis = port.axis or 0 if port is not None else 0
    w = tensor.value()
    if options.kind.weights == "float16":
        _behind_dequantize(graph, op, slot, w.astype(np.float16), None)
        return
    per_channel = options.per_channel_for(op)
    scale = grid_scale(weight_bounds(w, axis, per_channel=per_channel, given=given))
    codes = np.clip(in_steps(w, scale, axis)[0], -127, 127).astype(np.int8)
    quant = Quant(scale, np.zeros(scale.size, np.int64), axis)
    _correct_bias(graph, op, w - dequantize(codes, quant))
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
            Rewriter(graph).set_linear(view.corrected(response(error)))


def _behind_dequantize(graph: Graph, op: Op, slot: int, data: Array, quant: Quant | None) -> None:
    """Store the constant in `slot` as `data`, made float again by a DEQUANTIZE for all users."""
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
