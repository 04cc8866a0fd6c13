"""Edits to a graph, logged: the report of a pass is built from the log, not claimed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from qfrewrite.errors import Diagnostic, Diagnostics, VerifyError
from qfrewrite.ir import Array, Graph, Op, Tensor, constant
from qfrewrite.ops.build import append_op
from qfrewrite.records import Record
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.rewrite.match import NoMatch
from qfrewrite.rewrite.pattern import Match, Pattern, Search, matches

# What makes the new value of a match, or says why it stays.
Rewrite: TypeAlias = "Callable[[Match], Op | Tensor | LinearView | NoMatch]"


@dataclass(frozen=True)
class Entry(Record):
    """One line of the log: what was done (or not) to which op."""

    action: str
    """What was done, in a word."""
    where: str
    """The name of the op."""
    detail: str = ""
    """What it was before, or why it was left."""

    def __str__(self) -> str:
        return f"{self.action} {self.where}" + (f": {self.detail}" if self.detail else "")


@dataclass
class Log(Record):
    """What one pass changed, what it left and why, and what it has to say."""

    edits: list[Entry] = field(default_factory=list)
    """What was done to which op."""
    skips: list[Entry] = field(default_factory=list)
    """Which ops were left, and why."""
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    """What the user should know."""
    layers: list[dict[str, Any]] = field(default_factory=list)
    """Figures of each layer: {"layer": name, ...}."""
    where: str = field(default="", repr=False)
    """The name of the pass; it stands before the place of each diagnostic."""


def may_bypass(op: Op, source: Tensor | None = None) -> bool:
    """Whether `source` can take the place of `op`, and each graph output stays computed and named.

    source: None: the first operand.
    """
    source = source or op.operand(0)
    taken = source.is_output or source.is_input or source.is_const
    return not (op.output.is_output and taken)


def is_unread(op: Op) -> bool:
    """Whether no op reads a result of `op`, and none is a graph output."""
    return not any(out.users or out.is_output for out in op.outputs)


def reshape(graph: Graph, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Set a shape; dimensions that a file leaves open stay open."""
    signature = tensor.shape_signature
    if signature and len(signature) == len(shape):
        signature = tuple(-1 if s == -1 else d for s, d in zip(signature, shape, strict=True))
    graph.set_shape(tensor, shape)
    graph.set_signature(tensor, signature)


def replace_op(graph: Graph, old: Op, new: Op) -> None:
    """Let `new`, which computes the same value, take the users, facts and name of `old`."""
    name, is_output = old.output.name, old.output.is_output
    graph.set_channels(new.output, old.output.channels)
    if old.output.has_open_dims:
        graph.set_signature(new.output, old.output.shape_signature)
    graph.replace_uses(old.output, new.output)
    graph.remove_op(old)
    if not is_output:
        graph.rename(new.output, name)
    graph.rename(new, old.name)


class Rewriter:
    """The edits passes make, on one graph, each entered in `log`."""

    def __init__(self, graph: Graph, log: Log | None = None) -> None:
        self.graph = graph
        self.log = log if log is not None else Log()

    def skip(self, op: Op, reason: NoMatch | str) -> None:
        """Say why `op` was left as it is."""
        self.log.skips.append(Entry("skipped", op.name, str(reason)))

    def note(self, code: str, text: str, *, remedy: str = "") -> None:
        """Say something about the pass as a whole in the summary, once."""
        self.say(Diagnostic("note", code, text, remedy=remedy))

    def notice(self, code: str, text: str, *, remedy: str = "") -> None:
        """Say something about the pass as a whole on stderr, once."""
        self.say(Diagnostic("notice", code, text, remedy=remedy))

    def warn(self, code: str, text: str, *, remedy: str = "") -> None:
        """Say something a user must not overlook, once."""
        self.say(Diagnostic("warning", code, text, remedy=remedy))

    def say(self, one: Diagnostic) -> None:
        """Enter a diagnostic, with the name of the pass."""
        self.log.diagnostics.add(one.at(self.log.where) if self.log.where else one)

    def layer(self, op: Op, **figures: Any) -> None:
        """Add a row of figures about one layer to the report."""
        self.log.layers.append({"layer": op.name, **figures})

    def edit(self, action: str, op: Op, detail: str = "") -> None:
        """Enter an edit that was made in several steps as one."""
        self.log.edits.append(Entry(action, op.name, detail))

    def replace_kind(
        self, op: Op, kind: str, attrs: Mapping[str, Any] | None = None, *, detail: str = ""
    ) -> None:
        """Make `op` another kind of op with the same operands."""
        was = op.kind
        self.graph.set_kind(op, kind, attrs)
        self.edit("replaced", op, detail or f"{was} -> {kind}")

    def bypass(self, op: Op, slot: int = 0, *, action: str = "removed", detail: str = "") -> None:
        """Take `op` out; whoever read its output reads its input `slot`.

        Where its output is a graph output and the input is a constant or has a name of its own in
        the interface, an IDENTITY is left. Raises VerifyError where even that does not fit.
        """
        detail = detail or op.kind
        if self._pass_on(op, op.operand(slot)):
            self.edit(action, op, detail)

    def replace(
        self,
        where: Match | Op,
        value: Op | Tensor | LinearView,
        *,
        action: str = "replaced",
        detail: str = "",
    ) -> Tensor | NoMatch:
        """Let `value` take the place of what an op, or the root of a match, computes.

        value: a tensor; an op, or a tensor made by `Match.new`, that takes over the names; or a
        linear op with other weights, whose output takes over the name of the tensor. Ops that
        nobody reads any more go. Returns what now stands there, or why `value` does not fit; then
        nothing has changed.
        """
        root, made = (where.root, where.made) if isinstance(where, Match) else (where, [])
        old, new = root.output, value if isinstance(value, Tensor) else value.output
        op = new.producer
        fresh = op if isinstance(value, Op) or op in made else None
        if (new.shape, new.dtype) != (old.shape, old.dtype):
            self._drop_unread([*made, *([fresh] if fresh is not None else ())])
            return NoMatch(f"is {_type(new)}, needs {_type(old)}", at=new.name)
        sources = [t.producer for t in root.inputs if t is not None]
        was = f"{root.kind} of '{old.name}'"
        if fresh is not None:
            replace_op(self.graph, root, fresh)
            was = f"{root.kind} -> {fresh.kind}"
        elif isinstance(value, LinearView):
            name, is_output = old.name, old.is_output
            self.set_linear(value)
            self.graph.set_channels(new, old.channels)
            self._pass_on(root, new)
            if not is_output:
                self.graph.rename(new, name)
            was = f"{root.kind} into {value.op.kind} '{value.op.name}'"
        else:
            self._pass_on(root, new)
        self._drop_unread(sources)
        self.edit(action, fresh or root, detail or was)
        return new

    def rewrite_all(
        self,
        pattern: Pattern,
        rewrite: Rewrite,
        *,
        action: str = "replaced",
        detail: str = "",
        tell: bool = True,
    ) -> bool:
        """Replace what a pattern fits by what `rewrite` makes of it, op by op; whether any was.

        tell: whether the log says why ops of the pattern did not fit, or were left by `rewrite`.
        """
        edits = len(self.log.edits)
        for op in self.graph.ops_of(*pattern.kinds):
            if op not in self.graph:
                continue
            why = self._rewrite_one(op, pattern, rewrite, action, detail)
            if isinstance(why, NoMatch) and why.near and tell:
                self.skip(op, why)
        return len(self.log.edits) > edits

    def _rewrite_one(
        self, op: Op, pattern: Pattern, rewrite: Rewrite, action: str, detail: str
    ) -> Tensor | NoMatch:
        search, why = Search(), None
        for found in matches(self.graph, op, pattern, search):
            value = rewrite(found)
            if not isinstance(value, NoMatch):
                return self.replace(found, value, action=action, detail=detail)
            # Perhaps operands in another order are what it wants.
            self._drop_unread(found.made)
            why = why if why is not None else value
        return search.why if why is None else why

    def _pass_on(self, op: Op, source: Tensor) -> bool:
        """Let all that reads the output of `op` read `source`; whether that changed anything."""
        out = op.output
        if may_bypass(op, source):
            self.graph.replace_uses(out, source)
            self.graph.remove_op(op)
        elif (source.shape, source.dtype) != (out.shape, out.dtype):
            raise VerifyError(
                f"cannot go: output '{out.name}' is {_type(out)}, '{source.name}' is "
                f"{_type(source)}",
                where=op.place,
            )
        elif op.kind == "IDENTITY":
            return False
        else:
            self.graph.set_kind(op, "IDENTITY")
            self.graph.set_inputs(op, [source])
        return True

    def _drop_unread(self, ops: Iterable[Op | None]) -> None:
        """Take out these ops, and those before them, as far as nobody reads them."""
        stack = [op for op in ops if op is not None]
        while stack:
            op = stack.pop()
            if op not in self.graph or not op.outputs or not is_unread(op):
                continue
            stack += [s for t in op.inputs if t is not None and (s := t.producer)]
            self.graph.remove_op(op)

    def remove(self, op: Op, *, detail: str = "") -> None:
        """Take out an op nobody reads."""
        self.graph.remove_op(op)
        self.edit("removed", op, detail or op.kind)

    def set_constant(self, op: Op, slot: int, data: Array, name: str | None = None) -> Tensor:
        """Put a constant in `slot` of `op` only: other users of the old one keep it."""
        dtype = np.float32 if data.dtype.kind == "f" else data.dtype
        # Unlike ascontiguousarray this leaves a scalar a scalar.
        return self.graph.put_constant(op, slot, np.asarray(data, dtype, order="C"), name)

    def set_linear(self, view: LinearView) -> None:
        """Give a linear op the weights, bias and trained range of `view`, and its output the facts.

        Raises VerifyError for a view that was made before the op got other constants.
        """
        op, ports = view.op, view.ports
        if not view.is_current:
            raise VerifyError("has other weights than when it was looked at", where=op.place)
        if view.weights is not view.source[0]:
            w = self.set_constant(op, ports.weights, view.weights)
            if view.trained is not None:
                self.graph.set_trained(w, view.trained)
        if view.channels is not view.output.channels:
            self.graph.set_channels(view.output, view.channels)
        if view.operand is not None:
            self.graph.set_input(op, ports.bias, view.operand)
        else:
            self.set_constant(op, ports.bias, view.bias, name=f"{op.name}/bias")

    def constant(self, name: str, data: npt.ArrayLike) -> Tensor:
        """A constant of float32, or of the integers that `data` holds, for an op put in."""
        values = np.asarray(data)
        values = values.astype(np.float32) if values.dtype.kind == "f" else values
        return constant(self.graph.unique_name(name), values)

    def put(
        self,
        place: Op,
        kind: str,
        *operands: Op | Tensor | None,
        name: str = "",
        attrs: Mapping[str, Any] | None = None,
    ) -> Op:
        """Put in another op at the place of an op, which stays.

        operands: tensors, or ops whose results are read. name: by default that of `place`.
        """
        inputs = [one.output if isinstance(one, Op) else one for one in operands]
        return append_op(
            self.graph, kind, inputs, name=name or place.name, attrs=attrs, anchor=place
        )

    def insert_after(
        self, tensor: Tensor, kind: str, attrs: Mapping[str, Any], *, suffix: str, detail: str = ""
    ) -> Op:
        """Put a one-operand op behind `tensor`; all its users read the new op instead."""
        anchor = tensor.producer
        op = append_op(
            self.graph, kind, [tensor], name=f"{tensor.name}/{suffix}", attrs=attrs, anchor=anchor
        )
        self.graph.replace_uses(tensor, op.output, skip=(op,))
        self.edit("inserted", op, detail or kind)
        return op


def _type(tensor: Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"
