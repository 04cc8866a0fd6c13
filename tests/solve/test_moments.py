"""Statistics of channels over samples, against numpy on all samples at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qfrewrite.ir import Array
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.solve.context import PassContext, PassRewriter
from qfrewrite.solve.dataset import Dataset
from qfrewrite.solve.moments import channel_extremes, channel_moments


class Three:
    """Three samples; the last has the largest values."""

    description = "three samples"

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.values = [(s * rng.normal(size=(1, 4, 3))).astype("f4") for s in (1, 2, 5)]

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return iter([{"x": v} for v in self.values])


def test_extremes_and_moments_are_those_of_all_samples() -> None:
    b, data = GraphBuilder(), Three()
    x = b.input("x", (1, 4, 3))
    graph = b.finish(b.op("NEG", x))
    rw = PassRewriter(graph, PassContext(Dataset(data)))
    y = graph.outputs[0]
    whole = np.concatenate(data.values).reshape(-1, 3)
    low, high = channel_extremes(rw, [x, y], "looking")[y]
    np.testing.assert_array_equal(low, -whole.max(0))
    np.testing.assert_array_equal(high, -whole.min(0))
    mean, variance = channel_moments(rw, [x, y], "looking")[x]
    np.testing.assert_allclose(mean, whole.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, whole.var(0), rtol=1e-5)
    assert channel_extremes(rw, [], "looking") == {}
