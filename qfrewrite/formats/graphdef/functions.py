"""Functions of a GraphDef: what PartitionedCall, If and While run.

A `Function` is a set of nodes with arguments and results. It is either a definition from the
file's function library, or was cut out of the nodes of a version 1 loop or condition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.graphdef.nodes import ALIASES, Nodes, Ref, data_refs
from qfrewrite.formats.graphdef.schema import NodeDef
from qfrewrite.ir.names import numbered

ARGUMENT = "_Arg"
"""The op of a node that stands for an argument of a function."""

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
WHILES = ("While", "StatelessWhile")
IFS = ("If", "StatelessIf")
CASES = ("Case", "StatelessCase")
PASSING = ALIASES | {"IdentityN"}
"""Ops whose output n is their operand n."""

# Functions may call each other this deep, and expand to so many nodes.
_MAX_DEPTH = 64
_MAX_NODES = 20_000
# The kind of an attribute that a node of a function takes from the node that calls it.
_HOLE = "placeholder"

# Node ops with several outputs, and the names of these in order; in function bodies they are read
# by name. Of all other ops the first name is the only one.
_SEVERAL_OUTPUTS = (
    (
        "FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3",
        "y batch_mean batch_variance reserve_space_1 reserve_space_2 reserve_space_3",
    ),
    ("Merge", "output value_index"),
    ("NonMaxSuppressionV4", "selected_indices valid_outputs"),
    ("NonMaxSuppressionV5", "selected_indices selected_scores valid_outputs"),
    ("QuantizeV2", "output output_min output_max"),
    ("Switch", "output_false output_true"),
    ("TensorArrayConcatV3", "value lengths"),
    ("TensorArrayV3", "handle flow"),
    ("TensorListConcat TensorListConcatV2", "tensor lengths"),
    ("TensorListPopBack", "output_handle tensor"),
    ("TopK TopKV2", "values indices"),
    ("Unique UniqueWithCounts", "y idx count"),
)
_OUTPUTS: Mapping[str, Sequence[str]] = {
    node_op: names.split() for node_ops, names in _SEVERAL_OUTPUTS for node_op in node_ops.split()
}


@dataclass(frozen=True, eq=False)
class Function:
    """Nodes with arguments and results."""

    name: str
    """The name of the function."""
    nodes: Nodes
    """The nodes by name."""
    args: tuple[tuple[Ref, ...], ...]
    """For each argument what the nodes use of it: version 1 loops have several names for one value.
    The nodes named there are stand-ins that are not converted."""
    outputs: tuple[Ref, ...]
    """The results."""
    own_names: bool = False
    """Whether names of nodes are unique in the file, as they are for what was cut out of it; those
    of a definition in the library are unique within it only."""

    @cached_property
    def bound(self) -> Mapping[Ref, int]:
        """What the nodes read of the arguments -> the argument's number."""
        return {ref: i for i, refs in enumerate(self.args) for ref in refs}

    @cached_property
    def stop(self) -> set[str]:
        """The names of the nodes that stand for arguments."""
        return {ref.node for refs in self.args for ref in refs}

    def with_attributes_of(self, call: Any) -> Function:
        """The same with the attributes that its nodes take from the node `call` filled in."""
        nodes = {name: _filled(node, call) for name, node in self.nodes.items()}
        if all(nodes[name] is self.nodes[name] for name in nodes):
            return self
        return replace(self, nodes=nodes)


def _filled(node: Any, call: Any) -> Any:
    holes = {k: v.placeholder for k, v in node.attr.items() if v.WhichOneof("value") == _HOLE}
    if not holes:
        return node
    copy = NodeDef()
    copy.CopyFrom(node)
    for key, name in holes.items():
        if name in call.attr:
            copy.attr[key].CopyFrom(call.attr[name])
    return copy


def define(definition: Any) -> Function:
    """The function of one definition in a function library; raises ModelFileError."""
    name = definition.signature.name
    args = [arg.name for arg in definition.signature.input_arg]
    nodes: dict[str, Any] = {arg: NodeDef(name=arg, op=ARGUMENT) for arg in args}
    for node in definition.node_def:
        if not node.name or node.name in nodes:
            raise ModelFileError(f"has two nodes '{node.name}'", where=f"function '{name}'")
        nodes[node.name] = node
    # Reads are by output name; everything else here reads by port.
    nodes = {n: _with_ports(node, nodes, name) for n, node in nodes.items()}
    outputs = []
    for result in definition.signature.output_arg:
        if result.name not in definition.ret:
            raise ModelFileError(f"gives no '{result.name}'", where=f"function '{name}'")
        outputs.append(_port(definition.ret[result.name], nodes, name))
    return Function(name, nodes, tuple((Ref(a, 0),) for a in args), tuple(outputs))


def _with_ports(node: Any, nodes: Nodes, function: str) -> Any:
    reads = [text for text in node.input if not text.startswith("^")]
    refs = [_port(text, nodes, function) for text in reads]
    if reads == [str(ref) for ref in refs]:
        return node
    copy = NodeDef()
    copy.CopyFrom(node)
    del copy.input[:]
    copy.input.extend(str(ref) for ref in refs)
    return copy


def _port(text: str, nodes: Nodes, function: str) -> Ref:
    """`node:output name:index`, or the name of an argument, as a reference by port."""
    parts = text.split(":")
    node = nodes.get(parts[0])
    if node is None:
        what = f"reads '{parts[0]}', which is not in it"
        raise ModelFileError(what, where=f"function '{function}'")
    index = int(parts[-1]) if len(parts) > 1 and parts[-1].isdecimal() else 0
    named = _OUTPUTS.get(node.op, ())
    if len(parts) == 3 and parts[1] in named:
        return Ref(parts[0], named.index(parts[1]) + index)
    return Ref(parts[0], index)


def called(node: Any) -> tuple[str, ...]:
    """The names of the functions that `node` runs."""
    keys = _FUNCTIONS.get(node.op, ())
    values = [node.attr[key] for key in keys if key in node.attr]
    names = [v.func.name for v in values if v.WhichOneof("value") == "func"]
    return (*names, *(f.name for v in values for f in v.list.func))


_FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(CALLS, ("f",)),
    **dict.fromkeys(WHILES, ("cond", "body")),
    **dict.fromkeys(IFS, ("then_branch", "else_branch")),
    **dict.fromkeys(CASES, ("branches",)),
}


@dataclass(eq=False)
class Library:
    """The functions of a file by name: those it defines, and those cut out of its nodes."""

    definitions: Mapping[str, Any] = field(default_factory=dict)
    """The definitions of the file, by name."""
    _functions: dict[str, Function] = field(default_factory=dict)
    _passed: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    _depth: int = 0

    @staticmethod
    def of(message: Any) -> Library:
        """The library of a GraphDef message."""
        return Library({f.signature.name: f for f in message.library.function})

    def __contains__(self, name: object) -> bool:
        return name in self._functions or name in self.definitions

    def add(self, function: Function) -> None:
        """Make a function known that was cut out of nodes."""
        self._functions[function.name] = function

    def unique(self, name: str) -> str:
        """A name that no function has."""
        return numbered(name, self)

    def get(self, name: str) -> Function:
        """The function `name`; raises ModelFileError where there is none."""
        if name not in self._functions:
            if name not in self.definitions:
                what = f"runs the function '{name}', which is not in the file"
                raise ModelFileError(what, remedy="the file is incomplete: freeze the graph again")
            self._functions[name] = define(self.definitions[name])
        return self._functions[name]

    def functions(self, node: Any, count: int) -> list[Function]:
        """The `count` functions that `node` runs; raises ModelFileError."""
        names = called(node) or ((node.op,) if node.op in self else ())
        if len(names) != count:
            raise ModelFileError(f"names {len(names)} functions, needs {count}")
        return [self.get(name).with_attributes_of(node) for name in names]

    def passed(self, function: Function) -> tuple[int | None, ...]:
        """For each result of `function` the argument that it always is, or None."""
        if function.name not in self._passed:
            # Also the answer for a function that calls itself, and for one too deep inside.
            self._passed[function.name] = (None,) * len(function.outputs)
            self._depth += 1
            if self._depth <= _MAX_DEPTH:
                passed = tuple(self._argument(function, ref) for ref in function.outputs)
                self._passed[function.name] = passed
            self._depth -= 1
        return self._passed[function.name]

    def _argument(self, function: Function, ref: Ref) -> int | None:
        seen: set[Ref] = set()
        while ref not in function.bound:
            node = function.nodes.get(ref.node)
            refs = [] if node is None or ref in seen else data_refs(node)
            seen.add(ref)
            slot = self._alias(node, ref.port) if refs else None
            if slot is None or slot >= len(refs):
                return None
            ref = refs[slot]
        return function.bound[ref]

    def _alias(self, node: Any, port: int) -> int | None:
        """The operand of `node` that its output `port` always is, or None."""
        if node.op in PASSING:
            return port
        if node.op not in (*WHILES, *CALLS):
            return None
        names = called(node)
        if not names or any(name not in self for name in names):
            return None
        passed = self.passed(self.get(names[-1]))
        slot = passed[port] if port < len(passed) else None
        return slot if node.op in CALLS or slot == port else None


@dataclass
class CallStack:
    """The functions that are being read, and how many nodes were converted in them."""

    names: list[str] = field(default_factory=list)
    """The functions that are being read, the outer ones first."""
    nodes: int = 0
    """How many nodes were converted in functions."""

    def enter(self, function: Function) -> None:
        """Note that `function` is read; raises UnsupportedError where it must not be."""
        if function.name in self.names:
            chain = " -> ".join([*self.names[self.names.index(function.name) :], function.name])
            what = f"the function '{function.name}' calls itself ({chain})"
            raise UnsupportedError(what, remedy="recursion has no form in TFLite: unroll it")
        if len(self.names) >= _MAX_DEPTH:
            raise UnsupportedError(f"functions call each other more than {_MAX_DEPTH} deep")
        self.nodes += len(function.nodes)
        if self.nodes > _MAX_NODES:
            raise UnsupportedError(f"its functions expand to more than {_MAX_NODES} nodes")
        self.names.append(function.name)

    def leave(self) -> None:
        """Note that the last function was read."""
        self.names.pop()
