"""How far channels are scaled."""

from __future__ import annotations

import pytest
from graphs import separable

from qfrewrite.ir import Model
from qfrewrite.passes import PassContext, run_passes


def most(power: float) -> float:
    """The largest scale of a channel with `power`."""
    passes = f"fold_bn,equalize(mode=fill,power={power})"
    report = run_passes(Model([separable()]), passes, PassContext())
    return float(report["equalize"].log.layers[0]["most"])


def test_the_power_says_how_much_of_the_way_to_go() -> None:
    assert most(1.0) > 1.5
    assert most(0.5) == pytest.approx(most(1.0) ** 0.5)
    assert most(0.25) == pytest.approx(most(1.0) ** 0.25)
