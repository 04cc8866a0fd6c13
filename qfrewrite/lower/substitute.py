"""Ops without a quantized kernel, or with a slow one, as others that compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from types import MappingProxyType

import numpy as np

from qfrewrite.ir import Array, Op, Tensor
from qfrewrite.lower.fake_quant_ranges import Range
from qfrewrite.lower.scheme import QuantOptions, matches
from qfrewrite.ops.spec import facets
from qfrewrite.rewrite.rewriter import Rewriter


class _Draft:
    """Puts ops in the place of `op`, and records the ranges of their results.

    ranges: of activations. Those of results are added if the range of the operand is known.
    """

    def __init__(self, rw: Rewriter, op: Op, ranges: dict[Tensor, Range]) -> None:
        self.rw, self.op, self.ranges = rw, op, ranges

    def put(self, kind: str, *operands: Tensor | Array, span: Range | None = None) -> Tensor:
        """The result of an op of these operands; arrays become constants."""
        name = self.op.name
        tensors = [
            o if isinstance(o, Tensor) else self.rw.constant(f"{name}/factor", o) for o in operands
        ]
        out = self.rw.put(self.op, kind, *tensors, name=f"{name}/{kind.lower()}").output
        if span is not None:
            self.ranges[out] = min(span[0], 0.0), max(span[1], 0.0)
        return out

    @property
    def operand(self) -> tuple[Tensor, Range | None]:
        """The first operand and its range."""
        x = self.op.operand(0)
        return x, self.ranges.get(x)


@dataclass(frozen=True)
class Substitute:
    """Other ops for the same value."""

    kinds: str
    """The kinds of these ops, for people."""
    build: Callable[[_Draft], Tensor | None]
    """Puts them at the place of the op and gives the last result, or None where they do not fit."""
    needs_ranges: bool = False
    """Whether ranges of intermediate results must follow from that of the operand."""


def _number(value: float) -> Array:
    return np.full((), value, np.float32)


def _reciprocal(d: _Draft) -> Tensor | None:
    divisor = d.op.operand(1).data
    if divisor is None or not (np.isfinite(divisor).all() and divisor.all()):
        return None
    return d.put("MUL", d.op.operand(0), (1.0 / divisor.astype(np.float64)).astype(np.float32))


def _pair(d: _Draft) -> Tensor | None:
    operands = [t for t in d.op.inputs if t is not None]
    return d.put("ADD", *operands) if len(operands) == 2 else None


def _hard_swish(d: _Draft) -> Tensor:
    """x * RELU6(x + 3) / 6; dividing the gate changes its scale alone, so that comes first."""
    x, known = d.operand
    low, high = (known[0] + 3, known[1] + 3) if known is not None else (0.0, 6.0)
    most = min(max(high, 0.0), 6.0)
    total = d.put("ADD", x, _number(3), span=known and (low, high))
    gate = d.put("RELU6", total, span=known and (0.0, most))
    return d.put("MUL", x, d.put("MUL", gate, _number(1 / 6), span=known and (0.0, most / 6)))


def _prelu(d: _Draft) -> Tensor | None:
    """RELU(x) + slope * (x - RELU(x))."""
    x, known = d.operand
    slope = d.op.operand(1).data
    if slope is None:
        return None
    low, high = known if known is not None else (-inf, inf)
    positive = d.put("RELU", x, span=known and (0.0, high))
    negative = d.put("SUB", x, positive, span=known and (low, 0.0))
    ends = float(slope.min(initial=0)) * low, float(slope.max(initial=0)) * low
    scaled = d.put("MUL", negative, slope, span=known and (min(ends), max(ends)))
    return d.put("ADD", positive, scaled)


SUBSTITUTES: Mapping[str, Substitute] = MappingProxyType(
    {
        "NEG": Substitute("MUL", lambda d: d.put("MUL", d.op.operand(0), _number(-1))),
        "SQUARE": Substitute("MUL", lambda d: d.put("MUL", d.op.operand(0), d.op.operand(0))),
        "DIV": Substitute("MUL", _reciprocal),
        "ADD_N": Substitute("ADD", _pair),
        "HARD_SWISH": Substitute("ADD, RELU6, MUL", _hard_swish, needs_ranges=True),
        "PRELU": Substitute("RELU, SUB, MUL, ADD", _prelu, needs_ranges=True),
    }
)
"""By kind: what takes its place where it has no kernel in the type wanted, or a slow one."""


def substitute(
    rw: Rewriter,
    options: QuantOptions,
    dtype_of: Callable[[Op], str],
    ranges: dict[Tensor, Range] | None = None,
) -> None:
    """Put substitutes in, in place, where `options` want an op quantized; float32 ops only.

    dtype_of: the element type an op shall compute in. ranges: of activations; the substitutes'
    intermediate results are added.
    """
    graph, known = rw.graph, ranges if ranges is not None else {}
    for op in graph.ops_of(*SUBSTITUTES):
        kept = op.keep == "float" or matches(op, options.keep_float)
        fits = dtype_of(op) in facets(op).kernels and op.kind not in options.slow
        if kept or fits or op.output.dtype != "float32":
            continue
        way = SUBSTITUTES[op.kind]
        ranged = ranges is None or (op.operand(0) in known and op.output in known)
        result = way.build(_Draft(rw, op, known)) if ranged or not way.needs_ranges else None
        if result is None:
            continue
        new = result.producer
        assert new is not None
        if op.output in known:
            known[result] = known.pop(op.output)
        graph.forget_file(new)
        graph.set_keep(new, op.keep)
        graph.copy_facts(op.output, result)
        rw.replace(op, new, action="replaced", detail=f"{op.kind} -> {new.kind}")
