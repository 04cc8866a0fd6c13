"""What quantizing each layer costs: one at a time, and all but one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from glob import escape
from itertools import islice
from typing import Any

from qfrewrite.errors import Diagnostics
from qfrewrite.ir import Array, Graph, Model
from qfrewrite.lower.canonical import is_fused
from qfrewrite.lower.model import lower_model
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.ops.spec import facets
from qfrewrite.records import Record
from qfrewrite.runtime.metrics import Fidelity, Outputs, collect, compare
from qfrewrite.runtime.session import Runner
from qfrewrite.solve.context import PassContext


@dataclass(frozen=True)
class Sensitivity(Record):
    """What quantizing one layer costs, as SQNR of the outputs."""

    name: str
    """The name of the op."""
    op: str
    """The kind of the op."""
    alone_db: float
    """With this layer quantized, and no other, in dB."""
    without_db: float
    """With all layers quantized but this one, in dB."""


@dataclass(frozen=True, repr=False)
class Sensitivities(Record):
    """Each layer quantized alone, and left out alone."""

    layers: list[Sensitivity]
    """In execution order."""
    whole: Fidelity | None
    """All layers quantized; None without data."""
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    """What speaks against the figures."""

    def figures(self) -> dict[str, Any]:
        """The fields, and the figures of the whole."""
        whole = {} if self.whole is None else self.whole.figures()
        return super().figures() | {
            "samples": whole.get("samples", 0),
            "whole_sqnr_db": whole.get("sqnr_db"),
        }


def sensitivities(
    graph: Graph,
    reference: Outputs,
    samples: Iterable[dict[str, Array]],
    context: PassContext,
    *,
    most: int = 32,
) -> tuple[Fidelity, list[Sensitivity]]:
    """The quantized model as a whole, and every op of it that computes in integers.

    graph: with ranges; reference: the float outputs on `samples`, of which `most` are looked at.
    """
    samples = [dict(s) for s in islice(samples, most)]
    reference = reference[: len(samples)]
    plain = replace(context.quant, io="float32", keep_float=(), keep_int16=())

    def fidelity(options: QuantOptions) -> Fidelity:
        return fidelity_of(graph, reference, samples, options, context.threads)

    # Ops that only move values go with what they move.
    probe, _ = lower_model(Model([graph, *graph.bodies], source="graphdef"), plain)
    coded = [
        op
        for op in probe.graph.ops
        if not (facets(op).quantizes or facets(op).reshapes)
        and op.output.quant is not None
        and not is_fused(op)
    ]
    whole = fidelity(plain)
    names = {op.name: escape(op.name) for op in coded}
    rows = []
    for op in coded:
        others = tuple(pattern for name, pattern in names.items() if name != op.name)
        alone = fidelity(replace(plain, keep_float=others)) if others else whole
        without = fidelity(replace(plain, keep_float=(names[op.name],)))
        rows.append(Sensitivity(op.name, op.kind, alone.sqnr_db, without.sqnr_db))
    return whole, rows


def fidelity_of(
    graph: Graph,
    reference: Outputs,
    samples: Iterable[dict[str, Array]],
    options: QuantOptions,
    threads: int | None,
    labels: Sequence[int] | None = None,
) -> Fidelity:
    """How close the quantized `graph` comes to `reference` on `samples`; labels: their classes."""
    runner = Runner.of(Model([graph, *graph.bodies], source="graphdef"), options, threads=threads)
    return compare(reference, collect(runner, samples), labels)
