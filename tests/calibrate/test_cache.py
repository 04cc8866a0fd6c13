from __future__ import annotations

import numpy as np
import pytest

from qfrewrite.calibrate.cache import CachedSamples, FirstSamples
from qfrewrite.calibrate.data import InputSpec, open_data

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

    from qfrewrite.calibrate.data import Samples

    cached = CachedSamples(Samples([SPEC], Items(), range(5), "5 samples"))  # type: ignore[arg-type]
    for _ in range(3):
        assert len(list(cached)) == 5
    assert read == [0, 1, 2, 3, 4]
