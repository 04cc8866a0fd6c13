"""Folding BatchNorm and constant arithmetic into weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qfrewrite.errors import UnsupportedError
from qfrewrite.ir import Graph, Normal, Op, Tensor
from qfrewrite.ir.dtypes import Float64
from qfrewrite.ops.spec import attr, computed, facets
from qfrewrite.rewrite.linear import LinearView, linear_before
from qfrewrite.rewrite.match import NoMatch, sole_user
from qfrewrite.rewrite.rewriter import Rewriter


def bn_scale_offset(op: Op) -> tuple[Float64, Float64]:
    """A BATCH_NORM as y = scale * x + offset; both [C], float64."""
    channels = op.operand(0).shape[-1]
    gamma, beta, mean, variance = bn_parameters(op)
    scale = np.ones(channels) if gamma is None else gamma.copy()
    if variance is not None:
        scale = scale / np.sqrt(variance + attr(op, "epsilon"))
    offset = np.zeros(channels) if beta is None else beta.copy()
    if mean is not None:
        offset = offset - scale * mean
    return scale, offset


def bn_parameters(op: Op) -> list[Float64 | None]:
    """Gamma, beta, mean and variance of a BATCH_NORM, [C] each; None for those it lacks."""
    tensors = [op.input(slot) for slot in range(1, 5)]
    return [None if t is None else t.value().reshape(-1).astype(np.float64) for t in tensors]


def fold_batch_norm(rw: Rewriter, op: Op) -> LinearView | NoMatch:
    """Fold one BATCH_NORM into the linear op before it, or after it, which is returned."""
    _note_statistics(rw.graph, op)
    before, (scale, offset) = linear_before(op.operand(0)), bn_scale_offset(op)
    if isinstance(before, LinearView):
        folded, how = before.scaled(scale).shifted(offset), "into"
        # As the parameters have it, whatever scaling and shifting made of the distribution before.
        normal = op.output.channels.normal or folded.channels.normal
        rw.set_linear(replace(folded, channels=replace(folded.channels, normal=normal)))
    else:
        after = _unpadded_linear_after(op)
        if isinstance(after, NoMatch):
            return before
        folded, how = after, "into the following"
        rw.set_linear(after.reading(scale, offset))
    rw.bypass(op, action="folded", detail=f"{how} {folded.op.kind} '{folded.op.name}'")
    return folded


def _note_statistics(graph: Graph, op: Op) -> None:
    """Leave the distributions that training saw: passes without data judge by them after folding.

    N(mean, variance) before the BATCH_NORM, N(beta, gamma^2) behind it.
    """
    gamma, beta, mean, variance = bn_parameters(op)
    if mean is None or variance is None:
        return
    x, y = op.operand(0), op.output
    share = np.sqrt(variance / (variance + attr(op, "epsilon")))
    std = share if gamma is None else np.abs(gamma) * share
    behind = Normal(np.zeros(std.size) if beta is None else beta, std)
    graph.set_channels(y, replace(y.channels, normal=behind))
    if x.channels.normal is None:
        ahead = Normal(mean, np.sqrt(np.maximum(variance, 0)))
        graph.set_channels(x, replace(x.channels, normal=ahead))


def _unpadded_linear_after(op: Op) -> LinearView | NoMatch:
    user = sole_user(op.output)
    if isinstance(user, NoMatch):
        return user
    view = LinearView.of(user)
    if user.input(0) is not op.output:
        return NoMatch(f"is read by {user.kind}", at=op.output.name)
    if isinstance(view, NoMatch):
        return view
    if view.weights.shape[-1] != op.output.shape[-1]:
        flat = user.kind == "FULLY_CONNECTED"
        how = "is flattened by its user" if flat else "is read by a grouped convolution"
        return NoMatch(how, at=op.output.name)
    return view if not view.pads else NoMatch("is padded by its user", at=op.output.name)


def fold_constants(rw: Rewriter, max_elements: int = 1 << 26) -> None:
    """Compute every op whose inputs are all constants; FAKE_QUANT stays: it carries a range.

    Results beyond `max_elements` elements stay computed at run time.
    """
    for op in rw.graph.ops:
        known = all(t is None or t.is_const for t in op.inputs) and bool(op.inputs)
        if not known or facets(op).reference is None or op.kind == "FAKE_QUANT":
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
