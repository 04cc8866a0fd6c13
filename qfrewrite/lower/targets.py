"""Which ops of a model a runtime or chip does not take, why, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from qfrewrite.ir import Graph, Model, Op
from qfrewrite.lower.canonical import is_fused, written_as
from qfrewrite.ops.features import hybrid

_CODED = ("int8", "uint8", "int16")


@dataclass(frozen=True)
class Limit:
    """A condition on an op: what holds where it is met, what is wrong and what to do else."""

    holds: Callable[[Op], bool]
    why: str
    remedy: str


@dataclass(frozen=True)
class Target:
    """A runtime or chip.

    ops: the kinds it computes (None: all that LiteRT does); dtypes: of quantized activations;
    floats: whether it computes in float,
    hybrid: with int8 weights; fallback: where ops go that do not map; per_axis_fc:
    whether FULLY_CONNECTED takes a scale per channel; rank: the most axes; batch: the most
    samples at once; fixed_shapes: whether shapes must be known, free_batch: but for the batch;
    limits: by kind of op; slow: kinds whose int8 kernel is slower than the ops that can take
    their place, measured by `benchmarks/latency.py`.
    """

    name: str
    what: str
    ops: frozenset[str] | None = None
    dtypes: tuple[str, ...] = _CODED
    floats: bool = True
    hybrid: bool = True
    fallback: str | None = None
    per_axis_fc: bool = True
    rank: int | None = None
    batch: int | None = None
    fixed_shapes: bool = False
    free_batch: bool = True
    limits: Mapping[str, tuple[Limit, ...]] = field(default_factory=dict)
    slow: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Unmapped:
    """An op that the target does not take."""

    name: str
    kind: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"op '{self.name}' ({self.kind}): {self.why}; {self.remedy}"


def unmapped(model: Model, target: Target) -> list[Unmapped]:
    """Every op of `model`, a lowered one, that `target` does not take; the first reason of each."""
    return [
        Unmapped(name_in_file(graph, op), op.kind, *reason)
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
        str(Unmapped(names[0], *key)) if len(names) == 1
        else f"{len(names)} {key[0]}, e.g. '{names[0]}': {key[1]}; {key[2]}"
        for key, names in groups.items()
    ]  # fmt: skip


def name_in_file(graph: Graph, op: Op) -> str:
    """What a reader of the file calls `op`: with a fused activation, by its result."""
    if len(op.outputs) == 1 and op.output.meta.get("virtual"):
        return written_as(graph, op.output).name
    return op.name


def _reason(op: Op, target: Target) -> tuple[str, str] | None:
    """Why `op` does not map and what to do; None where it does."""
    if target.ops is not None and op.kind not in target.ops:
        where = f"it runs on {target.fallback}" if target.fallback else "it cannot run there"
        return f"{target.what} has no {op.kind}", where
    computed = [t for t in (*filter(None, op.inputs), *op.outputs) if not t.is_const]
    types = {t.dtype for t in computed}
    if "float32" in types and not target.floats and op.kind not in ("QUANTIZE", "DEQUANTIZE"):
        return "computes in float", "give ranges for all its tensors (calibrate)"
    if not target.hybrid and hybrid(op):
        return "reads int8 weights with float activations", "use scheme int8 or weight-only"
    wrong = sorted(types & set(_CODED) - set(target.dtypes))
    if wrong:
        return f"is {wrong[0]}", f"use a scheme with {' or '.join(target.dtypes)} activations"
    signatures = [(t.shape_signature or ())[1 if target.free_batch else 0 :] for t in computed]
    if target.fixed_shapes and any(-1 in signature for signature in signatures):
        return "has a dimension that is not known", "export it with fixed shapes"
    if target.rank is not None and any(len(t.shape) > target.rank for t in computed):
        return f"has more than {target.rank} axes", "reshape before it"
    if target.batch is not None and any(
        len(t.shape) > 1 and t.shape[0] > target.batch for t in computed if t.dtype in _CODED
    ):
        return f"has a batch above {target.batch}", f"convert with a batch of {target.batch}"
    weights = op.input(1) if op.kind == "FULLY_CONNECTED" and not target.per_axis_fc else None
    if weights is not None and weights.quant is not None and weights.quant.per_channel:
        return "has a scale per channel", "use --fc-weights per-tensor"
    failed = (limit for limit in target.limits.get(op.kind, ()) if not limit.holds(op))
    return next(((limit.why, limit.remedy) for limit in failed), None)
