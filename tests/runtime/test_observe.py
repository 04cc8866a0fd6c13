"""Observing a graph: threads, order, interruption."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from graphs import normal, separable

from qfrewrite.calibration.observe import observe
from qfrewrite.calibration.observers import Detail
from qfrewrite.calibration.range_table import RangeTable
from qfrewrite.calibration.search import MethodChoice
from qfrewrite.errors import DataError, Interrupted, UsageError
from qfrewrite.ir import Array, Graph
from qfrewrite.lower.canonical import canonicalise
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import Dataset, PassContext, measure
from qfrewrite.passes.calibrate import observable

FULL = Detail(channel_mean=True, full=True)
SAMPLES = [{"x": normal(1, 6, 6, 4, seed=k) * (1 + k % 3)} for k in range(23)]


class Listed:
    """Samples in memory; `interrupt` sends Ctrl-C before the sample of that number."""

    description = "a list"

    def __init__(self, samples: list[dict[str, Array]], interrupt: int | None = None) -> None:
        self.samples, self.interrupt = samples, interrupt

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for k, sample in enumerate(self.samples):
            if k == self.interrupt:
                signal.raise_signal(signal.SIGINT)
            if self.interrupt is not None and k >= self.interrupt:
                time.sleep(0.2)  # let the main thread notice
            yield sample


def ranges(context: PassContext, method: str = "greedy") -> RangeTable:
    graph = separable()
    canonicalise(graph)
    details = dict.fromkeys(observable(graph), FULL)
    return measure(graph, details, context, MethodChoice.parse(method))


def saved(table: RangeTable, path: Path) -> bytes:
    return table.save(path).read_bytes()


def test_threads_order_and_merged_runs_give_the_same_bytes(tmp_path: Path) -> None:
    whole = ranges(PassContext(Dataset(Listed(SAMPLES)), threads=1))
    others = [
        ranges(PassContext(Dataset(Listed(SAMPLES)), threads=2)),
        ranges(PassContext(Dataset(Listed(SAMPLES)), threads=5)),
        ranges(PassContext(Dataset(Listed(SAMPLES[::-1])), threads=2)),
        ranges(PassContext(Dataset(Listed(SAMPLES[:7]))))
        + ranges(PassContext(Dataset(Listed(SAMPLES[7:])))),
    ]
    wanted = saved(whole, tmp_path / "a.json")
    for other in others:
        other.data = whole.data
        other.diagnostics = whole.diagnostics
        assert saved(other, tmp_path / "b.json") == wanted


def test_moving_averages_follow_the_order_of_samples() -> None:
    tables = [ranges(PassContext(Dataset(Listed(SAMPLES)), threads=n), "ema(0.5)") for n in (1, 4)]
    low = high = None
    for sample in SAMPLES:
        a, b = float(sample["x"].min()), float(sample["x"].max())
        low, high = (a, b) if low is None else ((low + a) / 2, (high + b) / 2)  # type: ignore[operator]
    for table in tables:
        assert table["x"].range == pytest.approx((low, high))
    assert [r.range for r in tables[0]] == [r.range for r in tables[1]]


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("at", [1, 11])
def test_an_interrupted_run_is_resumed(at: int, tmp_path: Path) -> None:
    checkpoint = tmp_path / "partial.json"
    context = PassContext(Dataset(Listed(SAMPLES, interrupt=at)), checkpoint=checkpoint, threads=1)
    with pytest.raises(Interrupted, match=r"after \d+ of 23 samples.*partial.json: --resume"):
        ranges(context)
    done = RangeTable.load(checkpoint).samples
    assert 0 < done < 23
    with pytest.raises(UsageError, match="cannot be resumed"):
        ranges(PassContext(Dataset(Listed(SAMPLES)), checkpoint=checkpoint, resume=True), "ema")
    again = ranges(PassContext(Dataset(Listed(SAMPLES)), checkpoint=checkpoint, resume=True))
    whole = ranges(PassContext(Dataset(Listed(SAMPLES))))
    again.diagnostics = whole.diagnostics
    assert saved(again, tmp_path / "a.json") == saved(whole, tmp_path / "b.json")
    assert not checkpoint.exists()


def test_statistics_of_other_data_are_not_resumed(tmp_path: Path) -> None:
    table = ranges(PassContext(Dataset(Listed(SAMPLES[:3]))))
    table.data = "other data"
    table.save(tmp_path / "p.json")
    context = PassContext(Dataset(Listed(SAMPLES)), checkpoint=tmp_path / "p.json", resume=True)
    with pytest.raises(DataError, match="the data changed"):
        ranges(context)


def test_statistics_of_other_weights_are_neither_resumed_nor_merged(tmp_path: Path) -> None:
    """One weight far behind the first differs in its seventh digit."""

    def dense(factor: float) -> Graph:
        b, w = GraphBuilder(), normal(80, 80)
        w[79, 79] *= np.float32(factor)
        return b.finish(b.op("FULLY_CONNECTED", b.input("x", (1, 80)), b.const("w", w)))

    samples = Listed([{"x": normal(1, 80, seed=k)} for k in range(3)])
    context = PassContext(Dataset(samples), checkpoint=tmp_path / "p.json", resume=True)
    one, other = dense(1.0), dense(1.0 + 2e-7)
    table = measure(one, dict.fromkeys(observable(one), FULL), context)
    table.save(tmp_path / "p.json")
    with pytest.raises(DataError, match="the model or the passes changed"):
        measure(other, dict.fromkeys(observable(other), FULL), context)
    (tmp_path / "p.json").unlink()
    with pytest.raises(DataError, match="different models"):
        table + measure(other, dict.fromkeys(observable(other), FULL), context)


def test_ranges_that_still_grow_are_said() -> None:
    growing = [{"x": normal(1, 6, 6, 4) * (1 + k)} for k in range(20)]
    assert any(
        d.code == "ranges-grow" for d in ranges(PassContext(Dataset(Listed(growing)))).diagnostics
    )
    steady = [{"x": normal(1, 6, 6, 4) * (20 - k)} for k in range(20)]
    assert not ranges(PassContext(Dataset(Listed(steady)))).diagnostics


def test_an_error_in_the_data_reaches_the_caller() -> None:
    def broken() -> Iterator[dict[str, Array]]:
        yield SAMPLES[0]
        raise DataError("sample 1 is damaged")

    graph = separable()
    with pytest.raises(DataError, match="sample 1 is damaged"):
        observe(graph, dict.fromkeys(observable(graph), FULL), broken(), threads=2)


def test_progress_counts_up() -> None:
    seen: list[int] = []
    graph = separable()
    observe(graph, dict.fromkeys(observable(graph), Detail()), SAMPLES, step=seen.append)
    assert seen == list(range(1, 24))
    assert np.isfinite(SAMPLES[0]["x"]).all()
