"""Stand-ins for data where there is none: procedural images, noise, small integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from qfrewrite.data.inputs import InputSpec, Sample
from qfrewrite.data.items import Items
from qfrewrite.data.preprocess import Preprocess
from qfrewrite.data.procedural import procedural_image
from qfrewrite.ir import NUMPY_DTYPES

# Cells of the noise per side and its amplitude: about 1/f, as in photographs.
_OCTAVES = ((2, 1.0), (4, 0.6), (8, 0.35), (16, 0.2), (32, 0.1))
_EDGES = 3
_EDGE_HEIGHT = 0.8
_COLOUR = 0.5
# The values of floats.
_LOW, _HIGH = -1.0, 1.0
# Indices into tables must exist, whatever the table: integers stay small.
_INTEGERS_BELOW = 8
# What looks like an image: its number of channels and the least of its sides.
_CHANNELS = (1, 3)
_LEAST_SIDE = 32
# Images of one batch that are drawn; a hostile file may ask for a batch of any size.
_DISTINCT = 64

Drawn = TypeVar("Drawn", bound=npt.NDArray[Any])


def looks_like_image(spec: InputSpec) -> bool:
    """Whether an input [N, H, W, C] is taken for pictures: 1 or 3 channels, 32 pixels or more."""
    shape = spec.assumed
    return len(shape) == 4 and shape[3] in _CHANNELS and min(shape[1:3]) >= _LEAST_SIDE


@dataclass(eq=False)
class SyntheticItems(Items):
    """Random inputs by index: the same index, seed and inputs give the same sample."""

    count: int
    """How many there are."""
    seed: int
    """Of all of them."""
    preprocess: Preprocess | None = None
    """How levels of procedural images become floats; None maps 0..255 to [-1, 1]."""
    shuffled = False

    @property
    def unit(self) -> str:
        """What one of them is called."""
        return "procedural image" if all(map(looks_like_image, self.inputs)) else "synthetic input"

    def draw(self, wanted: int) -> int:
        """How many there are."""
        return self.count

    def label(self, index: int) -> str:
        """How a message names a sample."""
        return f"{self.unit} {index}"

    def load(self, index: int) -> Sample:
        """The sample `index`, by input name."""
        sample = {}
        for k, spec in enumerate(self.inputs):
            rng = np.random.default_rng([self.seed, index, k])
            sample[spec.name] = synthetic_array(spec, rng, self.preprocess)
        return sample


def synthetic_array(
    spec: InputSpec, rng: np.random.Generator, preprocess: Preprocess | None = None
) -> npt.NDArray[np.generic]:
    """One random value for an input.

    Inputs that look like images get procedural ones, their levels 0..255 preprocessed, or mapped
    to [-1, 1]. Other floats lie in [-1, 1]: smooth maps touching both ends where the rank
    is 4, uniform noise otherwise. 8-bit images and maps take all values; other integers lie in
    0..7.
    """
    dtype = NUMPY_DTYPES[spec.dtype]
    image, byte = len(spec.shape) == 4, dtype.itemsize == 1 and dtype.kind in "iu"
    if looks_like_image(spec) and (byte or dtype.kind == "f"):
        levels = _batch(spec.shape[0], lambda: procedural_image(rng, *spec.shape[1:]))
        if byte:
            return (levels.astype(np.int16) + np.iinfo(dtype).min).astype(dtype)
        if preprocess is not None:
            return preprocess.apply(levels).astype(dtype)
        return (_LOW + (_HIGH - _LOW) / 255 * levels.astype(np.float32)).astype(dtype)
    if image and byte:
        codes = np.iinfo(dtype)
        return np.rint(_images(spec.shape, rng, codes.min, codes.max)).astype(dtype)
    if dtype.kind in "fc":
        x = _images(spec.shape, rng, _LOW, _HIGH) if image else rng.uniform(_LOW, _HIGH, spec.shape)
        return np.asarray(x).astype(dtype)
    top = 2 if dtype.kind == "b" else _INTEGERS_BELOW
    return rng.integers(0, top, spec.shape).astype(dtype)


def _images(
    shape: tuple[int, ...], rng: np.random.Generator, low: float, high: float
) -> npt.NDArray[np.float32]:
    """Smooth images with a few edges, [N, H, W, C], each spanning [low, high]."""
    count, height, width, channels = shape

    def image() -> npt.NDArray[np.float32]:
        planes = _planes(channels, height, width, rng)
        if planes.size:
            bottom, top = planes.min(), planes.max()
            planes = (planes - bottom) / (top - bottom) if top > bottom else planes * 0
        spread = np.clip(low + (high - low) * planes, low, high).transpose(1, 2, 0)
        return np.asarray(spread, np.float32)

    return _batch(count, image)


def _batch(count: int, draw: Callable[[], Drawn]) -> Drawn:
    """`count` images by `draw`, [N, H, W, C]; the first ones come again in a very large batch."""
    drawn = np.stack([draw() for _ in range(max(min(count, _DISTINCT), 1))])
    return cast(Drawn, drawn[np.arange(count) % _DISTINCT])


def _planes(
    channels: int, height: int, width: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Noise of all octaves and a few straight edges, [C, H, W], in no particular range."""
    x = np.zeros((channels, height, width), np.float32)
    for cells, amplitude in _OCTAVES:
        coarse = amplitude * _alike(channels, (cells + 1, cells + 1), rng)
        x += _stretched(_stretched(coarse, 1, height), 2, width)
    scale = max(height, width, 1)
    down, across = np.arange(height)[:, None] / scale, np.arange(width) / scale
    for _ in range(_EDGES):
        angle, place = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.8, 2)
        side = np.cos(angle) * (down - place[0]) + np.sin(angle) * (across - place[1]) > 0
        x += side * (_EDGE_HEIGHT * _alike(channels, (1, 1), rng))
    return x


def _alike(
    channels: int, shape: tuple[int, int], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Normal noise [C, *shape] that the channels mostly share, as grey dominates photographs."""
    shared, own = rng.standard_normal((1, *shape)), rng.standard_normal((channels, *shape))
    return np.asarray(shared + _COLOUR * own, np.float32)


def _stretched(x: npt.NDArray[np.float32], axis: int, size: int) -> npt.NDArray[np.float32]:
    """`x` interpolated linearly to `size` points along `axis`.

    Without BLAS, whose threads would contend with the interpreter's and whose sums vary.
    """
    cells = x.shape[axis] - 1
    at = (np.arange(size) + 0.5) / max(size, 1) * cells
    cell = at.astype(np.intp)
    part = np.expand_dims((at - cell).astype(np.float32), tuple(range(1, x.ndim - axis)))
    low, high = np.take(x, cell, axis), np.take(x, cell + 1, axis)
    return np.asarray(low + part * (high - low), np.float32)
