"""The first runtime that knows each version of each op, for a model's `min_runtime_version`.

Source: tensorflow/compiler/mlir/lite/tools/versioning/runtime_version.cc.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files

_LENGTH = 16  # of the entry, padded with zeros


@cache
def _runtimes() -> Mapping[str, list[str]]:
    lines = files(__package__).joinpath("runtimes.txt").read_text("ascii").splitlines()[1:]
    return {kind: rest for kind, *rest in map(str.split, lines)}


def min_runtime_version(ops: Iterable[tuple[str, int]], stated: bytes | None = None) -> bytes:
    """The entry for a model with ops of these kinds and versions.

    stated: the entry of the file that was read. Where an op is not in the table, it is not lowered.
    """
    needed, before = ["1.5.0"], (stated or b"").rstrip(b"\0").decode("ascii", "replace")
    for kind, version in ops:
        runtimes = dict(enumerate(_runtimes().get(kind, []), 1))
        first = runtimes.get(version, "-")
        needed.append(before or "1.5.0" if first == "-" else first)
    least = max(needed, key=_number)
    return stated if stated and least == before else least.encode().ljust(_LENGTH, b"\0")


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))
