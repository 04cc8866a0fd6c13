"""What a GraphDef case is: a builder for TensorFlow, what it is fed, and how it is compared.

The tables are in `graphdef_cases_*.py`; `test_graphdef_cases.py` runs them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from graphs import Samples, normal

from qfrewrite.ir import Array

X = (1, 6, 8, 4)
"""The shape that a case is fed unless it says otherwise, NHWC."""

Feed = tuple[int, ...] | Array


def positive(*shape: int) -> Array:
    """Float32 values between 0.1 and about 3."""
    return np.abs(normal(*shape)) + np.float32(0.1)


def integers(*shape: int, below: int, dtype: str = "int32") -> Array:
    """Integers from 0 to `below`, exclusive."""
    return np.random.default_rng(shape).integers(0, below, shape).astype(dtype)


@dataclass(frozen=True)
class Case:
    """One graph.

    build: gets `tf` and one placeholder per feed, returns the outputs.
    feeds: what is fed, in order; inputs are called `x`, `x1`, ...
    stated: what each placeholder says of its shape; None where it says what is fed.
    inputs: shapes given to the reader by name, where the file does not say them.
    reference: builds what TensorFlow can run, where it has no kernel for `build` on a CPU.
    tolerance: the largest difference as a fraction of the output's range.
    int8: the largest difference of the int8 model as a fraction of the output's range.
    """

    build: Callable[..., Any]
    feeds: tuple[Array, ...]
    stated: tuple[tuple[int | None, ...] | None, ...] = ()
    inputs: tuple[str, ...] = ()
    reference: Callable[..., Any] | None = None
    tolerance: float = 1e-5
    int8: float = 0.03

    @property
    def names(self) -> list[str]:
        """The names of the inputs."""
        return [f"x{i}" if i else "x" for i in range(len(self.feeds))]

    def sample(self) -> dict[str, Array]:
        """What is fed, by name."""
        return dict(zip(self.names, self.feeds, strict=True))

    def shuffled(self, count: int) -> Samples:
        """What is fed, then the same values in another order, for calibration."""
        rng, sample = np.random.default_rng(0), self.sample()
        others = (
            {n: rng.permutation(v.reshape(-1)).reshape(v.shape) for n, v in sample.items()}
            for _ in range(count - 1)
        )
        return Samples([sample, *others])


def case(build: Callable[..., Any], *feeds: Feed, **kw: Any) -> Case:
    """A `Case`; feeds are arrays, or shapes of normal values (default: one of shape `X`)."""
    arrays = [normal(*f) if isinstance(f, tuple) else f for f in feeds or (X,)]
    return Case(build, tuple(arrays), **kw)


class Layout:
    """Axes of a graph that is built once in NHWC and once in NCHW."""

    def __init__(self, name: str) -> None:
        self.name = name

    def dims(self, n: int, h: int, w: int, c: int) -> list[int]:
        """A list per axis, in this layout's order."""
        return [n, c, h, w] if self.name == "NCHW" else [n, h, w, c]

    def axis(self, letter: str) -> int:
        """Where the axis N, H, W or C lies."""
        return self.name.index(letter)

    def pads(self, h: tuple[int, int], w: tuple[int, int]) -> list[list[int]]:
        """Paddings of height and width, one pair per axis."""
        pairs = {"N": [0, 0], "C": [0, 0], "H": list(h), "W": list(w)}
        return [pairs[letter] for letter in self.name]


def nchw(build: Callable[[Any, Any, Layout], Any], *feeds: Feed, **kw: Any) -> Case:
    """A case in NCHW. TensorFlow has no such kernels on a CPU: it runs the graph in NHWC.

    `build` gets tf, the value and a `Layout`; the feed is [N, C, H, W].
    """

    def reference(tf: Any, x: Any) -> Any:
        y = build(tf, tf.transpose(x, [0, 2, 3, 1]), Layout("NHWC"))
        return tf.transpose(y, [0, 3, 1, 2]) if len(y.shape) == 4 else y

    return case(
        lambda tf, x: build(tf, x, Layout("NCHW")), *(feeds or ((1, 4, 6, 8),)),
        reference=reference, **kw,
    )  # fmt: skip
