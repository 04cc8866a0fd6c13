"""Calibration data: what users have, as a stream of samples a model can take.

`open_data` understands the source, `DataSource.split` deals it into samples for calibration and
samples held out for measuring, and `Samples` can be iterated as often as needed. Files are read
again in every pass, so memory does not grow with the number of samples; only what comes from a
once-only iterable is kept.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from qfrewrite.data.array_files import map_npy, map_npz, npz_names
from qfrewrite.data.checks import DataChecks, few_samples_warning
from qfrewrite.data.inputs import InputSpec, Sample
from qfrewrite.data.items import (
    IMAGE_SUFFIXES,
    ArrayItems,
    ImageItems,
    Items,
    SequenceItems,
    StreamItems,
    find_images,
    listed_images,
    match_names,
)
from qfrewrite.data.prefetch import prefetch
from qfrewrite.data.preprocess import Preprocess
from qfrewrite.data.synthetic import SyntheticItems
from qfrewrite.errors import DataError, Diagnostics, UsageError
from qfrewrite.ir import NUMPY_DTYPES, Array

# Bytes that a made-up sample may take: more than any image, less than a damaged shape.
_MOST_SYNTHETIC = 1 << 28
_SOURCES = "a folder of images, an image, a .txt list of images, an .npy or an .npz file"


@dataclass(eq=False)
class Samples:
    """Samples to iterate, as often as needed, always the same in the same order.

    Yields dicts of arrays by input name, with exactly the inputs' shapes and element types. Raises
    DataError, where the sample stands in the order, for one that is unusable.
    """

    inputs: Sequence[InputSpec]
    """What the model takes."""
    items: Items
    """What the samples are picked from."""
    order: Sequence[int]
    """The numbers of the items."""
    description: str
    """What the samples are: `200 images of calib/`."""
    threads: int = 0
    """Load ahead in so many threads, which changes nothing in the samples; stopping early ends
    them."""
    scale_known: bool = False
    """Whether values are known to be scaled as they must be."""
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    """What is odd about the samples; complete after the first whole pass."""
    _checked: bool = False

    def __repr__(self) -> str:
        return f"<Samples: {self.description}>"

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Sample]:
        checks = None if self._checked else DataChecks(self.inputs, self.diagnostics)
        with closing(prefetch(self.items.load, self.order, self.threads)) as stream:
            for index, sample in zip(self.order, stream, strict=True):
                if checks:
                    checks.add(self.items.label(index), sample)
                yield sample
        if checks:
            checks.finish(scale_known=self.scale_known)
            self._checked = True

    def labels(self) -> Iterator[str]:
        """How messages name each sample, in order: a file's path, or a number."""
        return map(self.items.label, self.order)


@dataclass(frozen=True, eq=False)
class DataSource:
    """Data that fits a model's inputs, opened but not yet read. See `open_data`."""

    inputs: Sequence[InputSpec]
    """What the model takes."""
    items: Items
    """All samples."""
    name: str
    """What the data are called."""
    seed: int
    """Of the shuffling."""
    threads: int
    """How many threads decode images."""

    def __repr__(self) -> str:
        return f"<DataSource: {self.items.unit}s of {self.name}>"

    @property
    def preprocess(self) -> Preprocess | None:
        """How images become the model's float input; None for other data and other inputs."""
        return self.items.preprocess if isinstance(self.items, ImageItems) else None

    def pixels(self, samples: int) -> Samples:
        """The images of `split(samples)` as floats 0..255; `preprocess` must not be None."""
        assert isinstance(self.items, ImageItems)
        unscaled = Preprocess((0.0,), (1.0,), self.items.scaling.crop)
        source = replace(self, items=replace(self.items, scaling=unscaled))
        return replace(source.split(samples)[0], scale_known=True)

    @property
    def passing(self) -> Iterator[Any] | None:
        """The rest of a once-only iterable, raw; None for data that can be read again."""
        return self.items.rest if isinstance(self.items, StreamItems) else None

    def split(
        self, samples: int, held_out: int = 0, *, in_order: bool = False
    ) -> tuple[Samples, Samples]:
        """Up to `samples` for calibration, and up to `held_out` others for measuring.

        Files, arrays and lists are shuffled first, the same way for the same seed; an iterable is
        taken in its order, and what is drawn of it (at most samples + held_out) stays in memory,
        so that a second split sees the same. The second part is empty where there are no more
        than `samples`. in_order: do not shuffle: a model that keeps a state needs the order of the
        samples. Raises DataError where there is none at all.
        """
        if samples < 1 or held_out < 0:
            what = f"cannot take {samples} samples and hold out {held_out}"
            raise UsageError(what, where=self.name, remedy="take 1 or more, hold out 0 or more")
        count = self.items.draw(samples + held_out)
        if not count:
            raise _no_samples(self.name)
        if self.items.shuffled and not in_order:
            order = np.random.default_rng(self.seed).permutation(count).tolist()
        else:
            order = list(range(count))
        calibration = self._part(order[:samples])
        calibration.diagnostics.add(few_samples_warning(len(calibration)))
        return calibration, self._part(order[samples : samples + held_out])

    def _part(self, order: list[int]) -> Samples:
        description = f"{_counted(len(order), self.items.unit)} of {self.name}"
        threads = self.threads if self.items.decodes else 0
        return Samples(self.inputs, self.items, order, description, threads)


def open_data(
    source: Any,
    inputs: Sequence[InputSpec],
    *,
    preprocess: Preprocess | str = "mobilenet",
    seed: int = 0,
    threads: int | None = None,
) -> DataSource:
    """Open calibration data for a model with these inputs.

    source: a folder of images (searched below), an image, a `.txt` list of images, an `.npy` or
    `.npz` file, a numpy array or a dict of them by input name (first axis samples), a list or any
    iterable of samples, a function that returns one, or a DataSource. A sample is an array, a
    dict by input name, or a tuple in the order of the inputs; the batch axis may be missing.
    preprocess: for images only and for float inputs; integer inputs take pixel codes (int8: minus
    128). Arrays are taken as they are. seed: of the shuffling, 0 or more. threads: that decode
    images; by default one per core, at most 4; 0 decodes in the caller's.

    Raises DataError where the source is missing, empty or does not fit the inputs, and UsageError
    for a wrong preprocess.
    """
    inputs = _checked_inputs(inputs)
    if isinstance(source, DataSource):
        return _reused(source, inputs)
    if isinstance(preprocess, str):
        preprocess = Preprocess.parse(preprocess)
    if isinstance(source, (str, os.PathLike)):
        items, name = _open_path(Path(source), inputs, preprocess)
    else:
        items, name = _open_object(source, inputs)
    # A stream cannot tell before it is drawn from.
    if not isinstance(items, StreamItems) and not items.draw(0):
        raise _no_samples(str(source) if isinstance(source, (str, os.PathLike)) else name)
    _check_seed(seed)
    threads = min(4, os.cpu_count() or 1) if threads is None else max(threads, 0)
    return DataSource(inputs, items, name, seed, threads)


def synthetic(
    inputs: Sequence[InputSpec],
    samples: int,
    seed: int = 0,
    preprocess: Preprocess | str | None = None,
) -> Samples:
    """Inputs to run a model on where there is no data; the same for the same arguments.

    Inputs that look like images ([N, H, W, C], 1 or 3 channels, 32 pixels or more) get procedural
    images with the statistics of photographs, preprocessed as `preprocess` says or else mapped to
    [-1, 1]. Other floats of rank 4: smooth maps with edges, each spanning [-1, 1] (8-bit integers:
    all values). Other floats: uniform noise in [-1, 1]. Other integers: 0..7.
    """
    if samples < 1:
        what = f"cannot make {samples} samples"
        raise UsageError(what, where="synthetic inputs", remedy="make 1 or more")
    _check_seed(seed)
    inputs = [replace(i, shape=i.assumed, open_axes=()) for i in _checked_inputs(inputs)]
    size = sum(math.prod(i.shape) * NUMPY_DTYPES[i.dtype].itemsize for i in inputs)
    if size > _MOST_SYNTHETIC:
        what = f"a sample takes {size / 2**30:.2f} GB: {', '.join(map(str, inputs))}"
        remedy = "check the model's input shape, or give data"
        raise DataError(what, where="synthetic inputs", remedy=remedy)
    if isinstance(preprocess, str):
        preprocess = Preprocess.parse(preprocess)
    items = SyntheticItems(inputs, "synthetic inputs", samples, seed, preprocess)
    return Samples(inputs, items, range(samples), _counted(samples, items.unit))


def _checked_inputs(inputs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    if not inputs:
        raise DataError("the model has no inputs to feed", remedy="give a model with inputs")
    for spec in inputs:
        if spec.dtype not in NUMPY_DTYPES:
            raise DataError(f"no data can be given for type {spec.dtype}", where=str(spec))
        if min(spec.shape, default=1) < 0:
            remedy = "fix the model's input shape first"
            raise DataError("has unknown dimensions", where=str(spec), remedy=remedy)
    return tuple(inputs)


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise UsageError(f"seed is {seed}", remedy="give 0 or more")


def _reused(source: DataSource, inputs: tuple[InputSpec, ...]) -> DataSource:
    if source.inputs != inputs:
        opened, expected = (", ".join(map(str, specs)) for specs in (source.inputs, inputs))
        what = f"was opened for {opened}, the model takes {expected}"
        raise DataError(what, where=source.name, remedy="open the data again for this model")
    return source


def _open_path(
    given: Path, inputs: tuple[InputSpec, ...], preprocess: Preprocess
) -> tuple[Items, str]:
    path = given.expanduser()
    if path.is_dir():
        name = f"{path.resolve().name}/"
        return ImageItems(inputs, str(given), find_images(path), preprocess), name
    if not path.is_file():
        what = "no such file or folder"
        raise DataError(what, where=str(given), remedy=f"give {_SOURCES}")
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return ImageItems(inputs, str(given), [path], preprocess), path.name
    if suffix == ".txt":
        return ImageItems(inputs, str(given), listed_images(path), preprocess), path.name
    if suffix in _ARRAY_FILES:
        return ArrayItems(inputs, str(given), _ARRAY_FILES[suffix](path, inputs)), path.name
    what = f"'{suffix}' is not a kind of file that holds calibration data"
    raise DataError(what, where=str(given), remedy=f"give {_SOURCES}")


def _npy_arrays(path: Path, inputs: tuple[InputSpec, ...]) -> dict[str, Array]:
    if len(inputs) != 1:
        names = ", ".join(f"'{spec.name}'" for spec in inputs)
        what = f"holds one array, the model has {len(inputs)} inputs ({names})"
        raise DataError(what, where=str(path), remedy="give an .npz with an array per input")
    return {inputs[0].name: map_npy(path)}


def _npz_arrays(path: Path, inputs: tuple[InputSpec, ...]) -> dict[str, Array]:
    names = match_names(npz_names(path), inputs, str(path))
    return {key: map_npz(path, key) for key in names.values()}


_ARRAY_FILES: Mapping[str, Callable[[Path, tuple[InputSpec, ...]], dict[str, Array]]] = {
    ".npy": _npy_arrays,
    ".npz": _npz_arrays,
}


def _open_object(source: Any, inputs: tuple[InputSpec, ...]) -> tuple[Items, str]:
    if isinstance(source, np.ndarray):
        return ArrayItems(inputs, "array", {"array": source}), "an array"
    if isinstance(source, Mapping):
        arrays = {str(key): np.asarray(value) for key, value in source.items()}
        return ArrayItems(inputs, "arrays", arrays), "arrays in memory"
    kind = type(source).__name__
    if isinstance(source, Sequence) and not isinstance(source, (bytes, bytearray)):
        return SequenceItems(inputs, f"a {kind}", source), f"a {kind}"
    if not isinstance(source, Iterable) and callable(source):
        source = source()  # The form that TensorFlow's converter takes.
        kind = type(source).__name__
    if isinstance(source, Iterable) and not isinstance(source, (str, bytes, bytearray)):
        return StreamItems(inputs, f"a {kind}", iter(source)), f"a {kind}"
    what = f"a {kind} is not calibration data"
    raise DataError(what, remedy=f"give {_SOURCES}, an array or an iterable")


def _no_samples(where: str) -> DataError:
    return DataError("there are no samples in it", where=where, remedy=f"give {_SOURCES}")


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
