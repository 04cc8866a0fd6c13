"""GraphDef nodes about quantization, and the detection post-processing op."""

from __future__ import annotations

from typing import Any

import numpy as np

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.graphdef.importer import NodeContext
from qfrewrite.formats.graphdef.rules.arith import Table
from qfrewrite.formats.graphdef.values import Constant, FakeQuant, Value, identity_perm, is_known
from qfrewrite.ir import Array, Op, Tensor
from qfrewrite.ops.detection import OPTIONS, encode_options, output_shapes


def _dequantize(c: NodeContext) -> list[Value]:
    """A quantized constant as a float one (tensorflow/core/kernels/dequantize_op.cc)."""
    c.require(3)
    data = c.array(0)
    if data.dtype.kind not in "iu" or data.dtype.itemsize > 2:
        raise UnsupportedError(f"Dequantize of {data.dtype} is not supported")
    low, high = (_along(c, slot, data) for slot in (1, 2))
    narrow = bool(c.attr("narrow_range", False))
    real = _real_values(c.attr("mode", "MIN_COMBINED"), data, low, high, narrow)
    return [Constant(c.name, real)]


def _along(c: NodeContext, slot: int, data: Array) -> Array:
    """The range in `slot`, float32, shaped to broadcast against `data`."""
    bound = c.array(slot).astype(np.float32)
    if bound.size == 1:
        return bound.reshape(())
    axis = c.axis(int(c.attr("axis", -1)), data.ndim)
    if bound.shape != data.shape[axis : axis + 1]:
        raise ModelFileError(f"has ranges of shape {list(bound.shape)} for {list(data.shape)}")
    return bound.reshape([-1 if i == axis else 1 for i in range(data.ndim)])


def _real_values(mode: Any, data: Array, low: Array, high: Array, narrow: bool) -> Array:
    """Quantized values as float32, to the bit as TensorFlow's kernel computes them in float32.

    A scale that is rounded otherwise is off alike for all weights: behind a large gain that does
    not average out, as the rounding of single weights does.
    """
    info = np.iinfo(data.dtype)
    least, most = np.float32(info.min), np.float32(info.max)
    quantized = data.astype(np.float32)
    real: Array
    if mode == "MIN_FIRST":
        # The range is moved so that 0 is a quantized value.
        scale = ((high - low).astype(np.float64) / (float(most) - float(least))).astype(np.float32)
        steps = low / np.where(scale == 0, np.float32(1), scale)
        rounded = np.copysign(np.floor(np.abs(steps) + np.float32(0.5)), steps)
        real = (np.where(scale == 0, low, rounded * scale) - least * scale) + quantized * scale
    elif mode == "SCALED":
        scale = high / most
        if info.min < 0:
            scale = np.maximum(low / (least + np.float32(narrow)), scale)
        real = quantized * scale
    elif mode == "MIN_COMBINED":
        half = (most - least + np.float32(1)) / np.float32(2) if info.min < 0 else np.float32(0)
        real = (quantized + half) * ((high - low) / (most - least)) + low
    else:
        raise ModelFileError(f"has the unknown mode '{mode}'")
    return real


def _fake_quant(c: NodeContext) -> list[Value]:
    if c.node.op == "FakeQuantWithMinMaxArgs":
        low, high = np.float32(c.attr("min", -6.0)), np.float32(c.attr("max", 6.0))
    else:
        c.require(3)
        low, high = (c.array(i).astype(np.float32) for i in (1, 2))
        low, high = (a.reshape(()) if a.size == 1 else a for a in (low, high))
        if low.shape != high.shape or low.ndim > 1:
            raise ModelFileError(f"has ranges of shape {list(low.shape)} and {list(high.shape)}")
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
        raise ModelFileError("has a range that is not finite, or whose min is above its max")
    bits, narrow = int(c.attr("num_bits", 8)), bool(c.attr("narrow_range", False))
    value = c.value(0)
    shape = value.shape
    if low.size > 1 and (not shape or shape[-1] != low.size):
        raise ModelFileError(f"has {low.size} ranges for a value of shape {list(shape)}")
    if 0 in shape:
        raise ModelFileError(f"quantizes nothing: its value has shape {list(shape)}")
    # A constant is quantized once where it is laid out; a second time is an op like any other.
    if is_known(value):
        fake = FakeQuant(np.asarray(low), np.asarray(high), bits, narrow, c.name, c.node)
        return [Constant(value.name, value.data, value.from_shape, fake)]
    attrs = {"min": low, "max": high, "num_bits": bits, "narrow_range": narrow, "axis": None}
    if low.size == 1:
        attrs |= {"min": float(low.reshape(-1)[0]), "max": float(high.reshape(-1)[0])}
    else:
        attrs["axis"] = c.perm(0)[-1]
    return c.unary("FAKE_QUANT", attrs)


def _detection(c: NodeContext) -> list[Value]:
    """The custom op that TFLite computes; its attributes become its options."""
    c.require(3)
    defaults = {"max_detections": 10, "max_classes_per_detection": 1}
    stated = {name: c.attr(name, defaults.get(name)) for name in OPTIONS}
    options = {k: OPTIONS[k](v) for k, v in stated.items() if v is not None}
    graph = c.importer.graph
    outputs = [
        Tensor(graph.unique_name(f"{c.name}:{i}" if i else c.name), shape)
        for i, shape in enumerate(output_shapes(options))
    ]
    attrs = {"custom_code": c.node.op, "custom_options": encode_options(options)}
    inputs = [c.plain(i) for i in range(3)]
    graph.add_op(Op("CUSTOM", inputs, outputs, attrs, name=c.name, meta={"node": c.node}))
    return [c.as_value(t, identity_perm(len(t.shape))) for t in outputs]


QUANT: Table = {
    "Dequantize": _dequantize,
    "FakeQuantWithMinMaxArgs": _fake_quant,
    "FakeQuantWithMinMaxVars": _fake_quant,
    "FakeQuantWithMinMaxVarsPerChannel": _fake_quant,
    "TFLite_Detection_PostProcess": _detection,
}
