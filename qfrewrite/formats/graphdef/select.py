"""Which nodes are the inputs and outputs of a GraphDef: as told, or found."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qfrewrite.errors import Diagnostics, ModelFileError, UsageError
from qfrewrite.formats.graphdef.nodes import Ref, ancestors, attribute, data_refs, parse_ref
from qfrewrite.formats.graphdef.tensor_proto import MAX_RANK

# Nodes that are no outputs: what they give is no result of the graph.
_NO_RESULT = re.compile(
    r"NoOp|Assert|Const|Placeholder|Print|PrintV2|.*Summary(V2)?|Assign.*|Save(V2|Slices)?"
    r"|Restore(V2|Slice)?|ShardedFilename|MergeV2Checkpoints|MergeSummary|WriteFile"
)
# How many results a node has, where there are several: a number, or the attribute that states it (a
# list: by its length). Outputs of a node that only training reads are no results.
_MANY_OUTPUTS: Mapping[str, int | str] = {
    "Case": "Tout",
    "If": "Tout",
    "NonMaxSuppressionV4": 2,
    "NonMaxSuppressionV5": 3,
    "PartitionedCall": "Tout",
    "Split": "num_split",
    "SplitV": "num_split",
    "StatefulPartitionedCall": "Tout",
    "StatelessCase": "Tout",
    "StatelessIf": "Tout",
    "StatelessWhile": "T",
    "TFLite_Detection_PostProcess": 4,
    "TopK": 2,
    "TopKV2": 2,
    "Unique": 2,
    "Unpack": "num",
    "While": "T",
}
# Up to this producer a shape without dimensions says "unknown", later "scalar".
_LAST_WITHOUT_SCALARS = 21
_MAX_DIM = 1 << 31


@dataclass(frozen=True)
class GivenInput:
    """An input as a user names it: which output of which node, and its shape if given."""

    ref: Ref
    shape: tuple[int | None, ...] | None = None


def parse_input(text: str) -> GivenInput:
    """`name[:port][:shape]`, the shape as `1x224x224x3` or `1,224,224,3`; raises UsageError.

    A single number after the name is a port; write a shape of one dimension as `8,` or `[8]`.
    """
    name, colon, tail = text.rpartition(":")
    if not colon or re.fullmatch(r"\d{1,5}", tail):
        return GivenInput(parse_ref(text))
    shape = _parse_shape(tail)
    if shape is None:
        if "/" in tail or not name:
            return GivenInput(parse_ref(text))
        raise UsageError(
            f"'{tail}' is not a shape", where=f"input '{text}'", remedy="write name:1x224x224x3"
        )
    return GivenInput(parse_ref(name), shape)


def _parse_shape(text: str) -> tuple[int | None, ...] | None:
    parts = [p for p in re.split(r"[x,]", text.strip().strip("[]()").replace(" ", "")) if p]
    if not parts or not all(re.fullmatch(r"-1|\?|None|\d{1,9}", p) for p in parts):
        return None
    return tuple(int(p) if p.isdecimal() else None for p in parts)


def find_ref(nodes: Mapping[str, Any], ref: Ref, role: str) -> Ref:
    """`ref`, if its node exists; otherwise UsageError with names that are near."""
    if ref.node in nodes:
        return ref
    near = difflib.get_close_matches(ref.node, nodes, n=3, cutoff=0.6)
    near += [n for n in nodes if n.endswith(f"/{ref.node}")][: 3 - len(near)]
    remedy = "did you mean " + " or ".join(f"'{n}'" for n in near) + "?" if near else None
    raise UsageError("there is no such node in the graph", where=f"{role} '{ref}'", remedy=remedy)


def find_outputs(nodes: Mapping[str, Any]) -> list[Ref]:
    """What nobody reads and an input reaches; raises ModelFileError where there is nothing.

    The end of an assertion, which tells only that it was run, is no output.
    """
    read_by: dict[str, set[str]] = {name: set() for name in nodes}
    for node in nodes.values():
        for ref in data_refs(node):
            read_by[ref.node].add(node.op)
    alive = _reached(nodes)
    candidates = [
        n
        for n in nodes
        if n in alive and not _NO_RESULT.fullmatch(nodes[n].op) and _output_count(nodes[n])
    ]
    ends = [n for n in candidates if not read_by[n]]
    ends = ends or [n for n in candidates if all(_NO_RESULT.fullmatch(op) for op in read_by[n])]
    ends = [n for n in ends if not _guards(nodes, nodes[n])] or ends
    if not ends:
        raise ModelFileError(
            "has no node that is computed from an input and read by nobody",
            remedy="name the outputs with --output",
        )
    return [Ref(n, port) for n in ends for port in range(_output_count(nodes[n]))]


def _reached(nodes: Mapping[str, Any]) -> set[str]:
    """The names of all nodes computed from a Placeholder."""
    readers: dict[str, list[str]] = {name: [] for name in nodes}
    for node in nodes.values():
        for ref in data_refs(node):
            readers[ref.node].append(node.name)
    stack = [name for name, node in nodes.items() if node.op.startswith("Placeholder")]
    seen: set[str] = set()
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            stack.extend(readers[name])
    return seen


def _guards(nodes: Mapping[str, Any], node: Any) -> bool:
    """Whether `node` joins the branches of an assertion (tf.debugging, tf.Assert).

    It is an If that gives truth values; version 1 conditions have become one before.
    """
    node = behind_identities(nodes, node)
    if node.op not in ("If", "StatelessIf"):
        return False
    types = attribute(node, "Tout")
    return isinstance(types, tuple) and set(types) == {"DT_BOOL"}


def behind_identities(nodes: Mapping[str, Any], node: Any) -> Any:
    """The node whose value a chain of Identity ends with; a file may hold a ring of them."""
    seen: set[str] = set()
    while node.op == "Identity" and data_refs(node) and node.name not in seen:
        seen.add(node.name)
        node = nodes[data_refs(node)[0].node]
    return node


def _output_count(node: Any) -> int:
    if node.op == "IdentityN":
        return max(len(data_refs(node)), 1)
    count = _MANY_OUTPUTS.get(node.op, 1)
    if isinstance(count, str):
        count = attribute(node, count, 1)
    count = len(count) if isinstance(count, tuple) else count
    return count if isinstance(count, int) and 0 <= count <= 1024 else 1


def find_inputs(
    nodes: Mapping[str, Any], outputs: Iterable[Ref], given: Sequence[GivenInput] | None
) -> list[GivenInput]:
    """The inputs that `outputs` depend on: those given, or the Placeholders found.

    A PlaceholderWithDefault whose default is computed is no input; one whose default is a
    constant is, unless it is a scalar (a switch such as a dropout rate, which keeps its default).
    Raises UsageError where a given input is not needed or a needed one was not given.
    """
    stop = {spec.ref.node for spec in given or ()}
    ends = [ref.node for ref in outputs]
    needed = ancestors(nodes, ends, stop)
    holders = [GivenInput(Ref(n, 0)) for n in nodes if n in needed and _is_input(nodes, n)]
    if given is None:
        if not holders:
            raise ModelFileError(
                "has no Placeholder that its outputs depend on",
                remedy="name the inputs with --input name:1x224x224x3",
            )
        return holders
    for spec in given:
        if spec.ref.node not in needed:
            raise UsageError("no output depends on it", where=f"input '{spec.ref}'")
    for holder in holders:
        if nodes[holder.ref.node].op == "Placeholder" and holder.ref.node not in stop:
            raise UsageError(
                f"the outputs depend on Placeholder '{holder.ref}' as well",
                remedy=f"add --input {holder.ref}, or cut the graph elsewhere",
            )
    return list(given)


def _is_input(nodes: Mapping[str, Any], name: str) -> bool:
    node = nodes[name]
    if node.op != "PlaceholderWithDefault":
        return bool(node.op == "Placeholder")
    refs = data_refs(node)
    default = nodes[refs[0].node] if refs else None
    return default is not None and default.op == "Const" and bool(_default_dims(node, default))


def _default_dims(node: Any, default: Any) -> list[Any]:
    return list(default.attr["value"].tensor.tensor_shape.dim if "value" in default.attr else ())


def input_shape(
    spec: GivenInput, node: Any, producer: int, default: tuple[int, ...] | None
) -> tuple[tuple[int, ...], Diagnostics]:
    """The static shape of an input, and notices about it; raises UsageError where it is unknown.

    producer: the version of the GraphDef. default: the shape of a PlaceholderWithDefault's value.
    """
    shape = known_shape(spec, node, producer, default)
    if shape is None:
        raise unknown_shape(spec, shape)
    diagnostics = Diagnostics()
    if shape and shape[0] is None:
        diagnostics.notice(
            "batch-size", "batch size unknown, taken as 1", where=f"input '{spec.ref}'"
        )
        shape = (1, *shape[1:])
    if None in shape:
        raise unknown_shape(spec, shape)
    if len(shape) > MAX_RANK or any(not 0 < (d or 0) < _MAX_DIM for d in shape):
        raise ModelFileError(f"has the impossible shape {list(shape)}", where=f"input '{spec.ref}'")
    return tuple(d for d in shape if d is not None), diagnostics


def known_shape(
    spec: GivenInput, node: Any, producer: int, default: tuple[int, ...] | None
) -> tuple[int | None, ...] | None:
    """The shape of an input as given, stated or defaulted, None where it is unknown.

    Raises UsageError where the given one contradicts the stated one.
    """
    stated = _stated_shape(node, producer) if node.op.startswith("Placeholder") else None
    shape = spec.shape if spec.shape is not None else stated
    if shape is not None:
        _check_given(spec, shape, stated)
    return default if shape is None else shape


def _stated_shape(node: Any, producer: int) -> tuple[int | None, ...] | None:
    proto = attribute(node, "shape")
    if not hasattr(proto, "unknown_rank") or proto.unknown_rank:
        return None
    dims = tuple(None if d.size < 0 else int(d.size) for d in proto.dim)
    return None if not dims and producer <= _LAST_WITHOUT_SCALARS else dims


def _check_given(
    spec: GivenInput, shape: tuple[int | None, ...], stated: tuple[int | None, ...] | None
) -> None:
    if spec.shape is None or stated is None:
        return
    pairs = zip(shape, stated, strict=False)
    if len(shape) != len(stated) or any(s is not None and d not in (s, None) for d, s in pairs):
        text = "x".join("?" if d is None else str(d) for d in stated)
        raise UsageError(
            f"the graph says {text}",
            where=f"input '{spec.ref}'",
            remedy="leave the shape out; the pass resize_input changes a resolution",
        )


def unknown_shape(
    spec: GivenInput, shape: tuple[int | None, ...] | None, example: str = "1xHxWx3", why: str = ""
) -> UsageError:
    """The error for an input of unknown shape.

    example: a shape that works, or what one looks like. why: what the layers say about sizes.
    """
    text = "x".join("?" if d is None else str(d) for d in shape or ())
    what = "its shape is unknown" if shape is None else f"its shape {text} has unknown dimensions"
    return UsageError(
        f"{what}{f', {why}' if why else ''}",
        where=f"input '{spec.ref}'",
        remedy=f"say it: --input {spec.ref}:{example}",
    )
