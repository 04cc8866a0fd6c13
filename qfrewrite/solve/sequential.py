"""The sequential procedure: each layer fitted to inputs from the layers quantized before it.

Two paths are computed side by side, op by op: the float network, and the quantized one as far as
it is done. A linear layer's weights are refitted so that from the quantized path's inputs they
reproduce the float path's outputs, then rounded; then the range of its output is chosen, and the
quantized path goes on with it. (Frantar et al. 2022, arXiv:2210.17323; Nagel et al. 2020,
arXiv:2004.10568.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from qfrewrite.ir import Array, Graph, Op, Quant, Tensor
from qfrewrite.ir.quant import activation_quant, dequantize, quantize
from qfrewrite.lower.groups import Group, Groups
from qfrewrite.lower.weights import weight_bounds
from qfrewrite.ops import spec_of
from qfrewrite.rewrite.layers import (
    columns,
    grouped_outputs,
    grouped_weights,
    positions,
    ungrouped,
)
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.runtime.units import SpillBuffer, Unit, units
from qfrewrite.solve.fit import HELD_EVERY, STRENGTHS, HeldOut, output_error, round_weights

# Rows that a layer is fitted on, over all samples, and how many are added at once.
_ROWS, _BLOCK = 40_000, 4096
# Ends of the range of weights that the search tries, as fractions of the largest magnitude.
_SHRINK = np.linspace(1.0, 0.5, 11)


@dataclass(frozen=True)
class Settings:
    """How to fit. per_channel: whether a layer's weights get a scale per output channel; levels:
    of weights on each side of 0, 127 or fewer; headroom: by what the range seen at a tensor is to
    be widened."""

    per_channel: Callable[[Op], bool]
    refit: bool
    rounding: str
    search: bool
    dtype: str
    seed: int
    threads: int | None
    levels: int = 127
    headroom: Callable[[Tensor], float] | None = None


@dataclass(frozen=True)
class FittedLayer:
    """A fitted layer: weights on their grid, bias [O], the magnitudes of code 127, [1] or [O]."""

    weights: Array
    bias: Array
    bounds: npt.NDArray[np.float64]
    figures: dict[str, Any]


@dataclass
class Solution:
    """The result: weights by op, scale and zero point by tensor."""

    layers: dict[Op, FittedLayer] = field(default_factory=dict)
    quants: dict[Tensor, Quant] = field(default_factory=dict)


class Sequential:
    """Solves one graph. samples: model inputs, read once; most: at most so many of them."""

    def __init__(
        self,
        graph: Graph,
        groups: Groups,
        samples: Iterable[dict[str, Array]],
        most: int,
        settings: Settings,
    ) -> None:
        self.graph, self.groups, self.settings = graph, groups, settings
        self.solution = Solution()
        self._float: dict[Tensor, SpillBuffer] = {}
        self._coded: dict[Tensor, SpillBuffer] = {}
        self.count = self._take_inputs(islice(samples, most), most)
        rng = np.random.default_rng(settings.seed)
        self._held_out = {int(i) for i in rng.permutation(self.count)[: self.count // HELD_EVERY]}

    def solve(self, step: Callable[[int], None]) -> Solution:
        """Everything, op by op; `step` is told how many ops are done."""
        users_left = {t: len(t.users) for t in self.graph.tensors}
        for done, unit in enumerate(units(self.graph), 1):
            if all(t in self._float for t in unit.operands):
                self._one(unit)
            for op in (unit.op, *((unit.activation,) if unit.activation else ())):
                for tensor in op.inputs:
                    if tensor is not None:
                        users_left[tensor] -= 1
                        if not users_left[tensor]:
                            self._drop(tensor)
            step(done)
        for tensor in list(self._float):
            self._drop(tensor)
        return self.solution

    # -- values ----------------------------------------------------------------------------

    def _take_inputs(self, samples: Iterable[dict[str, Array]], most: int) -> int:
        """Store the samples and choose the ranges of the inputs; returns how many there are."""
        inputs, count = self.graph.inputs, 0
        self._float.update((t, SpillBuffer.of(t, most)) for t in inputs)
        ends = {t: [np.inf, -np.inf] for t in inputs}
        for sample in samples:
            count += 1
            for tensor in inputs:
                value = sample[tensor.name]
                self._float[tensor].put(value)
                ends[tensor][0] = min(ends[tensor][0], float(value.min()))
                ends[tensor][1] = max(ends[tensor][1], float(value.max()))
        self.count = count
        for tensor in inputs:
            if tensor.dtype == "float32":
                self._choose(tensor, (ends[tensor][0], ends[tensor][1]))
                self._code(tensor, self._float[tensor])
        return count

    def _choose(self, tensor: Tensor, seen: tuple[float, float]) -> None:
        """Scale and zero point: prescribed, the group's, or from what was seen."""
        group = self.groups.of.get(tensor)
        if group is None:
            return
        quant = next(
            (self.solution.quants[t] for t in group.members if t in self.solution.quants), None
        )
        if quant is None:
            shared = group.fixed is not None or group.symmetric or _joined(group)
            quant = group.quant(self.settings.dtype) if shared else None
        if quant is None and np.isfinite(seen).all():
            wider = self.settings.headroom(tensor) if self.settings.headroom is not None else 1.0
            quant = activation_quant(seen[0] * wider, seen[1] * wider, self.settings.dtype)
        if quant is not None:
            self.solution.quants[tensor] = quant

    def _code(self, tensor: Tensor, values: SpillBuffer) -> None:
        """Keep the codes of a tensor whose real values lie in `values`."""
        quant = self.solution.quants.get(tensor)
        dtype = np.dtype(self.settings.dtype)
        if quant is None:
            self._coded[tensor] = values
            return
        buffer = self._coded[tensor] = SpillBuffer(dtype)
        for i in range(self.count):
            buffer.put(quantize(values.get(i), quant, self.settings.dtype))

    def _real(self, tensor: Tensor, index: int) -> Array:
        """What the quantized path holds of one sample."""
        value = self._coded.get(tensor, self._float[tensor]).get(index)
        quant = self.solution.quants.get(tensor)
        coded = quant is not None and value.dtype.kind != "f"
        return dequantize(value, quant) if coded and quant is not None else value

    def _drop(self, tensor: Tensor) -> None:
        buffers = {s for s in (self._float.pop(tensor, None), self._coded.pop(tensor, None)) if s}
        for buffer in buffers:
            buffer.close()

    # -- one op ----------------------------------------------------------------------------

    def _one(self, unit: Unit) -> None:
        view = LinearView.of(unit.op)
        quantized = all(t in self.solution.quants for t in unit.operands if t.dtype == "float32")
        fit = None
        if quantized and isinstance(view, LinearView):
            fit = _Fit(view, self.settings, self.count)
        layer = self._float_path(unit, fit)
        if layer is not None:
            self.solution.layers[unit.op] = layer
        self._quantized_path(unit, layer)

    def _float_path(self, unit: Unit, fit: _Fit | None) -> FittedLayer | None:
        """Compute the unit in float; returns what its layer was fitted to."""
        before, results = unit.op.output, unit.results
        session = unit.session([before, *results], threads=self.settings.threads)
        buffers = [SpillBuffer.of(t, self.count) for t in results]
        for i in range(self.count):
            sample = {t.name: self._float[t].get(i) for t in unit.operands}
            y, *values = session.run(sample)
            if fit is not None:
                fit.add(self._real(fit.view.x, i), y, held_out=i in self._held_out)
            for buffer, value in zip(buffers, values, strict=True):
                buffer.put(value)
        self._float.update(zip(results, buffers, strict=True))
        return fit.layer() if fit is not None else None

    def _quantized_path(self, unit: Unit, layer: FittedLayer | None) -> None:
        session = unit.session(
            unit.results,
            threads=self.settings.threads,
            weights=layer.weights if layer is not None else None,
            bias=layer.bias if layer is not None else None,
        )
        buffers = [SpillBuffer.of(t, self.count) for t in unit.results]
        ends = [[np.inf, -np.inf] for _ in unit.results]
        for i in range(self.count):
            values = session.run({t.name: self._real(t, i) for t in unit.operands})
            for buffer, end, value in zip(buffers, ends, values, strict=True):
                buffer.put(value)
                if value.size and value.dtype.kind == "f":
                    end[0] = min(end[0], float(value.min()))
                    end[1] = max(end[1], float(value.max()))
        for tensor, buffer, end in zip(unit.results, buffers, ends, strict=True):
            # Also of an op that stays float: whoever reads it need not.
            if tensor.dtype == "float32":
                self._choose(tensor, (end[0], end[1]))
            self._code(tensor, buffer)
            if self._coded[tensor] is not buffer:
                buffer.close()


class _Fit:
    """Gathers what one layer is fitted to, and fits it."""

    def __init__(self, view: LinearView, settings: Settings, samples: int) -> None:
        self.view, self.settings = view, settings
        self.w = grouped_weights(view)
        self.moments = HeldOut(*self.w.shape, block=_BLOCK)
        self.rows = max(_ROWS // max(samples, 1), 8)
        self.rng = np.random.default_rng(settings.seed)
        # Fewer levels lie on the grid of 8 bits, so many of its steps apart.
        self.apart = 127 // settings.levels

    def add(self, x: Array, y: Array, *, held_out: bool) -> None:
        """Take one sample: the layer's quantized input, and its output in float."""
        at = positions(self.view, self.rows, self.rng)
        outputs = grouped_outputs(self.view, y.reshape(-1, y.shape[-1])[at])
        self.moments.add(columns(self.view, x, at), outputs, held_out=held_out)

    def layer(self) -> FittedLayer:
        """The fitted layer."""
        axis = self.view.ports.axis
        per_channel = self.settings.per_channel(self.view.op)
        if not self.moments.parts[0].count:
            bounds = self._bounds(self.view.weights, axis, per_channel)
            return self._on_grid(self.w, np.eye(self.w.shape[2])[None], bounds, None, 0.0)
        both = self.moments.both
        mx, my = both.means
        w, strength = self.moments.refit(self.w) if self.settings.refit else (self.w, STRENGTHS[-1])
        h = both.about(mx, my)[0]
        bounds = self._bounds(ungrouped(self.view, w), axis, per_channel)
        if self.settings.search:
            bounds = self._searched(w, h, bounds)
        return self._on_grid(w, h, bounds, (mx, my), strength)

    def _bounds(self, w: Array, axis: int, per_channel: bool) -> npt.NDArray[np.float64]:
        """The magnitudes of code 127, where the outermost level is the largest weight."""
        largest = weight_bounds(w, axis, per_channel=per_channel)
        return largest * (127 / (self.apart * self.settings.levels))

    def _searched(
        self,
        w: npt.NDArray[np.float64],
        h: npt.NDArray[np.float64],
        bounds: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.float64]:
        """Narrower bounds where rounding and clipping together cost less."""
        best, least = bounds, np.full(bounds.size, np.inf)
        for shrink in _SHRINK:
            scale = self._scale(bounds * shrink)
            codes = round_weights(w, h, scale, "nearest", self.settings.levels)
            rounded = codes * scale[:, :, None]
            difference = rounded - w
            error = (difference @ h * difference).sum(2).reshape(-1)
            error = error if bounds.size > 1 else error.sum(keepdims=True)
            best = np.where(error < least, bounds * shrink, best)
            least = np.minimum(error, least)
        return best

    def _scale(self, bounds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The step between levels of each output, [G, M]."""
        step = np.where(bounds > 0, bounds, bounds.max(initial=0) or 1.0) / 127.0
        step = self.apart * step.astype(np.float32).astype(np.float64)
        return np.broadcast_to(step, (self.w.shape[0] * self.w.shape[1],)).reshape(self.w.shape[:2])

    def _on_grid(
        self,
        w: npt.NDArray[np.float64],
        h: npt.NDArray[np.float64],
        bounds: npt.NDArray[np.float64],
        means: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None,
        strength: float,
    ) -> FittedLayer:
        scale = self._scale(bounds)
        how = self.settings.rounding if means is not None else "nearest"
        h_all = np.broadcast_to(h, (w.shape[0], *h.shape[1:]))
        codes = round_weights(w, h_all, scale, how, self.settings.levels)
        real = codes * scale[:, :, None]
        if means is None:
            bias = self.view.bias
        else:
            mx, my = means
            bias = (my - np.einsum("gmk,gk->gm", real, mx)).reshape(-1)
        figures: dict[str, Any] = {"strength": strength}
        if means is not None:
            signal = output_error(self.w, np.zeros_like(self.w), h)
            noise = output_error(w, real, h)
            figures["rounding_db"] = 10 * np.log10(signal / noise) if noise > 0 < signal else None
        return FittedLayer(ungrouped(self.view, real), bias.astype(np.float32), bounds, figures)


def _joined(group: Group) -> bool:
    """Whether several ops that compute (not move) values share the group's scale."""
    sources = 0
    for tensor in group.members:
        producer = tensor.producer
        spec = spec_of(producer) if producer is not None else None
        sources += spec is None or not spec.same_scale
    return sources > 1
