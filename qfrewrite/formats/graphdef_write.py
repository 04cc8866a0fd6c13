"""Write the IR as a frozen GraphDef (`.pb`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qfrewrite.errors import QfError, UnsupportedError
from qfrewrite.formats.atomic import write_atomic
from qfrewrite.formats.graphdef_emit import Emitter, Kind, kind_of
from qfrewrite.formats.graphdef_nodes import parse_ref
from qfrewrite.formats.graphdef_schema import AttrValue
from qfrewrite.ir import Array, Model, Op, Tensor
from qfrewrite.ops import require_spec
from qfrewrite.ops.detection import CODE, decode_options, is_detection
from qfrewrite.ops.spec import attr

# The ops that write their own weights, in TensorFlow's layout.
LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")

Writer = Callable[[Emitter, Op], None]

_INDEX = Kind("DT_INT32")
# Element types of integer operands, where the node must name them: node op -> attributes.
_INDEX_ATTRS: Mapping[str, tuple[str, ...]] = {
    "Slice": ("Index",),
    "StridedSlice": ("Index",),
    "SplitV": ("Tlen",),
    "Transpose": ("Tperm",),
    "Pad": ("Tpaddings",),
    "PadV2": ("Tpaddings",),
    "MirrorPad": ("Tpaddings",),
    "Mean": ("Tidx",),
    "Sum": ("Tidx",),
    "Max": ("Tidx",),
    "Min": ("Tidx",),
    "Prod": ("Tidx",),
    "ExpandDims": ("Tdim",),
    "Tile": ("Tmultiples",),
    "SpaceToBatchND": ("Tblock_shape", "Tpaddings"),
    "BatchToSpaceND": ("Tblock_shape", "Tcrops"),
}


def write_graphdef(model: Model, path: str | Path) -> None:
    """Write `model` to `path`, whole or not at all; raises UnsupportedError and OutputError."""
    write_atomic(Path(path), graphdef_bytes(model))


def graphdef_bytes(model: Model) -> bytes:
    """`model` as a serialised GraphDef.

    An unedited GraphDef comes back as it was read; otherwise nodes are made from the IR, each
    from the node it was read from where the op is still the same, so that devices and attributes
    we do not know survive. Raises UnsupportedError for an op or tensor without such a form.
    """
    source = model.meta.get("graphdef")
    if source is not None and not model.edited:
        return bytes(source.SerializeToString(deterministic=True))
    if len(model.graphs) != 1:
        raise UnsupportedError(
            f"a GraphDef holds one graph, this model has {len(model.graphs)}",
            remedy="write a .tflite instead",
        )
    graph = model.graph
    emitter = Emitter(graph, source)
    for tensor in graph.inputs:
        _placeholder(emitter, tensor)
    for op in graph.ops:
        _write_op(emitter, op)
    _name_outputs(emitter, graph.outputs)
    return bytes(emitter.message.SerializeToString(deterministic=True))


def _placeholder(e: Emitter, tensor: Tensor) -> None:
    shape = AttrValue()
    shape.shape.SetInParent()
    for size in tensor.shape:
        shape.shape.dim.add().size = size
    attrs = {"dtype": kind_of(tensor), "shape": shape}
    e.bind(tensor, e.node("Placeholder", tensor.name, [], attrs, like=tensor.meta.get("node")))


def _write_op(e: Emitter, op: Op) -> None:
    write = _WRITERS.get(op.kind)
    if write is None:
        known = require_spec(op).graphdef if op.kind != "CUSTOM" else None
        write = _from_row if known else None
    if write is None:
        raise UnsupportedError(
            "has no form in a GraphDef", where=f"op '{op.name}' ({op.kind})",
            remedy="write a .tflite instead",
        )  # fmt: skip
    try:
        for tensor in (*op.inputs, *op.outputs):
            if tensor is not None:
                kind_of(tensor)
        write(e, op)
    except QfError as error:
        raise (error if error.where else error.at(f"op '{op.name}' ({op.kind})")) from None


def _name_outputs(e: Emitter, outputs: tuple[Tensor, ...]) -> None:
    """An output that is not the first of its op gets a node that bears its name."""
    for tensor in dict.fromkeys(outputs):
        ref = e.ref(tensor)
        if parse_ref(ref) != parse_ref(tensor.name):
            e.node("Identity", tensor.name, [ref], {"T": kind_of(tensor)})


# -- families ------------------------------------------------------------------------------


def _finish(e: Emitter, op: Op, kind: str, inputs: list[str], attrs: Mapping[str, Any]) -> None:
    """The last node of `op`: it bears the name of the op's output."""
    name = e.node(kind, e.main_name(op), inputs, attrs, like=op.meta.get("node"))
    for port, out in enumerate(op.outputs):
        e.bind(out, name if port == 0 else f"{name}:{port}")


def _from_row(e: Emitter, op: Op) -> None:
    """An op that corresponds one to one to a node."""
    spec = require_spec(op)
    assert spec.graphdef is not None
    attrs: dict[str, Any] = {theirs: attr(op, ours) for ours, theirs in spec.graphdef_attrs.items()}
    first = next(t for i, t in enumerate(op.inputs) if t is not None and _is_act(op, i))
    attrs["T"] = kind_of(first)
    attrs |= dict.fromkeys(_INDEX_ATTRS.get(spec.graphdef, ()), _INDEX)
    if spec.graphdef == "Pack":
        attrs["N"] = len(op.inputs)
    if spec.graphdef in ("Split", "SplitV"):
        attrs["num_split"] = len(op.outputs)
    if spec.graphdef == "Unpack":
        attrs["num"] = len(op.outputs)
    if spec.graphdef in ("SpaceToDepth", "DepthToSpace"):
        attrs["data_format"] = "NHWC"
    inputs = [e.ref(t) for t in op.inputs if t is not None]
    if spec.graphdef in ("Split", "SplitV", "ExpandDims"):
        inputs = [_scalar(e, op, i) if _is_axis(op, i) else ref for i, ref in enumerate(inputs)]
    _finish(e, op, spec.graphdef, inputs, attrs)


def _is_act(op: Op, slot: int) -> bool:
    port = require_spec(op).input_port(slot)
    return port is not None and port.role == "act"


def _is_axis(op: Op, slot: int) -> bool:
    port = require_spec(op).input_port(slot)
    return port is not None and port.name == "axis"


def _scalar(e: Emitter, op: Op, slot: int) -> str:
    """An axis operand: TensorFlow wants a scalar where TFLite takes [1]."""
    value = op.operand(slot).value().reshape(-1)[0]
    return e.const(np.int32(value), f"{op.name}/axis")


def _conv(e: Emitter, op: Op) -> None:
    strides = [1, attr(op, "stride_h"), attr(op, "stride_w"), 1]
    dilations = [1, attr(op, "dilation_h_factor"), attr(op, "dilation_w_factor"), 1]
    attrs = {
        "T": kind_of(op.operand(0)), "strides": strides, "dilations": dilations,
        "padding": attr(op, "padding"), "data_format": "NHWC",
    }  # fmt: skip
    depthwise = op.kind == "DEPTHWISE_CONV_2D"
    kind = "DepthwiseConv2dNative" if depthwise else "Conv2D"
    weights = _weights(e, op, _to_hwcm if depthwise else _to_hwio)
    _with_bias(e, op, kind, [e.ref(op.operand(0)), weights], attrs, op.input(2))


def _to_hwio(w: Array, op: Op) -> Array:
    hwio: Array = w.transpose(1, 2, 3, 0)
    return hwio


def _to_hwcm(w: Array, op: Op) -> Array:
    channels = op.operand(0).shape[-1]
    return w.reshape(w.shape[1], w.shape[2], channels, w.shape[3] // channels)


def _weights(e: Emitter, op: Op, layout: Callable[[Any, Op], Any]) -> str:
    """Weights in TensorFlow's layout, behind a FakeQuant node where the IR has one."""
    tensor = op.operand(1)
    fake = e.graph.producer(tensor)
    source = fake.operand(0) if fake is not None and fake.kind == "FAKE_QUANT" else tensor
    if source.data is None:
        raise UnsupportedError("its weights are computed: no form in a GraphDef")
    data = layout(source.data, op)
    if fake is None:
        return e.const(data, source.name)
    axis = attr(fake, "axis")
    if axis is not None and op.kind == "DEPTHWISE_CONV_2D":
        return _depthwise_fake_quant(e, fake, source, data)
    ref = e.const(data, source.name)
    return _fake_quant_node(e, fake, ref, e.unique(f"{source.name}/fake_quant"))


def _depthwise_fake_quant(e: Emitter, fake: Op, source: Tensor, data: Array) -> str:
    """Ranges along the last axis of [H, W, C * M], then the shape TensorFlow wants."""
    height, width, channels, multiplier = data.shape
    flat = e.const(data.reshape(height, width, channels * multiplier), source.name)
    ranged = _fake_quant_node(e, fake, flat, e.unique(f"{source.name}/fake_quant"))
    shape = e.const(np.array(data.shape, np.int32), f"{source.name}/shape")
    return e.node(
        "Reshape", e.unique(f"{source.name}/reshaped"), [ranged, shape],
        {"T": Kind("DT_FLOAT"), "Tshape": _INDEX},
    )  # fmt: skip


def _with_bias(
    e: Emitter, op: Op, kind: str, inputs: list[str], attrs: Mapping[str, Any], bias: Tensor | None
) -> None:
    if bias is None:
        _finish(e, op, kind, inputs, attrs)
        return
    inner = e.unique(f"{e.main_name(op)}/{kind}")
    e.node(kind, inner, inputs, attrs, like=op.meta.get("node"))
    attrs = {"T": kind_of(op.operand(0)), "data_format": "NHWC"}
    _finish(e, op, "BiasAdd", [inner, e.ref(bias)], attrs)


def _fully_connected(e: Emitter, op: Op) -> None:
    x, w = op.operand(0), op.operand(1)
    if w.data is None and e.graph.producer(w) is None:
        raise UnsupportedError("its weights are no constant")
    ref, kind = e.ref(x), kind_of(x)
    if len(x.shape) != 2:
        if attr(op, "keep_num_dims") and len(op.output.shape) != 2:
            raise UnsupportedError("keeps more than two dimensions: no form in a GraphDef")
        shape = e.const(np.array([-1, w.shape[1]], np.int32), f"{op.name}/flat/shape")
        ref = e.node("Reshape", e.unique(f"{op.name}/flat"), [ref, shape],
                     {"T": kind, "Tshape": _INDEX})  # fmt: skip
    weights = _weights(e, op, lambda data, _: data.T)
    attrs = {"T": kind, "transpose_a": False, "transpose_b": False}
    _with_bias(e, op, "MatMul", [ref, weights], attrs, op.input(2))


def _transpose_conv(e: Emitter, op: Op) -> None:
    attrs = {
        "T": kind_of(op.operand(2)), "strides": [1, attr(op, "stride_h"), attr(op, "stride_w"), 1],
        "padding": attr(op, "padding"), "data_format": "NHWC", "dilations": [1, 1, 1, 1],
    }  # fmt: skip
    inputs = [e.ref(op.operand(0)), _transpose_weights(e, op), e.ref(op.operand(2))]
    _with_bias(e, op, "Conv2DBackpropInput", inputs, attrs, op.input(3))


def _transpose_weights(e: Emitter, op: Op) -> str:
    """HWOI; ranges per output channel are on the last axis in a GraphDef, so HWIO behind them."""
    fake = e.graph.producer(op.operand(1))
    if fake is None or fake.kind != "FAKE_QUANT" or attr(fake, "axis") is None:
        return _weights(e, op, lambda data, _: data.transpose(1, 2, 0, 3))
    name = fake.operand(0).name
    ranged = _weights(e, op, _to_hwio)
    order = e.const(np.array([0, 1, 3, 2], np.int32), f"{name}/perm")
    attrs = {"T": Kind("DT_FLOAT"), "Tperm": _INDEX}
    return e.node("Transpose", e.unique(f"{name}/transposed"), [ranged, order], attrs)


def _pool(e: Emitter, op: Op) -> None:
    kind = "AvgPool" if op.kind == "AVERAGE_POOL_2D" else "MaxPool"
    attrs = {
        "T": kind_of(op.operand(0)), "padding": attr(op, "padding"), "data_format": "NHWC",
        "ksize": [1, attr(op, "filter_height"), attr(op, "filter_width"), 1],
        "strides": [1, attr(op, "stride_h"), attr(op, "stride_w"), 1],
    }  # fmt: skip
    _finish(e, op, kind, [e.ref(op.operand(0))], attrs)


def _batch_norm(e: Emitter, op: Op) -> None:
    """FusedBatchNormV3; what is missing of the statistics is filled in."""
    channels = op.operand(0).shape[-1]
    if len(op.operand(0).shape) != 4:
        raise UnsupportedError("works on rank 4 only in a GraphDef", remedy="fold it: -p fold_bn")
    parts = []
    for slot, (name, fill) in enumerate(
        (("gamma", 1), ("beta", 0), ("mean", 0), ("variance", 1)), 1
    ):
        given = op.input(slot)
        filled = np.full(channels, fill, np.float32)
        parts.append(e.const(filled, f"{op.name}/{name}") if given is None else e.ref(given))
    kind = kind_of(op.operand(0))
    attrs = {
        "T": kind, "U": kind, "epsilon": float(attr(op, "epsilon")), "is_training": False,
        "data_format": "NHWC",
    }  # fmt: skip
    name = e.node("FusedBatchNormV3", e.main_name(op), [e.ref(op.operand(0)), *parts], attrs,
                  like=op.meta.get("node"))  # fmt: skip
    e.bind(op.output, name)


def _fake_quant(e: Emitter, op: Op) -> None:
    source, axis = op.operand(0), attr(op, "axis")
    readers = e.graph.readers(op.output)
    as_weights = all(r.slot == 1 and r.op.kind in LINEAR for r in readers)
    if source.is_const and as_weights and not e.graph.is_output(op.output):
        return  # Written with the op that reads it, in that op's layout.
    if axis is not None and axis != len(source.shape) - 1:
        raise UnsupportedError("quantizes per index of an axis that is not the last")
    name = _fake_quant_node(e, op, e.ref(source), e.main_name(op))
    e.bind(op.output, name)


def _fake_quant_node(e: Emitter, op: Op, ref: str, name: str) -> str:
    channels = attr(op, "axis") is not None
    bounds = [
        e.const(np.asarray(attr(op, side), np.float32), f"{name}/{side}") for side in ("min", "max")
    ]
    kind = "FakeQuantWithMinMaxVarsPerChannel" if channels else "FakeQuantWithMinMaxVars"
    attrs = {"num_bits": int(attr(op, "num_bits")), "narrow_range": bool(attr(op, "narrow_range"))}
    return e.node(kind, name, [ref, *bounds], attrs)


def _concatenation(e: Emitter, op: Op) -> None:
    axis = e.const(np.int32(attr(op, "axis")), f"{op.name}/axis")
    inputs = [e.ref(t) for t in op.inputs if t is not None]
    attrs = {"T": kind_of(op.output), "N": len(inputs), "Tidx": _INDEX}
    _finish(e, op, "ConcatV2", [*inputs, axis], attrs)


def _reshape(e: Emitter, op: Op) -> None:
    shape = e.const(np.array(op.output.shape, np.int32), f"{op.name}/shape")
    attrs = {"T": kind_of(op.operand(0)), "Tshape": _INDEX}
    _finish(e, op, "Reshape", [e.ref(op.operand(0)), shape], attrs)


def _gather(e: Emitter, op: Op) -> None:
    axis = e.const(np.int32(attr(op, "axis")), f"{op.name}/axis")
    x, indices = op.operand(0), op.operand(1)
    attrs = {"Tparams": kind_of(x), "Tindices": kind_of(indices), "Taxis": _INDEX}
    _finish(e, op, "GatherV2", [e.ref(x), e.ref(indices), axis], attrs)


def _cast(e: Emitter, op: Op) -> None:
    attrs = {"SrcT": kind_of(op.operand(0)), "DstT": kind_of(op.output)}
    _finish(e, op, "Cast", [e.ref(op.operand(0))], attrs)


def _custom(e: Emitter, op: Op) -> None:
    node, inputs = op.meta.get("node"), [e.ref(t) for t in op.inputs if t is not None]
    if is_detection(op):
        _finish(e, op, CODE, inputs, decode_options(op))
    elif node is None:
        raise UnsupportedError(f"custom op {attr(op, 'custom_code')} has no form in a GraphDef")
    else:
        _finish(e, op, node.op, inputs, {})


_WRITERS: Mapping[str, Writer] = {
    "AVERAGE_POOL_2D": _pool,
    "BATCH_NORM": _batch_norm,
    "CAST": _cast,
    "CONCATENATION": _concatenation,
    "CONV_2D": _conv,
    "CUSTOM": _custom,
    "DEPTHWISE_CONV_2D": _conv,
    "FAKE_QUANT": _fake_quant,
    "FULLY_CONNECTED": _fully_connected,
    "GATHER": _gather,
    "MAX_POOL_2D": _pool,
    "RESHAPE": _reshape,
    "SQUEEZE": _reshape,
    "TRANSPOSE_CONV": _transpose_conv,
}
