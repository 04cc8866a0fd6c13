"""The table of ranges: what calibration found for each tensor, and what was chosen.

It can be saved as JSON (`schemas/ranges.schema.json`), edited, loaded, merged and replayed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

from qfrewrite.calibration.range_row import BATCH_NORM, FIXED, MANUAL, RangeRow
from qfrewrite.calibration.ranges_json import FORMAT, row_from_json, row_to_json
from qfrewrite.calibration.search import Method, MethodChoice
from qfrewrite.errors import DataError, Diagnostics, UsageError
from qfrewrite.formats.atomic import write_atomic
from qfrewrite.records import Record


@dataclass(repr=False)
class RangeTable(Record):
    """Ranges by tensor name, in execution order.

    >>> table = qf.calibrate("model.pb", "images/", method="greedy")
    >>> table["relu6"].range
    >>> table.save("ranges.json")

    Tables of two runs over different samples add up: statistics merge exactly, and ranges are
    chosen again from the whole. `print(table)` shows the rows.
    """

    rows: dict[str, RangeRow] = field(default_factory=dict, repr=False)
    """By the names of the tensors."""
    model: str = ""
    """The name of the model that the tensors are of."""
    data: str = ""
    """What the model was run on."""
    samples: int = 0
    """How many samples of it there were."""
    fingerprint: str = ""
    """Tells graphs apart, so that statistics of another one are not mistaken for these."""
    seed: int = 0
    """Decides the order of the samples."""
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    """What speaks against the data or the ranges."""

    def __getitem__(self, name: str) -> RangeRow:
        """The row of the tensor `name`; raises KeyError."""
        return self.rows[name]

    def __iter__(self) -> Iterator[RangeRow]:
        return iter(self.rows.values())

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, name: object) -> bool:
        return name in self.rows

    def __repr__(self) -> str:
        return f"<RangeTable of {self.model or 'a model'}: {len(self)} tensors, {self.data}>"

    def __str__(self) -> str:
        width = min(max((len(n) for n in self.rows), default=0), 48)
        lines = [_line(row, width) for row in self]
        if len(lines) > 40:
            lines[20:-20] = [f"  ... {len(lines) - 40} more ..."]
        return "\n".join([repr(self), *lines])

    def __add__(self, other: RangeTable) -> RangeTable:
        """The table of both runs; raises DataError where they are not of one model."""
        unpaired = sorted(set(self.rows) ^ set(other.rows))
        what = ""
        if unpaired:
            what = f"{len(unpaired)} tensors are in one table only: {', '.join(unpaired[:3])}"
        elif len({self.fingerprint, other.fingerprint} - {""}) > 1:
            what = "the tables are of different models"
        if what:
            remedy = "merge tables of one model and one pass list"
            raise DataError(what, where="merging ranges", remedy=remedy)
        rows = {name: _merged(row, other.rows[name]) for name, row in self.rows.items()}
        diagnostics = Diagnostics(self.diagnostics)
        diagnostics.add(*other.diagnostics)
        data = self.data if self.data == other.data else f"{self.data} + {other.data}"
        samples = self.samples + other.samples
        return replace(self, rows=rows, data=data, samples=samples, diagnostics=diagnostics)

    def with_signatures(self, others: Mapping[str, RangeTable]) -> RangeTable:
        """This table and those of other signatures, whose rows are called `signature:tensor`."""
        named = [
            replace(row, name=f"{key}:{row.name}") for key, table in others.items() for row in table
        ]
        return replace(self, rows=self.rows | {row.name: row for row in named})

    def of_signature(self, key: str) -> RangeTable:
        """The rows of one signature, by the names of its tensors."""
        prefix = f"{key}:"
        own = [row for row in self if row.name.startswith(prefix)]
        own = [replace(row, name=row.name.removeprefix(prefix)) for row in own]
        return replace(self, rows={row.name: row for row in own})

    def choose(
        self, method: str | MethodChoice = "minmax", per_layer: str | Mapping[str, str] = ""
    ) -> RangeTable:
        """This table with ranges chosen anew from the same statistics, by another method.

        method: `greedy`, `percentile(99.9)`, ...; per_layer: others by pattern of tensor names.
        """
        choice = MethodChoice.parse(method, per_layer) if isinstance(method, str) else method
        rows = {
            name: row.chosen(choice.of(name, whole=row.whole)) for name, row in self.rows.items()
        }
        return replace(self, rows=rows)

    def to_frame(self) -> Any:
        """A pandas DataFrame, one row per tensor; needs pandas."""
        try:
            import pandas
        except ImportError:
            what = "pandas is not installed"
            remedy = "pip install pandas, or iterate over the table"
            raise UsageError(what, where="RangeTable.to_frame", remedy=remedy) from None
        return pandas.DataFrame(self.records()).set_index("name")

    def records(self) -> list[dict[str, Any]]:
        """The figures of each tensor: range, scale, what was observed, losses."""
        return [_record(row) for row in self]

    def figures(self) -> dict[str, Any]:
        """The fields, with the figures of each tensor instead of its statistics."""
        return super().figures() | {"tensors": self.records()}

    def save(self, path: str | Path) -> Path:
        """Write the table as JSON; nothing is left behind on failure. Raises OutputError."""
        head = {"format": FORMAT} | {key: getattr(self, key) for key in _HEAD}
        head["warnings"] = [str(one) for one in self.diagnostics]
        lines = [f"  {json.dumps(k)}: {json.dumps(v)}," for k, v in head.items()]
        rows = []
        for row in self:
            fields = (
                f"      {json.dumps(k)}: {json.dumps(v, allow_nan=False)}"
                for k, v in row_to_json(row).items()
            )
            rows.append(f"    {json.dumps(row.name)}: {{\n" + ",\n".join(fields) + "\n    }")
        text = "\n".join(["{", *lines, '  "tensors": {', ",\n".join(rows), "  }", "}", ""])
        write_atomic(Path(path), text.encode())
        return Path(path)

    @staticmethod
    def load(path: str | Path) -> RangeTable:
        """Read a table that `save` wrote, perhaps edited; raises DataError naming what is wrong."""
        try:
            document = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise DataError(error.strerror or "cannot be read", where=str(path)) from None
        except (ValueError, RecursionError) as error:
            remedy = "give a file that calibrate wrote"
            raise DataError(f"is not JSON: {error}", where=str(path), remedy=remedy) from None
        return _from_json(document, str(path))

    @staticmethod
    def merge(tables: Iterable[RangeTable]) -> RangeTable:
        """The sum of one or more tables."""
        return reduce(RangeTable.__add__, tables)


# What stands in a file before the tensors, and its types; warnings follow.
_HEAD = {"model": str, "fingerprint": str, "data": str, "samples": int, "seed": int}


def _from_json(document: Any, where: str) -> RangeTable:
    remedy = "see schemas/ranges.schema.json"
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise DataError(f"is no ranges file: 'format' is not {FORMAT}", where=where, remedy=remedy)
    tensors = document.get("tensors")
    if not isinstance(tensors, dict):
        raise DataError("holds no 'tensors'", where=where, remedy=remedy)
    rows = {}
    for name, entry in tensors.items():
        try:
            rows[name] = RangeRow(name, **row_from_json(entry))
        except (KeyError, TypeError, ValueError, OverflowError, UsageError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(what, where=f"{where}: tensor '{name}'", remedy=remedy) from None
    head = {key: document[key] for key in (*_HEAD, "warnings") if key in document}
    for key, value in head.items():
        if not isinstance(value, kind := _HEAD.get(key, list)):
            raise DataError(f"'{key}' is no {kind.__name__}", where=where, remedy=remedy)
    table = RangeTable(rows, **{key: head[key] for key in _HEAD if key in head})
    for text in document.get("warnings", ()):
        table.diagnostics.warn("ranges-file", str(text))
    return table


def _merged(a: RangeRow, b: RangeRow) -> RangeRow:
    """Both rows as one; ranges that follow from no statistics become their hull."""
    hull = min(a.low, b.low), max(a.high, b.high)
    if a.stats is None or b.stats is None:
        return replace(a, range=hull)
    stats = a.stats.copy()
    stats.merge(b.stats)
    both = replace(a, stats=stats, moving=None)
    if a.method in (MANUAL, FIXED, BATCH_NORM):
        return replace(both, range=hull)
    return both.chosen(Method.parse(a.method))


def _record(row: RangeRow) -> dict[str, Any]:
    quant, stats, lost = row.quant, row.stats, row.losses
    low, high = (None, None) if stats is None or stats.range is None else stats.range
    return {
        "name": row.name,
        "low": row.low,
        "high": row.high,
        "method": row.method,
        "scale": float(quant.scale[0]),
        "zero_point": int(quant.zero_point[0]),
        "min": low,
        "max": high,
        **{key: getattr(stats, key, None) for key in ("mean", "std", "sparsity")},
        "clipped": row.clipped,
        "quantization_loss": lost.quantization if lost else None,
        "saturation_loss": lost.saturation if lost else None,
        "count": stats.count if stats else 0,
    }


def _line(row: RangeRow, width: int) -> str:
    name = row.name if len(row.name) <= width else "..." + row.name[3 - width :]
    text = f"  {name:<{width}}  [{row.low:.4g}, {row.high:.4g}] {row.method}"
    if row.stats is not None and row.stats.range is not None:
        text += f", seen [{row.stats.low:.4g}, {row.stats.high:.4g}]"
    return text
