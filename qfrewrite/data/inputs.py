"""What a model takes: its inputs, and one sample of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from qfrewrite.ir import Array

Sample = dict[str, Array]
"""Values by the name of the input."""
# What stands for a size that a model leaves open, by the input's rank: samples of a signal, or
# steps in time and pixels.
_USUAL_SIZES = {1: 1024, 2: 1024}
_USUAL_SIZE = 64


@dataclass(frozen=True)
class InputSpec:
    """An input of a model."""

    name: str
    """What samples call it."""
    shape: tuple[int, ...]
    """With the batch axis; on an open axis one of the sizes that are possible."""
    dtype: str = "float32"
    """The element type."""
    open_axes: tuple[int, ...] = ()
    """The axes on which samples may have any size."""
    alias: str | None = field(default=None, compare=False)
    """What the model's signature calls it."""

    def fit(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The input's shape for a sample of `shape`, which may lack a batch axis of 1; or None."""
        wholes = [shape, (1, *shape)] if self.shape[:1] == (1,) else [shape]
        for whole in wholes:
            if len(whole) == len(self.shape) and all(
                n == m or (axis in self.open_axes and n > 0)
                for axis, (n, m) in enumerate(zip(whole, self.shape, strict=True))
            ):
                return whole
        return None

    @property
    def forms(self) -> tuple[str, ...]:
        """The shapes that `fit` takes, as text: the dimensions, `?` for any size."""
        sizes = ["?" if i in self.open_axes else str(n) for i, n in enumerate(self.shape)]
        texts = [", ".join(sizes)]
        return (*texts, ", ".join(sizes[1:])) if self.shape[:1] == (1,) else tuple(texts)

    @property
    def assumed(self) -> tuple[int, ...]:
        """The shape, with a usual size where the file leaves one open and names none."""
        size = _USUAL_SIZES.get(len(self.shape), _USUAL_SIZE)
        return tuple(
            size if i in self.open_axes and n == 1 else n for i, n in enumerate(self.shape)
        )

    def __str__(self) -> str:
        return f"input '{self.name}' {self.dtype}[{self.forms[0]}]"
