"""Normalization over channels, and outputs with a prescribed scale."""

from __future__ import annotations

import numpy as np

from qfrewrite.ir import Array, Op
from qfrewrite.ops.spec import FLOAT_ONLY, INT8_UINT8, OpSpec, Port, X, act, attr, define


def _batch_norm(op: Op, x: Array, *statistics: Array | None) -> Array:
    gamma, beta, mean, variance = (*statistics, *[None] * 4)[:4]
    y = x.astype(np.float64)
    y = y if mean is None else y - mean
    y = y if variance is None else y / np.sqrt(variance.astype(np.float64) + attr(op, "epsilon"))
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


def _softmax(op: Op, x: Array) -> Array:
    e = np.exp((x - x.max(-1, keepdims=True)).astype(np.float64) * attr(op, "beta"))
    return np.asarray(e / e.sum(-1, keepdims=True))


def _log_softmax(op: Op, x: Array) -> Array:
    shifted = (x - x.max(-1, keepdims=True)).astype(np.float64)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def _l2_normalization(op: Op, x: Array) -> Array:
    squares = x.astype(np.float64) ** 2
    return np.asarray(x / np.sqrt(np.maximum(squares.sum(-1, keepdims=True), 1e-12)))


def _local_response(op: Op, x: Array) -> Array:
    radius, squares = attr(op, "radius"), x.astype(np.float64) ** 2
    windows = [slice(max(0, c - radius), c + radius + 1) for c in range(x.shape[-1])]
    total = np.stack([squares[..., window].sum(-1) for window in windows], -1)
    return np.asarray(x * (attr(op, "bias") + attr(op, "alpha") * total) ** -attr(op, "beta"))


_STATISTICS = [
    Port(name, "statistic", optional=True) for name in ("gamma", "beta", "mean", "variance")
]

_LRN = {"radius": "depth_radius", "bias": "bias", "alpha": "alpha", "beta": "beta"}

define(
    # Ours: TFLite has no batch normalization. gamma .. variance: [C], channels last.
    OpSpec("BATCH_NORM", (X, *_STATISTICS), reference=_batch_norm, kernels=FLOAT_ONLY).attributes(
        epsilon=0.0
    ),
    OpSpec("SOFTMAX", reference=_softmax, outputs=(act("y", fixed=(1 / 256, -128)),))
    .attributes(beta=1.0)
    .facets(graphdef="Softmax", bounds=(0.0, 1.0), scores="probabilities")
    .since(int8=2, int16=3),
    OpSpec("LOG_SOFTMAX", reference=_log_softmax, outputs=(act("y", fixed=(16 / 256, 127)),))
    .facets(graphdef="LogSoftmax", kernels=INT8_UINT8, scores="probabilities")
    .since(int8=2),
    OpSpec("L2_NORMALIZATION", reference=_l2_normalization, options="L2NormOptions")
    .attributes(fused_activation_function="NONE")
    .facets(outputs=(act("y", fixed=(1 / 128, 0)),), kernels=INT8_UINT8)
    .since(int8=2),
    OpSpec("LOCAL_RESPONSE_NORMALIZATION", reference=_local_response, kernels=FLOAT_ONLY)
    .attributes(radius=5, bias=1.0, alpha=1.0, beta=0.5)
    .facets(graphdef="LRN", graphdef_attrs=_LRN),
)
