"""Rows of figures as a terminal table, JSON, CSV or Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import click

from qfrewrite.errors import Diagnostic
from qfrewrite.records import Record, json_value

FORMATS = ("table", "json", "csv", "markdown")


@dataclass(frozen=True)
class Column:
    """A figure of every row."""

    key: str
    """Its name in the report."""
    header: str
    """What stands above it."""
    show: Callable[[Any], str] = str
    """How a value reads."""
    right: bool = True
    """Whether values stand at the right; texts stand at the left."""


def figure(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def pair(value: Sequence[float]) -> str:
    """`low..high`."""
    return f"{value[0]:.4g}..{value[1]:.4g}"


def percent(value: float) -> str:
    """A fraction as percent."""
    return f"{100 * value:.3g} %"


def decibel(value: float) -> str:
    """A ratio in dB; infinite where there is no error."""
    return "exact" if value == inf else f"{value:.1f}"


def count(value: int) -> str:
    """A count with k, M or G."""
    units = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
    return next((f"{value / size:.3g}{unit}" for size, unit in units if value >= size), str(value))


def byte_count(value: int) -> str:
    """`47.3 kB`."""
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"


def shape(value: Sequence[int]) -> str:
    """`1x224x224x3`; `?` for what depends on the data."""
    return "x".join("?" if n < 0 else str(n) for n in value) or "scalar"


def flag(one: Diagnostic) -> str:
    """Why a layer quantizes badly, and what helps."""
    return f"{one.text}  -> {one.remedy}" if one.remedy else one.text


def sizes(value: Sequence[Any]) -> str:
    """How many there are."""
    return str(len(value)) if value else ""


def print_report(
    report: Record,
    columns: Sequence[Column],
    how: str,
    *,
    key: str = "layers",
    head: Sequence[str] = (),
    names: Iterable[str] = (),
    top: int | None = None,
    room: int | None = None,
) -> None:
    """Print the rows `key` of a report in one of `FORMATS`.

    head: what JSON holds before the rows. names: those of all layers of the model; where they are
    given, tables shorten the `name` of each row, so that a layer has one short name in all tables.
    top: how many rows are printed. room: the width of the terminal; None where the output is piped.
    """
    figures = report.figures()
    rows = figures[key][:top]
    if how == "json":
        shown = {name: figures[name] for name in head} | {key: rows}
        click.echo(json.dumps(json_value(shown), indent=1))
        return
    rows = [row.figures() if isinstance(row, Record) else row for row in rows]
    whole = list(names)
    if whole and how in ("table", "markdown"):
        from qfrewrite.ir.names import shorten

        short = shorten([row["name"] for row in rows], whole)
        rows = [row | {"name": name} for row, name in zip(rows, short, strict=True)]
    if how == "csv":
        click.echo(_csv(rows), nl=False)
    elif how == "markdown":
        click.echo(_markdown(rows, _present(rows, columns)))
    elif rows:
        _table(rows, _present(rows, columns), room)


def _present(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> list[Column]:
    return [c for c in columns if any(r.get(c.key) not in (None, [], "") for r in rows)]


def _cell(row: Mapping[str, Any], column: Column) -> str:
    value = row.get(column.key)
    return "" if value is None else column.show(value)


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], room: int | None) -> None:
    """One table, or several below each other with the first column in all, where it is too wide.

    Written line by line: a table of the console library takes a millisecond a row.
    """
    cells = {c.key: [_cell(row, c) for row in rows] for c in columns}
    width = {c.key: max(len(c.header), *map(len, cells[c.key])) for c in columns}
    first, *rest = columns
    if room is not None:
        width[first.key] = min(width[first.key], max(room // 3, 16))
        cells[first.key] = _elided(cells[first.key], width[first.key])
    for part in _folded(rest, width, None if room is None else room - width[first.key]):
        shown = (first, *part)
        aligned = (_aligned([c.header, *cells[c.key]], width[c.key], c.right) for c in shown)
        head, *lines = map("  ".join, zip(*aligned, strict=True))
        click.echo("\n" + click.style(head.rstrip(), bold=True))
        click.echo("─" * len(head))
        for line in lines:
            click.echo(line.rstrip())
    click.echo()


def _folded(
    columns: Sequence[Column], width: Mapping[str, int], room: int | None
) -> list[list[Column]]:
    """The columns in as many parts as it takes for each to fit into `room`."""
    parts: list[list[Column]] = [[]]
    used = 0
    for column in columns:
        used += width[column.key] + 2
        if room is not None and used > room and parts[-1]:
            parts.append([])
            used = width[column.key] + 2
        parts[-1].append(column)
    return parts


def _aligned(texts: Sequence[str], width: int, right: bool) -> list[str]:
    return [text.rjust(width) if right else text.ljust(width) for text in texts]


def _elided(texts: Sequence[str], width: int) -> list[str]:
    """The ends of names, which tell more than their beginnings; whole where two would be alike."""
    from qfrewrite.ir.names import ELIDED

    cut = [t if len(t) <= width else ELIDED + t[len(t) - width + 1 :] for t in texts]
    ends = {short: sum(t.endswith(short.removeprefix(ELIDED)) for t in set(texts)) for short in cut}
    return [
        whole if short.startswith(ELIDED) and ends[short] > 1 else short
        for whole, short in zip(texts, cut, strict=True)
    ]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[_flat(row.get(name)) for name in names] for row in rows]
    csv.writer(out, lineterminator="\n").writerows([names, *lines] if rows else [])
    return out.getvalue()


def _flat(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return " ".join(v["what"] if isinstance(v, dict) else str(v) for v in value)
    return value


def _markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> str:
    rule = "|" + "|".join("---:" if c.right else "---" for c in columns) + "|"
    lines = [[c.header for c in columns]]
    lines += [[_cell(row, c).replace("|", "\\|") for c in columns] for row in rows]
    head, *others = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, rule, *others])


def columns(show: Callable[[Any], str], *names: str, right: bool = True) -> tuple[Column, ...]:
    """Columns of figures that read alike, each by its name, or as `name=header`."""
    pairs = (name.partition("=") for name in names)
    return tuple(Column(key, header or key, show, right) for key, _, header in pairs)


# Columns that several tables have.
LAYER = columns(str, "name=layer", "op", right=False)
SHAPE = columns(shape, "shape=output")
MODEL = columns(str, "model", right=False)
