"""Reading control flow: function calls, loops (WHILE) and conditions (IF).

Calls are read into the graph that calls. A loop or a condition whose course is not known becomes
an op whose functions are subgraphs; constants are constants of the subgraphs, and what a loop
does not change is no output of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.graphdef.functions import (
    ARGUMENT,
    CALLS,
    CASES,
    IFS,
    PASSING,
    WHILES,
    Function,
    called,
)
from qfrewrite.formats.graphdef.importer import Importer, NodeContext
from qfrewrite.formats.graphdef.nodes import Ref
from qfrewrite.formats.graphdef.rules.arith import Table
from qfrewrite.formats.graphdef.rules.lists import LISTS
from qfrewrite.formats.graphdef.schema import NodeDef
from qfrewrite.formats.graphdef.values import Computed, Constant, Drawn, Unset, Value
from qfrewrite.ir import Graph, Op, Tensor
from qfrewrite.ops.subgraphs import RUNS, reached

# Shapes of lists and what a loop keeps are found by reading it again, at most as often.
_MAX_READINGS = 8


def call(c: NodeContext) -> list[Value]:
    """A call of one function: a PartitionedCall, or a node whose op is the function's name."""
    (function,) = c.importer.program.library.functions(c.node, 1)
    return _inline(c, function, c.inputs)


def _inline(c: NodeContext, function: Function, args: Sequence[Value]) -> list[Value]:
    """The results of `function`, read into the graph of `c`."""
    return c.importer.run(function, args, "" if function.own_names else f"{c.name}/")


@dataclass
class _Body:
    """A function read into a graph of its own."""

    importer: Importer
    """The importer of that graph."""
    args: list[Value]
    """The arguments: constants, or inputs of that graph."""
    results: list[Value]
    """The results."""

    @property
    def graph(self) -> Graph:
        """The graph it was read into."""
        return self.importer.graph

    @property
    def holders(self) -> list[Tensor | None]:
        """For each argument the tensor that stands for it in the graph; None where it is known."""
        return [arg.tensor if isinstance(arg, Computed) else None for arg in self.args]

    def computes_from(self, slot: int) -> bool:
        """Whether anything is computed from argument `slot`."""
        holder = self.holders[slot]
        return holder is not None and bool(holder.users)

    def uses(self, slot: int) -> bool:
        """Whether anything is computed from argument `slot`, or it is a result."""
        return self.computes_from(slot) or any(r is self.args[slot] for r in self.results)

    def finish(self, slots: Sequence[int], outputs: Sequence[Tensor]) -> int:
        """Make the arguments `slots` the graph's inputs; returns the number of the subgraph."""
        inputs = [self.holders[slot] for slot in slots]
        self.graph.set_io([t for t in inputs if t is not None], outputs)
        self.graph.prune()
        self.importer.program.bodies.append(self.graph)
        return len(self.importer.program.bodies)


def _read_body(
    c: NodeContext, function: Function, name: str, values: Sequence[Value], known: Sequence[bool]
) -> _Body:
    """`function` in a graph of its own; arguments that are `known` are constants there."""
    importer = c.importer.inside(Graph(name))
    args: list[Value] = []
    for i, (value, is_known) in enumerate(zip(values, known, strict=True)):
        if is_known and isinstance(value, Constant):
            args.append(replace(value, laid={}))
            continue
        holder = Tensor(importer.graph.unique_name(f"arg{i}"), value.shape, value.dtype)
        importer.graph.set_io([*importer.graph.inputs, holder])
        args.append(Computed.plain(holder))
    return _Body(importer, args, importer.run(function, args, ""))


def _emit_runner(
    c: NodeContext,
    kind: str,
    operands: Sequence[Tensor],
    attrs: dict[str, int],
    slots: Sequence[int],
    like: Sequence[Tensor],
) -> list[Value]:
    """Append an op that runs subgraphs, whose results are results `slots` of the node.

    like: tensors with the shapes and element types of the results.
    """
    graph = c.importer.graph
    results = [
        Tensor(graph.unique_name(f"{c.name}:{i}" if i else c.name), t.shape, t.dtype)
        for i, t in zip(slots, like, strict=True)
    ]
    graph.add_op(Op(kind, tuple(operands), results, attrs, name=c.name, meta={"node": c.node}))
    return [Computed.plain(result) for result in results]


# -- loops -------------------------------------------------------------------------------------


class _Loop:
    """A While node on its way to a WHILE op."""

    def __init__(self, c: NodeContext) -> None:
        self.c = c
        self.cond, self.body = c.importer.program.library.functions(c.node, 2)
        self.state = list(c.inputs)
        count = len(self.state)
        lengths = {len(v) for v in (self.cond.args, self.body.args, self.body.outputs)}
        if lengths != {count} or len(self.cond.outputs) != 1:
            raise ModelFileError(
                f"loops over {count} values with functions that take "
                f"{len(self.cond.args)} and {len(self.body.args)}"
            )
        passed = c.importer.program.library.passed(self.body)
        self.kept = [passed[i] == i for i in range(count)]

    def convert(self) -> list[Value]:
        """The values after the loop."""
        bodies = self.c.importer.program.bodies
        mark = len(bodies)
        for _ in range(_MAX_READINGS):
            del bodies[mark:]
            body = self._read("body", self.body)
            if not self._learn(body):
                break
        else:
            raise UnsupportedError("changes the shapes of its variables while it runs")
        cond = self._read("cond", self.cond)
        (goes_on,) = cond.results
        if isinstance(goes_on, Constant):
            if goes_on.data.size == 1 and goes_on.data.any():
                raise UnsupportedError("is a loop that never ends")
            del bodies[mark:]
            return list(self.c.inputs)
        return self._emit(cond, body, goes_on)

    def _read(self, part: str, function: Function) -> _Body:
        # What is not known yet is constant until something is written to it.
        known = [k or isinstance(v, Unset) for k, v in zip(self.kept, self.state, strict=True)]
        return _read_body(self.c, function, f"{self.c.name}/{part}", self.state, known)

    def _learn(self, body: _Body) -> bool:
        """Take over what one reading of the body shows; whether it must be read again."""
        again = False
        for i, (value, result) in enumerate(zip(self.state, body.results, strict=True)):
            if result is body.args[i]:
                continue
            if self.kept[i]:
                self.kept[i], again = False, True
            if isinstance(value, Unset) and result.shape[:1] == value.shape[:1]:
                if not isinstance(result, Unset):
                    dtype = "float32" if isinstance(result, Drawn) else result.dtype
                    self.state[i] = Constant.filled(value.name, 0, dtype, result.shape)
                    again = True
            elif value.shape != result.shape:
                what = f"variable {i} has shape {list(value.shape)} and then {list(result.shape)}"
                remedy = "what grows in a loop has no form in TFLite: give it its full size"
                raise UnsupportedError(what, remedy=remedy)
            elif value.dtype != result.dtype:
                raise ModelFileError(f"variable {i} is {value.dtype} and then {result.dtype}")
        return again

    def _emit(self, cond: _Body, body: _Body, goes_on: Computed) -> list[Value]:
        slots = [i for i in range(len(self.state)) if self._is_operand(i, cond, body)]
        outputs = [self._next(body, i, slots) for i in slots]
        attrs = {
            "cond_subgraph_index": cond.finish(slots, [_truth(cond.importer, goes_on)]),
            "body_subgraph_index": body.finish(slots, outputs),
        }
        operands = [self.c.importer.plain(self.state[i]) for i in slots]
        results = _emit_runner(self.c, "WHILE", operands, attrs, slots, operands)
        after = {i: v for i, v in zip(slots, results, strict=True) if not self.kept[i]}
        return [after.get(i, value) for i, value in enumerate(self.state)]

    def _is_operand(self, i: int, cond: _Body, body: _Body) -> bool:
        """Whether variable i is one of the WHILE op: it changes, or is read and not constant."""
        if not self.kept[i]:
            return isinstance(body.args[i], Computed)
        used = body.computes_from(i) or cond.uses(i)
        return used and isinstance(self.state[i], Computed)

    def _next(self, body: _Body, i: int, slots: Sequence[int]) -> Tensor:
        """The next value of variable i as a tensor that the runtime may copy to input i."""
        tensor = body.importer.plain(body.results[i])
        others = [body.holders[slot] for slot in slots if slot != i]
        if tensor.is_const or any(tensor is other for other in others):
            return _copied(body.graph, tensor)
        return tensor


def _copied(graph: Graph, tensor: Tensor) -> Tensor:
    """A tensor of its own with the value of `tensor`."""
    copy = Tensor(graph.unique_name(f"{tensor.name}/copy"), tensor.shape, tensor.dtype)
    graph.add_op(Op("IDENTITY", [tensor], [copy]))
    return copy


def _truth(importer: Importer, value: Computed) -> Tensor:
    """`value` as the bool that a WHILE or IF op reads; a number is true where it is not zero."""
    tensor = importer.plain(value)
    if tensor.size != 1:
        raise ModelFileError(f"is decided by {tensor.size} values, needs one")
    if tensor.dtype == "bool":
        return tensor
    zero = importer.operand(0, f"{tensor.name}/zero", tensor.dtype)
    return importer.add("NOT_EQUAL", [tensor, zero], {}, name=f"{tensor.name}/truth")[0]


# -- conditions --------------------------------------------------------------------------------


def _if(c: NodeContext) -> list[Value]:
    c.require(1)
    then, otherwise = c.importer.program.library.functions(c.node, 2)
    return _choose(c, c.inputs[0], (otherwise, then), c.inputs[1:])


def _one_value(value: Constant) -> Any:
    """The value that a branch is chosen by; raises ModelFileError where it is not one."""
    if value.data.size != 1:
        raise ModelFileError(f"is decided by {value.data.size} values, needs one")
    return value.data.reshape(-1)[0]


def _choose(
    c: NodeContext, predicate: Value, branches: Sequence[Function], args: Sequence[Value]
) -> list[Value]:
    """The results of the branch that `predicate` chooses: of the first where it is false."""
    for branch in branches:
        if len(branch.args) != len(args) or len(branch.outputs) != len(branches[0].outputs):
            raise ModelFileError("has branches that take or give different values")
    if isinstance(predicate, Constant):
        return _inline(c, branches[int(bool(_one_value(predicate)))], args)
    known = [isinstance(v, Constant) for v in args]
    bodies = [
        _read_body(c, branch, f"{c.name}/{name}", args, known)
        for branch, name in zip(branches, ("else", "then"), strict=True)
    ]
    return _emit_if(c, predicate, bodies, args)


def _emit_if(
    c: NodeContext, predicate: Computed, bodies: list[_Body], args: Sequence[Value]
) -> list[Value]:
    slots = [
        i
        for i, value in enumerate(args)
        if isinstance(value, Computed) and any(body.uses(i) for body in bodies)
    ]
    pairs = zip(*(body.results for body in bodies), strict=True)
    results = [_agreed(i, first, second) for i, (first, second) in enumerate(pairs)]
    gives = [[_given(body, pair[n]) for pair in results] for n, body in enumerate(bodies)]
    attrs = {
        f"{name}_subgraph_index": body.finish(slots, outputs)
        for name, body, outputs in zip(("else", "then"), bodies, gives, strict=True)
    }
    operands = [_truth(c.importer, predicate), *(c.importer.plain(args[i]) for i in slots)]
    return _emit_runner(c, "IF", operands, attrs, range(len(results)), gives[0])


def _agreed(i: int, first: Value, second: Value) -> tuple[Value, Value]:
    """What two branches give as their result i, of one shape and type."""
    pair = [first, second]
    for n in (0, 1):
        if isinstance(pair[n], Unset) and pair[n].shape[:1] == pair[1 - n].shape[:1]:
            other = pair[1 - n]
            pair[n] = Constant.filled(pair[n].name, 0, other.dtype, other.shape)
    if pair[0].shape != pair[1].shape:
        what = f"branches give shapes {list(pair[1].shape)} and {list(pair[0].shape)} as result {i}"
        remedy = "a shape that depends on the data has no form here: give both one shape"
        raise UnsupportedError(what, remedy=remedy)
    if pair[0].dtype != pair[1].dtype:
        raise ModelFileError(f"branches give {pair[1].dtype} and {pair[0].dtype}")
    return pair[0], pair[1]


def _given(body: _Body, value: Value) -> Tensor:
    """A result of a branch as a tensor that is no constant and no input of it."""
    tensor = body.importer.plain(value)
    borrowed = tensor.is_const or any(tensor is holder for holder in body.holders)
    return _copied(body.graph, tensor) if borrowed else tensor


def _case(c: NodeContext) -> list[Value]:
    """Case(index, args): the last branch also where the index is out of range."""
    c.require(1)
    library, (index, *args) = c.importer.program.library, c.inputs
    branches = library.functions(c.node, max(len(called(c.node)), 1))
    if isinstance(index, Constant):
        number = int(_one_value(index))
        return _inline(c, branches[number if 0 <= number < len(branches) else -1], args)
    if len(branches) == 1:
        return _inline(c, branches[0], args)
    first = int(c.attr(_FIRST, 0))
    operands = [c.importer.plain(index), c.number(first, index.dtype, str(first))]
    taken = Computed.plain(c.part("EQUAL", operands, f"is_{first}"))
    chosen = replace(branches[0], args=((), *branches[0].args))
    return _choose(c, taken, (_without_first(c, first + 1, chosen), chosen), c.inputs)


# Attribute of a Case node made here: the index that its first branch stands for.
_FIRST = "_first_index"


def _without_first(c: NodeContext, first: int, chosen: Function) -> Function:
    """The Case node of `c` without its first branch, as a function of its operands."""
    names = [f"operand{i}" for i in range(len(c.inputs))]
    node = NodeDef()
    node.CopyFrom(c.node)
    node.name = "rest"
    del node.input[:]
    node.input.extend(names)
    del node.attr["branches"].list.func[0]
    node.attr[_FIRST].i = first
    nodes = {name: NodeDef(name=name, op=ARGUMENT) for name in names}
    args = tuple((Ref(name, 0),) for name in names)
    outputs = tuple(Ref(node.name, i) for i in range(len(chosen.outputs)))
    return Function(f"{c.name}/rest_{first}", {**nodes, node.name: node}, args, outputs)


def _while(c: NodeContext) -> list[Value]:
    return _Loop(c).convert()


def without_unreached(graphs: Sequence[Graph]) -> list[Graph]:
    """The main graph and those that it runs, directly or not; ops name them by their new number."""
    kept = reached(graphs[0], graphs)
    numbers = [number for number, graph in enumerate(graphs) if graph in kept]
    for graph in kept:
        for op in (op for op in graph.ops if op.kind in RUNS):
            runs = {run.index: numbers.index(op.attrs[run.index]) for run in RUNS[op.kind]}
            graph.set_attrs(op, **runs)
    return [graphs[number] for number in numbers]


CONTROL: Table = {
    **dict.fromkeys(CALLS, call),
    **dict.fromkeys(WHILES, _while),
    **dict.fromkeys(IFS, _if),
    **dict.fromkeys(CASES, _case),
}
"""Converters of nodes that run functions."""

TAKE_UNSET = frozenset({*CONTROL, *PASSING, *LISTS})
"""Ops that take a list whose tensors have no shape yet."""
