"""What is odd about calibration data, noticed while they stream by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qfrewrite.errors import Diagnostic
from qfrewrite.ir import Array

if TYPE_CHECKING:
    from qfrewrite.data.inputs import InputSpec

ENOUGH_SAMPLES = 50
# Float inputs usually lie about in [-1, 1]; standardised ones reach a few units.
_USUAL_LIMIT = 8.0
_RAW_PIXELS = (16.0, 255.0)
_LEAST_SPAN = 0.02


def few_samples_warning(samples: int) -> Diagnostic | None:
    """A warning where ranges would rest on too few samples."""
    if samples >= ENOUGH_SAMPLES:
        return None
    plural = "" if samples == 1 else "s"
    text = f"only {samples} sample{plural}: ranges may come out too narrow"
    return Diagnostic("warning", "few-samples", text, remedy="100 to 500 are usual")


def range_warning(name: str, low: float, high: float, *, image: bool) -> Diagnostic | None:
    """A warning where a float input's values [low, high] are not what models usually take."""
    values = f"values of input '{name}' lie in [{low:.4g}, {high:.4g}]"
    if image and low >= 0 and _RAW_PIXELS[0] < high <= _RAW_PIXELS[1]:
        return Diagnostic(
            "warning",
            "raw-pixels",
            f"{values} and look like raw pixels: unless the model scales them itself, "
            "scale them as in training (preprocess mobilenet for -1..1, unit for 0..1)",
        )
    if max(-low, high) > _USUAL_LIMIT:
        text = f"{values}, far outside the usual -1..1: check that they are scaled as in training"
        return Diagnostic("warning", "wide-inputs", text)
    if 0 < high - low < _LEAST_SPAN:
        text = f"{values}, which is very narrow: check that they are not scaled twice"
        return Diagnostic("warning", "narrow-inputs", text)
    return None


@dataclass
class _Seen:
    """What has been seen of one input."""

    low: float = np.inf
    high: float = -np.inf
    count: int = 0
    first: Array | None = None  # dropped as soon as a sample differs from it
    same: bool = True
    flat: int = 0
    first_flat: str = ""
    nonfinite: bool = False


class DataChecks:
    """Looks at each sample once: one minimum and one maximum per input."""

    def __init__(self, inputs: Sequence[InputSpec]) -> None:
        self._inputs = tuple(inputs)
        self._seen = {spec.name: _Seen() for spec in inputs}

    def add(self, label: str, sample: dict[str, Array]) -> list[Diagnostic]:
        """Take in a sample; warnings that cannot wait for the end."""
        warnings = (self._add(label, spec.name, sample[spec.name]) for spec in self._inputs)
        return [warning for warning in warnings if warning]

    def finish(self, *, scale_known: bool = False) -> list[Diagnostic]:
        """Warnings about all the samples together.

        scale_known: their scale is known to be right, however unusual it looks.
        """
        warnings = []
        for spec in self._inputs:
            seen = self._seen[spec.name]
            warnings.append(_constant_warning(spec.name, seen))
            if spec.dtype.startswith("float") and seen.high >= seen.low and not scale_known:
                image = len(spec.shape) == 4
                warnings.append(range_warning(spec.name, seen.low, seen.high, image=image))
        return [warning for warning in warnings if warning]

    def _add(self, label: str, name: str, x: Array) -> Diagnostic | None:
        seen = self._seen[name]
        seen.count += 1
        if seen.first is None and seen.same:
            seen.first = x.copy()
        elif seen.same and not np.array_equal(seen.first, x):  # type: ignore[arg-type]
            seen.same, seen.first = False, None
        if x.size == 0 or x.dtype.kind == "c":
            return None
        low, high = float(x.min()), float(x.max())
        warning = None
        if not (np.isfinite(low) and np.isfinite(high)):
            if not seen.nonfinite:
                text = f"{label} holds NaN or infinity in input '{name}'"
                warning = Diagnostic("warning", "not-finite", text)
            seen.nonfinite = True
            finite = x[np.isfinite(x)]
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        elif low == high and x.size > 1:
            seen.first_flat = seen.first_flat or label
            seen.flat += 1
        seen.low, seen.high = min(seen.low, low), max(seen.high, high)
        return warning


def _constant_warning(name: str, seen: _Seen) -> Diagnostic | None:
    if seen.count > 1 and seen.same:
        text = f"input '{name}' is the same in all {seen.count} samples: its range says little"
        return Diagnostic("warning", "same-inputs", text)
    if seen.flat:
        text = (
            f"{seen.flat} of {seen.count} samples hold one single value in input '{name}', "
            f"the first is {seen.first_flat}"
        )
        return Diagnostic("warning", "flat-inputs", text)
    return None
