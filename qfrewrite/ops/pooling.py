"""Pooling windows and reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qfrewrite.ir import Array, Op
from qfrewrite.ops.spec import (
    AS_KIND,
    FLOAT_ONLY,
    INT8_INT16,
    TRUTH,
    OpSpec,
    Reference,
    Shape,
    X,
    attr,
    const_ints,
    define,
    normal_axis,
    param,
    shape_error,
    shape_of,
)
from qfrewrite.ops.windows import STRIDES, output_size, patches


def _window(op: Op) -> tuple[tuple[int, int], tuple[int, int]]:
    return (
        (attr(op, "filter_height"), attr(op, "filter_width")),
        (attr(op, "stride_h"), attr(op, "stride_w")),
    )


def _pool_shape(op: Op) -> list[Shape]:
    x = shape_of(op, 0)
    window, stride = _window(op)
    if len(x) != 4 or min(*window, *stride) < 1:
        raise shape_error(op, f"cannot pool {list(x)} with window {window} and stride {stride}")
    height, width = (
        output_size(x[i + 1], window[i], stride[i], 1, attr(op, "padding")) for i in range(2)
    )
    return [(x[0], height, width, x[3])]


def _average_pool(op: Op, x: Array) -> Array:
    window, stride = _window(op)
    padding = attr(op, "padding")
    total = patches(x.astype(np.float64), window, stride, (1, 1), padding).sum((-1, -2))
    count = patches(np.ones((1, *x.shape[1:3], 1)), window, stride, (1, 1), padding).sum((-1, -2))
    return np.asarray(total / count, x.dtype)


def _l2_pool(op: Op, x: Array) -> Array:
    return np.sqrt(_average_pool(op, x**2))


def _max_pool(op: Op, x: Array) -> Array:
    window, stride = _window(op)
    view = patches(x.astype(np.float64), window, stride, (1, 1), attr(op, "padding"), fill=-np.inf)
    return np.asarray(view.max((-1, -2)))


def _axes(op: Op) -> tuple[int, ...]:
    rank = len(shape_of(op, 0))
    return tuple(sorted({normal_axis(op, a, rank) for a in const_ints(op, 1)}))


def _reduce_shape(op: Op) -> list[Shape]:
    axes, x = _axes(op), shape_of(op, 0)
    if attr(op, "keep_dims"):
        return [tuple(1 if i in axes else d for i, d in enumerate(x))]
    return [tuple(d for i, d in enumerate(x) if i not in axes)]


def _reduce(function: Callable[..., Any]) -> Reference:
    def reference(op: Op, x: Array, _: Array) -> Any:
        wide = x.astype(np.float64) if x.dtype.kind == "f" else x
        return function(wide, axis=_axes(op), keepdims=attr(op, "keep_dims"))

    return reference


_POOL = OpSpec(homogeneous=True, channelwise=True, options="Pool2DOptions").attributes(
    padding="VALID", filter_height=1, filter_width=1, **STRIDES
)
_FUSING = _POOL.facets("same_scale fuses").since(int8=2, int16=3)
_REDUCTION = OpSpec(graphdef=AS_KIND, options="ReducerOptions", reduces=True).shared(
    keep_dims=False
)
_LINEAR = _REDUCTION.facets("homogeneous").since(int8=2)
_EXTREME = _LINEAR.facets("same_scale").since(int16=3)
_LOGICAL = _REDUCTION.facets(outputs=TRUTH, kernels=FLOAT_ONLY)
_AXES = param("axes")

define(
    _FUSING.op("AVERAGE_POOL_2D", (X,), _pool_shape, _average_pool),
    _FUSING.op("MAX_POOL_2D", (X,), _pool_shape, _max_pool, selects=True),
    _POOL.op("L2_POOL_2D", (X,), _pool_shape, _l2_pool, kernels=FLOAT_ONLY),
    _LINEAR.op("MEAN", (X, _AXES), _reduce_shape, _reduce(np.mean)).since(int16=3),
    _LINEAR.op("SUM", (X, _AXES), _reduce_shape, _reduce(np.sum)),
    _EXTREME.op("REDUCE_MAX", (X, _AXES), _reduce_shape, _reduce(np.max), graphdef="Max"),
    _EXTREME.op("REDUCE_MIN", (X, _AXES), _reduce_shape, _reduce(np.min), graphdef="Min"),
    _REDUCTION.op("REDUCE_PROD", (X, _AXES), _reduce_shape, _reduce(np.prod), graphdef="Prod")
    .facets(kernels=INT8_INT16)
    .since(int8=2, int16=2),
    _LOGICAL.op("REDUCE_ANY", (param("x"), _AXES), _reduce_shape, _reduce(np.any), graphdef="Any"),
    _LOGICAL.op("REDUCE_ALL", (param("x"), _AXES), _reduce_shape, _reduce(np.all), graphdef="All"),
)
