"""How often loops run, where that does not depend on the data.

The runtime cannot be stopped while it computes: a loop without an end would hang the process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qfrewrite.errors import QfError, VerifyError
from qfrewrite.ir import Array, Graph, Op, Tensor
from qfrewrite.ops.spec import facets, values_of
from qfrewrite.ops.subgraphs import run_graphs

MOST_STEPS = 20_000
"""Loops of so many steps are not run: models of sequences have hundreds."""
# What decides about the next step is small: counters and limits.
_MOST_ELEMENTS = 1024


def verify_loops(graphs: Sequence[Graph]) -> None:
    """Raise VerifyError where a loop that starts from constants runs without an end.

    Only what the condition depends on is computed. Where that starts from data, or where an op of
    it has no reference, nothing is known and nothing is refused.
    """
    for graph in graphs:
        for op in graph.ops_of("WHILE"):
            condition, body = (g for _, g in run_graphs(op, graphs))
            _verify(op, condition, body)


def _verify(op: Op, condition: Graph, body: Graph) -> None:
    needed = _deciding(condition, body)
    if needed is None or any(i >= len(op.inputs) for i in needed):
        return
    state = {i: t.data for i in needed if (t := op.inputs[i]) is not None and t.data is not None}
    if len(state) < len(needed) or any(v.size > _MOST_ELEMENTS for v in state.values()):
        return
    decide = _slice(condition, condition.outputs[:1])
    proceed = _slice(body, [body.outputs[i] for i in needed])
    try:
        for _ in range(MOST_STEPS):
            decided = _run(decide, condition, state)
            if not decided[condition.outputs[0]].all():
                return
            values = _run(proceed, body, state)
            after = {i: values[body.outputs[i]] for i in needed}
            if all(np.array_equal(after[i], state[i]) for i in needed):
                break
            state = after
    except QfError:
        return  # An op cannot be computed: the runtime will find the same.
    raise VerifyError(f"is a loop without an end, or of {MOST_STEPS} steps or more", where=op.place)


def _deciding(condition: Graph, body: Graph) -> list[int] | None:
    """Which values of the loop decide how often it runs; None where that cannot be followed."""
    if not condition.outputs or len(body.outputs) != len(body.inputs):
        return None
    needed: set[int] = set()
    more = _positions(condition, condition.outputs[0])
    while more is not None and not more <= needed:
        needed |= more
        next_ones = [_positions(body, body.outputs[i]) for i in needed if i < len(body.outputs)]
        if any(positions is None for positions in next_ones):
            return None
        more = {i for positions in next_ones if positions is not None for i in positions}
    return None if more is None or any(i >= len(body.outputs) for i in needed) else sorted(needed)


def _positions(graph: Graph, tensor: Tensor) -> set[int] | None:
    """Inputs of `graph` that `tensor` is computed from; None where numpy cannot compute it."""
    ops = _slice(graph, [tensor])
    if any(facets(op).reference is None for op in ops):
        return None
    used = {tensor, *(t for op in ops for t in op.inputs if t is not None)}
    sources = {t for t in used if t.data is None and t.producer is None}
    places = {t: i for i, t in enumerate(graph.inputs)}
    return {places[t] for t in sources} if sources <= set(places) else None


def _slice(graph: Graph, outputs: Sequence[Tensor]) -> list[Op]:
    """The ops that `outputs` are computed by, in order."""
    wanted = set(outputs)
    ops: list[Op] = []
    for op in reversed(graph.ops):
        if wanted & set(op.outputs):
            ops.append(op)
            wanted.update(t for t in op.inputs if t is not None)
    return ops[::-1]


def _run(ops: Sequence[Op], graph: Graph, state: Mapping[int, Array]) -> dict[Tensor, Array]:
    """The values of `graph` that follow from those of its inputs."""
    known = {t: t.data for t in graph.tensors if t.data is not None}
    return values_of(ops, known | {graph.inputs[i]: value for i, value in state.items()})
