"""The textual form of a graph: for people, and for golden tests."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from qfrewrite.ir.graph import Graph
from qfrewrite.ir.op import Op
from qfrewrite.ir.quant import Quant
from qfrewrite.ir.tensor import NUMPY_DTYPES, Tensor

_SHORT = {"float32": "f32", "float16": "f16", "float64": "f64", "int8": "i8", "uint8": "u8",
          "int16": "i16", "int32": "i32", "int64": "i64", "bool": "i1"}  # fmt: skip


def graph_text(graph: Graph) -> str:
    """One line per op in execution order; the same text for the same graph, on every machine.

    Constants are written out up to 4 elements, beyond that as a digest of their values.
    """
    lines = [f"graph {graph.name}("]
    lines += [f"  %{t.name}: {tensor_type(t)}," for t in graph.inputs]
    lines.append(") {")
    lines += [f"  {op_text(op)}" for op in graph.ops]
    outputs = ", ".join(_operand(t) for t in graph.outputs)
    lines += [f"  return {outputs}", "}"]
    return "\n".join(lines) + "\n"


def op_text(op: Op) -> str:
    """`%y: f32[1,2] = RELU(%x)`, with attributes in braces."""
    outputs = ", ".join(f"%{t.name}: {tensor_type(t)}" for t in op.outputs)
    inputs = ", ".join("-" if t is None else _operand(t) for t in op.inputs)
    attrs = ", ".join(f"{k}={_attr(v)}" for k, v in sorted(op.attrs.items()))
    return f"{outputs} = {op.kind}({inputs})" + (f" {{{attrs}}}" if attrs else "")


def tensor_type(tensor: Tensor) -> str:
    """`f32[1,128,128,3]`, with scale and zero point where it is quantized."""
    dims = ",".join(str(d) for d in tensor.shape)
    text = f"{_SHORT.get(tensor.dtype, tensor.dtype)}[{dims}]"
    return text + (f"<{_quant(tensor.quant)}>" if tensor.quant else "")


def _quant(quant: Quant) -> str:
    if quant.per_channel:
        low, high = float(quant.scale.min()), float(quant.scale.max())
        return f"{low:.6g}..{high:.6g} on axis {quant.axis}"
    return f"{float(quant.scale[0]):.6g}, {int(quant.zero_point[0])}"


def _operand(tensor: Tensor) -> str:
    return f"%{tensor.name}" if tensor.data is None else f"{tensor_type(tensor)} {_const(tensor)}"


def _const(tensor: Tensor) -> str:
    data = tensor.value()
    if data.size <= 4 and tensor.dtype in NUMPY_DTYPES:
        return str(_rounded(data.tolist()))
    # Six significant digits: golden text must not hang on the last bit of a sum.
    stable = (
        np.array([f"{v:.5e}" for v in data.reshape(-1)[:4096]]) if data.dtype.kind == "f" else data
    )
    digest = hashlib.sha256(np.ascontiguousarray(stable).tobytes()).hexdigest()[:8]
    return f"#{digest}"


def _attr(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"[{float(value.min()):.6g}..{float(value.max()):.6g}; {value.size}]"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return str(_rounded(value))


def _rounded(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.6g}")
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return value
