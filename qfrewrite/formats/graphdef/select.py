"""Which nodes are the inputs and outputs of a GraphDef: as told, or found."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qfrewrite.errors import Diagnostics, ModelFileError, UsageError
from qfrewrite.formats.graphdef.functions import CALLS, CASES, IFS, WHILES
from qfrewrite.formats.graphdef.nodes import (
    Nodes,
    Ref,
    ancestors,
    attribute,
    behind_identities,
    data_refs,
    parse_ref,
    place,
    reached,
    users,
)
from qfrewrite.formats.graphdef.tensor_proto import MAX_RANK, tensor_to_numpy

# Nodes that are no outputs: what they give is no result of the graph.
_NO_RESULT = re.compile(
    r"NoOp|Assert|Const|Placeholder|Print|PrintV2|.*Summary(V2)?|Assign.*|Save(V2|Slices)?"
    r"|Restore(V2|Slice)?|ShardedFilename|MergeV2Checkpoints|MergeSummary|WriteFile"
)
# How many results a node has, where there are several: a number, or the attribute that states it (a
# list: by its length). Outputs of a node that only training reads are no results.
_MANY_OUTPUTS: Mapping[str, int | str] = {
    **dict.fromkeys((*CALLS, *CASES, *IFS), "Tout"),
    **dict.fromkeys(WHILES, "T"),
    **dict.fromkeys(("NonMaxSuppressionV4", "TopK", "TopKV2", "Unique"), 2),
    **dict.fromkeys(("Split", "SplitV"), "num_split"),
    "NonMaxSuppressionV5": 3,
    "TFLite_Detection_PostProcess": 4,
    "Unpack": "num",
}
Shape = tuple[int | None, ...]
"""A shape in which some sizes may be unknown."""
Shapes = Mapping[Ref, Shape | None]
"""The shapes of inputs; None where even the rank is unknown."""

# Up to this producer a shape without dimensions says "unknown", later "scalar".
_LAST_WITHOUT_SCALARS = 21
_MAX_DIM = 1 << 31


@dataclass(frozen=True)
class GivenInput:
    """An input as a user names it."""

    ref: Ref
    """Which output of which node it is."""
    shape: Shape | None = None
    """Its shape, if the user states one."""


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
        what = f"'{tail}' is not a shape"
        raise UsageError(what, where=f"input '{text}'", remedy="write name:1x224x224x3")
    return GivenInput(parse_ref(name), shape)


def _parse_shape(text: str) -> Shape | None:
    parts = [p for p in re.split(r"[x,]", text.strip().strip("[]()").replace(" ", "")) if p]
    if not parts or not all(re.fullmatch(r"-1|\?|None|\d{1,9}", p) for p in parts):
        return None
    return tuple(int(p) if p.isdecimal() else None for p in parts)


def find_ref(nodes: Nodes, ref: Ref, role: str) -> Ref:
    """`ref`, if its node exists; otherwise UsageError with names that are near."""
    if ref.node in nodes:
        return ref
    near = difflib.get_close_matches(ref.node, nodes, n=3, cutoff=0.6)
    near += [n for n in nodes if n.endswith(f"/{ref.node}")][: 3 - len(near)]
    remedy = "did you mean " + " or ".join(f"'{n}'" for n in near) + "?" if near else None
    raise UsageError("there is no such node in the graph", where=f"{role} '{ref}'", remedy=remedy)


def find_outputs(nodes: Nodes) -> list[Ref]:
    """What no node uses and an input reaches; raises ModelFileError where there is nothing.

    The end of an assertion, which tells only that it was run, is no output.
    """
    used_by = users(nodes)
    starts = [name for name, node in nodes.items() if node.op.startswith("Placeholder")]
    alive = reached(starts, lambda name: [user.name for user, _, _ in used_by[name]])
    candidates = [
        n
        for n in nodes
        if n in alive and not _NO_RESULT.fullmatch(nodes[n].op) and _output_count(nodes[n])
    ]
    ends = [n for n in candidates if not used_by[n]] or [
        n for n in candidates if all(_NO_RESULT.fullmatch(user.op) for user, _, _ in used_by[n])
    ]
    ends = [n for n in ends if not _guards(nodes, n)] or ends
    if not ends:
        what = "has no node that is computed from an input and used by no other"
        raise ModelFileError(what, remedy="name the outputs with --output")
    return [Ref(n, port) for n in ends for port in range(_output_count(nodes[n]))]


def _guards(nodes: Nodes, name: str) -> bool:
    """Whether the node joins the branches of an assertion (tf.debugging, tf.Assert).

    It is an If that gives truth values; version 1 conditions have become one before.
    """
    node = nodes[behind_identities(nodes, Ref(name, 0)).node]
    if node.op not in ("If", "StatelessIf"):
        return False
    types = attribute(node, "Tout")
    return isinstance(types, tuple) and set(types) == {"DT_BOOL"}


def _output_count(node: Any) -> int:
    if node.op == "IdentityN":
        return max(len(data_refs(node)), 1)
    count = _MANY_OUTPUTS.get(node.op, 1)
    if isinstance(count, str):
        count = attribute(node, count, 1)
    count = len(count) if isinstance(count, tuple) else count
    return count if isinstance(count, int) and 0 <= count <= 1024 else 1


def find_inputs(
    nodes: Nodes, outputs: Iterable[Ref], given: Sequence[GivenInput] | None
) -> list[GivenInput]:
    """The inputs that `outputs` depend on: those given, or the Placeholders found.

    A PlaceholderWithDefault whose default is computed is no input; one whose default is a
    constant is, unless it is a scalar (a switch such as a dropout rate, which keeps its default).
    Raises UsageError where a given input is not needed or a needed one was not given.
    """
    stop = {spec.ref.node for spec in given or ()}
    needed = ancestors(nodes, outputs, stop)
    holders = [GivenInput(Ref(n, 0)) for n in nodes if n in needed and _is_input(nodes, n)]
    if given is None:
        if not holders:
            what = "has no Placeholder that its outputs depend on"
            raise ModelFileError(what, remedy="name the inputs with --input name:1x224x224x3")
        return holders
    for spec in given:
        if spec.ref.node not in needed:
            raise UsageError("no output depends on it", where=f"input '{spec.ref}'")
    for holder in holders:
        if nodes[holder.ref.node].op == "Placeholder" and holder.ref.node not in stop:
            what = f"the outputs depend on Placeholder '{holder.ref}' as well"
            raise UsageError(what, remedy=f"add --input {holder.ref}, or cut the graph elsewhere")
    return list(given)


def _is_input(nodes: Nodes, name: str) -> bool:
    node = nodes[name]
    if node.op == "Placeholder":
        return True
    default = _default(nodes, node)
    return default is not None and bool(default.attr["value"].tensor.tensor_shape.dim)


def _default(nodes: Nodes, node: Any) -> Any:
    """The constant that a PlaceholderWithDefault gives by default; None where there is none."""
    refs = data_refs(node) if node.op == "PlaceholderWithDefault" else []
    default = nodes[refs[0].node] if refs else None
    known = default is not None and default.op == "Const" and "value" in default.attr
    return default if known else None


def static_shape(ref: Ref, shape: Shape | None) -> tuple[tuple[int, ...], Diagnostics]:
    """The shape of an input with a batch of 1 where that is unknown, and notices about it.

    Raises UsageError where more is unknown, ModelFileError where no tensor has that shape.
    """
    diagnostics = Diagnostics()
    if shape and shape[0] is None:
        diagnostics.notice("batch-size", "batch size unknown, taken as 1", where=f"input '{ref}'")
        shape = (1, *shape[1:])
    if shape is None or None in shape:
        raise unknown_shape(ref, shape)
    sizes = tuple(d for d in shape if d is not None)
    if len(sizes) > MAX_RANK or any(not 0 < d < _MAX_DIM for d in sizes):
        raise ModelFileError(f"has the impossible shape {list(sizes)}", where=f"input '{ref}'")
    return sizes, diagnostics


def known_shape(nodes: Nodes, spec: GivenInput, producer: int) -> Shape | None:
    """The shape of an input as given, stated or defaulted, None where it is unknown.

    producer: the version of the GraphDef. Raises UsageError where the shape that is given
    contradicts the stated one.
    """
    node = nodes[spec.ref.node]
    stated = _stated_shape(node, producer) if node.op.startswith("Placeholder") else None
    if spec.shape is not None and stated is not None:
        pairs = zip(spec.shape, stated, strict=False)
        differs = any(s is not None and d not in (s, None) for d, s in pairs)
        if differs or len(spec.shape) != len(stated):
            what = f"the graph says {shape_text(stated)}"
            remedy = "leave the shape out; the pass resize_input changes a resolution"
            raise UsageError(what, where=f"input '{spec.ref}'", remedy=remedy)
    default = _default(nodes, node)
    if default is not None and spec.shape is None and stated is None:
        return tensor_to_numpy(default.attr["value"].tensor, place(default)).shape
    return stated if spec.shape is None else spec.shape


def _stated_shape(node: Any, producer: int) -> Shape | None:
    proto = attribute(node, "shape")
    if getattr(proto, "unknown_rank", True):
        return None
    dims = tuple(None if d.size < 0 else int(d.size) for d in proto.dim)
    return None if not dims and producer <= _LAST_WITHOUT_SCALARS else dims


def shape_text(shape: Shape) -> str:
    """A shape as users write it, `?` for what is unknown."""
    return "x".join("?" if d is None else str(d) for d in shape)


def unknown_shape(
    ref: Ref, shape: Shape | None, example: str = "1xHxWx3", why: str = ""
) -> UsageError:
    """The error for an input of unknown shape.

    example: a shape that works, or what one looks like. why: what the layers say about sizes.
    """
    what = "its shape is unknown"
    if shape is not None:
        what = f"its shape {shape_text(shape)} has unknown dimensions"
    return UsageError(
        f"{what}{f', {why}' if why else ''}",
        where=f"input '{ref}'",
        remedy=f"say it: --input {ref}:{example}",
    )
