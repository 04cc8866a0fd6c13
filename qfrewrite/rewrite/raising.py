"""Raise low-level forms to the ops that passes look for.

BatchNorm comes as FusedBatchNorm (raised by the reader), as Rsqrt/Mul/Sub/Add on constants (the
MobileNets of 2017), or as MUL and ADD after a convolution; a bias as an ADD of a constant; a
dilated convolution between SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND; float weights as quantized
constants of a float op. None of these steps changes what the graph computes.
"""

from __future__ import annotations

import numpy as np

from qfrewrite.ir import Array, Graph, Op, Tensor, constant
from qfrewrite.ir.quant import Quant, dequantize
from qfrewrite.ops import spec_of
from qfrewrite.ops.build import append_op
from qfrewrite.rewrite.dense import raise_dense
from qfrewrite.rewrite.densify import densify
from qfrewrite.rewrite.dilation import raise_dilation
from qfrewrite.rewrite.error_function import raise_gelu
from qfrewrite.rewrite.fold import fold_constants
from qfrewrite.rewrite.leaky import raise_leaky
from qfrewrite.rewrite.linear import LinearView, linear_before
from qfrewrite.rewrite.match import NoMatch, operand_orders, per_channel
from qfrewrite.rewrite.padding import raise_lowest_padding, raise_same_padding
from qfrewrite.rewrite.reshapes import keep_reduced_axes, sink_reshapes
from qfrewrite.rewrite.rewriter import Log, Rewriter
from qfrewrite.rewrite.simplify import drop_idle_clips, drop_neutral, merge_equal
from qfrewrite.rewrite.weight_ranges import note_weight_ranges

# Types of the quantized constants that kernels of float ops take as weights.
_HYBRID = ("int8", "uint8")


def raise_graph(graph: Graph, log: Log | None = None) -> Rewriter:
    """Bring `graph` into the form that passes expect; returns the rewriter with its log."""
    rw = Rewriter(graph, log)
    densify(rw)
    note_weight_ranges(rw)
    _dequantize_weights(rw)
    _raise_decomposed(rw)
    fold_constants(rw)
    raise_gelu(rw)
    raise_dense(rw)
    raise_dilation(rw)
    sink_reshapes(rw)
    keep_reduced_axes(rw)
    raise_same_padding(rw)
    raise_lowest_padding(rw)
    raise_leaky(rw)
    _raise_scale_offset(rw)
    _merge_bias(rw)
    drop_neutral(rw)
    drop_idle_clips(rw)
    merge_equal(rw)
    return rw


def _dequantize_weights(rw: Rewriter) -> None:
    """Quantized constants of an op that computes in float (dynamic-range models) become float."""
    for op in rw.graph.ops:
        spec = spec_of(op)
        if spec is None or not op.outputs or op.output.dtype != "float32":
            continue
        if op.kind in ("DEQUANTIZE", "CAST"):
            continue
        for slot, tensor in enumerate(op.inputs):
            port = spec.input_port(slot)
            if port is None or port.role not in ("weight", "bias") or tensor is None:
                continue
            if tensor.data is not None and tensor.quant is not None and tensor.dtype in _HYBRID:
                twin = constant(tensor.name, _hybrid_values(tensor.data, tensor.quant))
                rw.graph.set_input(op, slot, twin)
                rw.graph.set_meta(op, {})
                rw.edit("dequantized", op, f"{tensor.dtype} '{tensor.name}' to float32")


def _hybrid_values(values: Array, quant: Quant) -> Array:
    """The real weights of a float op with quantized ones, float32.

    The converters of 2018 wrote signed values with zero point 0 and called them uint8: kernels of
    float ops read the bytes as int8.
    """
    if values.dtype == np.uint8 and not quant.zero_point.any():
        values = values.view(np.int8)
    return dequantize(values, quant)


def _raise_decomposed(rw: Rewriter) -> None:
    """Given  y = x * (rsqrt(var + eps) * gamma) + (beta - mean * (rsqrt(var + eps) * gamma))
    Result y = BATCH_NORM(x, gamma, beta, mean, var)."""
    for add in rw.graph.ops_of("ADD", "SUB"):
        for mul, shift in _producer_orders(add):
            found = _decomposed(rw.graph, add, mul, shift)
            if found is not None:
                _replace_by_batch_norm(rw, add, mul, *found)
                break


def _producer_orders(op: Op) -> list[tuple[Op, Op]]:
    a, b = (op.operand(i).producer for i in (0, 1))
    if a is None or b is None:
        return []
    return [(a, b)] if op.kind == "SUB" else [(a, b), (b, a)]


def _decomposed(
    graph: Graph, add: Op, mul: Op, shift: Op
) -> tuple[Tensor, list[Tensor | None], float] | None:
    """x, [gamma, beta, mean, variance] and epsilon of a decomposed BatchNorm ending at `add`."""
    if mul.kind != "MUL":
        return None
    for x, factor in operand_orders(mul):
        gain = _gain(graph, factor)
        if gain is None or x.is_const:
            continue
        offset = _offset(add, shift, factor)
        if offset is None:
            continue
        (gamma, variance, epsilon), (beta, mean) = gain, offset
        statistics: list[Tensor | None] = [gamma, beta, mean, variance]
        channels = x.shape[-1] if x.shape else 0
        if all(t is None or per_channel(t, channels) is not None for t in statistics):
            return x, statistics, epsilon
    return None


def _gain(graph: Graph, factor: Tensor) -> tuple[Tensor | None, Tensor, float] | None:
    """gamma, variance, epsilon where `factor` is rsqrt(variance + epsilon) [* gamma]."""
    op = factor.producer
    if op is None:
        return None
    if op.kind == "RSQRT":
        inner = op.operand(0).producer
        if inner is None or inner.kind != "ADD":
            return None
        for variance, epsilon in operand_orders(inner):
            if variance.is_const and epsilon.is_const and epsilon.size == 1:
                return None, variance, float(epsilon.value().reshape(-1)[0])
        return None
    if op.kind == "MUL":
        for rsqrt, gamma in operand_orders(op):
            found = _gain(graph, rsqrt) if gamma.is_const else None
            if found is not None and found[0] is None:
                return gamma, found[1], found[2]
    return None


def _offset(add: Op, shift: Op, factor: Tensor) -> tuple[Tensor | None, Tensor] | None:
    """beta and mean where `shift` is beta - mean * factor (or is subtracted: mean * factor)."""
    if add.kind == "SUB":
        mean = _times(shift, factor)
        return None if mean is None else (None, mean)
    if shift.kind != "SUB" or not shift.operand(0).is_const:
        return None
    product = shift.operand(1).producer
    mean = _times(product, factor) if product is not None else None
    return None if mean is None else (shift.operand(0), mean)


def _times(op: Op, factor: Tensor) -> Tensor | None:
    """The constant that a MUL multiplies `factor` by."""
    if op.kind != "MUL":
        return None
    return next((a for a, b in operand_orders(op) if b is factor and a.is_const), None)


def _replace_by_batch_norm(
    rw: Rewriter, last: Op, first: Op, x: Tensor, statistics: list[Tensor | None], epsilon: float
) -> None:
    """Put BATCH_NORM(x, ...) in the place of the ops from `first` to `last`."""
    graph = rw.graph
    flat = [None if t is None else _vector(graph, t, x.shape[-1]) for t in statistics]
    bn = append_op(
        graph, "BATCH_NORM", [x, *flat], name=last.name, attrs={"epsilon": epsilon}, anchor=last
    )
    rw.replace(last, bn, action="raised", detail=f"{first.kind} and {last.kind} -> BATCH_NORM")


def _vector(graph: Graph, tensor: Tensor, channels: int) -> Tensor:
    if tensor.shape == (channels,):
        return tensor
    data = np.ascontiguousarray(np.broadcast_to(tensor.value().reshape(-1), (channels,)))
    return constant(graph.unique_name(f"{tensor.name}/per_channel"), data)


def _raise_scale_offset(rw: Rewriter) -> None:
    """Given  y = conv(x) * s [+ t], s and t constants per channel
    Result y = BATCH_NORM(conv(x), gamma=s, beta=t)."""
    graph = rw.graph
    for mul in graph.ops_of("MUL"):
        if mul not in graph:
            continue
        x, factor = _const_operand(mul)
        if factor is None or x is None or not x.shape:
            continue
        linear = linear_before(x)
        if (
            isinstance(linear, NoMatch)
            or mul.output.shape != x.shape
            or per_channel(factor, x.shape[-1]) is None
        ):
            continue
        readers = mul.output.users
        add = readers[0].op if len(readers) == 1 and not mul.output.is_output else None
        shift = _const_operand(add)[1] if add is not None and add.kind == "ADD" else None
        if add is not None and shift is not None and per_channel(shift, x.shape[-1]) is not None:
            _replace_by_batch_norm(rw, add, mul, x, [factor, shift, None, None], 0.0)
        else:
            _replace_by_batch_norm(rw, mul, mul, x, [factor, None, None, None], 0.0)


def _merge_bias(rw: Rewriter) -> None:
    """Given  y = conv(x, w, b) + c, c constant per channel;  Result  y = conv(x, w, b + c)."""
    for add in rw.graph.ops_of("ADD", "SUB"):
        x, shift = _const_operand(add)
        if shift is None or x is None or not x.shape or add.output.shape != x.shape:
            continue
        linear = linear_before(x)
        values = per_channel(shift, x.shape[-1])
        if isinstance(linear, NoMatch) or values is None:
            continue
        if add.kind == "SUB" and x is not add.operand(0):
            continue
        values = values.astype(np.float64) * (-1 if add.kind == "SUB" else 1)
        _merge_one_bias(rw, add, linear, shift, values)


def _merge_one_bias(rw: Rewriter, add: Op, view: LinearView, shift: Tensor, values: Array) -> None:
    linear, slot = view.op, view.ports.bias
    if not view.has_bias and add.kind == "ADD" and shift.shape == values.shape:
        rw.graph.set_input(linear, slot, shift)
    else:
        rw.set_linear(view.shifted(values))
    out, name = linear.output, add.output.name
    is_output = add.output.is_output
    rw.bypass(add, 0 if add.operand(0) is out else 1, action="merged", detail="into the bias")
    if not is_output:
        rw.graph.rename(out, name)


def _const_operand(op: Op) -> tuple[Tensor | None, Tensor | None]:
    """The computed and the constant operand of a binary op; None, None where both are alike."""
    for x, c in operand_orders(op):
        if c.is_const and not x.is_const:
            return x, c
    return None, None
