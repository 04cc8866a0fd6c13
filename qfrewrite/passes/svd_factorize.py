"""`svd_factorize`: one large matrix product as two smaller ones."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated

import numpy as np

from qfrewrite.calibration.statistics import propagate
from qfrewrite.ir import Array, Graph, Tensor
from qfrewrite.ir.dtypes import Float64
from qfrewrite.lower.cost import macs, total_macs
from qfrewrite.ops.shapes import unsettled
from qfrewrite.ops.spec import attr
from qfrewrite.passes._registry import Pass, register
from qfrewrite.rewrite.linear import LinearView, linear_views
from qfrewrite.runtime.metrics import sqnr_db
from qfrewrite.runtime.session import Session
from qfrewrite.solve.context import PassRewriter
from qfrewrite.solve.fit import Factors, HeldOut, Moments, factorize, is_held_out
from qfrewrite.solve.parameters import Within

# Positions of one sample that enter a covariance.
_ROWS = 128
_STEPS = 60
_SHRINK = 0.1

Ranks = dict[LinearView, int]
PerLayer = dict[LinearView, Float64]


@register
@dataclass(frozen=True)
class SvdFactorize(Pass):
    """Factorize 1x1 convolutions and dense layers by a truncated singular value decomposition.

    Given:  y = W x + b, W [O, I]        Result:  y = U (V x) + b', V [r, I], U [O, r]
    Only where r (O + I) < O I. Give one of: energy, the share of the outputs' power to keep, 0 to
    1 (0.95 where nothing is given); rank, for every layer; speedup, by how much the whole network's
    multiply-accumulates shall fall: ranks are then chosen together, so that the product of the
    energies is largest. layers: a name pattern. With
    data the truncation minds the covariance of what the layer reads; with `refit` each layer in
    turn is fitted to give its old outputs from what the layers factorized before it now give, and
    the bias keeps the mean output. (Denton et al. 2014, arXiv:1404.0736; Zhang et al. 2016,
    arXiv:1505.06798.)
    """

    requires = "canonical"

    one_of = ("energy", "rank", "speedup")

    energy: Annotated[float, Within(0, 1, above=True)] | None = None
    rank: Annotated[int, Within(1)] | None = None
    speedup: Annotated[float, Within(1, above=True)] | None = None
    layers: str = "*"
    refit: bool = True

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """Look at what the layers read, decide on ranks together, then rewrite."""
        unknown = unsettled(graph)
        layers = [
            view
            for view in linear_views(graph, "CONV_2D", "FULLY_CONNECTED")
            if fnmatchcase(view.op.name, self.layers) and _is_matrix(view) and view.x not in unknown
        ]
        if not layers:
            rw.note("nothing-to-do", "no 1x1 convolution or dense layer matches")
            return
        means, covariances = _covariances(rw, layers)
        found = {view: factorize(_matrix(view), covariances.get(view)) for view in layers}
        before = total_macs(graph)
        ranks = self._ranks(rw, found, before)
        original, changed = graph.clone(), False
        for view, factors in found.items():
            rank = min(ranks[view], factors.spectrum.size)
            if _cheapest(view, rank) < macs(view.op):
                bias = view.bias
                if view in means:
                    bias = bias + (_matrix(view) - factors.of_rank(rank)) @ means[view]
                if changed and self.refit and rw.main and rw.samples is not None:
                    factors, bias = _refitted(rw, view, original, rank)
                changed = True
                _rewrite(rw, view, factors, rank, bias)
            else:
                rw.layer(view.op, shape=_shape(view), rank=rank, decision="kept")
                rw.skip(view.op, f"rank {rank} does not lower its {_shape(view)} multiplications")
        after = total_macs(graph)
        rw.note("costs", f"MACs {before:,} -> {after:,} ({after / max(before, 1):.3f}x)")

    def _ranks(self, rw: PassRewriter, found: dict[LinearView, Factors], before: int) -> Ranks:
        if self.rank is not None:
            return dict.fromkeys(found, self.rank)
        if self.speedup is None:
            energy = 0.95 if self.energy is None else self.energy
            return {view: factors.rank_for(energy) for view, factors in found.items()}
        ranks, after = _ranks_within(found, before, before / self.speedup)
        if after * self.speedup > before:
            rw.warn(
                "speedup",
                f"a speedup of {self.speedup:g} is not reached at any rank: "
                f"{before / max(after, 1):.3g} is",
            )
        return ranks


def _ranks_within(found: dict[LinearView, Factors], before: int, most: float) -> tuple[Ranks, int]:
    """Ranks with the largest product of energies at which all take at most `most` MACs.

    By a price per multiply-accumulate that every layer pays alike (Lagrange), found by bisection.
    """
    fixed = before - sum(macs(view.op) for view in found)
    options = {}
    for view, factors in found.items():
        kept = np.cumsum(factors.spectrum**2)
        loss = -np.log(np.maximum(kept / kept[-1], 1e-300))
        costs = np.array([_cheapest(view, rank) for rank in range(1, kept.size + 1)], np.float64)
        # At the last rank nothing is lost, whatever it costs.
        loss[-1] = 0.0
        options[view] = loss, costs

    def at(price: float) -> tuple[Ranks, int]:
        ranks = {
            view: int(np.argmin(loss + price * costs)) + 1
            for view, (loss, costs) in options.items()
        }
        return ranks, fixed + sum(_cheapest(view, rank) for view, rank in ranks.items())

    low, high = 1e-15, 1e3
    for _ in range(_STEPS):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if at(middle)[1] <= most else (middle, high)
    return at(high)


def _rewrite(
    rw: PassRewriter, view: LinearView, factors: Factors, rank: int, bias: Float64
) -> None:
    """Put two layers in the place of the layer; the second bears its name."""
    op, shape = view.op, view.weights.shape
    figures = {
        "shape": _shape(view),
        "rank": rank,
        "macs": f"{macs(op)} -> {_cheapest(view, rank)}",
        "sqnr_db": sqnr_db(*factors.powers(rank)),
    }

    def weights(values: Float64, name: str) -> Tensor:
        data = values.reshape(values.shape[0], *shape[1:-1], values.shape[1])
        return rw.constant(f"{op.name}/{name}", data)

    right, left = factors.right[:rank], factors.left[:, :rank]
    b, zeros = (
        rw.constant(f"{op.name}/{name}", values)
        for name, values in (("bias", bias), ("no_bias", np.zeros(rank)))
    )
    kernel = weights(right, "right")
    first = rw.put(op, op.kind, view.x, kernel, zeros, name=f"{op.name}/factor", attrs=op.attrs)
    strides = {"stride_h": 1, "stride_w": 1} if op.kind == "CONV_2D" else {}
    second = rw.put(op, op.kind, first, weights(left, "left"), b, attrs={**op.attrs, **strides})
    rw.graph.copy_facts(view.output, second.output)
    detail = f"{shape[0]}x{right.shape[1]} at rank {rank}"
    rw.replace(op, second, action="factorized", detail=detail)
    rw.layer(second, **figures, decision="factorized")


def _refitted(
    rw: PassRewriter, view: LinearView, original: tuple[Graph, dict[Tensor, Tensor]], rank: int
) -> tuple[Factors, Float64]:
    """Factors and bias that give the old outputs best from what the layer reads by now."""
    graph, twins = original
    w = _matrix(view)
    before = Session(graph, [twins[view.output]], threads=rw.context.threads)
    moments = HeldOut(1, *w.shape)
    assert rw.samples is not None
    values = rw.values_of([view.x], f"fitting {view.op.name}")
    for i, (sample, (x,)) in enumerate(zip(rw.samples.calibration, values, strict=False)):
        y = before.run(sample)[0].reshape(-1, 1, w.shape[0])
        step = max(len(y) // _ROWS, 1)
        moments.add(_rows(view, x)[::step], y[::step], held_out=is_held_out(i, first=0))
    fitted, both = moments.refit(w[None])[0][0], moments.both
    mean_x, mean_y = both.means
    factors = factorize(fitted, _shrunk(both.about(mean_x, mean_y)[0][0], both.count))
    return factors, mean_y[0] - factors.of_rank(rank) @ mean_x[0]


def _shape(view: LinearView) -> str:
    return "{}x{}".format(*_matrix(view).shape)


def _cheapest(view: LinearView, rank: int) -> int:
    """Multiply-accumulates of a layer at this rank, or as it is where that is less."""
    outputs, inputs = view.weights.shape[0], view.weights.shape[-1]
    whole = int(outputs * inputs)
    return macs(view.op) * min(rank * int(outputs + inputs), whole) // whole


def _is_matrix(view: LinearView) -> bool:
    shape = view.weights.shape
    grouped = view.op.kind == "CONV_2D" and shape[-1] != view.x.shape[-1]
    return not grouped and all(d == 1 for d in shape[1:-1]) and min(shape) > 0


def _matrix(view: LinearView) -> Float64:
    w = view.weights.astype(np.float64)
    return w.reshape(w.shape[0], -1)


def _rows(view: LinearView, x: Array) -> Array:
    """What a layer reads at each of its outputs, [R, 1, I]: a stride leaves out the rest."""
    if view.op.kind == "CONV_2D":
        x = x[:, :: attr(view.op, "stride_h"), :: attr(view.op, "stride_w")]
    return x.reshape(-1, 1, _matrix(view).shape[1])


def _covariances(rw: PassRewriter, layers: list[LinearView]) -> tuple[PerLayer, PerLayer]:
    """Mean [I] and covariance [I, I] of what each layer reads, where there are data."""
    if not rw.main or rw.samples is None:
        return _guessed(rw, layers)
    moments = [Moments(1, 1, _matrix(view).shape[1]) for view in layers]
    operands = list(dict.fromkeys(view.x for view in layers))
    places = {tensor: i for i, tensor in enumerate(operands)}
    for values in rw.values_of(operands, "looking at what layers read"):
        for view, moment in zip(layers, moments, strict=True):
            rows = _rows(view, values[places[view.x]])
            rows = rows[:: max(len(rows) // _ROWS, 1)]
            moment.add(rows, np.zeros((len(rows), 1, 1), np.float32))
    means, covariances = {}, {}
    for view, moment in zip(layers, moments, strict=True):
        mean, nothing = moment.means
        means[view] = mean[0]
        covariances[view] = _shrunk(moment.about(mean, nothing)[0][0], moment.count)
    return means, covariances


def _guessed(rw: PassRewriter, layers: list[LinearView]) -> tuple[PerLayer, PerLayer]:
    """The same from BatchNorm statistics, channels taken as independent."""
    rw.warn(
        "no-data",
        "no data: what a layer reads is taken as independent, spread as BatchNorm says; "
        "much is lost that data would keep",
    )
    known = propagate(rw.graph)
    means, covariances = {}, {}
    for view in layers:
        gaussian = known.get(view.x)
        if gaussian is not None and gaussian.mean.size == _matrix(view).shape[1]:
            means[view], covariances[view] = gaussian.mean, np.diag(gaussian.std**2)
    return means, covariances


def _shrunk(covariance: Float64, rows: int) -> Float64:
    """Towards one variance for all, the more the fewer rows it was found from."""
    size = len(covariance)
    share = _SHRINK * size / max(rows, 1)
    even = np.trace(covariance) / size * np.eye(size)
    shrunk: Float64 = (covariance + share * even) / (1 + share)
    return shrunk
