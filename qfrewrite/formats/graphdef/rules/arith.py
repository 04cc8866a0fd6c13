"""Reading arithmetic: constants, aliases, element-wise ops, normalization, reductions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.graphdef.importer import NodeContext
from qfrewrite.formats.graphdef.nodes import ALIASES, place
from qfrewrite.formats.graphdef.tensor_proto import tensor_to_numpy
from qfrewrite.formats.graphdef.values import NCHW, Constant, Value, identity_perm, is_known, ranked
from qfrewrite.ir import NUMPY_DTYPES, Tensor

Table = Mapping[str, Callable[[NodeContext], list[Value]]]

# The IR computes in float32; other precisions are taken as that.
FLOATS = ("DT_FLOAT", "DT_DOUBLE", "DT_HALF", "DT_BFLOAT16")


def element_type(data_type: str) -> str:
    """The IR's name of a `DT_*` element type; raises UnsupportedError where it has none."""
    if data_type in FLOATS:
        return "float32"
    name = data_type.removeprefix("DT_").lower().removeprefix("q")
    if name not in NUMPY_DTYPES:
        raise UnsupportedError(f"element type {data_type} is not supported")
    return name


def _const(c: NodeContext) -> list[Value]:
    proto = c.attr("value")
    if not hasattr(proto, "tensor_content"):
        raise ModelFileError("is a Const without a value")
    data = tensor_to_numpy(proto, place(c.node))
    if data.dtype.kind == "f" and data.dtype != np.float32:
        c.importer.diagnostics.notice(
            "read-as-float32", f"constants of {data.dtype} are read as float32 ('{c.name}', ...)"
        )
        data = data.astype(np.float32)
    return [Constant(c.name, data)]


def _alias(c: NodeContext) -> list[Value]:
    return [c.value(0)]


def _aliases(c: NodeContext) -> list[Value]:
    c.require(1)
    return list(c.inputs)


def _cast(c: NodeContext) -> list[Value]:
    dtype = element_type(c.attr("DstT", "DT_FLOAT"))
    value = c.value(0)
    if is_known(value):
        data = value.data.astype(NUMPY_DTYPES[dtype])
        return [Constant(c.name, data, value.from_shape or value.data.dtype.kind in "iub")]
    if value.dtype == dtype:
        return [value]
    attrs = {"in_data_type": value.dtype.upper(), "out_data_type": dtype.upper()}
    return c.unary("CAST", attrs, dtype=dtype)


def _add_n(c: NodeContext) -> list[Value]:
    """A sum of n tensors of one shape, as a chain of ADD."""
    total = c.value(0)
    for i, value in enumerate(c.inputs[1:], 2):
        part = NodeContext(c.importer, c.node, (total, value))
        name = None if i == len(c.inputs) else f"{c.name}/sum{i}"
        perm = part.perm(0)
        operands = [part.stored(slot, perm) for slot in (0, 1)]
        total = part.emit("ADD", operands, perm=perm, name=name)[0]
    return [total]


def _bias_add(c: NodeContext) -> list[Value]:
    """BiasAdd(x, b [C]): channels last, or on axis 1 in NCHW."""
    rank = len(c.shape(0))
    if c.attr("data_format", "NHWC") != "NCHW":
        perm = c.last_axis_kept(0)
    elif rank == 4:
        perm = NCHW
    else:
        perm = (0, rank - 1, *range(1, rank - 1)) if rank > 1 else identity_perm(rank)
    x, bias = c.stored(0, perm), c.plain(1)
    if bias.shape != x.shape[-1:]:
        raise ModelFileError(f"bias {list(bias.shape)} does not fit {list(c.shape(0))}")
    return c.emit("ADD", [x, bias], perm=perm)


def channels_last(c: NodeContext) -> tuple[int, ...]:
    """The permutation of a rank 4 node with attribute data_format; raises UnsupportedError."""
    data_format = c.attr("data_format", "NHWC")
    if data_format not in ("NHWC", "NCHW"):
        raise UnsupportedError(f"data format {data_format} is not supported")
    return NCHW if data_format == "NCHW" else identity_perm(4)


def _fused_batch_norm(c: NodeContext) -> list[Value]:
    """FusedBatchNorm, V2, V3: (x, scale, offset, mean, variance), each of these [C]."""
    if c.attr("is_training", True):
        what = "normalizes by the statistics of each batch (is_training is true)"
        remedy = "export the graph for inference: build it with is_training=False, then freeze"
        raise UnsupportedError(what, remedy=remedy)
    return _batch_norm(c, (1, 2, 3, 4), c.attr("epsilon", 1e-4), channels_last(c))


def _old_batch_norm(c: NodeContext) -> list[Value]:
    """BatchNormWithGlobalNormalization: (t, m, v, beta, gamma)."""
    gamma = 4 if c.attr("scale_after_normalization", True) else None
    return _batch_norm(c, (gamma, 3, 1, 2), c.attr("variance_epsilon", 1e-3), identity_perm(4))


def _batch_norm(
    c: NodeContext, slots: tuple[int | None, ...], epsilon: float, perm: tuple[int, ...]
) -> list[Value]:
    x = c.stored(0, perm)
    statistics: list[Tensor | None] = []
    for slot in slots:
        if slot is None:
            statistics.append(None)
            continue
        data = c.constant(slot)
        if data.shape != x.shape[-1:]:
            raise ModelFileError(f"input {slot} has shape {list(data.shape)}, not [channels]")
        statistics.append(c.importer.laid_out(data, (0,)))
    return c.emit("BATCH_NORM", [x, *statistics], {"epsilon": float(epsilon)}, perm=perm)


def _softmax(kind: str, attrs: Mapping[str, float], c: NodeContext) -> list[Value]:
    """Softmax, LogSoftmax: over the last axis."""
    return c.unary(kind, attrs, perm=c.last_axis_kept(0))


def _local_response(c: NodeContext) -> list[Value]:
    """LRN: over neighbouring channels of the last axis, so channels must lie last."""
    attrs = {name: float(c.attr(name, default)) for name, default in _RESPONSE.items()}
    radius = int(c.attr("depth_radius", 5))
    perm = c.last_axis_kept(0)
    return c.unary("LOCAL_RESPONSE_NORMALIZATION", {"radius": radius, **attrs}, perm=perm)


_RESPONSE = {"bias": 1.0, "alpha": 1.0, "beta": 0.5}


def _reduce(kind: str, c: NodeContext) -> list[Value]:
    perm, rank = c.perm(0), len(c.shape(0))
    axes = [c.axis(a, rank) for a in c.ints(1)]
    keep = bool(c.attr("keep_dims", False))
    # Where the file's own numbers hold, its own constant is kept.
    same = perm == identity_perm(rank)
    operand = c.operand(c.array(1) if same else sorted(perm[a] for a in axes), "axes", 1)
    left = perm if keep else ranked([perm[i] for i in range(rank) if i not in axes])
    return c.emit(kind, [c.stored(0, perm), operand], {"keep_dims": keep}, perm=left)


ARITHMETIC: Table = {
    "Const": _const,
    **dict.fromkeys(ALIASES, _alias),
    "IdentityN": _aliases,
    "Cast": _cast,
    "Add": lambda c: c.binary("ADD"),
    "Div": lambda c: c.binary("DIV"),
    "AddN": _add_n,
    **dict.fromkeys(("BiasAdd", "BiasAddV1"), _bias_add),
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), _fused_batch_norm),
    "BatchNormWithGlobalNormalization": _old_batch_norm,
    "Softmax": partial(_softmax, "SOFTMAX", {"beta": 1.0}),
    "LogSoftmax": partial(_softmax, "LOG_SOFTMAX", {}),
    "LRN": _local_response,
    "Mean": partial(_reduce, "MEAN"),
    "Sum": partial(_reduce, "SUM"),
    "Max": partial(_reduce, "REDUCE_MAX"),
    "Min": partial(_reduce, "REDUCE_MIN"),
    "Prod": partial(_reduce, "REDUCE_PROD"),
}
