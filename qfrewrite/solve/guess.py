"""Ranges without data: from BatchNorm statistics, and from synthetic inputs for the rest."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from qfrewrite.calibration.observers import Detail
from qfrewrite.calibration.range_row import BATCH_NORM, RangeRow
from qfrewrite.calibration.range_table import RangeTable
from qfrewrite.calibration.search import MethodChoice
from qfrewrite.calibration.statistics import propagate
from qfrewrite.ir import Graph, Tensor
from qfrewrite.ir.fingerprint import graph_fingerprint
from qfrewrite.ops.shapes import has_open_sizes
from qfrewrite.solve.context import PassRewriter
from qfrewrite.solve.dataset import Dataset
from qfrewrite.solve.measure import measure, row_names

_SYNTHETIC = 16
# Fewer samples where the inputs are large: a few hold as many values as many small ones.
_SYNTHETIC_VALUES = 1 << 25


def guess_ranges(
    rw: PassRewriter,
    tensors: list[Tensor],
    choice: MethodChoice,
    details: dict[Tensor, Detail],
) -> RangeTable:
    """A table of `tensors` that needs no data; a note says what it rests on."""

    graph, names = rw.graph, dict(zip(tensors, row_names(tensors), strict=True))
    gaussians = {t: g for t, g in propagate(graph).items() if t in names}
    by_name = {
        names[t]: RangeRow(
            names[t],
            _around_zero(g.range()),
            BATCH_NORM,
            guessed_mean=np.asarray(g.mean, np.float64) if details[t].channel_mean else None,
        )
        for t, g in gaussians.items()
    }
    rest = [t for t in tensors if t not in gaussians]
    text = f"no data: ranges of {len(by_name)} tensors from BatchNorm statistics"
    if rest:
        imagined = rw.context.imagine(graph)
        by_name |= _synthetic_rows(rw, rest, choice, details, imagined)
        made_up = "procedural images" if imagined is not None else "synthetic inputs in [-1, 1]"
        text += f", of {len(rest)} from {made_up}"
        text += taken_sizes(graph)
    option = "--data" if rw.signature is None else f"--data {rw.signature}=PATH"
    rw.notice("no-data", text, remedy=f"give {option} for ranges that fit your inputs")
    rows = {name: by_name[name] for name in names.values()}
    return RangeTable(rows, graph.name, "no data", 0, graph_fingerprint(graph))


def taken_sizes(graph: Graph) -> str:
    """At which sizes inputs that leave theirs open are made up, as text; empty where none does."""
    from qfrewrite.runtime.session import input_specs

    if not has_open_sizes(graph):
        return ""
    return f" ({', '.join(f'{spec} as {list(spec.assumed)}' for spec in input_specs(graph))})"


def _synthetic_rows(
    rw: PassRewriter,
    tensors: list[Tensor],
    choice: MethodChoice,
    details: dict[Tensor, Detail],
    dataset: Dataset | None,
) -> dict[str, RangeRow]:
    """Ranges on the procedural images of `dataset`; without it on a few synthetic inputs."""
    from qfrewrite.data.source import synthetic
    from qfrewrite.runtime.session import input_specs

    if dataset is None:
        specs = input_specs(rw.graph)
        values = sum(math.prod(spec.assumed) for spec in specs)
        samples = max(min(_SYNTHETIC, _SYNTHETIC_VALUES // max(values, 1)), 1)
        made_up = synthetic(specs, samples=samples, seed=rw.context.seed)
        dataset = Dataset(made_up)
    context = replace(rw.context, samples=dataset)
    table = measure(rw.graph, {t: details[t] for t in tensors}, context, choice)
    # Means of made-up inputs would correct no bias.
    rows = [replace(row, stats=row.stats and row.stats.without_means()) for row in table]
    renamed = dict(zip(row_names(tensors), tensors, strict=True))
    names = dict(zip(details, row_names(details), strict=True))
    return {names[renamed[row.name]]: replace(row, name=names[renamed[row.name]]) for row in rows}


def _around_zero(range_: tuple[float, float]) -> tuple[float, float]:
    return min(range_[0], 0.0), max(range_[1], 0.0)
