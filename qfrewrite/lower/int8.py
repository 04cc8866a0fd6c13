"""Int8 lowering: a graph with FAKE_QUANT ops becomes a graph of int8 tensors.

Every rule it follows is data: ports, kernels and fixed scales from the op table, ranges from
FAKE_QUANT. An op that cannot be int8 stays float between DEQUANTIZE and QUANTIZE.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qfrewrite.errors import UsageError
from qfrewrite.ir import Array, Graph, Op, Quant, Tensor, constant
from qfrewrite.ir.quant import activation_quant, quantize
from qfrewrite.lower.canonical import canonicalise, fuse_activations
from qfrewrite.lower.groups import Group, Groups, find_groups
from qfrewrite.lower.ranges import Ranges, take_ranges
from qfrewrite.lower.weights import mean_response, quantize_linear, weight_bounds
from qfrewrite.ops import OpSpec, spec_of
from qfrewrite.rewrite.match import LINEAR, bias_slot, channel_axis, weight_slot

IO_TYPES = ("int8", "uint8", "float32")


@dataclass(frozen=True)
class Int8Options:
    """How to quantize. io: element type of the model's inputs and outputs."""

    per_channel: bool = True
    io: str = "int8"

    def __post_init__(self) -> None:
        if self.io not in IO_TYPES:
            raise UsageError(f"no such input/output type: '{self.io}'", remedy=_one_of(IO_TYPES))


@dataclass
class Int8Report:
    """What became of the ops: how many are int8, which stayed float and why."""

    int8_ops: int = 0
    float_ops: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def has_ranges(graph: Graph) -> bool:
    """Whether the graph carries FAKE_QUANT on a computed tensor."""
    return any(not op.operand(0).is_const for op in graph.ops_of("FAKE_QUANT"))


def lower_int8(graph: Graph, options: Int8Options | None = None) -> Int8Report:
    """Turn `graph` into its int8 form, in place."""
    return _Lowering(graph, options or Int8Options()).run()


class _Lowering:
    def __init__(self, graph: Graph, options: Int8Options) -> None:
        self.graph = graph
        self.options = options
        self.report = Int8Report()
        self.ranges = Ranges()
        self.groups = Groups()
        self.int8: set[Op] = set()
        self.coded: set[Tensor] = set()
        self.raised: dict[Op, int] = {}
        self._real: dict[Tensor, Tensor] = {}

    def run(self) -> Int8Report:
        canonicalise(self.graph)
        self.ranges = take_ranges(self.graph)
        fuse_activations(self.graph)
        self.groups = find_groups(self.graph, self._merged_ranges())
        self._choose_ops()
        self._choose_tensors()
        self._requantize_operands()
        self._convert_operands()
        self._convert_tensors()
        self._convert_io()
        self.graph.prune(keep=lambda op: not op.outputs)
        self.report.notes += self.groups.notes
        if self.raised:
            self.report.notes.append(
                f"{sum(self.raised.values())} channels in {len(self.raised)} layers have next to "
                "no weights beside their bias: their scale was raised so that it fits 32 bits"
            )
        return self.report

    # -- decide ----------------------------------------------------------------------------

    def _merged_ranges(self) -> dict[Tensor, tuple[float, float]]:
        """Ranges without those of fused tensors, which no kernel writes."""
        return {t: r for t, r in self.ranges.activations.items() if not t.meta.get("virtual")}

    def _choose_ops(self) -> None:
        for op in self.graph.ops:
            if self._fused_into(op) is not None:
                continue
            why = self._why_float(op)
            if why is None:
                self.int8.add(op)
                self.report.int8_ops += 1
            elif any(t.dtype == "float32" for t in op.outputs):
                self.report.float_ops.append((op.name, op.kind, why))
        self.int8 |= {op for op in self.graph.ops if self._fused_into(op) in self.int8}

    def _fused_into(self, op: Op) -> Op | None:
        """The op that `op`, an activation, is fused into."""
        source = op.input(0)
        if source is None or not source.meta.get("virtual"):
            return None
        return self.graph.producer(source)

    def _result(self, op: Op, out: Tensor) -> Tensor:
        """What a kernel writes for `out`: the fused activation's output where there is one."""
        return self.graph.readers(out)[0].op.output if out.meta.get("virtual") else out

    def _why_float(self, op: Op) -> str | None:
        """Why `op` cannot be int8, or None where it can."""
        spec = spec_of(op)
        if spec is None:
            return "unknown op"
        if not spec.int8:
            return "no int8 kernel"
        if not any(t.dtype == "float32" for t in (*filter(None, op.inputs), *op.outputs)):
            return "holds no float tensor"
        for slot, tensor in enumerate(op.inputs):
            port = spec.input_port(slot)
            if tensor is None or port is None or port.role == "param":
                continue
            if tensor.dtype != "float32":
                return f"operand '{tensor.name}' is {tensor.dtype}"
            if port.role in ("weight", "bias") and tensor.data is None:
                return f"'{tensor.name}' is computed"
            if port.role == "act" and tensor.data is None and self._quant(tensor) is None:
                return f"no range for '{tensor.name}'"
        for out in op.outputs:
            if out.dtype == "float32" and self._quant(self._result(op, out)) is None:
                return f"no range for '{self._result(op, out).name}'"
        return None

    def _quant(self, tensor: Tensor) -> Quant | None:
        group = self.groups.of.get(tensor)
        return None if group is None else group.quant("int8")

    def _choose_tensors(self) -> None:
        """The tensors that hold codes: results of int8 ops, and inputs they read."""
        for op in self.int8:
            self.coded.update(out for out in op.outputs if out.dtype == "float32")
        for tensor in self.graph.inputs:
            if tensor.dtype != "float32" or self._quant(tensor) is None:
                continue
            if any(r.op in self.int8 and _role(r.op, r.slot) == "act"
                   for r in self.graph.readers(tensor)):  # fmt: skip
                self.coded.add(tensor)

    # -- rewrite ---------------------------------------------------------------------------

    def _requantize_operands(self) -> None:
        for op, slot in self.groups.requantized:
            quant = self._quant(op.output)
            if op in self.int8 and quant is not None:
                self._through_quantize(op, slot, quant)

    def _convert_operands(self) -> None:
        for op in self.graph.ops:
            if op in self.int8:
                self._convert_int8_op(op)
            elif op.kind not in ("QUANTIZE", "DEQUANTIZE"):
                self._feed_real(op)

    def _convert_int8_op(self, op: Op) -> None:
        spec = spec_of(op)
        assert spec is not None
        if op.kind in LINEAR:
            self._convert_linear(op)
        for slot, tensor in enumerate(op.inputs):
            port = spec.input_port(slot)
            if tensor is None or port is None or port.role != "act" or tensor in self.coded:
                continue
            if tensor.dtype != "float32":
                continue
            if tensor.data is not None:
                self._set_codes(op, slot, self._constant_quant(op, spec, tensor))
            else:
                quant = self._quant(tensor)
                assert quant is not None
                self._through_quantize(op, slot, quant)

    def _constant_quant(self, op: Op, spec: OpSpec, tensor: Tensor) -> Quant:
        shared = self._quant(op.output) if spec.same_scale else None
        if shared is not None:
            return shared
        data = tensor.value()
        return activation_quant(float(data.min(initial=0)), float(data.max(initial=0)))

    def _set_codes(self, op: Op, slot: int, quant: Quant) -> None:
        tensor = op.operand(slot)
        codes = constant(
            self.graph.unique_name(f"{tensor.name}/int8"), quantize(tensor.value(), quant, "int8")
        )
        self.graph.update_op(
            op, inputs=[codes if i == slot else t for i, t in enumerate(op.inputs)]
        )
        self.graph.update_tensor(codes, quant=quant)

    def _convert_linear(self, op: Op) -> None:
        x, w = op.operand(_act_slot(op)), op.operand(weight_slot(op))
        b = op.input(bias_slot(op))
        axis = channel_axis(op)
        result = self._quant(self._result(op, op.output))
        source = self._quant(x)
        assert result is not None
        assert source is not None
        q = quantize_linear(
            w.value(),
            b.data if b is not None else None,
            self._weight_bounds(w, axis),
            mean_response(op, x),
            axis=axis,
            input_scale=float(source.scale[0]),
            output_scale=float(result.scale[0]),
        )
        if q.raised:
            self.raised[op] = q.raised
        self._put(op, weight_slot(op), w.name, q.weights, q.scale, axis)
        if b is not None and q.bias is not None:
            scale = (np.float32(source.scale[0]) * q.scale).astype(np.float32)
            self._put(op, bias_slot(op), b.name, q.bias, scale, 0)

    def _weight_bounds(self, w: Tensor, axis: int) -> Array:
        given = self.ranges.weights.get(w)
        per_channel = self.options.per_channel
        if given is None:
            return weight_bounds(w.value(), axis, per_channel=per_channel)
        bounds = np.maximum(np.abs(given[0]), np.abs(given[1])).astype(np.float64).reshape(-1)
        return bounds if per_channel else bounds.max(keepdims=True)

    def _put(self, op: Op, slot: int, name: str, data: Array, scale: Array, axis: int) -> None:
        """Put a quantized constant in `slot`; the float one keeps its other readers."""
        old = op.operand(slot)
        quant = Quant(scale, np.zeros(scale.shape, np.int64), axis)
        sole = len(self.graph.readers(old)) == 1
        if sole:
            self.graph.update_tensor(old, data=data, dtype=data.dtype.name, quant=quant)
            return
        new = constant(self.graph.unique_name(f"{name}/{data.dtype.name}"), data)
        self.graph.update_op(op, inputs=[new if i == slot else t for i, t in enumerate(op.inputs)])
        self.graph.update_tensor(new, quant=quant)

    def _through_quantize(self, op: Op, slot: int, quant: Quant) -> None:
        tensor = op.operand(slot)
        coded = Tensor(self.graph.unique_name(f"{tensor.name}/int8"), tensor.shape, "int8",
                       quant=quant)  # fmt: skip
        self.graph.add_op(Op("QUANTIZE", [tensor], [coded]), anchor=op)
        self.graph.update_op(
            op, inputs=[coded if i == slot else t for i, t in enumerate(op.inputs)]
        )

    def _feed_real(self, op: Op) -> None:
        """Let a float op read real values where its operand holds codes."""
        if not any(t in self.coded for t in op.inputs):
            return
        self.graph.update_op(op, inputs=[self._as_real(t, op) for t in op.inputs])

    def _as_real(self, tensor: Tensor | None, reader: Op) -> Tensor | None:
        if tensor is None or tensor not in self.coded:
            return tensor
        if tensor not in self._real:
            real = Tensor(self.graph.unique_name(f"{tensor.name}/float32"), tensor.shape)
            anchor = self.graph.producer(tensor) or reader
            self.graph.add_op(Op("DEQUANTIZE", [tensor], [real]), anchor=anchor)
            self._real[tensor] = real
        return self._real[tensor]

    def _convert_tensors(self) -> None:
        for tensor in self.coded:
            source = (
                self.graph.readers(tensor)[0].op.output if tensor.meta.get("virtual") else tensor
            )
            self.graph.update_tensor(tensor, dtype="int8", quant=self._quant(source))

    # -- inputs and outputs ----------------------------------------------------------------

    def _convert_io(self) -> None:
        if self.options.io == "int8":
            return
        for tensor in self.graph.inputs:
            if tensor in self.coded:
                self._convert_input(tensor)
        for tensor in dict.fromkeys(self.graph.outputs):
            if tensor in self.coded and not self.graph.is_input(tensor):
                self._convert_output(tensor)

    def _io_tensor(self, tensor: Tensor) -> Tensor:
        assert tensor.quant is not None
        name = self.graph.unique_name(f"{tensor.name}/{self.options.io}")
        if self.options.io == "float32":
            return Tensor(name, tensor.shape)
        quant = Quant(tensor.quant.scale, tensor.quant.zero_point + 128)
        return Tensor(name, tensor.shape, "uint8", quant=quant)

    def _convert_input(self, tensor: Tensor) -> None:
        inner = Tensor(self.graph.unique_name(f"{tensor.name}/int8"), tensor.shape, "int8",
                       quant=tensor.quant)  # fmt: skip
        twin = self._io_tensor(tensor)
        readers = self.graph.readers(tensor)
        anchor = readers[0].op if readers else None
        op = self.graph.add_op(Op("QUANTIZE", [tensor], [inner]), anchor=anchor)
        self.graph.replace_uses(tensor, inner, skip=(op,))
        self.graph.update_tensor(tensor, dtype=twin.dtype, quant=twin.quant)

    def _convert_output(self, tensor: Tensor) -> None:
        out = self._io_tensor(tensor)
        kind = "DEQUANTIZE" if out.dtype == "float32" else "QUANTIZE"
        op = self.graph.add_op(Op(kind, [tensor], [out]), anchor=self.graph.producer(tensor))
        others = [r.op for r in self.graph.readers(tensor)]
        self.graph.replace_uses(tensor, op.output, skip=others)


def _role(op: Op, slot: int) -> str:
    spec = spec_of(op)
    port = spec.input_port(slot) if spec else None
    return port.role if port is not None else ""


def _act_slot(op: Op) -> int:
    spec = spec_of(op)
    slot = spec.slot("act") if spec else None
    assert slot is not None
    return slot


def _one_of(names: tuple[str, ...]) -> str:
    return f"use one of {', '.join(names)}"


__all__ = ["Group", "Int8Options", "Int8Report", "has_ranges", "lower_int8"]
