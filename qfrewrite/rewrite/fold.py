"""Folding BatchNorm and constant arithmetic into weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qfrewrite.errors import UnsupportedError
from qfrewrite.ir import Array, Graph, Op, Tensor
from qfrewrite.ops import spec_of
from qfrewrite.ops.spec import attr, computed, facets
from qfrewrite.rewrite.match import (
    NoMatch,
    bias_of,
    bias_slot,
    channel_axis,
    float_weights,
    linear_before,
    sole_reader,
    weight_slot,
    weights_of,
)
from qfrewrite.rewrite.rewriter import Rewriter
from qfrewrite.rewrite.weight_ranges import KEY, scaled

Float64 = npt.NDArray[np.float64]


def bn_scale_offset(op: Op) -> tuple[Float64, Float64]:
    """A BATCH_NORM as y = scale * x + offset; both [C], float64."""
    channels = op.operand(0).shape[-1]
    gamma, beta, mean, variance = (_statistic(op, slot) for slot in range(1, 5))
    scale = np.ones(channels) if gamma is None else gamma.copy()
    if variance is not None:
        scale = scale / np.sqrt(variance + attr(op, "epsilon"))
    offset = np.zeros(channels) if beta is None else beta.copy()
    if mean is not None:
        offset = offset - scale * mean
    return scale, offset


def _statistic(op: Op, slot: int) -> Float64 | None:
    tensor = op.input(slot)
    return None if tensor is None else tensor.value().reshape(-1).astype(np.float64)


def scale_outputs(
    w: Array, b: Array, scale: Float64, offset: Float64, *, axis: int
) -> tuple[Array, Array]:
    """Weights and bias of `scale * (w x + b) + offset` (Jacob et al. 2018, arXiv:1712.05877).

    w: real units, output channels C on `axis`; b, scale, offset: [C]. Float64 inside, float32 out.
    """
    shape = [1] * w.ndim
    shape[axis] = -1
    folded = w.astype(np.float64) * scale.reshape(shape)
    return folded.astype(np.float32), (b * scale + offset).astype(np.float32)


def absorb_inputs(
    op: Op, w: Array, b: Array, scale: Float64, offset: Float64
) -> tuple[Array, Array]:
    """Weights and bias of `w (scale * x + offset) + b`, where no padding touches x.

    scale, offset: [input channels of `op`]. Float64 inside, float32 out.
    """
    extra = constant_response(op, w, offset)
    if op.kind == "DEPTHWISE_CONV_2D":
        scale = np.repeat(scale, w.shape[3] // scale.size)
    return (w.astype(np.float64) * scale).astype(np.float32), (b + extra).astype(np.float32)


def constant_response(op: Op, w: Array, x: Float64) -> Float64:
    """What weights `w` in the place of `op`'s make of an input that is x everywhere, [O].

    x: one value per input channel [C]. Away from padded borders, without bias.
    """
    wide = w.astype(np.float64)
    if op.kind == "DEPTHWISE_CONV_2D":
        taps: Float64 = wide.sum((0, 1, 2))
        return taps * np.repeat(x, w.shape[3] // x.size)
    response: Float64 = wide.reshape(w.shape[0], -1, w.shape[-1]).sum(1) @ x
    return response


def fold_batch_norm(rw: Rewriter, op: Op) -> NoMatch | None:
    """Fold one BATCH_NORM into the linear op before it, or after it; None when done."""
    before = linear_before(rw.graph, op.operand(0))
    _keep_statistics(rw.graph, op)
    if isinstance(before, Op):
        _fold_into_before(rw, op, before)
        return None
    after = _unpadded_linear_after(rw.graph, op)
    if isinstance(after, Op):
        _fold_into_after(rw, op, after)
        return None
    return before


def _keep_statistics(graph: Graph, op: Op) -> None:
    """Leave N(beta, gamma^2) on the tensor: passes without data judge by it after folding."""
    if any(t is None for t in op.inputs[3:5]) or len(op.inputs) < 5:
        return
    channels = op.output.shape[-1]
    gamma, beta, variance = (_statistic(op, slot) for slot in (1, 2, 4))
    assert variance is not None
    share = np.sqrt(variance / (variance + attr(op, "epsilon")))
    std = np.abs(gamma if gamma is not None else np.ones(channels)) * share
    stats = (beta if beta is not None else np.zeros(channels), std)
    for tensor in (op.operand(0), op.output):
        graph.update_tensor(tensor, meta={**tensor.meta, "bn_stats": stats})


def restate(
    graph: Graph, tensor: Tensor, *, scale: Float64 | None = None, shift: Float64 | None = None
) -> None:
    """What is noted of a tensor whose values became scale * value + shift, both [C]."""
    factor = 1.0 if scale is None else scale
    offset = 0.0 if shift is None else shift
    meta = dict(tensor.meta)
    if "bn_stats" in meta:
        mean, std = meta["bn_stats"]
        meta["bn_stats"] = (mean * factor + offset, std * np.abs(factor))
    if "channel_mean" in meta:
        meta["channel_mean"] = meta["channel_mean"] * factor + offset
    if "bn_stats" in meta or "channel_mean" in meta:
        graph.update_tensor(tensor, meta=meta)


def set_weights(rw: Rewriter, linear: Op, w: Array, b: Array) -> None:
    """Give a linear op these weights and this bias."""
    rw.set_constant(linear, weight_slot(linear), w)
    rw.set_constant(linear, bias_slot(linear), b, name=f"{linear.name}/bias")


def _fold_into_before(rw: Rewriter, op: Op, linear: Op) -> None:
    scale, offset = bn_scale_offset(op)
    axis = channel_axis(linear)
    said = linear.operand(weight_slot(linear)).meta.get(KEY)
    set_weights(
        rw, linear, *scale_outputs(weights_of(linear), bias_of(linear), scale, offset, axis=axis)
    )
    if said is not None and said["axis"] in (None, axis):
        w = linear.operand(weight_slot(linear))
        rw.graph.update_tensor(w, meta={**w.meta, KEY: scaled(said, scale, axis)})
    rw.bypass(op, action="folded", detail=f"into {linear.kind} '{linear.name}'")


def _fold_into_after(rw: Rewriter, op: Op, linear: Op) -> None:
    scale, offset = bn_scale_offset(op)
    set_weights(
        rw, linear, *absorb_inputs(linear, weights_of(linear), bias_of(linear), scale, offset)
    )
    rw.bypass(op, action="folded", detail=f"into the following {linear.kind} '{linear.name}'")


def _unpadded_linear_after(graph: Graph, op: Op) -> Op | NoMatch:
    reader = sole_reader(graph, op.output)
    if isinstance(reader, NoMatch):
        return reader
    if not facets(reader).gathers or reader.input(0) is not op.output:
        return NoMatch(f"is read by {reader.kind}", at=op.output.name)
    if (why := float_weights(reader)) is not None:
        return why
    if reader.kind == "FULLY_CONNECTED":
        fits = op.output.shape[-1] == weights_of(reader).shape[1]
        return reader if fits else NoMatch("is flattened by its reader", at=op.output.name)
    if weights_of(reader).shape[-1] != op.output.shape[-1]:
        return NoMatch("is read by a grouped convolution", at=op.output.name)
    return reader if not pads(reader) else NoMatch("is padded by its reader", at=op.output.name)


def pads(op: Op) -> bool:
    """Whether a convolution reads zeros outside its input."""
    if op.kind == "FULLY_CONNECTED" or attr(op, "padding") == "VALID":
        return False
    return weights_of(op).shape[1:3] != (1, 1)


def fold_constants(rw: Rewriter, max_elements: int = 1 << 26) -> None:
    """Compute every op whose inputs are all constants; FAKE_QUANT stays: it carries a range.

    Results beyond `max_elements` elements stay computed at run time.
    """
    for op in rw.graph.ops:
        spec = spec_of(op)
        if spec is None or spec.reference is None or op.kind == "FAKE_QUANT" or not op.inputs:
            continue
        if not all(t is None or t.is_const for t in op.inputs):
            continue
        if sum(out.size for out in op.outputs) > max_elements:
            continue
        try:
            results = computed(op, [None if t is None else t.data for t in op.inputs])
        except UnsupportedError:
            continue
        for out, data in zip(op.outputs, results, strict=True):
            twin = Tensor(out.name, data.shape, out.dtype, np.asarray(data, order="C"))
            rw.graph.replace_uses(out, twin)
        rw.graph.remove_op(op)
        rw.edit("computed", op, f"{op.kind} of constants")
