"""Writing convolutions and matrix products, with weights in TensorFlow's layout.

The IR has kernels as OHWI, depthwise ones as [1, H, W, C*M], matrices as [out, in]; TensorFlow
wants HWIO, HWCM and [in, out]. What its kernels do not compute on a CPU (dilated depthwise
convolutions, and those whose strides differ) is written as the nodes that give the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qfrewrite.formats.graphdef.emit import Emitter, Step, kind_of
from qfrewrite.ir import Array, Op, Tensor
from qfrewrite.ops.spec import attr
from qfrewrite.ops.windows import same_padding

# How the axes of TensorFlow's weights are taken from the IR's.
_PERMS: Mapping[str, tuple[int, ...]] = {
    "CONV_2D": (1, 2, 3, 0),
    "TRANSPOSE_CONV": (1, 2, 0, 3),
    "FULLY_CONNECTED": (1, 0),
}


def fake_quant_node(e: Emitter, op: Op, ref: str, name: str) -> str:
    """The node of FAKE_QUANT `op` on `ref`: bounds are scalars, or [C] along the last axis."""
    channels = attr(op, "axis") is not None
    shape = (-1,) if channels else ()
    bounds = [
        e.const(np.asarray(attr(op, side), np.float32).reshape(shape), f"{name}/{side}")
        for side in ("min", "max")
    ]
    kind = "FakeQuantWithMinMaxVarsPerChannel" if channels else "FakeQuantWithMinMaxVars"
    attrs = {"num_bits": int(attr(op, "num_bits")), "narrow_range": bool(attr(op, "narrow_range"))}
    return e.node(kind, name, [ref, *bounds], attrs)


def _reshape(e: Emitter, name: str, ref: str, shape: tuple[int, ...]) -> str:
    target = e.const(np.array(shape, np.int32), f"{name}/shape")
    return e.node("Reshape", e.unique(name), [ref, target], {})


def _transpose(e: Emitter, name: str, ref: str, perm: tuple[int, ...]) -> str:
    order = e.const(np.array(perm, np.int32), f"{name}/perm")
    return e.node("Transpose", e.unique(name), [ref, order], {})


# -- weights -------------------------------------------------------------------------------


def _laid_out(data: Array, op: Op) -> Array:
    """Weights as TensorFlow has them."""
    if op.kind == "DEPTHWISE_CONV_2D":
        return data.reshape(_depthwise_shape(data.shape, op))
    laid: Array = data.transpose(_PERMS[op.kind])
    return laid


def _depthwise_shape(shape: tuple[int, ...], op: Op) -> tuple[int, ...]:
    """[H, W, C, M] of a kernel [1, H, W, C * M]."""
    channels = op.operand(0).shape[-1]
    return (shape[1], shape[2], channels, shape[3] // channels)


def _weights(e: Emitter, op: Op) -> str:
    """Weights in TensorFlow's layout, behind a FakeQuant node where the IR has one."""
    tensor = op.operand(1)
    fake = tensor.producer
    if fake is None or fake.kind != "FAKE_QUANT" or not fake.operand(0).is_const:
        return _plain_weights(e, op, tensor)
    source = fake.operand(0)
    ranged_name = f"{source.name}/fake_quant"
    if attr(fake, "axis") is not None and op.kind == "DEPTHWISE_CONV_2D":
        # Ranges lie along the last axis of [H, W, C * M].
        flat = e.const(source.value().reshape(source.shape[1:]), source.name)
        ranged = fake_quant_node(e, fake, flat, e.unique(ranged_name))
        shape = _depthwise_shape(source.shape, op)
        return _reshape(e, f"{source.name}/reshaped", ranged, shape)
    if attr(fake, "axis") is not None and op.kind == "TRANSPOSE_CONV":
        # Ranges lie along the last axis of HWIO.
        data = source.value().transpose(_PERMS["CONV_2D"])
        ranged = fake_quant_node(e, fake, e.const(data, source.name), e.unique(ranged_name))
        return _transpose(e, f"{source.name}/transposed", ranged, (0, 1, 3, 2))
    ref = e.const(_laid_out(source.value(), op), source.name)
    return fake_quant_node(e, fake, ref, e.unique(ranged_name))


def _plain_weights(e: Emitter, op: Op, tensor: Tensor) -> str:
    if tensor.data is not None:
        kind_of(tensor)
        return e.const(_laid_out(tensor.data, op), tensor.name)
    ref, name = e.ref(tensor), f"{e.main_name(op)}/weights"
    if op.kind == "DEPTHWISE_CONV_2D":
        return _reshape(e, name, ref, _depthwise_shape(tensor.shape, op))
    return _transpose(e, name, ref, _PERMS[op.kind])


def _biased(e: Emitter, op: Op, slot: int) -> list[Step]:
    bias = op.input(slot)
    if bias is None:
        return []
    return [("BiasAdd", [e.ref(bias)], {"data_format": "NHWC"})]


# -- ops -----------------------------------------------------------------------------------


def _strides(op: Op) -> tuple[int, int]:
    return attr(op, "stride_h"), attr(op, "stride_w")


def _dilations(op: Op) -> tuple[int, int]:
    return attr(op, "dilation_h_factor"), attr(op, "dilation_w_factor")


def _conv_attrs(op: Op) -> dict[str, Any]:
    return {
        "strides": [1, *_strides(op), 1],
        "padding": attr(op, "padding"),
        "dilations": [1, 1, 1, 1],
        "data_format": "NHWC",
    }


def _conv(e: Emitter, op: Op) -> None:
    attrs = {**_conv_attrs(op), "dilations": [1, *_dilations(op), 1]}
    inputs = [e.ref(op.operand(0)), _weights(e, op)]
    e.chain(op, ("Conv2D", inputs, attrs), *_biased(e, op, 2))


def _depthwise(e: Emitter, op: Op) -> None:
    """One node where the strides are equal and nothing is dilated, else its equivalent.

    Given strides (s, t), dilations (d, f): pad, space to batches of d x f, convolve with stride 1,
    batches back to space, and take every s-th row and t-th column.
    """
    stride, dilation = _strides(op), _dilations(op)
    x, weights, attrs = e.ref(op.operand(0)), _weights(e, op), _conv_attrs(op)
    kind = "DepthwiseConv2dNative"
    if stride[0] == stride[1] and dilation == (1, 1):
        e.chain(op, (kind, [x, weights], attrs), *_biased(e, op, 2))
        return
    attrs |= {"strides": [1, 1, 1, 1], "padding": "VALID"}
    pads, extra = _explicit_pads(op)
    steps: list[Step] = [(kind, [weights], attrs)]
    if dilation != (1, 1):
        wide = [(before, after + more) for (before, after), more in zip(pads, extra, strict=True)]
        first = _blocks(e, op, "SpaceToBatchND", "paddings", wide)
        back = _blocks(e, op, "BatchToSpaceND", "crops", [(0, more) for more in extra])
        steps = [first, *steps, back]
    elif any(any(p) for p in pads):
        steps.insert(0, ("Pad", [e.ints(op, [(0, 0), *pads, (0, 0)], "paddings")], {}))
    if stride != (1, 1):
        steps.append(_every_nth(e, op, stride))
    head, *rest = [*steps, *_biased(e, op, 2)]
    e.chain(op, (head[0], [x, *head[1]], head[2]), *rest)


def _explicit_pads(op: Op) -> tuple[list[tuple[int, int]], list[int]]:
    """Zeros before and after height and width, and what is missing to a multiple of the blocks."""
    x, w = op.operand(0), op.operand(1)
    sizes, windows = x.shape[1:3], w.shape[1:3]
    pads, extra = [], []
    for size, window, s, d in zip(sizes, windows, _strides(op), _dilations(op), strict=True):
        same = attr(op, "padding") == "SAME"
        pads.append(same_padding(size, window, s, d) if same else (0, 0))
        extra.append(-(size + sum(pads[-1])) % d)
    return pads, extra


def _blocks(e: Emitter, op: Op, kind: str, table: str, rows: list[tuple[int, int]]) -> Step:
    operands = [e.ints(op, _dilations(op), f"{kind}/block"), e.ints(op, rows, table)]
    return kind, operands, {}


def _every_nth(e: Emitter, op: Op, stride: tuple[int, int]) -> Step:
    """x[:, ::s, ::t]"""
    bounds = {"begin": [0] * 3, "end": [0] * 3, "steps": [1, *stride]}
    operands = [e.ints(op, values, suffix) for suffix, values in bounds.items()]
    unused = ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
    attrs = {"begin_mask": 7, "end_mask": 7, **dict.fromkeys(unused, 0)}
    return "StridedSlice", operands, attrs


def _transpose_conv(e: Emitter, op: Op) -> None:
    inputs = [e.ref(op.operand(0)), _weights(e, op), e.ref(op.operand(2))]
    e.chain(op, ("Conv2DBackpropInput", inputs, _conv_attrs(op)), *_biased(e, op, 3))


def _conv_3d(e: Emitter, op: Op) -> None:
    """TFLite has the kernel as TensorFlow has it: DHWIO."""
    strides, dilations = (
        [1, *(attr(op, name.format(d)) for d in "dhw"), 1]
        for name in ("stride_{}", "dilation_{}_factor")
    )
    attrs = {
        "strides": strides,
        "dilations": dilations,
        "padding": attr(op, "padding"),
        "data_format": "NDHWC",
    }
    inputs = [e.ref(op.operand(0)), e.ref(op.operand(1))]
    e.chain(op, ("Conv3D", inputs, attrs), *_biased(e, op, 2))


def _fully_connected(e: Emitter, op: Op) -> None:
    """MatMul of matrices; other ranks are flattened before it and restored behind it."""
    x = op.operand(0)
    ref = e.ref(x)
    if len(x.shape) != 2:
        ref = _reshape(e, f"{e.main_name(op)}/flat", ref, (-1, op.operand(1).shape[1]))
    attrs = {"transpose_a": False, "transpose_b": False}
    steps = _biased(e, op, 2)
    if len(op.output.shape) != 2:
        steps.append(("Reshape", [e.ints(op, op.output.shape, "shape")], {}))
    e.chain(op, ("MatMul", [ref, _weights(e, op)], attrs), *steps)


LINEAR: Mapping[str, Callable[[Emitter, Op], None]] = {
    "CONV_2D": _conv,
    "CONV_3D": _conv_3d,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transpose_conv,
}
"""Writers by op kind."""
