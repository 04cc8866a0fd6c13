"""`equalize`: scale channels between layers so that their weights use one range alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from qfrewrite.ir import Graph
from qfrewrite.ir.dtypes import Float64
from qfrewrite.passes._registry import Pass, register
from qfrewrite.rewrite.channels import Channels
from qfrewrite.solve.context import PassRewriter
from qfrewrite.solve.parameters import Within
from qfrewrite.solve.scaling import (
    MARGIN,
    ChannelGroup,
    Values,
    channel_groups,
    largest_read,
    largest_written,
    look,
    trace_scales,
)

# How far channels may be scaled.
_MOST = 64.0
# Scales nearer to 1, as logarithms, gain nothing.
_LEAST = 1e-3


@register
@dataclass(frozen=True)
class Equalize(Pass):
    """Scale channels between linear layers, so that one range of weights fits all of them.

    Given:  y = f(x; w, b);  z = g(act(y); v, d)
    Result: y = f(x; w t, b t);  z = g(act(y); v / t, d), t[c] > 0 for each channel c
    Exact for RELU, LEAKY_RELU, PRELU, pooling, zero padding, or nothing in between; for RELU6 too:
    channels that it clips stay, and scaled ones never come to clip. Channels are followed through
    concatenations, splits and flattening, and through residual additions, where all that is added
    up is scaled alike. mode=exact balances the largest weights of producers and users (Nagel et
    al. 2019, arXiv:1906.04721, section 4.1), `sweeps` times over the graph; mode=fill widens
    activations to the power `power` of what the range leaves instead, for weights with a scale
    per channel. The largest activations come from data, else from BatchNorm statistics.
    """

    exact = True
    requires = "canonical"

    mode: Literal["exact", "fill"] = "exact"
    power: Annotated[float, Within(0, 1)] = 0.5
    sweeps: Annotated[int, Within(1)] = 15

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """Look at activations once, then balance the weights in memory."""
        channels = trace_scales(graph)
        groups = channel_groups(rw, channels)
        if not groups:
            rw.note("nothing-to-do", "no two linear layers follow each other")
            return
        state = _State(channels, look(rw, channels), groups)
        for _ in range(1 if self.mode == "fill" else self.sweeps):
            for group in groups:
                t = self._fill(state, group) if self.mode == "fill" else _balance(state, group)
                state.scale_by(group, t)
        state.write(rw)
        for group in groups:
            _report(rw, state, group)

    def _fill(self, state: _State, group: ChannelGroup) -> Float64:
        values, ids = state.values, group.ids
        most = values.most[ids]
        bound = np.where(values.limited[ids], 6.0, most.max(initial=0.0))
        t = np.maximum(MARGIN * bound / np.maximum(most, 1e-9), 1.0) ** self.power
        return np.where(values.fixed[ids] | (most <= 0), 1.0, np.minimum(t, _MOST))


class _State:
    """Weights, activations and scales of all classes as they are balanced."""

    def __init__(self, channels: Channels, values: Values, groups: list[ChannelGroup]) -> None:
        self.channels, self.values = channels, values
        self.scale = np.ones(channels.count)
        ends = [end for group in groups for end in (*group.producers, *group.users)]
        self._views = {end.view.op: end.view for end in ends}
        self.weights = {op: view.weights.astype(np.float64) for op, view in self._views.items()}
        # The classes that each layer computes, and those that it reads.
        self._computed = {end.view.op: end.ids for group in groups for end in group.producers}
        self._read = {end.view.op: end.ids for group in groups for end in group.users}

    def scale_by(self, group: ChannelGroup, t: Float64) -> None:
        """Scale what a group's channels hold by t [C], and the weights with them."""
        factor = np.ones(self.channels.count)
        factor[group.ids] = t
        for end in group.producers:
            self.weights[end.view.op] *= end.view.along_outputs(factor[end.ids])
        for end in group.users:
            self.weights[end.view.op] /= end.view.along_inputs(factor[end.ids])
        self.values.most *= factor
        self.scale *= factor

    def write(self, rw: PassRewriter) -> None:
        """Put weights, biases and what is noted of tensors into the graph.

        Scales so near to 1 that nothing is gained are left out: a second run changes nothing.
        """
        self.scale = np.where(np.abs(np.log(self.scale)) > _LEAST, self.scale, 1.0)
        for op, view in self._views.items():
            rows, columns = np.ones(view.outputs), np.ones(1)
            if op in self._computed:
                rows = self.scale[self._computed[op]]
            if op in self._read:
                columns = view.along_inputs(self.scale[self._read[op]])
            if (rows != 1).any() or (columns != 1).any():
                scaled = view.scaled(rows)
                rw.set_linear(scaled.with_weights(scaled.weights / columns))
        for tensor in (t for op in rw.graph.ops if op not in self._views for t in op.outputs):
            ids = self.channels.of(tensor)
            if ids is not None:
                rw.graph.set_channels(tensor, tensor.channels.scaled(self.scale[ids]))


def _balance(state: _State, group: ChannelGroup) -> Float64:
    count, ids, values = state.channels.count, group.ids, state.values
    r1, r2 = (
        np.max([measure(end, state.weights[end.view.op], count) for end in ends], axis=0)[ids]
        for measure, ends in ((largest_written, group.producers), (largest_read, group.users))
    )
    dead = (r1 <= 0) | (r2 <= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.sqrt(r2 / r1)
    t = np.where(dead | ~np.isfinite(t), 1.0, t)
    limit = np.where(values.limited[ids], MARGIN * 6.0 / np.maximum(values.most[ids], 1e-9), np.inf)
    t = np.minimum(t, np.maximum(limit, 1e-9))
    t = np.clip(state.scale[ids] * t, 1 / _MOST, _MOST) / state.scale[ids]
    # Within the limit again: the bound on the product must not let a channel clip.
    return np.where(values.fixed[ids] | dead, 1.0, np.minimum(t, limit))


def _report(rw: PassRewriter, state: _State, group: ChannelGroup) -> None:
    scale = state.scale[group.ids]
    moved = int((scale != 1).sum())
    users = ", ".join(end.view.op.name for end in group.users)
    if moved:
        others = len(group.producers) - 1
        also = f" (and {others} layers added to it)" if others else ""
        rw.edit("equalized", group.first, f"{moved} channels{also} with {users}")
    rw.layer(
        group.first,
        second=users,
        channels=moved,
        clipping=int(state.values.fixed[group.ids].sum()),
        least=float(scale.min()),
        most=float(scale.max()),
    )
