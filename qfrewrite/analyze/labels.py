"""Labelled images: a folder and a table of file names and classes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qfrewrite.calibrate.data import InputSpec, Samples
from qfrewrite.calibrate.items import ImageItems
from qfrewrite.calibrate.preprocess import Preprocess
from qfrewrite.errors import DataError

_LOADERS = 4


@dataclass(frozen=True)
class LabelledImages:
    """Image files in the order of the table, and the class of each."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    name: str

    def samples(self, inputs: Sequence[InputSpec], preprocess: Preprocess) -> Samples:
        """What a model with these inputs is fed, in order."""
        items = ImageItems(self.files, inputs, preprocess, self.name)
        said = f"{len(self.files)} images of {self.name}"
        return Samples(inputs, items, range(len(self.files)), said, threads=_LOADERS)


def read_labels(folder: str | Path, table: str | Path, limit: int | None = None) -> LabelledImages:
    """Read a CSV of `file,label` (with or without that header); files lie in `folder`.

    Raises DataError for what is missing, and for labels that are no whole numbers of 0 or more.
    """
    folder, table = Path(folder).expanduser(), Path(table).expanduser()
    if not folder.is_dir():
        raise DataError("no such folder", where=str(folder), remedy="give the folder of images")
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read as a table: {error}", where=str(table),
                        remedy="give a CSV of file,label") from None  # fmt: skip
    if rows and len(rows[0]) > 1 and not rows[0][1].strip().lstrip("-").isdigit():
        rows = rows[1:]
    files, labels = [], []
    for number, row in enumerate(rows[:limit], 1):
        if len(row) < 2 or not row[1].strip().isdigit():
            raise DataError(f"row {number} is {','.join(row)[:60]!r}", where=str(table),
                            remedy="each row is file,label with a label of 0 or more")  # fmt: skip
        file = folder / row[0].strip()
        if not file.is_file():
            raise DataError(f"names '{row[0]}', which is not in {folder}", where=str(table),
                            remedy="give the folder that holds these files")  # fmt: skip
        files.append(file)
        labels.append(int(row[1]))
    if not files:
        raise DataError("holds no labels", where=str(table), remedy="give a CSV of file,label")
    return LabelledImages(tuple(files), tuple(labels), f"{folder.resolve().name}/")
