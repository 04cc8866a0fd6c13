"""How close one set of outputs is to another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf, log10
from typing import Any

import numpy as np

from qfrewrite.ir import Array, Graph
from qfrewrite.records import Record

# Float probabilities add up to one within this.
_SUMS_TO_ONE = 1e-3
# The outputs of a model for each sample.
Outputs = list[list[Array]]


@dataclass(frozen=True)
class Fidelity(Record):
    """How well a rewritten graph reproduces its source."""

    sqnr_db: float
    """10 log10(sum x^2 / sum (x - y)^2) over all outputs and samples; infinite for equal ones."""
    agreement: float | None
    """The fraction of samples whose largest output (top-1) is the same; None if the output is no
    vector of scores."""
    samples: int
    """How many samples were compared."""
    expected_drop: float | None = None
    """By how much top-1 is expected to fall, 0 to 1, if the source's probabilities are right: the
    mean of p(its class) - p(the other's class). None if its outputs are no probabilities."""
    lost: float | None = None
    """By how much top-1 does fall, 0 to 1; None if the classes are not known."""

    def __str__(self) -> str:
        text = f"SQNR {self.sqnr_db:.1f} dB" if self.sqnr_db < inf else "identical outputs"
        if self.agreement is not None:
            text += f", top-1 agreement {100 * self.agreement:.1f} %"
        return f"{text} ({self.samples} samples)"


@dataclass
class FidelityMeter:
    """Accumulates `Fidelity` sample by sample."""

    signal: float = 0.0
    """The sum of the squares of the reference."""
    noise: float = 0.0
    """The sum of the squared differences."""
    samples: int = 0
    """How many samples were added."""
    agreed: list[bool] = field(default_factory=list)
    """For each vector of scores, whether the largest one is the same."""
    dropped: list[float] = field(default_factory=list)
    """For each vector of probabilities, how much less probable the other's class is."""
    lost: list[int] = field(default_factory=list)
    """For each sample of a known class: 1 if only the reference is right, -1 if only the other."""

    def add(
        self, reference: Sequence[Array], other: Sequence[Array], label: int | None = None
    ) -> None:
        """Take the float outputs of one sample, and its class where that is known."""
        self.samples += 1
        for x, y in zip(reference, other, strict=True):
            wide = x.astype(np.float64)
            self.signal += float((wide**2).sum())
            self.noise += float(((wide - y) ** 2).sum())
        first, second = reference[0], other[0]
        if first.shape[-1:] > (1,) and first.size == first.shape[-1]:
            top, other_top = int(first.argmax()), int(second.argmax())
            self.agreed.append(top == other_top)
            if label is not None:
                self.lost.append((top == label) - (other_top == label))
            flat = first.reshape(-1).astype(np.float64)
            if flat.min() >= 0 and abs(flat.sum() - 1) < _SUMS_TO_ONE:
                self.dropped.append(float(flat[top] - flat[other_top]))

    def result(self) -> Fidelity:
        """The figures so far."""
        return Fidelity(
            sqnr_db(self.signal, self.noise),
            _mean(self.agreed),
            self.samples,
            _mean(self.dropped) if len(self.dropped) == len(self.agreed) else None,
            _mean(self.lost),
        )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def sqnr_db(signal: float, noise: float) -> float:
    """Signal to quantization noise ratio of two sums of squares, in dB."""
    if noise == 0:
        return inf
    return 10 * log10(signal / noise) if signal > 0 else -inf


def collect(runner: Any, samples: Iterable[dict[str, Array]]) -> Outputs:
    """Copies of what a runner (an object with `run(sample) -> arrays`) gives for each sample."""
    return [[np.array(v) for v in runner.run(sample)] for sample in samples]


def graph_outputs(
    graph: Graph,
    samples: Iterable[dict[str, Array]],
    *,
    threads: int | None,
    as_it_is: bool = False,
) -> Outputs:
    """What LiteRT computes of `graph` in float for each sample; as_it_is: as for `Session`."""
    from qfrewrite.runtime.session import Session

    session = Session(graph, graph.outputs, threads=threads, as_it_is=as_it_is)
    return collect(session, samples)


def compare(reference: Outputs, other: Outputs, labels: Sequence[int] | None = None) -> Fidelity:
    """How close `other` comes to `reference`, sample by sample; labels: their classes."""
    meter = FidelityMeter()
    classes = [None] * len(reference) if labels is None else labels
    for first, second, label in zip(reference, other, classes, strict=True):
        meter.add(first, second, label)
    return meter.result()
