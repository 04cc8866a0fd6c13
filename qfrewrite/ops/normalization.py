"""Normalization over channels, and outputs with a prescribed scale."""

from __future__ import annotations

import numpy as np

from qfrewrite.ir import Array, Op
from qfrewrite.ops.elementwise import same_shape
from qfrewrite.ops.spec import FLOAT_ONLY, INT8_UINT8, OpSpec, Port, act, attr, rows


def _batch_norm(op: Op, x: list[Array | None]) -> list[Array]:
    v = x[0]
    assert v is not None
    gamma, beta, mean, variance = (*x[1:5], None, None, None, None)[:4]
    y = v.astype(np.float64)
    y = y if mean is None else y - mean
    y = y if variance is None else y / np.sqrt(variance.astype(np.float64) + attr(op, "epsilon"))
    y = y if gamma is None else y * gamma
    y = y if beta is None else y + beta
    return [y.astype(v.dtype)]


def _softmax(op: Op, x: list[Array | None]) -> list[Array]:
    v = x[0]
    assert v is not None
    e = np.exp((v - v.max(-1, keepdims=True)).astype(np.float64) * attr(op, "beta"))
    return [(e / e.sum(-1, keepdims=True)).astype(v.dtype)]


def _log_softmax(op: Op, x: list[Array | None]) -> list[Array]:
    v = x[0]
    assert v is not None
    shifted = (v - v.max(-1, keepdims=True)).astype(np.float64)
    return [(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))).astype(v.dtype)]


def _l2_normalization(op: Op, x: list[Array | None]) -> list[Array]:
    v = x[0]
    assert v is not None
    norm = np.sqrt(np.maximum((v.astype(np.float64) ** 2).sum(-1, keepdims=True), 1e-12))
    return [(v / norm).astype(v.dtype)]


def _local_response(op: Op, x: list[Array | None]) -> list[Array]:
    v = x[0]
    assert v is not None
    radius, channels = attr(op, "radius"), v.shape[-1]
    squares = v.astype(np.float64) ** 2
    total = np.stack(
        [squares[..., max(0, c - radius) : c + radius + 1].sum(-1) for c in range(channels)],
        -1,
    )
    return [
        (v * (attr(op, "bias") + attr(op, "alpha") * total) ** -attr(op, "beta")).astype(v.dtype)
    ]


def _statistic(name: str) -> Port:
    return Port(name, "statistic", optional=True)


rows(
    # Ours: TFLite has no batch normalization. gamma .. variance: [C], channels last.
    OpSpec(
        "BATCH_NORM",
        (act("x"), *(_statistic(n) for n in ("gamma", "beta", "mean", "variance"))),
        (act("y"),), same_shape, _batch_norm, attrs={"epsilon": 0.0}, kernels=FLOAT_ONLY,
    ),
    OpSpec(
        "SOFTMAX", (act("x"),), (act("y", fixed=(1 / 256, -128)),), same_shape, _softmax,
        "SoftmaxOptions", {"beta": 1.0}, graphdef="Softmax", versions={"int8": 2, "int16": 3},
        bounds=(0.0, 1.0), scores="probabilities",
    ),
    OpSpec(
        "LOG_SOFTMAX", (act("x"),), (act("y", fixed=(16 / 256, 127)),), same_shape, _log_softmax,
        "LogSoftmaxOptions", graphdef="LogSoftmax", versions={"int8": 2}, kernels=INT8_UINT8,
        scores="probabilities",
    ),
    OpSpec(
        "L2_NORMALIZATION", (act("x"),), (act("y", fixed=(1 / 128, 0)),), same_shape,
        _l2_normalization, "L2NormOptions", {"fused_activation_function": "NONE"},
        versions={"int8": 2}, kernels=INT8_UINT8,
    ),
    OpSpec(
        "LOCAL_RESPONSE_NORMALIZATION", (act("x"),), (act("y"),), same_shape, _local_response,
        "LocalResponseNormalizationOptions", {"radius": 5, "bias": 1.0, "alpha": 1.0, "beta": 0.5},
        graphdef="LRN", graphdef_attrs={
            "radius": "depth_radius", "bias": "bias", "alpha": "alpha", "beta": "beta",
        },
        kernels=FLOAT_ONLY,
    ),
)  # fmt: skip
