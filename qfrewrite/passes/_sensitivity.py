"""What quantizing each layer costs: one at a time, and all but one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from glob import escape

from qfrewrite.formats.tflite_write import serialize
from qfrewrite.ir import Array, Graph, Model, Op
from qfrewrite.lower.model import lower_model
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.passes._context import PassContext
from qfrewrite.runtime.metrics import Fidelity, Outputs, collect, compare
from qfrewrite.runtime.session import Runner


@dataclass(frozen=True)
class Sensitivity:
    """One layer: SQNR of the output with it alone quantized, and with all others but it, in dB."""

    name: str
    op: str
    alone_db: float
    without_db: float


def sensitivities(
    graph: Graph, reference: Outputs, context: PassContext, *, most: int = 32
) -> tuple[Fidelity, list[Sensitivity]]:
    """The quantized model as a whole, and every op of it that computes in integers.

    graph: with ranges; reference: the float outputs on the measuring samples, of which `most` are
    looked at.
    """
    samples = _first(context, most)
    reference = reference[: len(samples)]
    plain = replace(context.quant, io="float32", keep_float=(), keep_int16=())

    def fidelity(options: QuantOptions) -> Fidelity:
        return fidelity_of(graph, reference, samples, options, context.threads)

    # Ops that only move values go with what they move.
    probe, _ = lower_model(Model([graph.clone()[0], *graph.bodies], source="graphdef"), plain)
    coded = [
        op for op in probe.graph.ops
        if op.kind not in ("QUANTIZE", "DEQUANTIZE", "RESHAPE")
        and op.output.quant is not None and not _fused(op)
    ]  # fmt: skip
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
    graph: Graph, reference: Outputs, samples: list[dict[str, Array]], options: QuantOptions,
    threads: int | None,
) -> Fidelity:  # fmt: skip
    """How close the quantized `graph` comes to `reference` on `samples`."""
    model = Model([graph.clone()[0], *graph.bodies], source="graphdef")
    lowered, _ = lower_model(model, options)
    runner = Runner(serialize(lowered), threads=threads)
    return compare(reference, collect(runner, samples))


def _first(context: PassContext, most: int) -> list[dict[str, Array]]:
    source = context.measuring if context.measuring is not None else context.data
    assert source is not None
    found: list[dict[str, Array]] = []
    for sample in source:
        if len(found) == most:
            break
        found.append(dict(sample))
    return found


def _fused(op: Op) -> bool:
    source = op.input(0)
    return source is not None and bool(source.meta.get("virtual"))
