"""Which ops of a model a runtime or chip does not take, why, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qfrewrite.ir import Model, Op
from qfrewrite.lower.canonical import is_fused, name_in_file
from qfrewrite.ops.features import is_hybrid
from qfrewrite.ops.spec import QUANTIZED, facets


@dataclass(frozen=True)
class Limit:
    """What a target requires of ops of some kinds."""

    kinds: str
    """The kinds, with spaces between them."""
    holds: Callable[[Op], bool]
    """Whether an op meets the requirement."""
    why: str
    """What is wrong with an op that does not."""
    remedy: str
    """What the user can do about such an op."""

    def fails(self, op: Op) -> bool:
        """Whether the requirement concerns `op`, and `op` does not meet it."""
        return op.kind in self.kinds.split() and not self.holds(op)


@dataclass(frozen=True)
class Target:
    """A runtime or chip; `table.py` lists them."""

    name: str
    """What it is called as an option."""
    what: str
    """Its full name, for people."""
    ops: frozenset[str] | None = None
    """The kinds of ops it computes; None: all that LiteRT does."""
    dtypes: tuple[str, ...] = ("int8", "uint8", "int16")
    """The element types of quantized activations."""
    floats: bool = True
    """Whether it computes in float."""
    hybrid: bool = True
    """Whether it computes in float with int8 weights."""
    fallback: str | None = None
    """What computes the ops that do not map; None: nothing does."""
    per_axis_fc: bool = True
    """Whether FULLY_CONNECTED supports a scale per channel."""
    rank: int | None = None
    """The most axes of a tensor."""
    fixed_shapes: bool = False
    """Whether shapes must be known."""
    free_batch: bool = True
    """With `fixed_shapes`: whether the first dimension may still be unknown."""
    limits: tuple[Limit, ...] = ()
    """Further requirements; the first that an op does not meet is reported."""
    slow: frozenset[str] = frozenset()
    """Kinds whose int8 kernel is slower than the ops that can replace them, measured by
    `benchmarks/zoo.py`."""


@dataclass(frozen=True)
class Unmapped:
    """An op that the target does not take."""

    name: str
    """The name of the op."""
    kind: str
    """The kind of the op."""
    why: str
    """Why it does not map."""
    remedy: str
    """What to do about it."""

    def __str__(self) -> str:
        return f"op '{self.name}' ({self.kind}): {self.why}; {self.remedy}"


def unmapped(model: Model, target: Target) -> list[Unmapped]:
    """Every op of `model`, a lowered one, that `target` does not take; the first reason of each."""
    return [
        Unmapped(name_in_file(op), op.kind, *reason)
        for graph in model.graphs
        for op in graph.ops
        if not is_fused(op) and (reason := _reason(op, target)) is not None
    ]


def grouped(missing: list[Unmapped]) -> list[str]:
    """One line for all ops of a kind that fail for one reason."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for one in missing:
        groups.setdefault((one.kind, one.why, one.remedy), []).append(one.name)
    return [
        str(Unmapped(names[0], *key))
        if len(names) == 1
        else f"{len(names)} {key[0]}, e.g. '{names[0]}': {key[1]}; {key[2]}"
        for key, names in groups.items()
    ]


def _reason(op: Op, target: Target) -> tuple[str, str] | None:
    """Why `op` does not map and what to do; None where it does."""
    if target.ops is not None and op.kind not in target.ops:
        remedy = f"it runs on {target.fallback}" if target.fallback else "it cannot run there"
        return f"{target.what} has no {op.kind}", remedy
    computed = [t for t in (*filter(None, op.inputs), *op.outputs) if not t.is_const]
    types = {t.dtype for t in computed}
    floats = any(t.startswith("float") for t in types)
    if floats and not target.floats and not facets(op).quantizes:
        return "computes in float", "give it ranges (calibrate), and do not keep it float"
    if not target.hybrid and is_hybrid(op):
        return "reads int8 weights with float activations", "use scheme int8 or weight-only"
    wrong = sorted(types & QUANTIZED - set(target.dtypes))
    if wrong:
        return f"is {wrong[0]}", f"use a scheme with {' or '.join(target.dtypes)} activations"
    signatures = [(t.shape_signature or ())[1 if target.free_batch else 0 :] for t in computed]
    if target.fixed_shapes and any(-1 in signature for signature in signatures):
        return "has a dimension that is not known", "export it with fixed shapes"
    if target.rank is not None and any(len(t.shape) > target.rank for t in computed):
        return f"has more than {target.rank} axes", "reshape before it"
    weights = op.input(1) if op.kind == "FULLY_CONNECTED" and not target.per_axis_fc else None
    if weights is not None and weights.quant is not None and weights.quant.per_channel:
        return "has a scale per channel", "use --fc-weights per-tensor"
    return next(((one.why, one.remedy) for one in target.limits if one.fails(op)), None)
