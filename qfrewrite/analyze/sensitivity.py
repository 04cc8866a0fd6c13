"""What quantizing each layer of a model costs, as a report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qfrewrite.errors import Diagnostics
from qfrewrite.records import Record
from qfrewrite.runtime.metrics import Fidelity
from qfrewrite.solve.sensitivity import Sensitivity


@dataclass(frozen=True, repr=False)
class Sensitivities(Record):
    """Each layer quantized alone, and left out alone."""

    layers: list[Sensitivity]
    """In execution order."""
    whole: Fidelity | None
    """All layers quantized; None without data."""
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    """What speaks against the figures."""

    def figures(self) -> dict[str, Any]:
        """The fields, and the figures of the whole."""
        whole = {} if self.whole is None else self.whole.figures()
        return super().figures() | {
            "samples": whole.get("samples", 0),
            "whole_sqnr_db": whole.get("sqnr_db"),
        }
