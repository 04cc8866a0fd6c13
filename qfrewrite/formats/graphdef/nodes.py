"""Nodes of a GraphDef: references by name, attributes, order.

Nothing here recurses: a file may hold a chain of any length.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Mapping
from graphlib import CycleError
from typing import Any, NamedTuple, TypeAlias, TypeVar

from qfrewrite.errors import ModelFileError
from qfrewrite.formats.graphdef.schema import data_type_name
from qfrewrite.ir.relations import sources_first

Nodes: TypeAlias = Mapping[str, Any]
"""Nodes by name, in file order."""

_ALIAS_OPS = (
    "CheckNumerics Copy DeepCopy EnsureShape Identity PlaceholderWithDefault PreventGradient Print "
    "Snapshot StopGradient"
)
ALIASES = frozenset(_ALIAS_OPS.split())
"""Ops whose result is their first operand."""


class Ref(NamedTuple):
    """One output of one node."""

    node: str
    """The name of the node."""
    port: int
    """The number of the output."""

    def __str__(self) -> str:
        return f"{self.node}:{self.port}" if self.port else self.node


def parse_ref(text: str) -> Ref:
    """`name` or `name:port`; the port defaults to 0."""
    name, colon, port = text.rpartition(":")
    if colon and port.isdecimal() and len(port) < 6:
        return Ref(name, int(port))
    return Ref(text, 0)


def data_refs(node: Any) -> list[Ref]:
    """What `node` reads; edges that only carry order (`^name`) are left out."""
    return [parse_ref(text) for text in node.input if not text.startswith("^")]


def place(node: Any) -> str:
    """How errors name a node."""
    return f"node '{node.name}' ({node.op})"


def index_nodes(graph_def: Any) -> dict[str, Any]:
    """Nodes by name in file order; raises ModelFileError on nameless and repeated nodes."""
    nodes: dict[str, Any] = {}
    for node in graph_def.node:
        if not node.name or not node.op:
            raise ModelFileError("has a node without a name or an op: it is not a GraphDef")
        if node.name in nodes:
            raise ModelFileError("stands twice in the file", where=place(node))
        nodes[node.name] = node
    for node in graph_def.node:
        for ref in data_refs(node):
            if ref.node not in nodes:
                what = f"reads '{ref.node}', which is not in the file"
                remedy = "the file is incomplete: freeze or extract the graph again"
                raise ModelFileError(what, where=place(node), remedy=remedy)
    return nodes


_Item = TypeVar("_Item", bound=Hashable)


def reached(starts: Iterable[_Item], following: Callable[[_Item], Iterable[_Item]]) -> set[_Item]:
    """`starts`, what follows from them, what follows from that, and so on."""
    seen: set[_Item] = set()
    stack = list(starts)
    while stack:
        item = stack.pop()
        if item not in seen:
            seen.add(item)
            stack.extend(following(item))
    return seen


def ancestors(nodes: Nodes, ends: Iterable[Ref], stop: Container[str]) -> set[str]:
    """The names of the nodes of `ends` and of all they are computed from.

    What the nodes `stop` are computed from is left out.
    """

    def sources(name: str) -> list[str]:
        return [] if name in stop else [ref.node for ref in data_refs(nodes[name])]

    return reached([ref.node for ref in ends], sources)


Users: TypeAlias = Mapping[str, list[tuple[Any, int, Ref]]]
"""Node name -> its users: each as the node, the slot, and what is used there."""


def users(nodes: Nodes) -> Users:
    """The users of each of `nodes`."""
    by_name: Users = {name: [] for name in nodes}
    for node in nodes.values():
        for slot, ref in enumerate(data_refs(node)):
            if ref.node in by_name:
                by_name[ref.node].append((node, slot, ref))
    return by_name


def behind_identities(nodes: Nodes, ref: Ref) -> Ref:
    """Where the value of `ref` comes from through Identity nodes."""
    # A file may hold a ring of them.
    seen: set[Ref] = set()
    while ref not in seen:
        seen.add(ref)
        node = nodes.get(ref.node)
        if node is None or node.op not in ("Identity", "RefIdentity") or not data_refs(node):
            break
        ref = data_refs(node)[0]
    return ref


def sort_nodes(nodes: Nodes, ends: Iterable[Ref], stop: Container[str]) -> list[Any]:
    """The nodes that `ends` need, but not `stop`: producers first, otherwise in file order.

    Raises ModelFileError where nodes form a cycle.
    """
    wanted = ancestors(nodes, ends, stop)
    sources = {
        name: () if name in stop else {r.node for r in data_refs(node)}
        for name, node in nodes.items()
        if name in wanted
    }
    try:
        return [nodes[name] for name in sources_first(sources) if name not in stop]
    except CycleError as error:
        what = "is part of a cycle that is no loop"
        remedy = "the file is damaged: freeze the graph again"
        raise ModelFileError(what, where=place(nodes[min(error.args[1])]), remedy=remedy) from None


# How a value is taken out of its field, where not as it is.
_DECODED: Mapping[str, Callable[[Any], Any]] = {
    "s": lambda value: value.decode("utf-8", "replace"),
    "type": data_type_name,
}
_PLAIN = frozenset({"s", "i", "f", "b", "type", "shape", "tensor"})


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """An attribute as a Python value: text, number, bool, `DT_*`, tuple of these, or message."""
    if name not in node.attr:
        return default
    value = node.attr[name]
    field = value.WhichOneof("value")
    if field in _PLAIN:
        return _DECODED.get(field, lambda plain: plain)(getattr(value, field))
    if field != "list":
        return default
    filled = (key for key in ("i", "f", "b", "s", "type") if getattr(value.list, key))
    key = next(filled, "i")
    return tuple(map(_DECODED.get(key, lambda plain: plain), getattr(value.list, key)))


def int_list(node: Any, name: str, default: tuple[int, ...], length: int = 4) -> tuple[int, ...]:
    """An attribute that is a list of `length` integers; raises ModelFileError otherwise."""
    value = attribute(node, name, default)
    value = value if value != () else default
    if not isinstance(value, tuple) or [type(v) for v in value] != [int] * length:
        raise ModelFileError(f"attribute {name} is {value!r}, not {length} integers")
    return tuple(value)
