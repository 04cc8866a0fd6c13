"""One tensor's range: how it was chosen, and what was observed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qfrewrite.calibration.observers import TensorStats
from qfrewrite.calibration.search import Losses, Method, choose, losses
from qfrewrite.errors import UsageError
from qfrewrite.ir.dtypes import Float64
from qfrewrite.ir.quant import Quant, activation_quant
from qfrewrite.lower.fake_quant_ranges import Range

# How ranges come about that follow from no observations.
BATCH_NORM = "batch_norm"
MANUAL = "manual"
FIXED = "fixed"


@dataclass
class RangeRow:
    """One tensor: its range, how it was chosen, and what was observed."""

    name: str
    """The name of the tensor."""
    range: Range
    """The lower and the upper end."""
    method: str = MANUAL
    """A method's name (`greedy`), `batch_norm`, `fixed` (prescribed by the op), or `manual`."""
    stats: TensorStats | None = None
    """What was observed; None if nothing was."""
    whole: bool = False
    """Whether no method clips it unless told to by name (model inputs, final scores)."""
    moving: Range | None = None
    """The moving averages of minimum and maximum, if they were taken."""
    guessed_mean: Float64 | None = None
    """The mean per channel that BatchNorm statistics tell."""

    @property
    def has_range(self) -> bool:
        """Whether the range follows from anything: a tensor without values has none."""
        return self.stats is None or self.stats.range is not None

    @property
    def channel_mean(self) -> Float64 | None:
        """The mean per channel, [C], observed or from BatchNorm statistics; None if unknown."""
        return self.stats.channel_mean if self.stats is not None else self.guessed_mean

    @property
    def low(self) -> float:
        """The lower end."""
        return self.range[0]

    @property
    def high(self) -> float:
        """The upper end."""
        return self.range[1]

    @property
    def quant(self) -> Quant:
        """Scale and zero point of int8 for this range."""
        return activation_quant(*self.range)

    @property
    def losses(self) -> Losses | None:
        """Quantization and saturation loss of int8, where a histogram was taken."""
        values = None if self.stats is None else self.stats.distribution
        return None if values is None else losses(values, *self.range)

    @property
    def clipped(self) -> float | None:
        """The fraction of values outside the range, where a histogram was taken."""
        values = None if self.stats is None else self.stats.distribution
        return None if values is None else values.outside(*self.range)

    def chosen(self, method: Method) -> RangeRow:
        """This row with the range that `method` chooses; as it is where nothing was observed."""
        if self.stats is None or self.method == FIXED:
            return self
        if method.name == "ema":
            if self.moving is None:
                what = "moving averages need the order of samples: they do not merge"
                remedy = "calibrate with method=ema in one run"
                raise UsageError(what, where=f"ema of '{self.name}'", remedy=remedy)
            low, high = self.moving
            chosen = min(low, 0.0), max(high, 0.0)
        else:
            chosen = choose(self.stats, method)
        return replace(self, range=chosen, method=str(method))
