"""What is odd about calibration data, noticed while they stream by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qfrewrite.data.inputs import InputSpec, Sample
from qfrewrite.errors import Diagnostic, Diagnostics
from qfrewrite.ir import Array

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
        text = (
            f"{values} and look like raw pixels: unless the model scales them itself, "
            "scale them as in training (preprocess mobilenet for -1..1, unit for 0..1)"
        )
        return Diagnostic("warning", "raw-pixels", text)
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
    """The least finite value."""
    high: float = -np.inf
    """The largest finite value."""
    count: int = 0
    """How many samples there were."""
    first: Array | None = None
    """The first sample, as long as all others are the same."""
    flat: int = 0
    """How many samples hold one single value."""
    first_flat: str = ""
    """What messages call the first of them."""
    finite: bool = True
    """Whether all values are finite."""

    def add(self, label: str, x: Array) -> None:
        """Take in a sample."""
        self.count += 1
        if self.count == 1:
            self.first = x.copy()
        elif self.first is not None and not np.array_equal(self.first, x):
            self.first = None
        if x.size == 0 or x.dtype.kind == "c":
            return
        low, high = float(x.min()), float(x.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            self.finite = False
            finite = x[np.isfinite(x)]
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        elif low == high and x.size > 1:
            self.first_flat = self.first_flat or label
            self.flat += 1
        self.low, self.high = min(self.low, low), max(self.high, high)


class DataChecks:
    """Looks at each sample once: one minimum and one maximum per input."""

    def __init__(self, inputs: Sequence[InputSpec], diagnostics: Diagnostics) -> None:
        self._seen = {spec: _Seen() for spec in inputs}
        self._diagnostics = diagnostics

    def add(self, label: str, sample: Sample) -> None:
        """Take in a sample, and warn of what cannot wait for the end."""
        for spec, seen in self._seen.items():
            was_finite = seen.finite
            seen.add(label, sample[spec.name])
            if was_finite and not seen.finite:
                text = f"{label} holds NaN or infinity in input '{spec.name}'"
                self._diagnostics.warn("not-finite", text)

    def finish(self, *, scale_known: bool = False) -> None:
        """Warn of what all the samples together show.

        scale_known: their scale is known to be right, however unusual it looks.
        """
        for spec, seen in self._seen.items():
            name = spec.name
            if seen.count > 1 and seen.first is not None:
                text = f"input '{name}' is the same in all {seen.count} samples"
                self._diagnostics.warn("same-inputs", f"{text}: its range says little")
            elif seen.flat:
                text = f"{seen.flat} of {seen.count} samples hold one single value in input"
                self._diagnostics.warn(
                    "flat-inputs", f"{text} '{name}', the first is {seen.first_flat}"
                )
            if spec.dtype.startswith("float") and seen.high >= seen.low and not scale_known:
                image = len(spec.shape) == 4
                self._diagnostics.add(range_warning(name, seen.low, seen.high, image=image))
