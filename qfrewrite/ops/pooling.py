"""Pooling windows and reductions over axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qfrewrite.ir import Array, Op
from qfrewrite.ops.spec import (
    FLOAT_ONLY,
    INT8_INT16,
    OpSpec,
    Reference,
    Shape,
    act,
    attr,
    const_ints,
    normal_axis,
    param,
    rows,
    shape_error,
    shape_of,
)
from qfrewrite.ops.windows import output_size, patches

_POOL_ATTRS: Mapping[str, Any] = {
    "padding": "VALID",
    "stride_h": 1,
    "stride_w": 1,
    "filter_height": 1,
    "filter_width": 1,
    "fused_activation_function": "NONE",
}


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


def _average_pool(op: Op, x: list[Array | None]) -> list[Array]:
    v = x[0]
    assert v is not None
    window, stride = _window(op)
    padding = attr(op, "padding")
    total = patches(v.astype(np.float64), window, stride, (1, 1), padding).sum((-1, -2))
    count = patches(np.ones((1, *v.shape[1:3], 1)), window, stride, (1, 1), padding).sum((-1, -2))
    return [(total / count).astype(v.dtype)]


def _l2_pool(op: Op, x: list[Array | None]) -> list[Array]:
    v = x[0]
    assert v is not None
    return [np.sqrt(_average_pool(op, [v**2])[0])]


def _max_pool(op: Op, x: list[Array | None]) -> list[Array]:
    v = x[0]
    assert v is not None
    window, stride = _window(op)
    view = patches(v.astype(np.float64), window, stride, (1, 1), attr(op, "padding"), fill=-np.inf)
    return [view.max((-1, -2)).astype(v.dtype)]


def _axes(op: Op) -> tuple[int, ...]:
    rank = len(shape_of(op, 0))
    return tuple(sorted({normal_axis(op, a, rank) for a in const_ints(op, 1)}))


def _reduce_shape(op: Op) -> list[Shape]:
    axes, x = _axes(op), shape_of(op, 0)
    if attr(op, "keep_dims"):
        return [tuple(1 if i in axes else d for i, d in enumerate(x))]
    return [tuple(d for i, d in enumerate(x) if i not in axes)]


def _reduce(f: Callable[..., Any]) -> Reference:
    def reference(op: Op, x: list[Array | None]) -> list[Array]:
        v = x[0]
        assert v is not None
        wide = v.astype(np.float64) if v.dtype.kind == "f" else v
        out = f(wide, axis=_axes(op), keepdims=attr(op, "keep_dims"))
        return [np.asarray(out, v.dtype)]

    return reference


def _reduction(kind: str, graphdef: str, f: Callable[..., Any], **kw: Any) -> OpSpec:
    ports = {"x": act("x"), "y": act("y"), **kw.pop("ports", {})}
    return OpSpec(
        kind, (ports["x"], param("axes")), (ports["y"],), _reduce_shape, _reduce(f),
        "ReducerOptions", {"keep_dims": False}, graphdef=graphdef,
        graphdef_attrs={"keep_dims": "keep_dims"}, reduces=True, **kw,
    )  # fmt: skip


_TRUTH = {"x": param("x"), "y": param("y", dtype="bool")}


rows(
    OpSpec(
        "AVERAGE_POOL_2D", (act("x"),), (act("y"),), _pool_shape, _average_pool, "Pool2DOptions",
        _POOL_ATTRS, same_scale=True, fuses=True, versions={"int8": 2, "int16": 3},
        homogeneous=True, channelwise=True,
    ),
    OpSpec(
        "MAX_POOL_2D", (act("x"),), (act("y"),), _pool_shape, _max_pool, "Pool2DOptions",
        _POOL_ATTRS, same_scale=True, fuses=True, versions={"int8": 2, "int16": 3}, selects=True,
        homogeneous=True, channelwise=True,
    ),
    OpSpec(
        "L2_POOL_2D", (act("x"),), (act("y"),), _pool_shape, _l2_pool, "Pool2DOptions",
        _POOL_ATTRS, kernels=FLOAT_ONLY, homogeneous=True, channelwise=True,
    ),
    _reduction("MEAN", "Mean", np.mean, versions={"int8": 2, "int16": 3}, homogeneous=True),
    _reduction("SUM", "Sum", np.sum, versions={"int8": 2}, homogeneous=True),
    _reduction("REDUCE_MAX", "Max", np.max, same_scale=True, versions={"int8": 2, "int16": 3},
               homogeneous=True),
    _reduction("REDUCE_MIN", "Min", np.min, same_scale=True, versions={"int8": 2, "int16": 3},
               homogeneous=True),
    _reduction(
        "REDUCE_PROD", "Prod", np.prod, versions={"int8": 2, "int16": 2}, kernels=INT8_INT16
    ),
    _reduction("REDUCE_ANY", "Any", np.any, ports=_TRUTH, kernels=FLOAT_ONLY),
    _reduction("REDUCE_ALL", "All", np.all, ports=_TRUTH, kernels=FLOAT_ONLY),
)  # fmt: skip
