"""Procedural images with the statistics of photographs, for calibration without data.

Two models of natural images are blended: "dead leaves", shapes that hide each other, whose sizes
follow a power law (Lee, Mumford & Huang 2001, "Occlusion models for natural images"), give edges
and flat areas; noise with a 1/f amplitude spectrum (Field 1987, "Relations between the statistics
of natural images and the response properties of cortical cells") gives texture at all scales.
Networks trained on photographs react to these as to photographs, in range if not in class
(Baradad et al. 2021, "Learning to see by looking at noise").
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.uint8]

# Images are drawn at this size and resized, as photographs are: [height, width].
SIZE = 256
# Counts, sizes in pixels and levels (0..255) of the shapes.
_SHAPES = (60, 600)
_SMALLEST = 3.0
_PALETTE = (3, 8)
_SHADE = 18.0
_CORNERS = 5
# Exponent of the amplitude spectrum, strength of the colour axes; contrast and brightness in
# levels.
_EXPONENT = (0.8, 1.5)
_AXES = (1.0, 0.4, 0.2)
_CONTRAST = (35.0, 65.0)
_BRIGHTNESS = (80.0, 160.0)
# Blur of the shapes in pixels, share of the noise in the blend.
_BLUR = 1.5
_NOISE = (0.1, 0.5)


def procedural_image(rng: np.random.Generator, height: int, width: int, channels: int) -> Pixels:
    """One image [height, width, channels] in levels 0..255; channels: 1 or 3."""
    from PIL import Image, ImageFilter

    shapes = _dead_leaves(rng).filter(ImageFilter.GaussianBlur(rng.uniform(0, _BLUR)))
    image = Image.blend(shapes, _pink_noise(rng), rng.uniform(*_NOISE))
    if channels == 1:
        image = image.convert("L")
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(height, width, channels)


def _dead_leaves(rng: np.random.Generator) -> Image:
    """Ellipses, rectangles and polygons over each other, RGB."""
    from PIL import Image, ImageDraw

    palette = rng.integers(0, 256, (rng.integers(*_PALETTE, endpoint=True), 3))
    count = int(rng.integers(*_SHAPES, endpoint=True))
    colours = palette[rng.integers(0, len(palette), count)] + rng.normal(0, _SHADE, (count, 3))
    colours = np.clip(np.rint(colours), 0, 255).astype(int)
    radii = np.minimum(_SMALLEST / np.sqrt(rng.uniform(1e-9, 1, count)), SIZE / 2)
    image = Image.new("RGB", (SIZE, SIZE), tuple(palette[0].tolist()))
    draw = ImageDraw.Draw(image)
    centres = rng.uniform(0, SIZE, (count, 1, 2))
    half = radii[:, None, None] * rng.uniform(0.4, 1.0, (count, 1, 2))
    boxes = np.concatenate([centres - half, centres + half], 2).reshape(count, 4)
    angles = np.sort(rng.uniform(0, 2 * math.pi, (count, _CORNERS)))
    reach = radii[:, None] * rng.uniform(0.5, 1.0, (count, _CORNERS))
    rims = centres + reach[..., None] * np.stack([np.cos(angles), np.sin(angles)], 2)
    kinds = rng.integers(0, 3, count)
    columns = (a.tolist() for a in (kinds, boxes, rims.reshape(count, -1), colours))
    for kind, box, rim, colour in zip(*columns, strict=True):
        paint = (draw.ellipse, draw.rectangle, draw.polygon)[kind]
        paint(rim if kind == 2 else box, fill=tuple(colour))
    return image


def _pink_noise(rng: np.random.Generator) -> Image:
    """Gaussian noise with the amplitude spectrum 1/f^a, its channels correlated, RGB."""
    from PIL import Image

    fy, fx = np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = 1.0
    spectrum = frequency ** -rng.uniform(*_EXPONENT)
    spectrum[0, 0] = 0.0
    planes = np.empty((SIZE, SIZE, 3))
    for axis, strength in enumerate(_AXES):
        white = np.fft.rfft2(rng.standard_normal((SIZE, SIZE)))
        plane = np.fft.irfft2(spectrum * white, (SIZE, SIZE))
        planes[..., axis] = strength * plane / plane.std()
    noise = (planes[..., None, :] * _rotation(rng)).sum(-1)
    noise *= rng.uniform(*_CONTRAST) / noise.std()
    levels = np.clip(np.rint(noise + rng.uniform(*_BRIGHTNESS)), 0, 255)
    return Image.fromarray(levels.astype(np.uint8))


def _rotation(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A random rotation [3, 3], from a unit quaternion."""
    w, x, y, z = (q := rng.standard_normal(4)) / np.sqrt((q**2).sum())
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
