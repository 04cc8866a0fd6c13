"""From an image file to a model's input: decode, orient, crop, resize, scale."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qfrewrite.errors import DataError, QfError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from qfrewrite.ir import Model

ImageFile = str | os.PathLike[str] | IO[bytes]

DEFAULT = "mobilenet"
# Mean and standard deviation behind the short names: (pixel - mean) / std.
_NAMED: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = MappingProxyType(
    {
        "mobilenet": ((127.5,), (127.5,)),
        "unit": ((0.0,), (255.0,)),
        "raw": ((0.0,), (1.0,)),
        "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    }
)
_FIELDS = ("mean", "std", "crop")
_FORMS = (
    "write mobilenet (-1..1), unit (0..1), raw (0..255), imagenet (mean 0, deviation 1 per "
    "channel) or mean=M,std=S (per channel: mean=123.7:116.8:103.9,std=58.4:57.1:57.4), "
    "and ,crop=F to crop"
)
# Modes by number of channels. Alpha has no place in them and is dropped.
_MODES: Mapping[int, str] = MappingProxyType({1: "L", 3: "RGB"})
# Older Pillows open 16-bit files of these formats as 32-bit integers.
_WIDE_BUT_16_BIT = frozenset({"PNG", "PPM"})
_RANGELESS: Mapping[str, str] = MappingProxyType({"I": "32-bit integer", "F": "float"})


@dataclass(frozen=True)
class Preprocess:
    """How pixel values 0..255 become a float input: `(pixel - mean) / std`.

    `str(p)` is text that `parse` reads back to the same value. Raises UsageError where a value
    makes no sense.
    """

    mean: tuple[float, ...] = (127.5,)
    """One value, or one per channel, in pixel units."""
    std: tuple[float, ...] = (127.5,)
    """The same of the standard deviation."""
    crop: float = 1.0
    """The fraction of both sides that is kept, around the centre, before resizing; 1 squeezes the
    whole image to the size."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = tuple(float(v) for v in np.atleast_1d(getattr(self, name)))
            object.__setattr__(self, name, values)
        numbers = (*self.mean, *self.std, self.crop)
        if not (self.mean and self.std and all(math.isfinite(v) for v in numbers)):
            raise UsageError("mean, std and crop must be finite numbers", where="preprocess")
        if min(self.std) <= 0:
            raise UsageError(f"std is {min(self.std):g}; it must be above 0", where="preprocess")
        if not 0 < self.crop <= 1:
            raise UsageError(f"crop is {self.crop:g}; it must be in (0, 1]", where="preprocess")
        if len({len(self.mean), len(self.std)} - {1}) > 1:
            what = f"mean has {len(self.mean)} channels, std has {len(self.std)}"
            raise UsageError(what, where="preprocess", remedy="give both one value per channel")

    @classmethod
    def parse(cls, text: str) -> Preprocess:
        """Read `mobilenet`, `unit`, `raw`, `imagenet` or `mean=..,std=..`.

        `,crop=F` may follow each. A mean left out is 0, a std left out is 1. Raises UsageError for
        anything else.
        """
        head, *parts = [part.strip() for part in text.split(",")]
        fields: dict[str, tuple[float, ...]] = {"mean": (0.0,), "std": (1.0,), "crop": (1.0,)}
        if head in _NAMED:
            fields["mean"], fields["std"] = _NAMED[head]
            allowed = {"crop"}
        else:
            parts.insert(0, head)
            allowed = set(_FIELDS)
        for part in parts:
            name, _, values = (side.strip() for side in part.partition("="))
            if name not in allowed:
                what = f"'{part}' in '{text}' is not understood"
                raise UsageError(what, where="preprocess", remedy=_FORMS)
            allowed.remove(name)
            fields[name] = _numbers(values, text)
        if len(fields["crop"]) != 1:
            raise UsageError(f"crop in '{text}' takes one number", where="preprocess")
        return cls(fields["mean"], fields["std"], fields["crop"][0])

    def __str__(self) -> str:
        ends = [name for name, pair in _NAMED.items() if pair == (self.mean, self.std)]
        parts = ends or [
            f"{name}={':'.join(repr(v) for v in values)}"
            for name, values in (("mean", self.mean), ("std", self.std))
        ]
        if self.crop != 1:
            parts.append(f"crop={self.crop!r}")
        return ",".join(parts)

    def check_channels(self, channels: int) -> None:
        """Raise UsageError where mean or std is given for another number of channels."""
        given = max(len(self.mean), len(self.std))
        if given not in (1, channels):
            what = f"has {given} values per channel, the model's input has {channels}"
            remedy = f"give one value, or {channels} separated by ':'"
            raise UsageError(what, where=f"preprocess '{self}'", remedy=remedy)

    def apply(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Pixels [..., C] in 0..255 to float32 of the same shape."""
        self.check_channels(pixels.shape[-1])
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        x = pixels.astype(np.float32)
        if self.mean == self.std:
            # Bit for bit the `x / 127.5 - 1` of training scripts, which rounds twice.
            return np.asarray(x / std - np.float32(1), np.float32)
        return np.asarray((x - mean) / std, np.float32)


def stated_preprocess(model: Model) -> Preprocess | None:
    """What the metadata of a `.tflite` say of its one input; None where they say nothing."""
    from qfrewrite.formats.tflite.metadata import normalizations

    declared = list(normalizations(model).values())
    if len(model.graph.inputs) != 1 or not declared:
        return None
    return Preprocess(declared[0].mean, declared[0].std)


def chosen_preprocess(model: Model, given: Preprocess | str | None) -> Preprocess:
    """`given`; without it what the model's metadata say, else the usual one for this project.

    Raises UsageError where the text is not understood.
    """
    if given is None:
        return stated_preprocess(model) or Preprocess.parse(DEFAULT)
    return Preprocess.parse(given) if isinstance(given, str) else given


def _numbers(values: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(v) for v in values.split(":"))
    except ValueError:
        what = f"'{values}' in '{text}' is not a number"
        raise UsageError(what, where="preprocess", remedy=_FORMS) from None


def image_pixels(
    file: ImageFile, height: int, width: int, channels: int, *, crop: float = 1.0
) -> npt.NDArray[np.uint8]:
    """An image file as uint8 [height, width, channels], channels being 1 (grey) or 3 (RGB).

    The values are those of Pillow's open, convert and bilinear resize. Turned upright by its
    EXIF orientation; the first frame of several; alpha is dropped, not blended, as in
    the decoders of TensorFlow and Keras; of 16-bit pixels the high byte counts. The centre crop
    follows `tf.image.central_crop`. Raises DataError naming the file where it is missing,
    damaged, too large, or has pixels of no fixed range (32-bit integers and floats), and
    UsageError for another number of channels.
    """
    from PIL import Image, UnidentifiedImageError

    where = _name(file)
    if channels not in _MODES:
        raise UsageError(f"images give 1 or 3 channels, not {channels}", where=where)
    another = "remove it from the data, or save it again as PNG or JPEG"
    try:
        with Image.open(file) as image:
            upright = _decoded(image, _MODES[channels], where)
            box = crop_box(*upright.size, crop)
            part = upright if crop == 1 else upright.crop(box)
            small = part.resize((width, height), Image.Resampling.BILINEAR)
        return np.array(small, np.uint8).reshape(height, width, channels)
    except QfError:
        raise
    except FileNotFoundError:
        raise DataError("no such file", where=where, remedy="check the path") from None
    except UnidentifiedImageError:
        raise DataError("is not an image that Pillow reads", where=where, remedy=another) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"is too large: {error}", where=where, remedy="scale it down") from error
    except Exception as error:
        # Decoders meet damaged bytes with errors of any class: OSError, SyntaxError, struct.error.
        what = f"cannot be decoded: {error or type(error).__name__}"
        raise DataError(what, where=where, remedy=another) from error


def crop_box(width: int, height: int, crop: float) -> tuple[int, int, int, int]:
    """The centre part of an image: left, top, right, bottom in pixels; at least one pixel."""
    # A tiny fraction of an even side would leave nothing.
    left, top = (min(int((side - side * crop) / 2), (side - 1) // 2) for side in (width, height))
    return left, top, width - left, height - top


def _decoded(image: Image, mode: str, where: str) -> Image:
    """The first frame, upright, with 8 bits a channel, in `mode`."""
    from PIL import ImageOps

    image.load()
    # Pillow turns a TIFF itself, but up to version 10 leaves the tag there. As for the others,
    # damaged EXIF says nothing of the picture, which is decoded by now.
    if image.format != "TIFF":
        with contextlib.suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
    image.info.pop("transparency", None)
    return _eight_bit(image, where).convert(mode)


def _eight_bit(image: Image, where: str) -> Image:
    from PIL import Image as Images

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _WIDE_BUT_16_BIT):
        # Pillow's own conversion would clip at 255. The high byte is what it takes of 16-bit RGB.
        return Images.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in _RANGELESS:
        what = f"has {_RANGELESS[image.mode]} pixels, whose range is not known"
        remedy = "save it with 8 or 16 bits a channel, or give scaled values in an .npz"
        raise DataError(what, where=where, remedy=remedy)
    return image


def _name(file: ImageFile) -> str:
    if isinstance(file, (str, os.PathLike)):
        return str(Path(file))
    return str(getattr(file, "name", "image"))
