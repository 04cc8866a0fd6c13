"""What a model costs, op by op: multiply-accumulates, bytes, memory; in float and in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qfrewrite.errors import Diagnostics
from qfrewrite.ir import Graph, Model, Tensor
from qfrewrite.lower.canonical import settle
from qfrewrite.lower.cost import macs, parameters, tensor_bytes, weight_bytes
from qfrewrite.records import Record
from qfrewrite.runtime.session import take_usual_sizes
from qfrewrite.runtime.units import Unit, units

# What adds up over all ops, and what the largest value counts of.
_TOTALS = ("macs", "parameters", "weight_bytes", "int8_weight_bytes")
_PEAKS = ("arena_bytes", "int8_arena_bytes")


@dataclass(frozen=True)
class OpCost(Record):
    """One op, with the activation fused into it."""

    name: str
    """The name of the op."""
    op: str
    """The kind of the op, and of the activation after a `+`."""
    shape: tuple[int, ...]
    """The shape of its output."""
    macs: int
    """Multiply-accumulates."""
    parameters: int
    """How many numbers its constants hold."""
    weight_bytes: int
    """Bytes of its constants, as the model is."""
    arena_bytes: int
    """Bytes of all activations that live while it runs, as the model is."""
    int8_weight_bytes: int
    """`weight_bytes` with 8-bit weights and 32-bit biases."""
    int8_arena_bytes: int
    """`arena_bytes` with 8-bit activations."""


@dataclass(frozen=True, repr=False)
class ModelCost(Record):
    """What each op of a model costs, and the model as a whole.

    Peak memory is that of activations alone: what an arena cannot go below. Runtimes add scratch
    buffers, and what alignment and their planner waste.
    """

    model: str
    """The name of the model."""
    ops: list[OpCost]
    """In execution order."""
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    """What was assumed."""

    def total(self, figure: str) -> int:
        """The sum of a figure over all ops."""
        return sum(getattr(op, figure) for op in self.ops)

    def peak(self, figure: str = "arena_bytes") -> OpCost | None:
        """The op that needs the most memory."""
        return max(self.ops, key=lambda op: getattr(op, figure), default=None)

    def figures(self) -> dict[str, Any]:
        """The fields, sums over all ops, and peaks."""
        totals = {name: self.total(name) for name in _TOTALS}
        peaks = {f"peak_{name}": getattr(self.peak(name), name, 0) for name in _PEAKS}
        return super().figures() | totals | peaks


def model_cost(model: Model) -> ModelCost:
    """The costs of the main graph of `model`, which stays as it is."""
    graph, _ = model.graph.clone()
    diagnostics = take_usual_sizes(graph)
    settle(graph)
    steps = [unit for unit in units(graph) if unit.op.kind != "FAKE_QUANT"]
    ops = [_cost(unit, live) for unit, live in zip(steps, _live(graph, steps), strict=True)]
    return ModelCost(model.name, ops, diagnostics)


def _cost(unit: Unit, live: set[Tensor]) -> OpCost:
    """live: the tensors in memory while the op runs."""
    op = unit.op
    as_is, in_int8 = (
        (weight_bytes(op, eight=eight), sum(tensor_bytes(t, eight=eight) for t in live))
        for eight in (False, True)
    )
    shape = unit.results[0].shape
    return OpCost(op.name, unit.kind, shape, macs(op), parameters(op), *as_is, *in_int8)


def _live(graph: Graph, steps: list[Unit]) -> list[set[Tensor]]:
    """The tensors in memory while each step runs: made, and needed then or later."""
    last = {_source(tensor): i for i, unit in enumerate(steps) for tensor in unit.operands}
    last |= dict.fromkeys(map(_source, graph.outputs), len(steps))
    live = set(graph.inputs)
    all_live = []
    for i, unit in enumerate(steps):
        live = live | set(unit.results)
        all_live.append(live)
        live = {t for t in live if last.get(t, -1) > i}
    return all_live


def _source(tensor: Tensor) -> Tensor:
    """What a kernel writes for the value of `tensor`: FAKE_QUANT is none."""
    producer = tensor.producer
    while producer is not None and producer.kind == "FAKE_QUANT":
        tensor = producer.operand(0)
        producer = tensor.producer
    return tensor
