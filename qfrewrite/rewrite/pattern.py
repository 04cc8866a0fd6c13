"""Patterns of ops, written as they are computed: a match, or the reason why there is none.

A pattern stands for a value. `p.MUL(p.x, p.const(1)).commute()` is the result of a MUL of any
computed value and a constant of ones, in either order. A pattern that is used twice stands for one
value that is read twice. Rules (`passes/_registry.py`, `rewrite/`) are written with `Patterns`; a
new kind of value is a `Pattern` here and a method of `Patterns` that makes it.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from qfrewrite.errors import PassError
from qfrewrite.ir import Array, Graph, Op, Tensor, constant
from qfrewrite.ops import OPS
from qfrewrite.ops.build import append_op
from qfrewrite.ops.spec import attr, kinds_that
from qfrewrite.rewrite.linear import linear_before
from qfrewrite.rewrite.match import NoMatch, per_channel, sole_user

# What is bound so far: captured values by name, the tensors of captured constants by
# (name, "tensor"), and tensors by patterns of ops.
Bindings = Mapping[Any, Any]
# What is bound in each way in which a value fits.
Ways = Iterator[Bindings]


@dataclass(frozen=True)
class Match:
    """Ops that a pattern fits. Captured values are attributes under the names in the pattern."""

    graph: Graph
    root: Op
    """The op that computes the value of the pattern."""
    bindings: Bindings
    """The captured values by name."""
    made: list[Op] = field(default_factory=list)
    """The ops that `new` made."""

    def __getattr__(self, name: str) -> Any:
        # A copy in the making has no bindings yet.
        bindings = self.__dict__.get("bindings", {})
        if name not in bindings:
            names = [key for key in bindings if isinstance(key, str)]
            raise AttributeError(f"the pattern captures no '{name}'; it captures {names}")
        return bindings[name]

    def get(self, name: str, default: Any = None) -> Any:
        """A captured value, or `default` where the pattern fits without it."""
        return self.bindings.get(name, default)

    def tensor(self, name: str) -> Tensor | None:
        """The tensor behind a captured constant; None where the pattern fits without it."""
        return self.bindings.get((name, "tensor"))

    def new(
        self, kind: str, *inputs: Tensor | None, attrs: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Compute another value in the place of the root."""
        op = append_op(
            self.graph, kind, list(inputs), name=self.root.name, attrs=attrs, anchor=self.root
        )
        self.made.append(op)
        return op.output

    def constant(self, name: str, data: npt.ArrayLike) -> Tensor:
        """A constant of float32 for `new`."""
        name = self.graph.unique_name(f"{self.root.name}/{name}")
        return constant(name, np.asarray(data, np.float32))


_MATCH_FIELDS = frozenset(f.name for f in fields(Match))


class Search:
    """One search at one op. Keeps the reason of the attempt that came furthest."""

    def __init__(self) -> None:
        self._why: tuple[str, str | None, bool] = ("is not part of the pattern", None, False)
        self._furthest = (False, -1)

    def miss(self, bindings: Bindings, reason: str, at: str | None, *, near: bool = True) -> None:
        """Note that an attempt failed. near: the ops fit, and a condition does not hold."""
        if (near, len(bindings)) > self._furthest:
            self._furthest, self._why = (near, len(bindings)), (reason, at, near)

    @property
    def why(self) -> NoMatch:
        """Why nothing fits."""
        return NoMatch(*self._why)


class Pattern(ABC):
    """A value."""

    kinds: tuple[str, ...] = ()
    """The kinds of op that may compute it; empty if it may be any value."""

    def __post_init__(self) -> None:
        """Raise PassError for a capture that attributes of a match would hide."""
        name = getattr(self, "name", None)
        if name is not None and (hasattr(Match, name) or name in _MATCH_FIELDS):
            remedy = "use another name"
            raise PassError(f"'{name}' cannot be captured", where="pattern", remedy=remedy)

    @abstractmethod
    def walk(self, search: Search, tensor: Tensor, user: Op | None, bindings: Bindings) -> Ways:
        """Yield the bindings of each way in which `tensor` is this value.

        user: the op that reads it; None at the root.
        """

    def then(self, step: OpPattern) -> OpPattern:
        """Feed this value to `step` as its first operand: `p.x.then(p.MUL(p.const()))`.

        ADD and MUL may read it as the second. No other op may read it.
        """
        either = set(step.kinds) <= {"ADD", "MUL"}
        operands = (_Sole(self), *step.operands)
        return replace(step, operands=operands, commutes=step.commutes or either)

    def sole(self) -> Pattern:
        """This value, where only one op reads it."""
        return _Sole(self)

    def through(self, name: str, *steps: OpPattern) -> Pattern:
        """This value, or what any number of these steps make of it, each by its only user.

        The ops of the steps are captured as a tuple.
        """
        return _Through(self, name, steps)


def _same(search: Search, bindings: Bindings, key: Any, value: Any, name: str) -> Bindings | None:
    """`bindings` with `key` bound to `value`; None where it is bound to another."""
    if key not in bindings or bindings[key] is value:
        return {**bindings, key: value}
    search.miss(bindings, "is another value than the one before", name)
    return None


@dataclass(frozen=True, eq=False)
class OpPattern(Pattern):
    """The first output of an op of one of `kinds`."""

    kinds: tuple[str, ...]
    operands: tuple[Pattern, ...] = ()
    """The values in the first slots; what is in further slots does not matter."""
    commutes: bool = False
    """The first two operands may be exchanged."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """The attributes that the op must have. A fused activation is none unless it is given here."""
    name: str | None = None
    """The name under which the op is captured."""

    def commute(self) -> OpPattern:
        """The same, with the two operands in either order."""
        return replace(self, commutes=True)

    def where(self, **attrs: Any) -> OpPattern:
        """The same, with these attributes."""
        return replace(self, attrs={**self.attrs, **attrs})

    def named(self, name: str) -> OpPattern:
        """The same, with the op captured."""
        return replace(self, name=name)

    def walk(self, search: Search, tensor: Tensor, user: Op | None, bindings: Bindings) -> Ways:
        """Bind the operands one after another, in each order that is allowed."""
        op = None if tensor.data is not None else tensor.producer
        if op is None or op.kind not in self.kinds or op.output is not tensor:
            search.miss(bindings, _not_by(self.kinds), tensor.name, near=False)
            return
        if (bound := _same(search, bindings, self, tensor, tensor.name)) is None:
            return
        wanted = self.attrs
        if "fused_activation_function" in OPS[op.kind].attrs:
            wanted = {"fused_activation_function": "NONE", **wanted}
        for name, value in wanted.items():
            if attr(op, name) != value:
                search.miss(bound, f"has {name} {attr(op, name)}, needs {value}", op.name)
                return
        if self.name is not None:
            bound = {**bound, self.name: op}
        slots = range(len(self.operands))
        yield from _walk_operands(search, op, self.operands, slots, bound)
        if self.commutes:
            exchanged = [{0: 1, 1: 0}.get(slot, slot) for slot in slots]
            yield from _walk_operands(search, op, self.operands, exchanged, bound)


def _not_by(kinds: Sequence[str]) -> str:
    return f"is not computed by {' or '.join(kinds)}"


def _walk_operands(
    search: Search, op: Op, operands: Sequence[Pattern], slots: Sequence[int], bindings: Bindings
) -> Ways:
    """Bind each pattern to the tensor in its slot."""
    if not operands:
        yield bindings
        return
    tensor = op.input(slots[0])
    if tensor is None:
        search.miss(bindings, f"has no operand {slots[0]}", op.name, near=False)
        return
    for more in operands[0].walk(search, tensor, op, bindings):
        yield from _walk_operands(search, op, operands[1:], slots[1:], more)


@dataclass(frozen=True, eq=False)
class _Sole(Pattern):
    """A value that one op alone reads."""

    inner: Pattern

    @property
    def kinds(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.inner.kinds

    def walk(self, search: Search, tensor: Tensor, user: Op | None, bindings: Bindings) -> Ways:
        for more in self.inner.walk(search, tensor, user, bindings):
            only = sole_user(tensor)
            if isinstance(only, NoMatch):
                search.miss(more, only.reason, only.at)
            else:
                yield more


@dataclass(frozen=True, eq=False)
class _Through(Pattern):
    """A value behind any number of steps."""

    inner: Pattern
    name: str
    steps: tuple[OpPattern, ...]

    @property
    def kinds(self) -> tuple[str, ...]:  # type: ignore[override]
        return _all_kinds((self.inner, *self.steps))

    def walk(self, search: Search, tensor: Tensor, user: Op | None, bindings: Bindings) -> Ways:
        op = tensor.producer
        for step in self.steps:
            if op is not None and op.kind in step.kinds:
                for more in self.then(step).walk(search, tensor, user, bindings):
                    yield {**more, self.name: (*more[self.name], op)}
        for more in self.inner.walk(search, tensor, user, bindings):
            yield {**more, self.name: ()}


@dataclass(frozen=True, eq=False)
class _AnyOf(Pattern):
    """A value that one of several patterns fits; they are tried in order."""

    options: tuple[Pattern, ...]

    @property
    def kinds(self) -> tuple[str, ...]:  # type: ignore[override]
        return _all_kinds(self.options)

    def walk(self, search: Search, tensor: Tensor, user: Op | None, bindings: Bindings) -> Ways:
        if self in bindings:
            if _same(search, bindings, self, tensor, tensor.name) is not None:
                yield bindings
            return
        op = tensor.producer
        for option in self.options:
            if option.kinds and (op is None or op.kind not in option.kinds):
                continue
            for more in option.walk(search, tensor, user, bindings):
                yield {**more, self: tensor}
        if self.kinds and (op is None or op.kind not in self.kinds):
            search.miss(bindings, _not_by(self.kinds), tensor.name, near=False)


def _all_kinds(patterns: Sequence[Pattern]) -> tuple[str, ...]:
    """The kinds that may compute one of these values; empty where any kind may."""
    if not all(pattern.kinds for pattern in patterns):
        return ()
    return tuple(dict.fromkeys(kind for pattern in patterns for kind in pattern.kinds))


@dataclass(frozen=True, eq=False)
class _Value(Pattern):
    """A value that is no constant, captured as a tensor."""

    name: str

    def walk(self, search: Search, tensor: Tensor, user: Op | None, bindings: Bindings) -> Ways:
        if tensor.is_const:
            search.miss(bindings, "is a constant, needs a computed value", tensor.name, near=False)
        elif (bound := _same(search, bindings, self.name, tensor, tensor.name)) is not None:
            yield bound


@dataclass(frozen=True, eq=False)
class _Constant(Pattern):
    """A constant; `read` gives what is captured of it, or why it is another one."""

    read: Callable[[Tensor, Op | None], Any]
    name: str | None

    def walk(self, search: Search, tensor: Tensor, user: Op | None, bindings: Bindings) -> Ways:
        if tensor.data is None or tensor.quant is not None:
            search.miss(bindings, "is not a constant of real numbers", tensor.name, near=False)
            return
        value = self.read(tensor, user)
        if isinstance(value, NoMatch):
            search.miss(bindings, value.reason, value.at, near=value.near)
        elif self.name is None:
            yield bindings
        elif not self._equal(bindings.get(self.name, value), value):
            search.miss(bindings, "is another value than the one before", tensor.name)
        else:
            yield {**bindings, self.name: value, (self.name, "tensor"): tensor}

    @staticmethod
    def _equal(one: Any, other: Any) -> bool:
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            one, other = one.data, other.data
        return one is other or np.array_equal(one, other)


@dataclass(frozen=True, eq=False)
class _Linear(Pattern):
    """The output of a linear op that can be rewritten, read by one op."""

    name: str
    kinds: tuple[str, ...]

    def walk(self, search: Search, tensor: Tensor, user: Op | None, bindings: Bindings) -> Ways:
        op = tensor.producer
        view = linear_before(tensor)
        if isinstance(view, NoMatch):
            search.miss(
                bindings, view.reason, view.at, near=op is not None and op.kind in self.kinds
            )
        elif view.op.kind not in self.kinds:
            search.miss(bindings, _not_by(self.kinds), tensor.name, near=False)
        else:
            yield {**bindings, self.name: view}


class Patterns:
    """What patterns are written with: `p.KIND(...)` for ops, `p.name` for computed values."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.op(name) if name.isupper() else _Value(name)

    def op(self, *kinds: str) -> Callable[..., OpPattern]:
        """An op of one of several kinds: `p.op("RELU", "RELU6")(p.x)`."""
        _check_kinds(kinds)
        return lambda *operands: OpPattern(kinds, operands)

    def const(self, what: float | str | None = None) -> Pattern:
        """A constant. what: a number that all its values equal, or the name that captures it."""
        if what is None or isinstance(what, str):
            return _Constant(lambda tensor, user: tensor, what)
        return _Constant(partial(_all_equal, what), None)

    def number(self, name: str) -> Pattern:
        """A constant of one value, captured as a float."""
        return _Constant(_single, name)

    def integers(self, name: str) -> Pattern:
        """A constant of integers, captured as a tuple."""
        return _Constant(_integers, name)

    def per_channel(self, name: str | None = None) -> Pattern:
        """A constant with a value for each channel of the other operand, captured as [C]."""
        return _Constant(_per_channel, name)

    def linear(self, name: str, *kinds: str) -> Pattern:
        """The output of a linear op (of these kinds) with constant weights, which one op reads.

        Captured as a LinearView.
        """
        _check_kinds(kinds)
        return _Linear(name, kinds or kinds_that(lambda op: op.linear))

    def any_of(self, *options: Pattern) -> Pattern:
        """One of several values, tried in order."""
        return _AnyOf(options)


def _check_kinds(kinds: Sequence[str]) -> None:
    for kind in kinds:
        if kind not in OPS:
            near = difflib.get_close_matches(kind, OPS, n=1)
            remedy = f"did you mean {near[0]}?" if near else "docs/ops.md lists them"
            raise PassError(f"no such op: {kind}", where="pattern", remedy=remedy)


def _all_equal(value: float, tensor: Tensor, user: Op | None) -> Tensor | NoMatch:
    same = tensor.size > 0 and bool(np.all(tensor.value() == value))
    return tensor if same else NoMatch(f"is not {value:g} everywhere", at=tensor.name, near=False)


def _single(tensor: Tensor, user: Op | None) -> float | NoMatch:
    if tensor.size != 1:
        return NoMatch(f"has {tensor.size} values, needs 1", at=tensor.name, near=False)
    return float(tensor.value().reshape(-1)[0])


def _integers(tensor: Tensor, user: Op | None) -> tuple[int, ...] | NoMatch:
    if tensor.value().dtype.kind not in "iu":
        return NoMatch(f"is {tensor.dtype}, needs integers", at=tensor.name, near=False)
    return tuple(int(value) for value in tensor.value().reshape(-1))


def _per_channel(tensor: Tensor, user: Op | None) -> Array | NoMatch:
    """Values [C], where the other operand has the shape of the result."""
    assert user is not None
    shape = user.output.shape
    others = [t for t in user.inputs if t is not None and t is not tensor]
    alike = bool(shape) and all(t.shape == shape for t in others)
    misfit = NoMatch(f"is {list(tensor.shape)}, needs a value per channel", at=tensor.name)
    return per_channel(tensor, shape[-1]) if alike else misfit


def matches(graph: Graph, op: Op, pattern: Pattern, search: Search) -> Iterator[Match]:
    """Every way in which the output of `op` fits."""
    if op.outputs:
        for bindings in pattern.walk(search, op.output, None, {}):
            yield Match(graph, op, bindings)


def match(graph: Graph, op: Op, pattern: Pattern) -> Match | NoMatch:
    """The first way in which the output of `op` fits, or why it does not."""
    search = Search()
    first = next(matches(graph, op, pattern, search), None)
    return search.why if first is None else first
