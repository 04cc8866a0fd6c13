"""One layer of a model as figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qfrewrite.calibration.observers import TensorStats
from qfrewrite.calibration.range_row import RangeRow
from qfrewrite.errors import Diagnostics
from qfrewrite.ir import Array
from qfrewrite.lower.fake_quant_ranges import Range
from qfrewrite.records import Record


@dataclass
class Layer(Record):
    """One layer: an op with the BatchNorm folded into it and the activation fused into it."""

    name: str
    """The name of the op."""
    op: str
    """The kind of the op, and of the activation after a `+`."""
    output: str
    """The name of the tensor that it writes."""
    shape: tuple[int, ...]
    """The shape of that tensor; -1 where a size depends on the data."""
    parameters: int = 0
    """How many numbers its constants hold."""
    macs: int = 0
    """Multiply-accumulates; 0 where the shape depends on the data."""
    observed: Range | None = None
    """Minimum and maximum over the data."""
    range: Range | None = None
    """The range for 8 bits, chosen or stored in the file."""
    scale: float | None = None
    """The scale that follows from the range."""
    zero_point: int | None = None
    """The zero point that follows from the range."""
    clipped: float | None = None
    """The fraction of values outside the range."""
    sparsity: float | None = None
    """The fraction of values that are exactly zero."""
    sqnr_db: float | None = None
    """int8 values against float ones, computed from the histogram."""
    weights: Range | None = None
    """Minimum and maximum of the weights after folding."""
    channel_ratio: float | None = None
    """The largest magnitude of a channel's weights over the smallest, dead channels left out."""
    gain_max: float | None = None
    """The largest |gamma| / sqrt(variance + epsilon) of the BatchNorm."""
    gain_median: float | None = None
    """The median of the same."""
    dead: list[int] = field(default_factory=list)
    """The channels that never change."""
    flags: Diagnostics = field(default_factory=Diagnostics)
    """Why the layer will quantize badly, and what helps."""
    row: RangeRow | None = field(default=None, repr=False)
    """What calibration knows of its output."""
    channel_weights: Array | None = field(default=None, repr=False)
    """The largest |weight| per channel, [O], after folding."""
    unfolded_weights: Array | None = field(default=None, repr=False)
    """The same before folding."""

    @property
    def stats(self) -> TensorStats | None:
        """What was observed of its output."""
        return None if self.row is None else self.row.stats

    def figures(self) -> dict[str, Any]:
        """The fields, with the flags as rows."""
        flags = [{"what": f.code, "text": f.text, "remedy": f.remedy} for f in self.flags]
        return super().figures() | {"flags": flags}
