"""One layer of a model as figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from qfrewrite.calibration.range_row import RangeRow
from qfrewrite.ir import Array
from qfrewrite.lower.fake_quant_ranges import Range


@dataclass(frozen=True)
class Flag:
    """Why a layer will quantize badly. remedy: the pass or option that helps, or empty."""

    what: str
    text: str
    remedy: str = ""


@dataclass
class Layer:
    """One layer: an op with the BatchNorm folded into it and the activation fused into it.

    output: the name of the tensor it writes. shape: of that tensor, with -1 where it depends on
    the data (then no macs are counted). observed: min and max over
    the data. range, scale, zero_point: chosen (or stored) for 8 bits. clipped, sparsity: fractions
    of values outside the range, and exactly zero. sqnr_db: int8 values against float ones, from
    the histogram. weights: min and max after folding. channel_ratio: the largest per-channel
    magnitude of the weights over the smallest of a channel that is not dead. gain_max,
    gain_median: of BatchNorm's |gamma| / sqrt(variance + epsilon). dead: the channels that never
    change.
    """

    name: str
    op: str
    output: str
    shape: tuple[int, ...]
    parameters: int = 0
    macs: int = 0
    observed: Range | None = None
    range: Range | None = None
    scale: float | None = None
    zero_point: int | None = None
    clipped: float | None = None
    sparsity: float | None = None
    sqnr_db: float | None = None
    weights: Range | None = None
    channel_ratio: float | None = None
    gain_max: float | None = None
    gain_median: float | None = None
    dead: list[int] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)
    row: RangeRow | None = field(default=None, repr=False)
    channel_weights: Array | None = field(default=None, repr=False)
    unfolded_weights: Array | None = field(default=None, repr=False)

    def record(self) -> dict[str, Any]:
        """The figures as JSON values."""
        held = {f.name: getattr(self, f.name) for f in fields(self) if f.repr}
        held["flags"] = [asdict(f) for f in self.flags]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in held.items()}
