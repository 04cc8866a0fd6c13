"""Samples as a value: opened anew for other shapes, outputs kept by what a graph holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass
from typing import ClassVar

import numpy as np
import pytest
from graphs import separable

from qfrewrite.errors import DataError
from qfrewrite.ir import Array, Graph, Model
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import Dataset, Pass, PassContext, PassRewriter, run_passes
from qfrewrite.solve.context import open_context
from qfrewrite.solve.dataset import Samples


class Counted:
    """Samples that count how often they are gone through."""

    description = "counted"
    diagnostics = ()

    def __init__(self, size: int = 6) -> None:
        self.passes, self._size = 0, size

    def __iter__(self) -> Iterator[dict[str, Array]]:
        self.passes += 1
        for seed in range(2):
            shape = 1, self._size, self._size, 4
            yield {"x": np.random.default_rng(seed).normal(size=shape).astype("f4")}


def images(size: int) -> Graph:
    b = GraphBuilder()
    return b.finish(b.op("RELU6", b.input("x", (1, size, size, 3)), name="y"))


def test_a_state_of_a_graph_is_run_once() -> None:
    """Also where it is a copy that is asked for; fails if the key is the object of the graph."""
    samples, graph = Counted(), separable()
    data = Dataset(samples)
    first = data.outputs(graph, threads=1)
    assert data.outputs(graph.clone()[0], threads=1) is first
    assert samples.passes == 1
    graph.set_io(outputs=[graph.outputs[0]] * 2)
    assert len(data.outputs(graph, threads=1)[0]) == 2
    assert samples.passes == 2


def test_what_a_trial_computes_is_not_kept() -> None:
    samples = Counted()
    data = Dataset(samples)
    data.apart().outputs(separable(), threads=1)
    assert not data._outputs


def test_data_are_opened_once_for_each_shape_of_the_inputs() -> None:
    opened: list[Graph] = []

    def reopen(graph: Graph) -> Dataset:
        opened.append(graph)
        return Dataset(Counted(), reopen=reopen)

    data = Dataset(Counted(), reopen=reopen)
    first = data.for_graph(images(32))
    assert first is not None
    assert first.for_graph(images(32)) is first
    assert data.for_graph(images(32)) is first
    assert first.for_graph(images(64)) is data.for_graph(images(64))
    assert len(opened) == 2


def test_samples_that_were_made_for_other_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="another input size"):
        Dataset(Counted()).for_graph(images(32))


def test_images_are_imagined_again_at_another_size() -> None:
    data = PassContext().imagine(images(32))
    assert data is not None
    other = data.for_graph(images(48))
    assert other is not None
    assert other.imagined
    assert next(iter(other.calibration))["x"].shape == (1, 48, 48, 3)


def test_settings_do_not_change_during_a_run() -> None:
    context = open_context(Model([separable()]), None, threads=1, seed=3)
    with pytest.raises(FrozenInstanceError):
        context.seed = 4  # type: ignore[misc]


_SEEN: list[tuple[Samples | None, bool]] = []


@dataclass(frozen=True)
class LoseStatistics(Pass):
    """Note what there is to see, then replace the BatchNorm that has statistics."""

    name: ClassVar[str] = "lose_statistics"
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        _SEEN.append((rw.samples and rw.samples.calibration, rw.context.imagined))
        for op in graph.ops_of("BATCH_NORM"):
            rw.bypass(op)


def batch_normed() -> Graph:
    b = GraphBuilder()
    ones, zeros = np.ones(3, "f4"), np.zeros(3, "f4")
    x = b.input("x", (1, 32, 32, 3))
    y = b.op("BATCH_NORM", x, *(b.const(n, v) for n, v in zip("gbmv", (ones, zeros, zeros, ones),
             strict=True)), attrs={"epsilon": 1e-3})  # fmt: skip
    return b.finish(b.op("RELU6", y, name="y"))


@pytest.mark.parametrize(("graph", "imagined"), [(batch_normed(), False), (images(32), True)])
def test_what_stands_in_for_data_is_decided_once(graph: Graph, imagined: bool) -> None:
    """The second pass sees what the first one saw, although there are no statistics any more."""
    _SEEN.clear()
    run_passes(Model([graph]), [LoseStatistics(), LoseStatistics()], PassContext(threads=1))
    assert [seen for _, seen in _SEEN] == [imagined, imagined]
    assert _SEEN[0][0] is _SEEN[1][0]
