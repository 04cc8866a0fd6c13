"""Ops: what computes tensors from tensors."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from qfrewrite.ir.tensor import Tensor

Attrs = Mapping[str, Any]
Rank = tuple[int, ...]


class Op:
    """One operation; compared by identity.

    `kind` is TFLite's builtin name (`CONV_2D`), or that of an op of our own (`BATCH_NORM`), which
    is written as others. `inputs` is the truth for slot order; an optional slot that is not used
    holds None. `rank` is the position in the file it came from, extended for ops put in later.
    `meta` keeps what a file format needs to write the op back (source node, version, custom
    options). Ops are written through `Graph` only.
    """

    __slots__ = ("attrs", "inputs", "intermediates", "kind", "meta", "name", "outputs", "rank")

    kind: str
    name: str
    attrs: Attrs
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    intermediates: tuple[Tensor, ...]
    meta: Mapping[str, Any]
    rank: Rank

    def __init__(
        self,
        kind: str,
        inputs: tuple[Tensor | None, ...] | list[Tensor | None] | list[Tensor],
        outputs: tuple[Tensor, ...] | list[Tensor],
        attrs: Attrs | None = None,
        *,
        name: str | None = None,
        intermediates: tuple[Tensor, ...] = (),
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "kind", kind)
        put(self, "inputs", tuple(inputs))
        put(self, "outputs", tuple(outputs))
        put(self, "attrs", MappingProxyType(dict(attrs or {})))
        put(self, "name", name if name is not None else (outputs[0].name if outputs else kind))
        put(self, "intermediates", tuple(intermediates))
        put(self, "meta", MappingProxyType(dict(meta or {})))
        put(self, "rank", ())

    def __setattr__(self, field: str, value: object) -> NoReturn:
        raise AttributeError(f"op {self.name!r}: set {field} through Graph.update_op")

    @property
    def place(self) -> str:
        """How errors name the op."""
        return f"op '{self.name}' ({self.kind})"

    def __repr__(self) -> str:
        return f"<Op {self.kind} {self.name!r}>"

    @property
    def output(self) -> Tensor:
        """The first output."""
        return self.outputs[0]

    def input(self, slot: int) -> Tensor | None:
        """The tensor in `slot`, or None where the slot is empty or absent."""
        return self.inputs[slot] if slot < len(self.inputs) else None

    def operand(self, slot: int) -> Tensor:
        """The tensor in `slot`; raises ValueError where there is none."""
        tensor = self.input(slot)
        if tensor is None:
            raise ValueError(f"op {self.name!r} ({self.kind}) has no input {slot}")
        return tensor
