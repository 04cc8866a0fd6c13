"""Version 1 control flow raised to functions: loops to While nodes, conditions to If nodes.

Version 1 graphs have no functions. A loop is a cycle through Enter, Merge, Switch and
NextIteration nodes, a condition is what lies between Switch and Merge nodes. Both are cut out of
the graph, so that what is left has no cycle and every node in it is always computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.graphdef.functions import ARGUMENT, Function, Library
from qfrewrite.formats.graphdef.nodes import (
    Ref,
    Users,
    ancestors,
    attribute,
    behind_identities,
    data_refs,
    parse_ref,
    place,
    reached,
    users,
)
from qfrewrite.formats.graphdef.schema import DATA_TYPES, NodeDef
from qfrewrite.ir.names import numbered

Nodes = dict[str, Any]

# A Switch by an index, as TensorFlow lowers Case, and how many sides one may have.
_SWITCH_N = "_SwitchN"
_MAX_SIDES = 1024
# How many nodes of loops are visited, loops inside loops again for each.
_MAX_WORK = 1 << 20


def structured(
    nodes: Nodes, library: Library, *, stop: Collection[str] = (), results: Collection[str] = ()
) -> Nodes:
    """`nodes` without Enter, Exit, NextIteration, Switch and Merge.

    Loops become While nodes, conditions If or Case nodes. Their functions are added to `library`,
    and are structured when they are read. stop: nodes that stand for arguments. results: nodes
    that are wanted even where no other node reads them.
    Raises ModelFileError, UnsupportedError.
    """
    before = nodes
    try:
        if any(_is(node, "Enter") for node in nodes.values()):
            nodes = _raise_loops(nodes, library, set(stop), set(results))
        if any(_is(node, "Switch") for node in nodes.values()):
            nodes = _raise_conditions(nodes, library, set(stop))
    except (IndexError, KeyError, ValueError) as error:
        raise ModelFileError(f"has control flow that does not make sense: {error}") from None
    if nodes is before:
        return nodes
    for node in nodes.values():
        for ref in data_refs(node):
            if ref.node not in nodes:
                raise ModelFileError(f"reads '{ref}' from outside its loop", where=place(node))
    return _without_orphans(nodes, before, set(results))


def _used_names(nodes: Iterable[Any]) -> set[str]:
    return {ref.node for node in nodes for ref in data_refs(node)}


def _without_orphans(nodes: Nodes, before: Nodes, results: set[str]) -> Nodes:
    """`nodes` without those that were used `before`, or are new, and that no node uses."""
    unused = before.keys() - _used_names(before.values()) | results
    left = dict(nodes)
    counts = Counter(ref.node for node in nodes.values() for ref in data_refs(node))
    stack = [name for name in nodes if name not in unused and not counts[name]]
    while stack:
        for ref in data_refs(left.pop(stack.pop())):
            counts[ref.node] -= 1
            if not counts[ref.node] and ref.node not in unused and ref.node in left:
                stack.append(ref.node)
    return left


def _is(node: Any, op: str) -> bool:
    return bool(node.op.removeprefix("Ref") == op) or (op == "Switch" and node.op == _SWITCH_N)


def _new_node(nodes: Mapping[str, Any], name: str, op: str, inputs: Iterable[Ref]) -> Any:
    node = NodeDef(name=numbered(name, nodes), op=op)
    node.input.extend(str(ref) for ref in inputs)
    return node


def _state_types(node: Any, attr: str, sources: Iterable[Any]) -> None:
    """Let `node` say that its outputs have the types of the nodes `sources`."""
    float_type = DATA_TYPES["DT_FLOAT"]
    types = (node.attr["T"].type if "T" in node.attr else float_type for node in sources)
    node.attr[attr].list.type.extend(types)


def _alias(node: Any, source: Ref) -> Any:
    """A node that bears the name of `node` and gives `source`."""
    alias = NodeDef(name=node.name, op="Identity", device=node.device)
    if "T" in node.attr:
        alias.attr["T"].CopyFrom(node.attr["T"])
    alias.input.append(str(source))
    return alias


def _closure(nodes: Mapping[str, Any], ends: Iterable[Ref], stop: set[str]) -> set[str]:
    """The names of all nodes that `ends` are computed from, up to and without `stop`."""
    return ancestors(nodes, ends, stop) - stop


def _put(nodes: Nodes, node: Any, ports: Mapping[str, int], gone: Collection[str] = ()) -> Nodes:
    """`nodes` without `gone`, and with `node` before the first of those in `ports`.

    ports: names of nodes, each of which becomes an alias of that output of `node`.
    """
    rest: Nodes = {}
    for name, old in nodes.items():
        if name in gone:
            continue
        if name in ports:
            rest.setdefault(node.name, node)
            rest[name] = _alias(old, Ref(node.name, ports[name]))
        else:
            rest[name] = old
    return rest


def _cut_out(
    nodes: Nodes,
    library: Library,
    name: str,
    wanted: set[str],
    arguments: tuple[tuple[Ref, ...], ...],
    outputs: tuple[Ref, ...],
) -> str:
    """Make a function of the `wanted` nodes; returns its name, which is like `name`."""
    name = library.unique(name)
    bound = [ref.node for refs in arguments for ref in refs]
    stand_ins = {node: NodeDef(name=node, op=ARGUMENT) for node in bound}
    inside = {**stand_ins, **{name: node for name, node in nodes.items() if name in wanted}}
    library.add(Function(name, inside, arguments, outputs, own_names=True))
    return name


# -- loops -------------------------------------------------------------------------------------


@dataclass
class _Variable:
    """A loop variable: Enter -> Merge -> Switch -> (body) -> NextIteration -> Merge."""

    enter: Any
    """The node that brings the first value in."""
    merge: Any
    """The node that joins the first value and the next ones."""
    next: Any
    """The NextIteration node."""
    switches: list[Any] = field(default_factory=list)
    """The nodes that lead the value into the body or out of the loop."""

    @property
    def names(self) -> set[str]:
        """The names of the nodes that make up the variable."""
        return {n.name for n in (self.enter, self.merge, self.next, *self.switches)}

    @property
    def bound(self) -> tuple[Ref, ...]:
        """What nodes of the loop use of it."""
        return (Ref(self.merge.name, 0), *(Ref(s.name, 1) for s in self.switches))


@dataclass
class _Loop:
    """The nodes of one frame."""

    frame: str
    """The name of the frame."""
    variables: list[_Variable]
    """What changes from step to step."""
    constants: list[Any]
    """The Enter nodes of what does not change."""
    condition: Any
    """The LoopCond node."""
    exits: list[Any]
    """The Exit nodes."""

    @property
    def enters(self) -> list[Any]:
        """The Enter nodes: of each variable, then of each constant."""
        return [*(v.enter for v in self.variables), *self.constants]

    @property
    def skeleton(self) -> set[str]:
        """The names of the nodes that make the frame a loop."""
        names = {n.name for n in (self.condition, *self.constants, *self.exits)}
        return names.union(*(v.names for v in self.variables))

    @property
    def arguments(self) -> tuple[tuple[Ref, ...], ...]:
        """What nodes of the loop use: of each variable, then of each constant."""
        return (*(v.bound for v in self.variables), *((Ref(c.name, 0),) for c in self.constants))

    @property
    def results(self) -> tuple[Ref, ...]:
        """The next value of each variable, and each constant."""
        following = (data_refs(v.next)[0] for v in self.variables)
        return (*following, *(Ref(c.name, 0) for c in self.constants))


def _raise_loops(nodes: Nodes, library: Library, stop: set[str], results: set[str]) -> Nodes:
    used_by = users(nodes)
    frames: dict[str, list[Any]] = {}
    for node in nodes.values():
        if _is(node, "Enter") and node.name not in stop:
            frames.setdefault(str(attribute(node, "frame_name", "")), []).append(node)
    loops = [_find_loop(nodes, used_by, frame, enters) for frame, enters in frames.items()]
    owner = {name: loop.frame for loop in loops for name in loop.skeleton}
    inside: dict[str, set[str]] = {}
    nested: set[str] = set()
    visited = 0
    for loop in loops:
        entries = {node.name for node in loop.enters}
        ends = (*loop.results, *data_refs(loop.condition), *(Ref(n, 0) for n in loop.skeleton))
        names = inside[loop.frame] = _closure(nodes, ends, entries | stop)
        nested |= {owner[name] for name in names if name in owner} - {loop.frame}
        visited += len(names)
        if visited > _MAX_WORK + 64 * len(nodes):
            raise UnsupportedError("its loops are nested too deep")
    for loop in loops:
        if loop.frame not in nested:
            nodes = _raise_loop(nodes, library, loop, inside[loop.frame], results)
    return nodes


def _find_loop(nodes: Nodes, used_by: Users, frame: str, enters: list[Any]) -> _Loop:
    variables, constants, exits = [], [], []
    conditions: dict[str, Any] = {}
    for enter in enters:
        merge = next((n for n, _, _ in used_by[enter.name] if _is(n, "Merge")), None)
        if merge is None:
            constants.append(enter)
            continue
        joined = (nodes[ref.node] for ref in data_refs(merge))
        following = next((node for node in joined if _is(node, "NextIteration")), None)
        if following is None:
            raise ModelFileError("joins no next iteration to a loop", where=place(merge))
        variable = _Variable(enter, merge, following)
        for switch, slot, _ in used_by[merge.name]:
            if not _is(switch, "Switch") or slot != 0:
                continue
            source = behind_identities(nodes, data_refs(switch)[1])
            if not _is(nodes[source.node], "LoopCond"):
                continue
            conditions[source.node] = nodes[source.node]
            variable.switches.append(switch)
            exits += [n for n, _, _ in used_by[switch.name] if _is(n, "Exit")]
        variables.append(variable)
    if len(conditions) != 1:
        raise ModelFileError(f"the loop '{frame}' has {len(conditions)} conditions, needs one")
    (condition,) = conditions.values()
    return _Loop(frame, variables, constants, condition, exits)


def _raise_loop(
    nodes: Nodes, library: Library, loop: _Loop, inside: set[str], results: set[str]
) -> Nodes:
    """Put a While node in the place of a loop and an Identity in that of each Exit."""
    bound = {ref.node for refs in loop.arguments for ref in refs}
    initial = [data_refs(node)[0] for node in loop.enters]
    node = _new_node(nodes, loop.frame or "while", "While", initial)
    for part, ends in (("cond", tuple(data_refs(loop.condition)[:1])), ("body", loop.results)):
        wanted = _closure(nodes, ends, bound)
        name = f"{node.name}/{part}"
        node.attr[part].func.name = _cut_out(nodes, library, name, wanted, loop.arguments, ends)
    _state_types(node, "T", loop.enters)
    number = {s.name: i for i, v in enumerate(loop.variables) for s in v.switches}
    ports = {e.name: number[data_refs(e)[0].node] for e in loop.exits}
    gone = _dependents(nodes, (inside | loop.skeleton) - ports.keys(), keep=ports.keys())
    used = _used_names(node for name, node in nodes.items() if name not in gone) | results
    if not used.isdisjoint(ports):
        # Values that no node uses are no results of the graph where others are used.
        gone |= ports.keys() - used
    return _put(nodes, node, ports, gone)


def _dependents(nodes: Nodes, gone: set[str], keep: Collection[str]) -> set[str]:
    """`gone` and all that is computed from it, save what `keep` names and what uses that."""
    used_by = users(nodes)
    return reached(
        gone, lambda name: [user.name for user, _, _ in used_by[name] if user.name not in keep]
    )


# -- conditions --------------------------------------------------------------------------------

# What a node is computed under: (where the predicate comes from, which side).
_Tags = frozenset[tuple[Ref, int]]


@dataclass
class _Condition:
    """Merge nodes that one predicate decides."""

    predicate: Ref
    """Where the predicate comes from."""
    under: _Tags
    """What the Merge nodes are computed under."""
    merges: list[Any] = field(default_factory=list)
    """The Merge nodes."""
    slots: list[list[int]] = field(default_factory=list)
    """For each Merge node the slot that it takes on each side."""
    needs: set[int] = field(default_factory=set)
    """The numbers of the conditions that come first."""


def _raise_conditions(nodes: Nodes, library: Library, stop: set[str]) -> Nodes:
    order = _in_order(nodes, stop)
    tags = _tags(nodes, order, stop)
    conditions = _group(nodes, order, tags, stop)
    for number in _by_need(conditions):
        nodes = _raise_condition(nodes, library, conditions[number], tags, stop)
    # What is left of a condition is joined by nothing: assertions, and nodes that give an order.
    left = {name for name, node in nodes.items() if _is(node, "Switch") and name not in stop}
    gone = _dependents(nodes, left, keep=())
    return {name: node for name, node in nodes.items() if name not in gone}


def _sources(node: Any) -> list[str]:
    """The names of all nodes that `node` waits for, by data or by order."""
    return [parse_ref(text.removeprefix("^")).node for text in node.input]


def _in_order(nodes: Nodes, stop: set[str]) -> list[Any]:
    """The nodes, producers first (by data and order edges); those on a cycle are left out."""
    sorter = TopologicalSorter(dict.fromkeys(nodes, ()))
    for name, node in nodes.items():
        if name not in stop:
            sorter.add(name, *(source for source in _sources(node) if source in nodes))
    with suppress(CycleError):
        sorter.prepare()
    ready, order = list(sorter.get_ready()), []
    while ready:
        name = ready.pop()
        order.append(nodes[name])
        sorter.done(name)
        ready += sorter.get_ready()
    return order


def _tags(nodes: Nodes, order: list[Any], stop: set[str]) -> dict[Ref, _Tags]:
    """What each node is computed under; of a Switch, what each of its outputs is."""
    tags: dict[Ref, _Tags] = {}
    for node in order:
        if node.name in stop:
            continue
        parts = [tags.get(_read(nodes, text), frozenset()) for text in node.input]
        own: _Tags = frozenset().union(*parts)
        if _is(node, "Switch") and len(data_refs(node)) == 2:
            predicate = behind_identities(nodes, data_refs(node)[1])
            sides = range(_side_count(node))
            tags.update({Ref(node.name, side): own | {(predicate, side)} for side in sides})
        elif _is(node, "Merge"):
            decided, _ = _decided_by(parts[: len(data_refs(node))], tags)
            tags[Ref(node.name, 0)] = frozenset(tag for tag in own if tag[0] != decided)
        else:
            tags[Ref(node.name, 0)] = own
    return tags


def _side_count(switch: Any) -> int:
    count = attribute(switch, "num_outs", 2) if switch.op == _SWITCH_N else 2
    return count if isinstance(count, int) and 0 < count <= _MAX_SIDES else 2


def _read(nodes: Nodes, text: str) -> Ref:
    """What `text` reads, by port for a Switch and by node for all others."""
    ref = parse_ref(text.removeprefix("^"))
    node = nodes.get(ref.node)
    return ref if node is not None and _is(node, "Switch") else Ref(ref.node, 0)


def _decided_by(parts: list[_Tags], tags: Mapping[Ref, _Tags]) -> tuple[Ref | None, list[int]]:
    """The predicate that decides a Merge of values computed under `parts`, and the slot it takes
    on each side.

    A value that does not depend on the predicate is a constant of the side that is left. Of
    several predicates it is the innermost.
    """
    candidates = []
    for predicate in sorted({p for part in parts for p, _ in part}):
        sides = [{s for p, s in part if p == predicate} for part in parts]
        if all(sides) and len(set().union(*sides)) == 1:
            continue  # all values are computed on one side: it decides something further out
        slots = _slots(sides)
        if slots:
            candidates.append((len(tags.get(predicate, ())), predicate, slots))
    return max(candidates, default=(0, None, []))[1:]


def _slots(sides: list[set[int]]) -> list[int]:
    """The slot of each side, from the sides that each slot may be on; [] where it is not clear."""
    given = [min(side) if len(side) == 1 else None for side in sides]
    free = [n for n in range(len(sides)) if n not in given]
    if len(free) > 1 or len({g for g in given if g is not None}) + len(free) != len(sides):
        return []
    filled = [free[0] if g is None else g for g in given]
    return [filled.index(n) for n in range(len(sides))] if max(filled) < len(sides) else []


def _group(
    nodes: Nodes, order: list[Any], tags: Mapping[Ref, _Tags], stop: set[str]
) -> list[_Condition]:
    """The conditions of a graph: Merge nodes of one predicate, none of which needs another."""
    conditions: list[_Condition] = []
    # Node -> the conditions that it is computed behind.
    behind: dict[str, frozenset[int]] = {}
    for node in order:
        needs = frozenset().union(*(behind.get(s, frozenset()) for s in _sources(node)))
        if _is(node, "Merge") and node.name not in stop:
            parts = [tags.get(_read(nodes, str(ref)), frozenset()) for ref in data_refs(node)]
            predicate, slots = _decided_by(parts, tags)
            if predicate is None:
                what = "joins branches whose condition cannot be found"
                remedy = "freeze the graph for inference, or cut it behind this node"
                raise UnsupportedError(what, where=place(node), remedy=remedy)
            needs |= behind.get(predicate.node, frozenset())
            number = _joinable(conditions, predicate, tags[Ref(node.name, 0)], needs)
            conditions[number].merges.append(node)
            conditions[number].slots.append(slots)
            conditions[number].needs |= needs
            needs |= {number}
        behind[node.name] = needs
    return conditions


def _joinable(
    conditions: list[_Condition], predicate: Ref, under: _Tags, needs: frozenset[int]
) -> int:
    """The number of a condition of this predicate that none of `needs` waits for, or a new one."""
    needed = reached(needs, lambda number: conditions[number].needs)
    for number, condition in enumerate(conditions):
        same = condition.predicate == predicate and condition.under == under
        if same and number not in needed:
            return number
    conditions.append(_Condition(predicate, under))
    return len(conditions) - 1


def _by_need(conditions: list[_Condition]) -> list[int]:
    """The numbers of the conditions, each behind those that it needs."""
    done: list[int] = []
    left = list(range(len(conditions)))
    while left:
        free = [n for n in left if conditions[n].needs <= set(done)]
        if not free:
            raise ModelFileError("has conditions that wait for each other")
        done += free
        left = [n for n in left if n not in free]
    return done


def _raise_condition(
    nodes: Nodes, library: Library, condition: _Condition, tags: dict[Ref, _Tags], stop: set[str]
) -> Nodes:
    """Put an If or Case node in the place of a condition, an Identity in that of each Merge."""
    merges, predicate = condition.merges, condition.predicate
    given: dict[Ref, Ref] = {}
    branches = []
    for side in range(len(condition.slots[0])):
        pairs = zip(merges, condition.slots, strict=True)
        ends = [data_refs(merge)[slots[side]] for merge, slots in pairs]
        wanted, read = _branch(nodes, ends, predicate, tags, stop)
        given.update(read)
        branches.append((wanted, tuple(ends)))
    sources = list(dict.fromkeys(given.values()))
    arguments = tuple(tuple(r for r, s in given.items() if s == source) for source in sources)
    node = _new_node(nodes, f"{merges[0].name}/chosen", "Case", [predicate, *sources])
    tags[Ref(node.name, 0)] = condition.under
    names = [
        _cut_out(nodes, library, f"{node.name}/side{side}", wanted, arguments, outputs)
        for side, (wanted, outputs) in enumerate(branches)
    ]
    if any(_is_by_index(n, predicate, nodes) for n in nodes.values()):
        for name in names:
            node.attr["branches"].list.func.add().name = name
    else:
        node.op = "If"
        node.attr["else_branch"].func.name, node.attr["then_branch"].func.name = names
    _state_types(node, "Tout", merges)
    return _put(nodes, node, {merge.name: i for i, merge in enumerate(merges)})


def _is_by_index(node: Any, predicate: Ref, nodes: Nodes) -> bool:
    """Whether `node` is a Switch that takes `predicate` as an index."""
    refs = data_refs(node) if node.op == _SWITCH_N else []
    return len(refs) == 2 and behind_identities(nodes, refs[1]) == predicate


def _branch(
    nodes: Nodes, ends: list[Ref], predicate: Ref, tags: Mapping[Ref, _Tags], stop: set[str]
) -> tuple[set[str], dict[Ref, Ref]]:
    """The nodes of one branch, and what it reads from outside -> where that comes from."""
    wanted: set[str] = set()
    given: dict[Ref, Ref] = {}
    stack = list(ends)
    while stack:
        ref = stack.pop()
        node = nodes.get(ref.node)
        if node is None or ref.node in stop:
            given[ref] = ref
        elif _is(node, "Switch") and behind_identities(nodes, data_refs(node)[1]) == predicate:
            given[ref] = data_refs(node)[0]
        elif ref.node not in wanted:
            under = tags.get(_read(nodes, str(ref)), frozenset())
            if node.op != "Const" and not any(p == predicate for p, _ in under):
                given[ref] = ref
                continue
            wanted.add(ref.node)
            stack += data_refs(node)
    return wanted, given
