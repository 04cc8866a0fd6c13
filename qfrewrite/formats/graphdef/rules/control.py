"""Reading control flow: function calls, loops (WHILE) and conditions (IF).

Calls are read into the graph that calls. A loop or a condition whose course is not known becomes
an op whose functions are subgraphs; constants are constants of the subgraphs, and what a loop
does not change is no output of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

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
from qfrewrite.formats.graphdef.values import (
    Computed,
    Constant,
    Drawn,
    Unset,
    Value,
    identity_perm,
)
from qfrewrite.ir import NUMPY_DTYPES, Graph, Op, Tensor, constant
from qfrewrite.ir.dtypes import dtype_name
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
    """A function read into a graph of its own.

    holders: for each argument the tensor that stands for it in the graph, or None where it is
    known there. results: what it gives.
    """

    importer: Importer
    holders: list[Tensor | None]
    args: list[Value]
    results: list[Value]

    @property
    def graph(self) -> Graph:
        """The graph it was read into."""
        return self.importer.graph

    def reads(self, slot: int) -> bool:
        """Whether anything is computed from argument `slot`, or it is a result."""
        holder = self.holders[slot]
        used = holder is not None and bool(holder.users)
        return used or any(result is self.args[slot] for result in self.results)

    def finish(self, slots: Sequence[int], outputs: Sequence[Tensor]) -> int:
        """Make the arguments `slots` the graph's inputs; returns the number of the subgraph."""
        held = [self.holders[slot] for slot in slots]
        self.graph.set_io([t for t in held if t is not None], outputs)
        self.graph.prune()
        bodies = self.importer.program.bodies
        bodies.append(self.graph)
        return len(bodies)


def _read_body(
    c: NodeContext, function: Function, name: str, values: Sequence[Value], known: Sequence[bool]
) -> _Body:
    """`function` in a graph of its own; arguments that are `known` are constants there."""
    importer = c.importer.inside(Graph(name))
    holders: list[Tensor | None] = []
    args: list[Value] = []
    for i, (value, is_known) in enumerate(zip(values, known, strict=True)):
        if is_known and isinstance(value, Constant):
            holders.append(None)
            args.append(replace(value, laid={}))
            continue
        dtype = _dtype(value)
        holder = Tensor(importer.graph.unique_name(f"arg{i}"), value.shape, dtype)
        importer.graph.set_io([*importer.graph.inputs, holder])
        holders.append(holder)
        args.append(Computed(holder, identity_perm(len(value.shape)), holder.name))
    return _Body(importer, holders, args, importer.run(function, args, ""))


def _dtype(value: Value) -> str:
    return value.tensor.dtype if isinstance(value, Computed) else dtype_name(value.data.dtype)


# -- loops -------------------------------------------------------------------------------------


class _Loop:
    """A While node on its way to a WHILE op."""

    def __init__(self, c: NodeContext) -> None:
        self.c = c
        self.cond, self.body = c.importer.program.library.functions(c.node, 2)
        self.state = list(c.inputs)
        count = len(self.state)
        fits = len(self.cond.args) == len(self.body.args) == len(self.body.outputs) == count
        if not fits or len(self.cond.outputs) != 1:
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
        (verdict,) = cond.results
        if isinstance(verdict, Constant):
            if verdict.data.size == 1 and bool(verdict.data.reshape(-1)[0]):
                raise UnsupportedError("is a loop that never ends")
            del bodies[mark:]
            return list(self.c.inputs)
        return self._emit(cond, body, verdict)

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
                    zeros = np.zeros((), np.float32 if isinstance(result, Drawn) else _np(result))
                    data = np.broadcast_to(zeros, result.shape)
                    self.state[i], again = Constant(value.name, data), True
            elif value.shape != result.shape:
                raise UnsupportedError(
                    f"variable {i} has shape {list(value.shape)} and then {list(result.shape)}",
                    remedy="what grows in a loop has no form in TFLite: give it its full size",
                )
            elif _dtype(value) != _dtype(result):
                raise ModelFileError(f"variable {i} is {_dtype(value)} and then {_dtype(result)}")
        return again

    def _emit(self, cond: _Body, body: _Body, verdict: Computed) -> list[Value]:
        graph, count = self.c.importer.graph, len(self.state)
        slots = [i for i in range(count) if self._carried(i, cond, body)]
        outputs = [self._next(body, i, slots) for i in slots]
        attrs = {
            "cond_subgraph_index": cond.finish(slots, [_truth(cond.importer, verdict)]),
            "body_subgraph_index": body.finish(slots, outputs),
        }
        operands = [self.c.importer.plain(self.state[i]) for i in slots]
        name = self.c.name
        results = [
            Tensor(graph.unique_name(f"{name}:{i}" if i else name), t.shape, t.dtype)
            for i, t in zip(slots, operands, strict=True)
        ]
        graph.add_op(Op("WHILE", operands, results, attrs, name=name, meta={"node": self.c.node}))
        after = dict(zip(slots, results, strict=True))
        return [
            value if self.kept[i] or i not in after else _computed(after[i])
            for i, value in enumerate(self.state)
        ]

    def _carried(self, i: int, cond: _Body, body: _Body) -> bool:
        """Whether variable i is one of the WHILE op: it changes, or is read and not constant."""
        if not self.kept[i]:
            return body.holders[i] is not None
        return isinstance(self.state[i], Computed) and (cond.reads(i) or bool(_held(body, i).users))

    def _next(self, body: _Body, i: int, slots: Sequence[int]) -> Tensor:
        """The next value of variable i as a tensor that the runtime may copy to input i."""
        tensor = body.importer.plain(body.results[i])
        others = [body.holders[slot] for slot in slots if slot != i]
        if tensor.is_const or any(tensor is other for other in others):
            return _copied(body.graph, tensor)
        return tensor


def _held(body: _Body, slot: int) -> Tensor:
    holder = body.holders[slot]
    assert holder is not None
    return holder


def _np(value: Value) -> np.dtype[np.generic]:
    return NUMPY_DTYPES[_dtype(value)]


def _computed(tensor: Tensor) -> Computed:
    return Computed(tensor, identity_perm(len(tensor.shape)), tensor.name)


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
    zero = importer.number(0, tensor.dtype, f"{tensor.name}/zero")
    return importer.add("NOT_EQUAL", [tensor, zero], {}, name=f"{tensor.name}/truth")[0]


# -- conditions --------------------------------------------------------------------------------


def _if(c: NodeContext) -> list[Value]:
    c.require(1)
    branches = c.importer.program.library.functions(c.node, 2)
    then, otherwise = branches
    return _choose(c, c.inputs[0], (otherwise, then), c.inputs[1:])


def _choose(
    c: NodeContext, predicate: Value, branches: Sequence[Function], args: Sequence[Value]
) -> list[Value]:
    """The results of the branch that `predicate` chooses: of the first where it is false."""
    for branch in branches:
        if len(branch.args) != len(args) or len(branch.outputs) != len(branches[0].outputs):
            raise ModelFileError("has branches that take or give different values")
    if isinstance(predicate, Constant):
        if predicate.data.size != 1:
            raise ModelFileError(f"is decided by {predicate.data.size} values, needs one")
        taken = branches[int(bool(predicate.data.reshape(-1)[0]))]
        return _inline(c, taken, args)
    known = [isinstance(v, Constant) for v in args]
    bodies = [
        _read_body(c, branch, f"{c.name}/{name}", args, known)
        for branch, name in zip(branches, ("else", "then"), strict=True)
    ]
    return _emit_if(c, predicate, bodies, args)


def _emit_if(
    c: NodeContext, predicate: Computed, bodies: list[_Body], args: Sequence[Value]
) -> list[Value]:
    graph = c.importer.graph
    slots = [i for i in range(len(args)) if any(body.reads(i) for body in bodies)]
    slots = [i for i in slots if isinstance(args[i], Computed)]
    pairs = zip(*(body.results for body in bodies), strict=True)
    results = [_agreed(i, first, second) for i, (first, second) in enumerate(pairs)]
    gives = [[_given(body, pair[n]) for pair in results] for n, body in enumerate(bodies)]
    attrs = {
        f"{name}_subgraph_index": body.finish(slots, outputs)
        for name, body, outputs in zip(("else", "then"), bodies, gives, strict=True)
    }
    operands = [_truth(c.importer, predicate), *(c.importer.plain(args[i]) for i in slots)]
    outputs = [
        Tensor(graph.unique_name(f"{c.name}:{i}" if i else c.name), t.shape, t.dtype)
        for i, t in enumerate(gives[0])
    ]
    graph.add_op(Op("IF", operands, outputs, attrs, name=c.name, meta={"node": c.node}))
    return [_computed(t) for t in outputs]


def _agreed(i: int, first: Value, second: Value) -> tuple[Value, Value]:
    """What two branches give as their result i, of one shape and type."""
    pair = [first, second]
    for n in (0, 1):
        if isinstance(pair[n], Unset) and pair[n].shape[:1] == pair[1 - n].shape[:1]:
            zero = np.zeros((), _np(pair[1 - n]))
            pair[n] = Constant(pair[n].name, np.broadcast_to(zero, pair[1 - n].shape))
    if pair[0].shape != pair[1].shape:
        raise UnsupportedError(
            f"branches give shapes {list(pair[1].shape)} and {list(pair[0].shape)} as result {i}",
            remedy="a shape that depends on the data has no form here: give both one shape",
        )
    if _dtype(pair[0]) != _dtype(pair[1]):
        raise ModelFileError(f"branches give {_dtype(pair[1])} and {_dtype(pair[0])}")
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
        if index.data.size != 1:
            raise ModelFileError(f"chooses by {index.data.size} values, needs one")
        number = int(index.data.reshape(-1)[0])
        return _inline(c, branches[number if 0 <= number < len(branches) else -1], args)
    if len(branches) == 1:
        return _inline(c, branches[0], args)
    first = int(c.attr(_FIRST, 0))
    against = constant(f"{c.name}/{first}", first, index.tensor.dtype)
    operands = [c.importer.plain(index), against]
    (taken,) = c.importer.add("EQUAL", operands, {}, name=f"{c.name}/is_{first}")
    chosen = replace(branches[0], args=((), *branches[0].args))
    return _choose(c, _computed(taken), (_without_first(c, first + 1, chosen), chosen), c.inputs)


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
    new_number = {
        number: new
        for new, number in enumerate(number for number, graph in enumerate(graphs) if graph in kept)
    }
    for graph in kept:
        for op in graph.ops_of(*RUNS):
            numbers = {run.index: new_number[op.attrs[run.index]] for run in RUNS[op.kind]}
            graph.set_attrs(op, **numbers)
    return [graph for graph in graphs if graph in kept]


CONTROL: Table = {
    **dict.fromkeys(CALLS, call),
    **dict.fromkeys(WHILES, _while),
    **dict.fromkeys(IFS, _if),
    **dict.fromkeys(CASES, _case),
}
"""Converters of nodes that run functions."""

TAKE_UNSET = frozenset({*CONTROL, *PASSING, *LISTS})
"""Ops that take a list whose tensors have no shape yet."""
