from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from qfrewrite.data.cache import CachedSamples, FirstSamples, one_pass
from qfrewrite.data.inputs import InputSpec
from qfrewrite.data.source import open_data

SPEC = InputSpec("x", (1, 4))


@pytest.mark.parametrize("most_bytes", [0, 1 << 20])
def test_every_pass_sees_the_same_samples_also_after_one_that_stopped_early(
    most_bytes: int,
) -> None:
    data = np.arange(24, dtype=np.float32).reshape(6, 4)
    samples, _ = open_data(data, [SPEC]).split(6)
    cached = CachedSamples(samples, most_bytes)
    want = [s["x"].tolist() for s in samples]
    assert [s["x"].tolist() for s in FirstSamples(cached, 2)] == want[:2]
    assert [s["x"].tolist() for s in cached] == want
    assert [s["x"].tolist() for s in cached] == want
    assert len(FirstSamples(cached, 10)) == len(cached) == 6


def test_small_samples_are_read_once() -> None:
    read = []

    def load(n: int) -> np.ndarray:
        read.append(n)
        return np.full(4, n, np.float32)

    class Items:
        unit, decodes, shuffled = "sample", False, False

        def load(self, index: int) -> dict[str, np.ndarray]:
            return {"x": load(index)[None]}

        def label(self, index: int) -> str:
            return str(index)

    from qfrewrite.data.source import Samples

    cached = CachedSamples(Samples([SPEC], Items(), range(5), "5 samples"))  # type: ignore[arg-type]
    for _ in range(3):
        assert len(list(cached)) == 5
    assert read == [0, 1, 2, 3, 4]


def test_samples_of_a_generator_pass_and_are_not_kept() -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def generator() -> Iterator[np.ndarray]:
        for k in range(60):
            x = np.full((4, 4, 3), k / 60 - 0.5, "f4")
            x[0] = 0.4321
            alive.append(weakref.ref(x))
            yield x

    inputs = [InputSpec("x", (1, 4, 4, 3))]
    samples = one_pass(open_data(generator(), inputs), 55)
    most = 0
    for sample in samples:
        assert sample["x"].shape == (1, 4, 4, 3)
        del sample
        most = max(most, sum(ref() is not None for ref in alive))
    assert most <= 2
    assert samples.description.startswith("55 samples of")
    assert not samples.diagnostics


def test_one_pass_over_data_that_can_be_read_again_is_the_usual_one() -> None:
    inputs = [InputSpec("x", (1, 2))]
    source = open_data(np.zeros((3, 2), "f4"), inputs)
    assert len(list(one_pass(source, 2))) == 2
    few = one_pass(open_data(iter([np.ones(2, "f4")]), inputs), 5)
    assert len(list(few)) == 1
    assert "only 1 sample" in few.diagnostics[-1].text
