"""How long models take, run interleaved so that drift of the machine cancels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qfrewrite.data.source import synthetic
from qfrewrite.ir.dtypes import Float64
from qfrewrite.runtime.session import Runner

_WARMUP = 3
# Shorter calls than this are repeated and timed together: a clock reads no less than 0.1 us.
_LEAST_SECONDS = 1e-3


@dataclass(frozen=True)
class Timing:
    """How long a model takes."""

    seconds: Float64
    """Seconds per inference, one value for each round."""

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return float(np.median(self.seconds))

    def percentile(self, percent: float) -> float:
        """The time that `percent` of the rounds do not exceed."""
        return float(np.percentile(self.seconds, percent))

    def ratio(self, other: Timing) -> float:
        """The median over the rounds of the ratio to `other`."""
        return float(np.median(self.seconds / other.seconds))


def time_interleaved(
    runners: Sequence[Runner], *, runs: int = 50, step: Callable[[int], None] | None = None
) -> list[Timing]:
    """Each runner once per round, in an order that alternates from round to round.

    So whatever slows the machine down slows all of them, and none always follows the same one.
    Inputs are those last given to a runner (see `fed`); copying them is not timed.
    """
    calls = [_calls(runner) for runner in runners]
    seconds = np.zeros((len(runners), runs))
    order = list(range(len(runners)))
    for k in range(runs):
        for i in order:
            start = time.perf_counter()
            for _ in range(calls[i]):
                runners[i].again()
            seconds[i, k] = (time.perf_counter() - start) / calls[i]
        order.reverse()
        if step is not None:
            step(k + 1)
    return [Timing(row) for row in seconds]


def fed(runner: Runner, seed: int = 0) -> Runner:
    """The runner, with a synthetic input: some kernels are faster on zeros."""
    for sample in synthetic(runner.inputs, 1, seed=seed):
        runner.invoke(sample)
    return runner


def _calls(runner: Runner) -> int:
    """Warm up; how often to call it so that the clock can be trusted."""
    for _ in range(_WARMUP):
        start = time.perf_counter()
        runner.again()
        seconds = time.perf_counter() - start
    return max(int(_LEAST_SECONDS / max(seconds, 1e-7)), 1)
