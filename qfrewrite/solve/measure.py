"""Ranges of a graph's tensors from data: observe, warn, choose, survive an interruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from qfrewrite.calibration.observers import Detail
from qfrewrite.calibration.range_row import RangeRow
from qfrewrite.calibration.range_table import RangeTable
from qfrewrite.calibration.search import MethodChoice
from qfrewrite.errors import DataError, Diagnostics, Interrupted, UsageError
from qfrewrite.ir import Graph, Tensor
from qfrewrite.ir.fingerprint import graph_fingerprint
from qfrewrite.ops.spec import facets
from qfrewrite.solve.context import PassContext, sample_count

_MANY = 0.1
# How much wider than on made-up inputs the range of final scores is taken.
SCORES_HEADROOM = 2.0


def measure(
    graph: Graph,
    details: Mapping[Tensor, Detail],
    context: PassContext,
    choice: MethodChoice | None = None,
    *,
    samples: int | None = None,
    label: str = "calibrating",
) -> RangeTable:
    """Observe tensors over the calibration samples (at most `samples`) and choose their ranges.

    Raises DataError without samples, and Interrupted on Ctrl-C: what was seen until then lies in
    `context.checkpoint`, from where the next run with `context.resume` goes on.
    """
    from qfrewrite.calibration.observe import observe

    choice = choice or MethodChoice()
    assert context.samples is not None
    data = context.samples.calibration
    total = sample_count(data)
    total = samples if total is None else min(total, samples or total)
    fingerprint = graph_fingerprint(graph)
    begun = _resumed(context, choice, fingerprint, data.description)
    decay = next((m.value for m in choice.methods if m.name == "ema"), None)
    seen = observe(
        graph,
        dict(details),
        islice(data, samples),
        total=total,
        decay=decay,
        start=begun.samples if begun else 0,
        threads=context.threads,
        step=context.progress(label, total),
    )
    rows = {
        name: RangeRow(
            name,
            stats.range or (0.0, 0.0),
            "minmax",
            stats,
            _keeps_all(graph, tensor),
            seen.moving.get(tensor),
        )
        for (tensor, stats), name in zip(seen.stats.items(), row_names(details), strict=True)
    }
    table = RangeTable(rows, graph.name, data.description, seen.samples, fingerprint, context.seed)
    table = begun + table if begun is not None else table
    if seen.interrupted is not None:
        _interrupted(table, context, total, seen.interrupted)
    if not table.samples:
        raise DataError("the data holds no samples", where="calibrate")
    _check_inputs(graph, table)
    if begun is not None and context.checkpoint is not None:
        context.checkpoint.unlink(missing_ok=True)
    table.diagnostics = _diagnostics(table, seen.widening)
    table = table.choose(choice)
    return _with_headroom(table, graph, details) if context.imagined else table


def headroom(graph: Graph, tensor: Tensor) -> float:
    """By what the range of a tensor on made-up inputs is to be widened.

    Nothing in them is recognised, so the largest of the final scores is smaller than on real
    inputs: 12 where validation images reach 27 on MobileNetV1, 11 where they reach 17 on V2. If
    it is clipped, classes tie. The other layers' ranges are those of photographs.
    """
    return SCORES_HEADROOM if _is_score(graph, tensor) else 1.0


def _is_score(graph: Graph, tensor: Tensor) -> bool:
    """Whether a tensor holds final scores: one vector that is given out, or decided by at the end.

    Probabilities are none: their range is fixed.
    """
    producer = tensor.producer
    if producer is None or tensor.shape[-1:] != (tensor.size,):
        return False
    if not (facets(producer).reshapes or facets(producer).linear or producer.kind == "ADD"):
        return False
    if tensor.is_output:
        return tensor.size > 1
    return any(
        _is_score(graph, user.op.output)
        if facets(user.op).reshapes
        else facets(user.op).scores and _ends(graph, user.op.output)
        for user in tensor.users
        if user.op.outputs
    )


def _ends(graph: Graph, tensor: Tensor) -> bool:
    """Whether a tensor is a graph output, as it is or reshaped."""
    return tensor.is_output or any(
        facets(user.op).reshapes and _ends(graph, user.op.output) for user in tensor.users
    )


def _with_headroom(table: RangeTable, graph: Graph, details: Mapping[Tensor, Detail]) -> RangeTable:
    rows = dict(table.rows)
    for tensor, name in zip(details, row_names(details), strict=True):
        factor, row = headroom(graph, tensor), rows.get(name)
        if row is not None and factor > 1:
            rows[name] = replace(row, range=(row.low * factor, row.high * factor))
    return replace(table, rows=rows)


def row_names(tensors: Mapping[Tensor, Detail] | Sequence[Tensor]) -> list[str]:
    """What a table calls these tensors: their names, numbered where one occurs again."""
    taken: dict[str, int] = {}
    names = []
    for tensor in tensors:
        count = taken[tensor.name] = taken.get(tensor.name, 0) + 1
        names.append(tensor.name if count == 1 else f"{tensor.name}#{count}")
    return names


def _keeps_all(graph: Graph, tensor: Tensor) -> bool:
    """Whether clipping does harm that the losses do not show.

    Inputs: their range is the preprocessing's. Final scores: only the largest one counts, and
    that is the one clipped.
    """
    if tensor.is_input or tensor.is_output:
        return True
    users = [user.op for user in tensor.users]
    return bool(users) and all(
        facets(op).scores or (facets(op).reshapes and _keeps_all(graph, op.output)) for op in users
    )


def _resumed(
    context: PassContext, choice: MethodChoice, fingerprint: str, description: str
) -> RangeTable | None:
    """The statistics of an interrupted run to go on from; None where there are none."""
    path = context.checkpoint
    if not context.resume or path is None or not path.exists():
        return None
    if any(m.name == "ema" for m in choice.methods):
        raise UsageError("moving averages cannot be resumed", where=str(path), remedy="start anew")
    table = RangeTable.load(path)
    same = {
        "the model or the passes": table.fingerprint == fingerprint,
        "the data": table.data == description,
        "the seed": table.seed == context.seed,
    }
    for cause, equal in same.items():
        if not equal:
            what = f"{cause} changed since the run was interrupted"
            raise DataError(what, where=str(path), remedy="remove the file to start anew")
    return table


def _interrupted(
    table: RangeTable, context: PassContext, total: int | None, cause: BaseException
) -> None:
    of = "" if total is None else f" of {total}"
    text = f"interrupted after {table.samples}{of} samples"
    path: Path | None = context.checkpoint
    if path is None or not table.samples:
        raise Interrupted(f"{text}; nothing was written") from cause
    table.save(path)
    raise Interrupted(
        f"{text}; their statistics are in {path}: --resume goes on from there"
    ) from cause


def _check_inputs(graph: Graph, table: RangeTable) -> None:
    """Raise DataError where an input never had a finite value: no range follows from it."""
    for tensor in graph.inputs:
        row = table.rows.get(tensor.name)
        stats = row.stats if row is not None else None
        if stats is not None and stats.range is None and stats.not_finite:
            what = f"all {stats.not_finite} values of input '{tensor.name}' are NaN or infinite"
            raise DataError(what, where=table.data, remedy="check how the data were made")


def _diagnostics(table: RangeTable, widening: int) -> Diagnostics:
    diagnostics = Diagnostics()
    damaged = [row for row in table if row.stats is not None and row.stats.not_finite]
    if damaged:
        first = damaged[0]
        assert first.stats is not None
        diagnostics.warn(
            "not-finite",
            f"{first.stats.not_finite} values of '{first.name}' are NaN or infinite, the first of "
            f"{len(damaged)} such tensors: they are left out",
            remedy="check preprocessing and weights",
        )
    # One or two tensors always find a new extreme.
    if widening > _MANY * len(table):
        diagnostics.warn(
            "ranges-grow",
            f"{widening} of {len(table)} ranges still grew by over 5 % in the last quarter of the "
            f"{table.samples} samples: give more samples, or a method that clips (greedy)",
        )
    return diagnostics
