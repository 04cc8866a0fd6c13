"""Fitting a linear layer to what it shall put out, and rounding its weights.

A layer is G groups of M outputs over K inputs: a convolution has one group, M output channels and
K = height x width x input channels; a depthwise one a group per channel. Moments are enough: no
row is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qfrewrite.ir import Array
from qfrewrite.ir.dtypes import Float64

# Ridge strengths, as fractions of the mean input power; the last leaves the weights as they are.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e3)
# One sample in so many is held out from a fit, to judge it.
HELD_EVERY = 4
# What is added to the Hessian before it is inverted, likewise.
_DAMPING = 0.01
_BLOCK = 128


@dataclass
class Moments:
    """Sums over rows of inputs X [N, G, K] and outputs Y [N, G, M]."""

    groups: int
    outputs: int
    inputs: int
    count: int = 0
    x: Float64 = field(init=False)
    y: Float64 = field(init=False)
    xx: Float64 = field(init=False)
    yx: Float64 = field(init=False)

    def __post_init__(self) -> None:
        """Start from nothing."""
        g, m, k = self.groups, self.outputs, self.inputs
        self.x, self.y = np.zeros((g, k)), np.zeros((g, m))
        self.xx, self.yx = np.zeros((g, k, k)), np.zeros((g, m, k))

    def add(self, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]) -> None:
        """Take rows; products are of float32, sums of float64."""
        self.count += len(x)
        self.x += x.sum(0, dtype=np.float64)
        self.y += y.sum(0, dtype=np.float64)
        by_group = x.transpose(1, 2, 0)
        self.xx += by_group @ x.transpose(1, 0, 2)
        self.yx += y.transpose(1, 2, 0) @ x.transpose(1, 0, 2)

    def plus(self, other: Moments) -> Moments:
        """The moments of both."""
        both = Moments(self.groups, self.outputs, self.inputs, self.count + other.count)
        for name in ("x", "y", "xx", "yx"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def about(self, x: Float64, y: Float64) -> tuple[Float64, Float64]:
        """Second moments per row about the points x [G, K] and y [G, M]: of X, and of Y with X."""
        n = max(self.count, 1)
        mx, my = self.x / n, self.y / n
        xx = self.xx / n - _outer(mx, x) - _outer(x, mx) + _outer(x, x)
        yx = self.yx / n - _outer(my, x) - _outer(y, mx) + _outer(y, x)
        return xx, yx

    @property
    def means(self) -> tuple[Float64, Float64]:
        """The mean input [G, K] and the mean output [G, M]."""
        n = max(self.count, 1)
        return self.x / n, self.y / n


def _outer(a: Float64, b: Float64) -> Float64:
    return a[:, :, None] * b[:, None, :]


class HeldOut:
    """Moments of the rows that a layer is fitted on, and of the held-out rows that judge the fit.

    block: how many rows are gathered before they are added: a product of a few is all overhead.
    """

    def __init__(self, groups: int, outputs: int, inputs: int, *, block: int = 1) -> None:
        self._parts = tuple(Moments(groups, outputs, inputs) for _ in range(2))
        self._waiting: tuple[list[tuple[Array, Array]], ...] = ([], [])
        self._block = block

    def add(self, x: Array, y: Array, *, held_out: bool) -> None:
        """Take rows of inputs [N, G, K] and of outputs [N, G, M]."""
        self._waiting[held_out].append((x, y))
        if sum(len(rows) for rows, _ in self._waiting[held_out]) >= self._block:
            self._flush(held_out)

    def _flush(self, held_out: int) -> None:
        if self._waiting[held_out]:
            x, y = (np.concatenate(rows) for rows in zip(*self._waiting[held_out], strict=True))
            self._waiting[held_out].clear()
            self._parts[held_out].add(x, y)

    @property
    def parts(self) -> tuple[Moments, Moments]:
        """The moments of the rows fitted on, and of those held out."""
        for held_out in (0, 1):
            self._flush(held_out)
        fit, judge = self._parts
        return fit, judge

    @property
    def both(self) -> Moments:
        """The moments of all rows."""
        fit, judge = self.parts
        return fit.plus(judge)

    def refit(self, w: Float64) -> tuple[Float64, float]:
        """Weights [G, M, K] and ridge strength by `refit`; w itself where a part has no rows."""
        fit, judge = self.parts
        return refit(fit, judge, w) if fit.count and judge.count else (w, STRENGTHS[-1])


def is_held_out(index: int, *, first: int) -> bool:
    """Whether a sample is held out: one in four, from number `first` on."""
    return index % HELD_EVERY == first


def refit(fit: Moments, held_out: Moments, w: Float64) -> tuple[Float64, float]:
    """Weights [G, M, K] that reproduce the outputs better, and the ridge strength taken.

    Ridge regression towards w; its strength is the one of the smallest error on
    `held_out`, rows that were not fitted on.
    """
    mx, my = fit.means
    h, c = fit.about(mx, my)
    hv, cv = held_out.about(mx, my)
    values, vectors = np.linalg.eigh(h)
    values = np.maximum(values, 0.0)
    power = np.trace(h, axis1=1, axis2=2)[:, None] / h.shape[1]
    rotated_c, rotated_w = c @ vectors, w @ vectors
    best, taken, least = w, STRENGTHS[-1], np.inf
    for strength in STRENGTHS:
        d = strength * power + 1e-12 * values.max(initial=1e-30)
        candidate = ((rotated_c + d[:, None] * rotated_w) / (values + d)[:, None]) @ np.swapaxes(
            vectors, 1, 2
        )
        error = float((candidate @ hv * candidate).sum() - 2 * (candidate * cv).sum())
        if error < least:
            best, taken, least = candidate, strength, error
    return best, taken


def round_weights(
    w: Float64, h: Float64, scale: Float64, how: str = "gptq", most: int = 127
) -> Float64:
    """Codes of w [G, M, K] in [-most, most] at `scale` [G, M], minding the inputs' moments
    [G, K, K].

    gptq: column by column, the error of each spread over those to come (Frantar et al. 2022,
    arXiv:2210.17323); descent: the same, then single codes are moved while that helps; nearest.
    """
    step = scale[:, :, None]
    if how == "nearest":
        return np.clip(np.rint(w / step), -most, most)
    codes = np.stack([_gptq(*one, most) for one in zip(w, h, scale, strict=True)])
    return _descend(w, h, step, codes, most) if how == "descent" else codes


def _gptq(w: Float64, h: Float64, scale: Float64, most: int) -> Float64:
    order = np.argsort(-np.diag(h), kind="stable")
    inverse = _inverse_root(h[np.ix_(order, order)])
    left, codes = w[:, order].copy(), np.empty_like(w)
    size = w.shape[1]
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        errors = np.zeros((w.shape[0], stop - start))
        for i in range(start, stop):
            column = np.clip(np.rint(left[:, i] / scale), -most, most)
            error = (left[:, i] - scale * column) / inverse[i, i]
            left[:, i + 1 : stop] -= error[:, None] * inverse[i, i + 1 : stop]
            errors[:, i - start], codes[:, i] = error, column
        left[:, stop:] -= errors @ inverse[start:stop, stop:]
    result = np.empty_like(codes)
    result[:, order] = codes
    return result


def _inverse_root(h: Float64) -> Float64:
    """The upper Cholesky factor of the inverse of h, damped."""
    damping = _DAMPING * np.trace(h) / len(h) + 1e-12
    inverse = np.linalg.inv(h + damping * np.eye(len(h)))
    root: Float64 = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return root


def _descend(
    w: Float64, h: Float64, step: Float64, codes: Float64, most: int, sweeps: int = 15
) -> Float64:
    """Move single codes by whole steps while that lowers the error at the output."""
    codes = codes.copy()
    gradient = (w - step * codes) @ h
    diagonal = np.maximum(np.diagonal(h, axis1=1, axis2=2), 1e-30)
    for _ in range(sweeps):
        moved = 0
        for i in range(w.shape[2]):
            delta = np.rint(gradient[:, :, i] / (step[:, :, 0] * diagonal[:, None, i]))
            delta = np.clip(codes[:, :, i] + delta, -most, most) - codes[:, :, i]
            moved += int(np.count_nonzero(delta))
            codes[:, :, i] += delta
            gradient -= (step[:, :, 0] * delta)[:, :, None] * h[:, None, i, :]
        if not moved:
            break
    return codes


def output_error(w: Float64, other: Float64, h: Float64) -> float:
    """The mean square that other weights change the outputs by, over inputs with moments h."""
    difference = other - w
    return float((difference @ h * difference).sum())


@dataclass(frozen=True)
class Factors:
    """Weights as left [O, k] @ right [k, I]; the first r columns and rows are the best of rank r.

    spectrum: [k], what each adds to the outputs, as a singular value; falling.
    """

    left: Float64
    right: Float64
    spectrum: Float64

    def rank_for(self, energy: float) -> int:
        """The least rank that keeps this share of the outputs' power."""
        power = np.cumsum(self.spectrum**2)
        return int(np.searchsorted(power, energy * power[-1] * (1 - 1e-12)) + 1)

    def of_rank(self, rank: int) -> Float64:
        """The weights of this rank, [O, I]."""
        return self.left[:, :rank] @ self.right[:rank]

    def powers(self, rank: int) -> tuple[float, float]:
        """The power of the outputs, and of what rank `rank` loses of it."""
        power = self.spectrum**2
        return float(power.sum()), float(power[rank:].sum())


def factorize(w: Float64, covariance: Float64 | None = None) -> Factors:
    """The singular value decomposition of weights w [O, I], over inputs with `covariance` [I, I].

    Truncated, it loses least of the outputs over such inputs, not of the weights; without a
    covariance inputs are taken as independent and alike.
    """
    values, vectors = np.ones(w.shape[1]), np.eye(w.shape[1])
    if covariance is not None:
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        values = np.maximum(values, 0.0) + 1e-9 * max(values.max(initial=0.0), 1e-30)
    root = np.sqrt(values)
    u, s, v = np.linalg.svd((w @ vectors) * root, full_matrices=False)
    half = np.sqrt(s)
    return Factors(u * half, (half[:, None] * v / root) @ vectors.T, s)
