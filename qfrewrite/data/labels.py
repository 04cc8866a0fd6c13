"""Labelled images: a folder and a table of file names and classes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qfrewrite.data.inputs import InputSpec
from qfrewrite.data.items import ImageItems
from qfrewrite.data.preprocess import Preprocess
from qfrewrite.data.source import Samples
from qfrewrite.errors import DataError

_LOADERS = 4
# A table of 1,000 ImageNet classes goes with models that count a background class at 0.
_IMAGENET, _WITH_BACKGROUND = 1000, 1001


@dataclass(frozen=True)
class LabelledImages:
    """Image files and their classes."""

    files: tuple[Path, ...]
    """In the order of the table."""
    labels: tuple[int, ...]
    """The class of each file."""
    name: str
    """What the folder is called."""

    def samples(self, inputs: Sequence[InputSpec], preprocess: Preprocess) -> Samples:
        """What a model with these inputs is fed, in order."""
        items = ImageItems(inputs, self.name, self.files, preprocess)
        description = f"{len(self.files)} images of {self.name}"
        return Samples(inputs, items, range(len(self.files)), description, _LOADERS)


def read_labels(folder: str | Path, table: str | Path, limit: int | None = None) -> LabelledImages:
    """Read a CSV of `file,label` (with or without that header); files lie in `folder`.

    Raises DataError for what is missing, and for labels that are no whole numbers of 0 or more.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError("no such folder", where=str(folder), remedy="give the folder of images")
    rows = read_table(table)[:limit]
    for name, _ in rows:
        if not (folder / name).is_file():
            what = f"names '{name}', which is not in {folder}"
            raise DataError(what, where=str(table), remedy="give the folder that holds these files")
    files, labels = zip(*rows, strict=True)
    return LabelledImages(
        tuple(folder / name for name in files), tuple(labels), f"{folder.resolve().name}/"
    )


def read_table(table: str | Path) -> list[tuple[str, int]]:
    """The rows of a CSV of `file,label`; raises DataError."""
    table = Path(table).expanduser()
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        what = f"cannot be read as a table: {error}"
        raise DataError(what, where=str(table), remedy="give a CSV of file,label") from None
    if rows and len(rows[0]) > 1 and not rows[0][1].strip().lstrip("-").isdigit():
        rows = rows[1:]
    for number, row in enumerate(rows, 1):
        if len(row) < 2 or not row[1].strip().isdigit():
            what = f"row {number} is {','.join(row)[:60]!r}"
            remedy = "each row is file,label with a label of 0 or more"
            raise DataError(what, where=str(table), remedy=remedy)
    if not rows:
        raise DataError("holds no labels", where=str(table), remedy="give a CSV of file,label")
    return [(row[0].strip(), int(row[1])) for row in rows]


def class_offset(classes: int, labels: Sequence[int], offset: int | None = None) -> int:
    """The class of label 0 in a model with so many classes; raises DataError where none fits.

    By default 1 where the model has 1,001 classes and no label is above 999 (class 0 is the
    background then), else 0.
    """
    largest = max(labels)
    if offset is None:
        offset = int(classes == _WITH_BACKGROUND and largest < _IMAGENET)
    if largest + offset >= classes:
        what = f"label {largest} is beyond the {classes} classes of the model"
        raise DataError(what, where="labels", remedy="give labels of this model's classes")
    return offset
