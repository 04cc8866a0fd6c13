"""Samples by index, whatever they come from: image files, arrays, Python objects."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from qfrewrite.data.inputs import InputSpec, Sample
from qfrewrite.data.preprocess import Preprocess, image_pixels
from qfrewrite.errors import DataError
from qfrewrite.ir import NUMPY_DTYPES, Array

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}
)
_USE_NPZ = "give an .npz file with one array per input, its first axis counting samples"
_ITEM_FORMS = "give an array, a dict by input name, or a tuple in the order of the inputs"


@dataclass(eq=False)
class Items(ABC):
    """A numbered collection of samples for the inputs of a model."""

    inputs: Sequence[InputSpec]
    """What the model takes."""
    where: str
    """What messages call the whole."""
    shuffled: ClassVar[bool] = True
    """Whether any order will do."""
    decodes: ClassVar[bool] = False
    """Whether `load` is slow enough, and safe, for threads."""

    @property
    def unit(self) -> str:
        """What one of them is called."""
        return "sample"

    @abstractmethod
    def draw(self, wanted: int) -> int:
        """How many there are; where that is unknown, how many of the `wanted` could be had."""

    @abstractmethod
    def load(self, index: int) -> Sample:
        """One sample by input name, with the inputs' shapes and element types."""

    def label(self, index: int) -> str:
        """How a message names the sample."""
        return f"sample {index} of {self.where}"


@dataclass(eq=False)
class ImageItems(Items):
    """Image files for a model with one image input, [1, H, W, 1 or 3]."""

    files: Sequence[Path]
    """In the order of their numbers."""
    scaling: Preprocess
    """How pixels become floats, where the input takes floats."""
    decodes = True
    unit = "image"

    def __post_init__(self) -> None:
        self.scaling.check_channels(image_input(self.inputs, self.where).shape[3])

    @property
    def preprocess(self) -> Preprocess | None:
        """How pixels become floats; None where the input takes pixel codes."""
        return self.scaling if NUMPY_DTYPES[self.inputs[0].dtype].kind == "f" else None

    def draw(self, wanted: int) -> int:
        """The number of files."""
        return len(self.files)

    def load(self, index: int) -> Sample:
        """Floats are preprocessed; integers are pixel codes, 0..255 or for int8 -128..127."""
        spec, file = self.inputs[0], self.files[index]
        _, height, width, channels = spec.shape
        if any(axis in spec.open_axes and spec.shape[axis] == 1 for axis in (1, 2)):
            remedy = "resize it first (-p 'resize_input(size=...),...'), or give arrays"
            raise DataError(f"{spec} leaves its size open", where=str(file), remedy=remedy)
        pixels = image_pixels(file, height, width, channels, crop=self.scaling.crop)
        if self.preprocess is not None:
            x: Array = self.preprocess.apply(pixels)
        else:
            x = pixels.astype(np.int16) - (128 if spec.dtype == "int8" else 0)
        return {spec.name: x.astype(NUMPY_DTYPES[spec.dtype], copy=False)[None]}

    def label(self, index: int) -> str:
        """The path of the file."""
        return str(self.files[index])


@dataclass(eq=False)
class ArrayItems(Items):
    """One array per input, first axis samples; values are taken as they are."""

    arrays: Mapping[str, Array]
    """By the name of the input, or by that of the model's signature."""

    def __post_init__(self) -> None:
        names = match_names(tuple(self.arrays), self.inputs, self.where)
        for spec in self.inputs:
            name = names[spec.name]
            _check_stack(self.arrays[name], spec, f"{self.where}: array '{name}'")
        self.arrays = {name: self.arrays[key] for name, key in names.items()}
        counts = {name: len(array) for name, array in self.arrays.items()}
        if len(set(counts.values())) > 1:
            text = ", ".join(f"'{name}' {count}" for name, count in counts.items())
            what = f"the inputs have different numbers of samples: {text}"
            raise DataError(what, where=self.where)

    def draw(self, wanted: int) -> int:
        """The length of the first axis."""
        return len(self.arrays[self.inputs[0].name])

    def load(self, index: int) -> Sample:
        """A copy of one sample."""
        item = {name: array[index] for name, array in self.arrays.items()}
        return conform_item(item, self.inputs, self.label(index))


@dataclass(eq=False)
class SequenceItems(Items):
    """Python objects that can be had by number: a list or a tuple of samples."""

    items: Sequence[Any]
    """Samples in any accepted form."""

    def draw(self, wanted: int) -> int:
        """The number of items."""
        return len(self.items)

    def load(self, index: int) -> Sample:
        """One item, as new arrays."""
        return conform_item(self.items[index], self.inputs, self.label(index))


@dataclass(eq=False)
class StreamItems(Items):
    """Items of an iterable that may be read once only: what is drawn is kept, in its order."""

    rest: Iterator[Any]
    """The items that are not drawn yet."""
    drawn: list[Sample] = field(default_factory=list)
    """The samples that are."""
    shuffled = False

    def draw(self, wanted: int) -> int:
        """Draw until `wanted` items are kept or none is left."""
        for item in islice(self.rest, max(wanted - len(self.drawn), 0)):
            # A copy: generators like to fill one buffer over and over. Read-only: it is handed
            # out in every pass.
            sample = conform_item(item, self.inputs, self.label(len(self.drawn)))
            for array in sample.values():
                array.setflags(write=False)
            self.drawn.append(sample)
        return len(self.drawn)

    def load(self, index: int) -> Sample:
        """One of the kept samples, read-only."""
        return dict(self.drawn[index])


def image_input(inputs: Sequence[InputSpec], where: str) -> InputSpec:
    """The one input that images can feed; raises DataError where there is none."""
    if len(inputs) != 1:
        names = ", ".join(f"'{spec.name}'" for spec in inputs)
        what = f"images can feed one input, the model has {len(inputs)} ({names})"
        raise DataError(what, where=where, remedy=_USE_NPZ)
    spec = inputs[0]
    shape = spec.shape
    if len(shape) != 4 or shape[0] != 1 or shape[3] not in (1, 3) or min(shape) < 1:
        what = f"images need an input [1, height, width, 1 or 3], {spec} is none"
        raise DataError(what, where=where, remedy=_USE_NPZ)
    if NUMPY_DTYPES[spec.dtype].kind not in "fiu":
        raise DataError(f"images cannot feed {spec}", where=where, remedy=_USE_NPZ)
    return spec


def find_images(folder: Path) -> list[Path]:
    """Every image file below `folder`, by suffix, sorted; hidden ones are passed over.

    Raises DataError where there is none or a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        what = f"cannot be read: {error.strerror}"
        raise DataError(what, where=str(error.filename or folder)) from error

    images: list[Path] = []
    others, seen = 0, set()
    for base, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(base)
        # Links may lead in a circle.
        folders[:] = [] if real in seen else sorted(f for f in folders if not f.startswith("."))
        files = [] if real in seen else [f for f in files if not f.startswith(".")]
        seen.add(real)
        in_folder = [Path(base, f) for f in files if Path(f).suffix.lower() in IMAGE_SUFFIXES]
        images += in_folder
        others += len(files) - len(in_folder)
    if not images:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        what = f"no images in this folder: looked for {suffixes}, found {others} other files"
        remedy = "give a folder of images, a .txt list of them, an .npy or an .npz file"
        raise DataError(what, where=str(folder), remedy=remedy)
    return sorted(images, key=lambda file: file.as_posix())


def listed_images(path: Path) -> list[Path]:
    """The files named in a text file, one a line, relative to it; `#` begins a comment line."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error
    files = []
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if name and not name.startswith("#"):
            files.append(path.parent / name)
            if not files[-1].is_file():
                remedy = "write one path a line, relative to the list"
                what = f"no such file '{name}'"
                raise DataError(what, where=f"{path}: line {number}", remedy=remedy)
    return files


def match_names(names: Sequence[str], inputs: Sequence[InputSpec], where: str) -> dict[str, str]:
    """Input name -> key that holds its values; a lone key serves a lone input.

    A key may be the input's name, or the one that the model's signature gives it. Keys that no
    input has are passed over (labels, say). Raises DataError where one is missing.
    """
    if len(inputs) == 1 and len(names) == 1:
        return {inputs[0].name: names[0]}
    keys = {
        spec.name: spec.alias if spec.name not in names and spec.alias else spec.name
        for spec in inputs
    }
    missing = [key for key in keys.values() if key not in names]
    if missing:
        expected = ", ".join(f"'{spec.name}'" for spec in inputs)
        present = ", ".join(f"'{name}'" for name in names) or "nothing"
        what = f"expected an array for each input ({expected}), found {present}"
        raise DataError(what, where=where, remedy="name the arrays as the model's inputs")
    return keys


def conform_item(item: Any, inputs: Sequence[InputSpec], label: str) -> Sample:
    """A sample in any accepted form, as new arrays by input name."""
    if isinstance(item, Mapping):
        names = match_names(tuple(item), inputs, label)
        values = [item[names[spec.name]] for spec in inputs]
    elif isinstance(item, (tuple, list)) and _in_input_order(item, inputs, label):
        values = list(item)
    elif len(inputs) == 1:
        values = [item]
    else:
        count = f"{len(item)} items" if isinstance(item, (tuple, list)) else "one value"
        what = f"has {count}, the model has {len(inputs)} inputs"
        raise DataError(what, where=label, remedy=_ITEM_FORMS)
    return {spec.name: conform(v, spec, label) for spec, v in zip(inputs, values, strict=True)}


def _in_input_order(item: Sequence[Any], inputs: Sequence[InputSpec], label: str) -> bool:
    """Whether a sequence holds a value per input, rather than being the only input's value."""
    if len(item) != len(inputs):
        return False
    return len(inputs) > 1 or inputs[0].fit(_as_array(item[0], label).shape) is not None


def conform(value: Any, spec: InputSpec, label: str) -> Array:
    """A value as a new array of the input's shape and element type.

    The batch axis may be missing where it is 1; open axes take any size. Raises DataError for
    another shape, or where the element type does not hold the values.
    """
    array = _as_array(value, label)
    shape = spec.fit(array.shape)
    if shape is None:
        expected = " or ".join(f"[{form}]" for form in spec.forms)
        what = f"has shape {list(array.shape)}, input '{spec.name}' takes {expected}"
        raise DataError(what, where=label, remedy=_ITEM_FORMS)
    return _cast(array, spec, label).reshape(shape)


def _as_array(value: Any, label: str) -> Array:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        what = f"is not an array of numbers: {error}"
        raise DataError(what, where=label, remedy=_ITEM_FORMS) from error
    if array.dtype.kind not in "biufc":
        what = f"holds {type(value).__name__} values of type {array.dtype}, not numbers"
        raise DataError(what, where=label, remedy=_ITEM_FORMS)
    return array


def _cast(array: Array, spec: InputSpec, label: str) -> Array:
    """A copy in the input's element type, which must hold every value up to rounding."""
    target = NUMPY_DTYPES[spec.dtype]
    kind, given = target.kind, array.dtype.kind
    fits = array.dtype == target or (kind in "fc" and given in "biuf") or kind == given == "c"
    if not fits and kind in "iu" and given in "biu":
        limits = np.iinfo(target)
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        fits = limits.min <= low and high <= limits.max
        if not fits:
            what = f"holds {low}..{high}, beyond the {spec.dtype} of input '{spec.name}'"
            raise DataError(what, where=label)
    if not fits:
        what = f"holds {array.dtype} values, input '{spec.name}' takes {spec.dtype}"
        remedy = f"convert them to {spec.dtype} as the model expects"
        raise DataError(what, where=label, remedy=remedy)
    # Too large for float32 becomes infinity, which the checks of the data report.
    with np.errstate(over="ignore"):
        return array.astype(target, order="C")


def _check_stack(array: Array, spec: InputSpec, where: str) -> None:
    if array.ndim == 0 or spec.fit(array.shape[1:]) is None:
        expected = " or ".join(f"[{', '.join(filter(None, ('N', f)))}]" for f in spec.forms)
        what = f"has shape {list(array.shape)}, expected {expected} for input '{spec.name}'"
        raise DataError(what, where=where, remedy="put the samples on the first axis")
