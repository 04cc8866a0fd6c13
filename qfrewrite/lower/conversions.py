"""QUANTIZE, DEQUANTIZE and coded constants, each made once and shared by all that read it."""

from __future__ import annotations

import numpy as np

from qfrewrite.ir import Array, Graph, Op, Quant, Tensor, constant
from qfrewrite.ir.quant import quantize
from qfrewrite.ops.spec import facets

_Key = tuple[Tensor, str, bytes, bytes, int]


class Conversions:
    """The conversions of one graph. held: the element type of tensors that hold codes."""

    def __init__(self, graph: Graph, held: dict[Tensor, str]) -> None:
        self.graph = graph
        self.held = held
        self._real: dict[Tensor, Tensor] = {}
        self._coded: dict[_Key, Tensor] = {}
        self._constants: dict[tuple[_Key, bytes], Tensor] = {}
        self._arrays: dict[tuple[str, tuple[int, ...], bytes], Array] = {}

    def constant(self, op: Op, slot: int, quant: Quant, dtype: str) -> None:
        """Let `op` read codes of the constant in `slot`; others keep the float one."""
        self.put(op, slot, quantize(op.operand(slot).value(), quant, dtype), quant)

    def put(self, op: Op, slot: int, codes: Array, quant: Quant) -> None:
        """Put coded weights or biases in the place of the constant in `slot`.

        Where nobody else reads it, it keeps its name; where others need the same codes they
        share them.
        """
        old, dtype = op.operand(slot), codes.dtype.name
        content = codes.tobytes()
        # Equal codes are one array, and so one buffer in the file.
        codes = self._arrays.setdefault((dtype, codes.shape, content), codes)
        key = _key(old, quant, dtype), content
        shared = self._constants.get(key)
        if shared is None and len(old.users) == 1 and not old.is_output:
            self.graph.set_data(old, codes, dtype=dtype, quant=quant)
            return
        if shared is None:
            shared = constant(self.graph.unique_name(f"{old.name}/{dtype}"), codes)
            self._constants[key] = shared
        self.graph.set_input(op, slot, shared)
        self.graph.set_type(shared, dtype, quant)

    def through_quantize(self, op: Op, slot: int, quant: Quant, dtype: str) -> None:
        """Let `op` read the computed tensor in `slot` as codes of another scale or type."""
        tensor = op.operand(slot)
        key = _key(tensor, quant, dtype)
        if key not in self._coded:
            coded = self._beside(tensor, dtype, quant)
            anchor = tensor.producer or op
            if _widens(self.held.get(tensor, "float32"), dtype):
                tensor = self._as_real(tensor, op)
                anchor = tensor.producer or op
            self.graph.add_op(Op("QUANTIZE", [tensor], [coded]), anchor=anchor)
            self._coded[key] = coded
        self.graph.set_input(op, slot, self._coded[key])

    def feed_real(self, op: Op) -> None:
        """Let a float op read real values where its operands hold codes."""
        for slot, tensor in enumerate(op.inputs):
            if tensor is not None and tensor in self.held and facets(op).role(slot) != "any":
                self.graph.set_input(op, slot, self._as_real(tensor, op))

    def _as_real(self, tensor: Tensor, user: Op) -> Tensor:
        if tensor not in self._real:
            real = self._beside(tensor, "float32")
            anchor = tensor.producer or user
            self.graph.add_op(Op("DEQUANTIZE", [tensor], [real]), anchor=anchor)
            self._real[tensor] = real
        return self._real[tensor]

    def input(self, tensor: Tensor, io: str, quant: Quant | None) -> None:
        """Let a graph input take `io`, by a QUANTIZE behind it."""
        inner = self._beside(tensor, tensor.dtype, tensor.quant)
        users = tensor.users
        anchor = users[0].op if users else None
        first = self._quantize(tensor, inner, io, anchor)
        # An input that is an output too stays one.
        self.graph.replace_uses(tensor, inner, skip=(first,))
        self.graph.set_type(tensor, io, quant)

    def output(self, tensor: Tensor, io: str, quant: Quant | None) -> None:
        """Let a graph output be `io`, by a DEQUANTIZE or QUANTIZE behind what computes it."""
        out = self._beside(tensor, io, quant)
        anchor = tensor.producer
        if io == "float32":
            self.graph.add_op(Op("DEQUANTIZE", [tensor], [out]), anchor=anchor)
        else:
            self._quantize(tensor, out, tensor.dtype, anchor)
        others = [r.op for r in tensor.users]
        self.graph.replace_uses(tensor, out, skip=others)

    def _quantize(self, tensor: Tensor, out: Tensor, source: str, anchor: Op | None) -> Op:
        """Convert `tensor`, of type `source`, to `out`; returns the op that reads `tensor`."""
        if not _widens(source, out.dtype):
            return self.graph.add_op(Op("QUANTIZE", [tensor], [out]), anchor=anchor)
        real = self._beside(tensor, "float32")
        first = self.graph.add_op(Op("DEQUANTIZE", [tensor], [real]), anchor=anchor)
        self.graph.add_op(Op("QUANTIZE", [real], [out]), anchor=anchor)
        return first

    def _beside(self, tensor: Tensor, dtype: str, quant: Quant | None = None) -> Tensor:
        """A tensor of another type for the same value, named after it."""
        return Tensor(
            self.graph.unique_name(f"{tensor.name}/{dtype}"),
            tensor.shape,
            dtype,
            quant=quant,
            shape_signature=tensor.shape_signature,
        )


def _widens(source: str, target: str) -> bool:
    """Whether codes go from 8 to 16 bits: runtimes before LiteRT 2.2 do that through float only."""
    return source in ("int8", "uint8") and target == "int16"


def _key(tensor: Tensor, quant: Quant, dtype: str) -> _Key:
    zero = np.asarray(quant.zero_point).tobytes()
    return tensor, dtype, quant.scale.tobytes(), zero, quant.axis
