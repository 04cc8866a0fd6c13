"""What a model costs, op by op: multiply-accumulates, bytes, memory; in float and in 8 bits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from qfrewrite.errors import Diagnostics
from qfrewrite.ir import Graph, Model, Tensor
from qfrewrite.lower.canonical import canonicalise
from qfrewrite.lower.cost import macs, parameters, tensor_bytes, weight_bytes
from qfrewrite.ops.check import verify_graph
from qfrewrite.rewrite.dequantize import computes_quantized
from qfrewrite.rewrite.raising import raise_graph
from qfrewrite.runtime.session import take_usual_sizes
from qfrewrite.runtime.units import Unit, units


@dataclass(frozen=True)
class OpCost:
    """One op, with the activation fused into it.

    parameters: numbers in constants. weight_bytes, arena_bytes: of its constants, and of all
    activations that live while it runs, as the model is (float, mostly). int8_*: the same with
    8-bit weights and activations and 32-bit biases.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    macs: int
    parameters: int
    weight_bytes: int
    arena_bytes: int
    int8_weight_bytes: int
    int8_arena_bytes: int

    def record(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {**asdict(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class ModelCost:
    """All ops in execution order.

    Peak memory is that of activations alone: what an arena cannot go below. Runtimes add scratch
    buffers, and what alignment and their planner waste. diagnostics: what was assumed.
    """

    ops: list[OpCost]
    diagnostics: Diagnostics = field(default_factory=Diagnostics)

    def total(self, figure: str) -> int:
        """The sum of a figure over all ops."""
        return sum(getattr(op, figure) for op in self.ops)

    def peak(self, figure: str = "arena_bytes") -> OpCost | None:
        """The op that needs the most memory."""
        return max(self.ops, key=lambda op: getattr(op, figure), default=None)


def model_cost(model: Model) -> ModelCost:
    """The costs of the main graph of `model`, which stays as it is."""
    graph, _ = model.graph.clone()
    diagnostics = take_usual_sizes(graph)
    verify_graph(graph)
    if not computes_quantized(graph):
        raise_graph(graph)
        canonicalise(graph)
    steps = [unit for unit in units(graph) if unit.op.kind != "FAKE_QUANT"]
    live = _live(graph, steps)
    return ModelCost([
        OpCost(
            u.op.name, u.op.kind if u.activation is None else f"{u.op.kind}+{u.activation.kind}",
            u.results[0].shape, macs(u.op), parameters(u.op), weight_bytes(u.op, eight=False),
            sum(tensor_bytes(t, eight=False) for t in held), weight_bytes(u.op, eight=True),
            sum(tensor_bytes(t, eight=True) for t in held),
        )
        for u, held in zip(steps, live, strict=True)
    ], diagnostics)  # fmt: skip


def _live(graph: Graph, steps: list[Unit]) -> list[set[Tensor]]:
    """The tensors in memory while each step runs: made, and needed then or later."""
    last: dict[Tensor, int] = {}
    for i, unit in enumerate(steps):
        for tensor in unit.operands:
            last[_source(tensor)] = i
    for tensor in graph.outputs:
        last[_source(tensor)] = len(steps)
    held = set(graph.inputs)
    found = []
    for i, unit in enumerate(steps):
        held = held | set(unit.results)
        found.append(held)
        held = {t for t in held if last.get(t, -1) > i}
    return found


def _source(tensor: Tensor) -> Tensor:
    """What a kernel writes for the value of `tensor`: FAKE_QUANT is none."""
    maker = tensor.producer
    while maker is not None and maker.kind == "FAKE_QUANT":
        tensor = maker.operand(0)
        maker = tensor.producer
    return tensor
