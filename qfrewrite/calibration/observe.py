"""Statistics of a graph's tensors over samples: inference and counting side by side.

Each worker has an interpreter of its own and statistics of its own, which are added up at the
end; since they merge exactly, it does not matter which worker takes which sample.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from math import inf

import numpy as np

from qfrewrite.calibration.kernels import Scratch
from qfrewrite.calibration.observers import Detail, TensorStats
from qfrewrite.data.inputs import Sample
from qfrewrite.ir import Array, Graph, Tensor
from qfrewrite.ir.dtypes import Float64
from qfrewrite.lower.fake_quant_ranges import Range
from qfrewrite.ops.shapes import has_open_sizes, unsettled
from qfrewrite.ops.subgraphs import keeps_state
from qfrewrite.runtime.session import Session, default_threads

_MOST_WORKERS = 4
# Every worker holds weights and probed activations once more.
_WORKER_BYTES = 512 << 20
# Samples after this share of all must not widen ranges by more than a twentieth.
_SETTLED_AFTER = 0.75
_WIDENED = 0.05
# Seconds.
_PATIENCE = 0.1


@dataclass
class Observed:
    """What was seen: statistics by tensor, in the order asked for.

    samples: how many were run. moving: moving averages of minimum and maximum, where asked for.
    widening: how many ranges still grew by over 5 % in the last quarter of the samples.
    interrupted: the exception that ended the run early; then everything is of the samples so far.
    """

    stats: dict[Tensor, TensorStats]
    samples: int = 0
    moving: dict[Tensor, Range] = field(default_factory=dict)
    widening: int = 0
    interrupted: BaseException | None = None


def observe(
    graph: Graph,
    details: dict[Tensor, Detail],
    samples: Iterable[Sample],
    *,
    total: int | None = None,
    start: int = 0,
    decay: float | None = None,
    threads: int | None = None,
    step: Callable[[int], None] = lambda done: None,
) -> Observed:
    """Run `samples` through `graph` and observe the tensors of `details`.

    total: how many samples there are (then it is noticed whether ranges settle); start: skip so
    many, which an earlier run took. decay: also take moving averages of minimum and maximum, in
    the order of the samples: new = decay * old + (1 - decay) * seen. step: told how many are done.
    Ctrl-C ends the run after the samples at hand: see `Observed.interrupted`.
    """
    tensors = list(details)
    threads = threads or default_threads()
    workers = _worker_count(graph, tensors, threads)
    job = _Job(graph, details, total=total, start=start, decay=decay, step=step)
    first = Session(graph, tensors, threads=max(threads // workers, 1))
    sessions = [first, *(first.twin(threads=threads // workers) for _ in range(workers - 1))]
    # Counting is bound by memory, and in part by Python's lock: while one worker counts, another
    # one should infer. Measured: 0.54 of bare inference instead of 0.52, by numpy 0.46 of 0.38.
    job.turn = threading.Semaphore((workers + 1) // 2)
    with closing(_numbered(samples, start)) as stream:
        job.stream = stream
        return job.run(sessions)


def _worker_count(graph: Graph, tensors: Sequence[Tensor], threads: int) -> int:
    if keeps_state(graph):
        return 1  # what a sample gives depends on all those before it
    held = sum(4 * t.size for t in (*tensors, *(t for t in graph.tensors if t.is_const)))
    return max(min(threads, _MOST_WORKERS, _WORKER_BYTES // max(held, 1)), 1)


def _numbered(samples: Iterable[Sample], start: int) -> Generator[tuple[int, Sample], None, None]:
    yield from enumerate(islice(samples, start, None), start)


class _Job:
    """One run over the samples, shared by its workers."""

    def __init__(
        self,
        graph: Graph,
        details: dict[Tensor, Detail],
        *,
        total: int | None,
        start: int,
        decay: float | None,
        step: Callable[[int], None],
    ) -> None:
        self.details = details
        # Their number of channels is not known, or not the same in all samples.
        varies = has_open_sizes(graph)
        self.shapeless = {t for t in unsettled(graph) if t.dims[-1:] in ((), (-1,))}
        self.shapeless |= {t for t in details if varies and t.dims[-1:] == (-1,)}
        self.settled = inf if total is None else _SETTLED_AFTER * total
        self.start, self.step = start, step
        self.moving = None if decay is None else _MovingAverage(decay, start)
        self.stream: Iterator[tuple[int, Sample]] = iter(())
        self.turn = threading.Semaphore()
        self.lock = threading.Lock()
        self.begin, self.stop = threading.Event(), threading.Event()
        self.done = 0
        self.parts: list[_Part] = []
        self.errors: list[BaseException] = []

    def run(self, sessions: list[Session]) -> Observed:
        """Let each session's worker take samples until there are no more."""
        interrupted: BaseException | None = None
        with ThreadPoolExecutor(len(sessions), thread_name_prefix="qfrewrite-observe") as pool:
            try:
                pending = [pool.submit(self._work, session) for session in sessions]
                self.begin.set()
                # In short waits: a signal may reach another thread than this one.
                while wait(pending, _PATIENCE, FIRST_EXCEPTION).not_done and not self.errors:
                    pass
            except KeyboardInterrupt as error:
                interrupted = error
            finally:
                self.stop.set()
                self.begin.set()
        if self.errors:
            raise self.errors[0]
        return self._result(interrupted)

    def _work(self, session: Session) -> None:
        """Take samples; what was seen goes to `parts`, also when the run is ended early."""
        part, scratch = self._new_part(), Scratch()
        # Ctrl-C while the pool starts a thread leaves one that it does not wait for.
        self.begin.wait()
        try:
            while (taken := self._next()) is not None:
                self._observe(part, session, *taken, scratch)
        except BaseException as error:
            self.errors.append(error)
            self.stop.set()
        self.parts.append(part)

    def _observe(
        self, part: _Part, session: Session, index: int, sample: Sample, scratch: Scratch
    ) -> None:
        ends = np.empty((len(part.stats), 2)) if self.moving is not None else None
        values = session.visit(sample)
        part.take(values, scratch, self.turn, late=index >= self.settled, ends=ends)
        with self.lock:
            if self.moving is not None and ends is not None:
                self.moving.add(index, ends)
            self.done += 1
            self.step(self.start + self.done)

    def _new_part(self) -> _Part:
        live = [t.channels.live for t in self.details]
        stats = []
        for (t, detail), mask in zip(self.details.items(), live, strict=True):
            channels = t.shape[-1] if t.size and t.shape and t not in self.shapeless else 1
            count = channels if mask is None else int(mask.sum())
            stats.append(TensorStats(count, detail))
        return _Part(stats, live)

    def _next(self) -> tuple[int, Sample] | None:
        with self.lock:
            return None if self.stop.is_set() else next(self.stream, None)

    def _result(self, interrupted: BaseException | None) -> Observed:
        whole = self._new_part()
        for part in self.parts:
            whole.merge(part)
        moving = self.moving.ranges() if self.moving is not None else []
        return Observed(
            dict(zip(self.details, whole.stats, strict=True)),
            self.done,
            dict(zip(self.details, moving, strict=False)),
            whole.widened(),
            interrupted,
        )


class _Part:
    """What one worker saw; live: the channels of each tensor that are not padding, or all."""

    def __init__(self, stats: list[TensorStats], live: list[Array | None]) -> None:
        self.stats, self._live = stats, live
        self.early: list[Range] | None = None

    def take(
        self,
        values: Iterator[Array],
        scratch: Scratch,
        turn: threading.Semaphore,
        *,
        late: bool,
        ends: Float64 | None,
    ) -> None:
        """Take the values of one sample; `ends`, [T, 2], is filled with each one's range."""
        if late and self.early is None:
            self.early = self._ranges()
        # The first value comes once inference is done.
        value = next(values, None)
        with turn:
            for k, stats in enumerate(self.stats):
                assert value is not None
                mask = self._live[k]
                if mask is not None:
                    value = value[..., mask]
                stats.add(value, scratch)
                if ends is not None:
                    ends[k] = value.min(), value.max()
                # Let go of the runtime's memory before it runs again.
                value = None
                value = next(values, None)

    def merge(self, other: _Part) -> None:
        """Add what another worker saw."""
        if self.early is not None or other.early is not None:
            mine, theirs = (part.early or part._ranges() for part in (self, other))
            self.early = [
                (min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(mine, theirs, strict=True)
            ]
        for ours, stats in zip(self.stats, other.stats, strict=True):
            ours.merge(stats)

    def widened(self) -> int:
        """How many ranges grew late by more than a twentieth."""
        grown = 0
        for (low, high), stats in zip(self.early or [], self.stats, strict=False):
            if low <= high:
                width = stats.high - stats.low
                grown += (low - stats.low) + (stats.high - high) > _WIDENED * width
        return grown

    def _ranges(self) -> list[Range]:
        return [(s.low, s.high) for s in self.stats]


class _MovingAverage:
    """Moving averages of minima and maxima, in the order of the samples."""

    def __init__(self, decay: float, start: int) -> None:
        self._decay = decay
        self._next = start
        self._waiting: dict[int, Float64] = {}
        self._mean: Float64 | None = None

    def add(self, index: int, ends: Float64) -> None:
        """Take sample `index`: [T, 2]; it waits for those before it."""
        self._waiting[index] = ends
        while self._next in self._waiting:
            seen = self._waiting.pop(self._next)
            self._next += 1
            if self._mean is None:
                self._mean = seen
            else:
                self._mean = self._decay * self._mean + (1 - self._decay) * seen

    def ranges(self) -> list[Range]:
        """Low and high of each tensor."""
        if self._mean is None:
            return []
        return [(float(low), float(high)) for low, high in self._mean]
