"""What a pass may use besides the graph: data, threads, progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from qfrewrite.ir import Array, Graph, Tensor
from qfrewrite.rewrite.rewriter import Log, Rewriter


class Samples(Protocol):
    """Model inputs, one sample at a time, as often as asked."""

    @property
    def description(self) -> str:
        """What these are, for people: `200 images of calib/`."""

    def __iter__(self) -> Iterator[dict[str, Array]]: ...


def _no_progress(label: str, total: int | None) -> Callable[[int], None]:
    return lambda done: None


@dataclass
class PassContext:
    """Data and settings of one run.

    data: calibration samples, or None; measuring: the samples that outputs are compared on, and
    held_back: whether those were kept from calibration; threads: for the runtime; progress:
    called with a label and a total, gives a function to call with the number done.
    """

    data: Samples | None = None
    measuring: Samples | None = None
    held_back: bool = False
    threads: int | None = None
    progress: Callable[[str, int | None], Callable[[int], None]] = _no_progress
    seed: int = 0


class PassRewriter(Rewriter):
    """The rewriter of a pass: edits and log, and the run's context."""

    def __init__(self, graph: Graph, context: PassContext, log: Log | None = None) -> None:
        super().__init__(graph, log)
        self.context = context

    def observe(
        self, tensors: Sequence[Tensor], label: str, *, most: int | None = None
    ) -> Iterator[list[Array]]:
        """Values of `tensors` for each calibration sample; arrays are valid for one step.

        most: look at no more samples than this.
        """
        from qfrewrite.runtime.session import Session

        assert self.context.data is not None
        session = Session(self.graph, tensors, threads=self.context.threads)
        total = _length(self.context.data)
        step = self.context.progress(label, min(total or most, most) if most else total)
        for done, sample in enumerate(islice(self.context.data, most), 1):
            yield session.run(sample)
            step(done)


def _length(samples: Any) -> int | None:
    try:
        return len(samples)
    except TypeError:
        return None
