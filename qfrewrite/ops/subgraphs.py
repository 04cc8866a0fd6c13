"""What the subgraphs of a model share: operands of the ops that run them, and variables.

Kernels that run a subgraph, and those of variables, copy bytes and do not compare element types.
So types that disagree between subgraphs make the runtime write outside its memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from qfrewrite.errors import VerifyError
from qfrewrite.ir import Graph, Model, Op, Tensor
from qfrewrite.ir.relations import Classes
from qfrewrite.ops.spec import attr


@dataclass(frozen=True)
class BodyRun:
    """How an op runs a subgraph."""

    index: str
    """The attribute that names the subgraph."""
    skip: int = 0
    """How many operands come before those that the subgraph gets."""
    takes: bool = True
    """Whether the subgraph gets the operands of the op."""
    gives: bool = True
    """Whether its outputs are those of the op; else they are checked by the kernel."""
    repeats: bool = False
    """Whether it gets its own outputs the next time."""


_LOOP = (
    BodyRun("cond_subgraph_index", gives=False),
    BodyRun("body_subgraph_index", repeats=True),
)


def _inner(index: str) -> tuple[BodyRun, ...]:
    """A subgraph whose operands and results are not those of the op."""
    return (BodyRun(f"{index}_subgraph_index", takes=False, gives=False),)


RUNS: Mapping[str, tuple[BodyRun, ...]] = {
    "WHILE": _LOOP,
    "STABLEHLO_WHILE": _LOOP,
    "IF": (BodyRun("then_subgraph_index", skip=1), BodyRun("else_subgraph_index", skip=1)),
    "CALL_ONCE": _inner("init"),
    "STABLEHLO_COMPOSITE": (BodyRun("decomposition_subgraph_index"),),
    "STABLEHLO_SORT": _inner("comparator"),
    "STABLEHLO_REDUCE": _inner("body"),
    "STABLEHLO_REDUCE_WINDOW": _inner("body"),
    "STABLEHLO_SCATTER": _inner("update_computation"),
}
"""Op kind -> the subgraphs it runs."""


@dataclass(frozen=True)
class Use:
    """A READ_VARIABLE or ASSIGN_VARIABLE."""

    graph: Graph
    """The subgraph it is in."""
    op: Op
    """The op."""
    value: Tensor
    """The tensor that is read or written."""


@dataclass
class Variable:
    """A resource variable and everything that reads or writes it, in all subgraphs."""

    name: str
    """The name that its handle has in the file."""
    uses: list[Use] = field(default_factory=list)
    """The ops that read or write it, in the order of subgraphs and ops."""

    def tensors(self, graph: Graph) -> list[Tensor]:
        """The values that are read and written in `graph`."""
        return [use.value for use in self.uses if use.graph is graph]


def run_graphs(op: Op, graphs: Sequence[Graph]) -> Iterator[tuple[BodyRun, Graph]]:
    """The subgraphs that `op` runs; raises VerifyError where there is no such subgraph."""
    for run in RUNS.get(op.kind, ()):
        index = op.attrs.get(run.index, 0)
        if not 0 <= index < len(graphs):
            raise VerifyError(f"runs subgraph {index} of {len(graphs)}", where=op.place)
        yield run, graphs[index]


def entries(model: Model) -> list[Graph]:
    """The graphs that a model is run by: the main one, and those of its other signatures."""
    run = {body for graph in model.graphs for body in _bodies(graph, model.graphs)}
    signed = {s.subgraph for s in model.signatures}
    inner = (
        graph for i, graph in enumerate(model.graphs) if i and i in signed and graph not in run
    )
    return [model.graph, *inner]


def _bodies(graph: Graph, graphs: Sequence[Graph]) -> list[Graph]:
    """The subgraphs that the ops of `graph` run."""
    return [body for op in graph.ops for _, body in run_graphs(op, graphs)]


def reached(graph: Graph, graphs: Sequence[Graph] | None = None) -> set[Graph]:
    """Every subgraph that runs when `graph` is run, itself included.

    graphs: those of the model, where `graph` does not know them as its bodies.
    """
    graphs = (graph, *graph.bodies) if graphs is None else graphs
    running, left = {graph}, [graph]
    while left:
        bodies = set(_bodies(left.pop(), graphs)) - running
        running |= bodies
        left += bodies
    return running


def keeps_state(graph: Graph) -> bool:
    """Whether an inference of `graph` depends on those before it."""
    return any(
        op.kind == "ASSIGN_VARIABLE" or any(t is not None and t.is_variable for t in op.inputs)
        for one in reached(graph)
        for op in one.ops
    )


def variables(graphs: Sequence[Graph]) -> list[Variable]:
    """Every variable of a model, with its uses in all subgraphs.

    Raises VerifyError where it cannot be told which variable an op reads or writes.
    """
    handles = _handles(graphs)
    uses: list[tuple[tuple[str, str], Use]] = []
    classes = Classes()
    for graph in graphs:
        for op in graph.ops_of("READ_VARIABLE", "ASSIGN_VARIABLE"):
            handle = op.input(0)
            keys = sorted(handles.get(handle, ())) if handle is not None else []
            if not keys:
                raise VerifyError("uses a variable that no VAR_HANDLE names", where=op.place)
            values = op.outputs[:1] if op.kind == "READ_VARIABLE" else op.inputs[1:2]
            if not values or values[0] is None:
                raise VerifyError("has no value to read or write", where=op.place)
            for key in keys:  # one handle for several: they need one type
                classes.unite(keys[0], key)
            uses.append((keys[0], Use(graph, op, values[0])))
    by_class: dict[tuple[str, str], Variable] = {}
    for key, use in uses:
        by_class.setdefault(classes.of(key), Variable(key[1])).uses.append(use)
    return list(by_class.values())


def _handles(graphs: Sequence[Graph]) -> dict[Tensor, set[tuple[str, str]]]:
    """Handle -> (container, name) of the variables it may stand for, also where it is passed on."""
    handles: dict[Tensor, set[tuple[str, str]]] = {
        op.output: {(str(attr(op, "container") or ""), str(attr(op, "shared_name") or ""))}
        for graph in graphs
        for op in graph.ops_of("VAR_HANDLE")
        if op.outputs
    }
    passed = [
        (source, target)
        for graph in graphs
        for op in graph.ops
        for source, target in _passed(op, graphs)
        if source.dtype == "resource"
    ]
    grown = True
    while grown:
        grown = False
        for source, target in passed:
            more = handles.get(source, set()) - handles.get(target, set())
            handles.setdefault(target, set()).update(more)
            grown = grown or bool(more)
    return handles


def _passed(op: Op, graphs: Sequence[Graph]) -> list[tuple[Tensor, Tensor]]:
    """(from, to) for every value that goes into or comes out of a subgraph that `op` runs."""
    pairs: list[tuple[Tensor, Tensor]] = []
    for run, body in run_graphs(op, graphs):
        operands = op.inputs[run.skip :]
        counts = (
            (run.takes, "operands", operands, "inputs", body.inputs),
            (run.gives, "outputs", op.outputs, "outputs", body.outputs),
            (run.repeats, "outputs", op.outputs, "inputs", body.inputs),
        )
        for holds, ours, mine, theirs, its in counts:
            if holds and len(mine) != len(its):
                what = f"has {len(mine)} {ours}, its subgraph '{body.name}' has {len(its)} {theirs}"
                raise VerifyError(what, where=op.place)
        if run.takes:
            pairs += [(a, b) for a, b in zip(operands, body.inputs, strict=True) if a is not None]
        if run.gives:
            pairs += zip(body.outputs, op.outputs, strict=True)
        if run.repeats:
            pairs += zip(body.outputs, body.inputs, strict=True)
    return pairs


def verify_subgraphs(graphs: Sequence[Graph]) -> None:
    """Raise VerifyError where two subgraphs disagree about the type of a value they share."""
    _verify_order(graphs)
    for graph in graphs:
        for op in graph.ops:
            for source, target in _passed(op, graphs):
                if why := _differ(source, target):
                    raise VerifyError(
                        f"'{source.name}' {why[0]} and '{target.name}', which takes its value, "
                        f"{why[1]}",
                        where=op.place,
                    )
    for variable in variables(graphs):
        first = next((u for u in variable.uses if _known_size(u.value)), variable.uses[0])
        for use in variable.uses:
            if why := _differ(first.value, use.value, sizes=True):
                raise VerifyError(
                    f"{why[0]} in subgraph '{first.graph.name}' and {why[1]} in '{use.graph.name}'",
                    where=f"variable '{variable.name}'",
                )


def _differ(a: Tensor, b: Tensor, *, sizes: bool = False) -> tuple[str, str] | None:
    """What each of two tensors is where they cannot hold one value. sizes: compare these too."""
    if a.dtype != b.dtype:
        return f"is {a.dtype}", f"is {b.dtype}"
    if sizes and a.size != b.size and _known_size(a) and _known_size(b):
        return f"has the shape {list(a.shape)}", f"has {list(b.shape)}"
    return None


def _known_size(tensor: Tensor) -> bool:
    """Whether the file gives every dimension; a tensor of unknown rank reads as shape []."""
    if tensor.is_const:
        return True
    ranked = bool(tensor.shape) or tensor.has_rank
    return ranked and -1 not in (tensor.shape_signature or ())


def _verify_order(graphs: Sequence[Graph]) -> None:
    """No subgraph runs itself, by whatever way: the runtime would never return."""
    try:
        TopologicalSorter({graph: _bodies(graph, graphs) for graph in graphs}).prepare()
    except CycleError as error:
        names = ", ".join(f"'{graph.name}'" for graph in dict.fromkeys(error.args[1]))
        raise VerifyError("runs itself", where=f"subgraph {names}") from None
