"""Reading spectra: the parts of a Fourier transform that the graph uses, as matrix products.

Kernels of TFLite transform lengths of a power of two only, and none computes in int8. A matrix
product does both, and the lengths of audio frames are short.
"""

from __future__ import annotations

from functools import partial
from math import prod

import numpy as np

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.graphdef.importer import NodeContext
from qfrewrite.formats.graphdef.rules.arith import Table
from qfrewrite.formats.graphdef.values import Computed, Value
from qfrewrite.ir import Op, Tensor

# Weights of a transform beyond this are no audio frame's.
_MOST_WEIGHTS = 1 << 24


def _rfft(c: NodeContext) -> list[Value]:
    """RFFT(x, [length]) over the last axis, which is cut or filled with zeros to that length."""
    x, length = c.plain(0), c.integer(1)
    if length < 1 or not x.shape:
        raise ModelFileError(f"transforms shape {list(x.shape)} in lengths of {length}")
    if x.dtype != "float32":
        raise UnsupportedError(f"RFFT of {x.dtype} is not supported")
    if (length // 2 + 1) * x.shape[-1] > _MOST_WEIGHTS:
        raise UnsupportedError(f"a transform of length {length} is too long")
    return c.emit("RFFT", [x], {"length": length})


def _transform(c: NodeContext) -> tuple[Op, Computed]:
    """The transform that the node reads, and its result."""
    value = c.value(0)
    op = value.tensor.producer if isinstance(value, Computed) else None
    if op is None or op.kind != "RFFT" or not isinstance(value, Computed):
        raise UnsupportedError("reads complex numbers that are not the result of RFFT")
    return op, value


def _part(c: NodeContext, op: Op, name: str) -> Tensor:
    """The real or the imaginary part of a transform: x times cos or -sin."""
    x, length = op.operand(0), int(op.attrs["length"])
    size, bins = x.shape[-1], length // 2 + 1
    angles = 2 * np.pi / length * (np.outer(np.arange(bins), np.arange(size)) % length)
    w = np.cos(angles) if name == "real" else -np.sin(angles)
    w[:, length:] = 0
    weights = c.importer.operand(w.astype(np.float32), f"{c.name}/{name}/w")
    frames = _shaped(c, x, (prod(x.shape[:-1]), size), "frames")
    y = c.part("FULLY_CONNECTED", [frames, weights], name)
    return _shaped(c, y, (*x.shape[:-1], bins), f"{name}/bins")


def _shaped(c: NodeContext, x: Tensor, shape: tuple[int, ...], suffix: str) -> Tensor:
    """`x` in another shape, as it is where it has that shape."""
    return x if x.shape == shape else c.reshaped(x, shape, suffix)


def _one_part(name: str, c: NodeContext) -> list[Value]:
    """Real(x), Imag(x)."""
    op, value = _transform(c)
    return c.emit("IDENTITY", [_part(c, op, name)], perm=value.perm)


def _magnitude(c: NodeContext) -> list[Value]:
    """ComplexAbs(x): sqrt(real^2 + imag^2)."""
    op, value = _transform(c)
    squares = [
        c.part("SQUARE", [_part(c, op, name)], f"{name}/square") for name in ("real", "imag")
    ]
    return c.emit("SQRT", [c.part("ADD", squares, "power")], perm=value.perm)


def _angle(c: NodeContext) -> list[Value]:
    """Angle(x): atan2(imag, real)."""
    op, value = _transform(c)
    return c.emit("ATAN2", [_part(c, op, name) for name in ("imag", "real")], perm=value.perm)


FOURIER: Table = {
    "Angle": _angle,
    "ComplexAbs": _magnitude,
    "Imag": partial(_one_part, "imag"),
    "RFFT": _rfft,
    "Real": partial(_one_part, "real"),
}
"""Converters by node op."""
