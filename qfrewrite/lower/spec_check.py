"""The rules of the 8-bit specification, checked on any quantized graph, ours or another tool's.

Source: the LiteRT 8-bit quantization specification, and what LiteRT's and XNNPACK's kernels
demand when they are prepared. Each rule is a function of one op; `RULES` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import isclose

import numpy as np

from qfrewrite.errors import Diagnostic, VerifyError
from qfrewrite.ir import Graph, Model, Op, Quant, Tensor
from qfrewrite.ir.dtypes import Float64
from qfrewrite.ir.quant import ACTIVATION_CODES
from qfrewrite.lower.canonical import is_fused, name_in_file
from qfrewrite.ops import OpSpec, spec_of
from qfrewrite.ops.spec import QUANTIZED, Port, facets, fixed_quant, least_version
from qfrewrite.ops.subgraphs import verify_subgraphs

_BIAS_TYPES = {"int8": ("int32",), "uint8": ("int32",), "int16": ("int64", "int32")}
# Scales in files went through float32 arithmetic in another order.
_SAME = 1e-5
# XNNPACK refuses multipliers (input x weight / output scale) outside [2^-32, 2^8).
_MULTIPLIERS = (2.0**-32, 2.0**8)


@dataclass(frozen=True)
class Violation(Diagnostic):
    """One rule that a model breaks; the code is the name of the rule."""

    op: Op | None = field(default=None, compare=False, repr=False)
    """The op that breaks it; None for a rule of tensors or of the model."""

    def __str__(self) -> str:
        return f"{self.where}: {self.text} [{self.code}]"


def check_model(model: Model, *, mapped: bool = False) -> list[Violation]:
    """Every violation in `model`, in execution order; none in a float model.

    mapped: the model's constants are views over a file mapped into memory, whose alignment and
    op versions are to be checked too.
    """
    found = [v for graph in model.graphs for v in check_graph(graph, versions=mapped)]
    try:
        verify_subgraphs(model.graphs)
    except VerifyError as error:
        found.append(Violation("warning", "subgraphs", error.what, error.where or "model"))
    return found + (_alignment(model) if mapped else [])


def check_graph(graph: Graph, *, versions: bool = False) -> list[Violation]:
    """Every violation in `graph`. versions: the op versions that its file gives, too."""
    found = [
        Violation("warning", "tensor", what, f"tensor '{t.name}'")
        for t in graph.tensors
        if not _is_parameter(t)
        for what in _tensor(t)
    ]
    for op in graph.ops:
        spec = spec_of(op)
        if spec is None or not op.outputs or is_fused(op):
            continue
        place = f"op '{name_in_file(op)}' ({op.kind})"
        for name, rule in RULES.items():
            if name != "version" or versions:
                found += [Violation("warning", name, text, place, op=op) for text in rule(op, spec)]
    return found


# -- tensors -------------------------------------------------------------------------------


def _is_parameter(tensor: Tensor) -> bool:
    """Whether a tensor is read as shapes, axes and the like alone: nobody looks at its scale."""
    return {facets(user.op).role(user.slot) for user in tensor.users} == {"param"}


def _tensor(tensor: Tensor) -> Iterator[str]:
    """Scales are positive and finite, zero points are codes, scales fit their axis."""
    quant = tensor.quant
    if quant is None or tensor.dtype not in QUANTIZED | {"int32", "int64"}:
        return
    scale = quant.scale
    bad = scale[~(np.isfinite(scale) & (scale > 0))]
    if bad.size:
        yield f"has the scale {bad[0]}, needs a positive finite number"
    info = np.iinfo(tensor.dtype)
    if (quant.zero_point < info.min).any() or (quant.zero_point > info.max).any():
        yield f"has the zero point {int(quant.zero_point[0])}, which is no {tensor.dtype}"
    if tensor.dtype == "int16" and quant.zero_point.any():
        yield f"is int16 with zero point {int(quant.zero_point[0])}, needs 0"
    if quant.per_channel:
        fits = quant.axis < len(tensor.shape) and tensor.shape[quant.axis] == scale.size
        if not fits:
            yield f"has {scale.size} scales along axis {quant.axis} of {list(tensor.shape)}"
        elif not tensor.is_const:
            yield f"is an activation with {scale.size} scales, needs one"


# -- ops -----------------------------------------------------------------------------------


def _types(op: Op, spec: OpSpec) -> Iterator[str]:
    """All activations of an op are of one quantized type, for which it has a kernel."""
    if spec.quantizes or op.kind == "CAST":
        return
    acts = [t for t, p in _ports(op, spec) if p.role == "act"]
    coded = {t.dtype for t in acts if _coded(t)}
    if not coded:
        return
    if len(coded) > 1 or any(t.dtype == "float32" for t in acts):
        yield f"mixes {' and '.join(sorted({t.dtype for t in acts}))} activations"
    elif not coded <= spec.kernels:
        yield f"has no {coded.pop()} kernel"
    for tensor in acts:
        if tensor.dtype in coded and tensor.quant is None:
            yield f"'{tensor.name}' has neither scale nor zero point"


def _weights(op: Op, spec: OpSpec) -> Iterator[str]:
    """int8 weights: zero point 0, codes from -127, channels on the axis that kernels take."""
    for tensor, port in _ports(op, spec):
        quant = tensor.quant
        if port.role != "weight" or quant is None or tensor.dtype != "int8":
            continue
        if quant.zero_point.any():
            yield f"weights '{tensor.name}' have zero point {_first(quant)}, need 0"
        if quant.per_channel and quant.axis != port.axis:
            yield f"weights '{tensor.name}' have scales on axis {quant.axis}, need {port.axis}"
        if tensor.data is not None and tensor.data.size and tensor.data.min() < -127:
            yield f"weights '{tensor.name}' hold the code -128, the least is -127"


def _bias(op: Op, spec: OpSpec) -> Iterator[str]:
    """A bias is int32 (int64 beside int16) with zero point 0 and scale input x weight."""
    parts = _linear(op, spec)
    if parts is None or parts.bias is None:
        return
    bias, quant = parts.bias, parts.bias.quant
    if bias.dtype not in _BIAS_TYPES[parts.x.dtype]:
        yield f"bias '{bias.name}' is {bias.dtype}, needs {_BIAS_TYPES[parts.x.dtype][0]}"
    elif quant is not None:
        wanted = parts.product_scale
        if quant.zero_point.any():
            yield f"bias '{bias.name}' has zero point {_first(quant)}, needs 0"
        if quant.scale.size not in (1, wanted.size) or not np.allclose(
            quant.scale, wanted, rtol=1e-4, atol=0
        ):
            yield f"bias '{bias.name}' has scale {quant.scale[0]:.6g}, needs {wanted[0]:.6g}"


def _overflow(op: Op, spec: OpSpec) -> Iterator[str]:
    """No input can take the 32-bit accumulator beyond its ends."""
    parts = _linear(op, spec)
    if parts is None or parts.w.data is None or parts.x.dtype == "int16":
        return
    low, high = ACTIVATION_CODES[parts.x.dtype]
    zero = int(parts.of_x.zero_point[0])
    w = np.abs(parts.w.data.astype(np.int64) - int(parts.of_w.zero_point[0]))
    taps = np.moveaxis(w, parts.axis, 0).reshape(w.shape[parts.axis], -1).sum(1)
    reach = taps * max(abs(low - zero), abs(high - zero))
    if parts.bias is not None and parts.bias.data is not None:
        reach = reach + np.abs(parts.bias.data.reshape(-1).astype(np.int64))
    if (reach >= 2**31).any():
        channel = int(np.argmax(reach))
        yield f"channel {channel} can reach {float(reach[channel]):.3g}, int32 ends at 2.15e+09"


def _multiplier(op: Op, spec: OpSpec) -> Iterator[str]:
    """input x weight / output scale is one that kernels can represent."""
    parts = _linear(op, spec)
    if parts is None or parts.y.quant is None:
        return
    factors = parts.product_scale / float(parts.y.quant.scale[0])
    if factors.min() < _MULTIPLIERS[0] or factors.max() >= _MULTIPLIERS[1]:
        yield (
            f"rescales by {factors.min():.3g} to {factors.max():.3g}, "
            f"kernels take {_MULTIPLIERS[0]:.3g} to {_MULTIPLIERS[1]:.3g}"
        )


def _same_scale(op: Op, spec: OpSpec) -> Iterator[str]:
    """Ops that move codes have one scale and zero point on both sides."""
    out = op.output.quant
    if not spec.same_scale or out is None or not _coded(op.output):
        return
    for tensor, port in _ports(op, spec):
        quant = tensor.quant
        if port.role == "act" and quant is not None and not _equal(quant, out):
            yield f"'{tensor.name}' has {_text(quant)}, '{op.output.name}' {_text(out)}"
    zero = {"int8": 0, "int16": 0, "uint8": 128}[op.output.dtype]
    if spec.symmetric and out.zero_point[0] != zero:
        yield f"'{op.output.name}' has zero point {_first(out)}, needs {zero}"


def _prescribed(op: Op, spec: OpSpec) -> Iterator[str]:
    """Outputs that the specification prescribes."""
    for slot, out in enumerate(op.outputs):
        prescribed = fixed_quant(spec.output_port(slot), out.dtype) if _coded(out) else None
        wanted = None if prescribed is None else Quant.per_tensor(*prescribed)
        if wanted is not None and out.quant is not None and not _equal(out.quant, wanted):
            yield f"'{out.name}' has {_text(out.quant)}, needs {_text(wanted)}"


def _version(op: Op, spec: OpSpec) -> Iterator[str]:
    """The file asks for a version that knows the types and features it uses."""
    least = least_version(op)
    if op.version is not None and op.version < least:
        yield f"is version {op.version}, needs {least}"


Rule = Callable[[Op, OpSpec], Iterator[str]]
RULES: dict[str, Rule] = {
    "types": _types,
    "weights": _weights,
    "bias": _bias,
    "overflow": _overflow,
    "multiplier": _multiplier,
    "same-scale": _same_scale,
    "fixed-range": _prescribed,
    "version": _version,
}
"""Every rule of an op by name."""


# -- looking things up ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Linear:
    """A linear op in integers."""

    x: Tensor
    of_x: Quant
    w: Tensor
    of_w: Quant
    y: Tensor
    bias: Tensor | None
    axis: int

    @property
    def product_scale(self) -> Float64:
        """The scale of products of inputs and weights, [1] or [O]."""
        return float(self.of_x.scale[0]) * self.of_w.scale.astype(np.float64)


def _linear(op: Op, spec: OpSpec) -> _Linear | None:
    slots = [spec.slot(role) for role in ("act", "weight", "bias")]
    x, w, bias = (None if slot is None else op.input(slot) for slot in slots)
    if x is None or w is None or not (_coded(x) and _coded(w)) or not (x.quant and w.quant):
        return None
    return _Linear(x, x.quant, w, w.quant, op.output, bias, spec.inputs[slots[1] or 0].axis or 0)


def _coded(tensor: Tensor) -> bool:
    """Whether the values are quantized."""
    return tensor.quant is not None and tensor.dtype in QUANTIZED


def _ports(op: Op, spec: OpSpec) -> Iterator[tuple[Tensor, Port]]:
    """Operands and results with their ports."""
    for slot, operand in enumerate(op.inputs):
        port = spec.input_port(slot)
        if operand is not None and port is not None:
            yield operand, port
    for slot, out in enumerate(op.outputs):
        port = spec.output_port(slot)
        if port is not None and not out.fused:
            yield out, port


def _alignment(model: Model) -> list[Violation]:
    """Constants that runtimes read in place start at multiples of their element's size.

    (The schema asks for 16 bytes; TensorFlow's own converter does not keep that.)
    """
    found = {}
    for tensor in (t for graph in model.graphs for t in graph.tensors):
        if tensor.data is not None and tensor.data.nbytes:
            size = tensor.data.itemsize
            if offset := tensor.data.__array_interface__["data"][0] % size:
                what = f"its data lie {offset} bytes behind a multiple of {size}"
                found[tensor] = Violation("warning", "alignment", what, f"tensor '{tensor.name}'")
    return list(found.values())


def _equal(a: Quant, b: Quant) -> bool:
    scales = isclose(float(a.scale[0]), float(b.scale[0]), rel_tol=_SAME)
    return scales and int(a.zero_point[0]) == int(b.zero_point[0])


def _text(quant: Quant) -> str:
    return f"scale {float(quant.scale[0]):.6g}, zero point {_first(quant)}"


def _first(quant: Quant) -> int:
    nonzero = quant.zero_point[quant.zero_point != 0]
    return int(nonzero[0]) if nonzero.size else 0
