"""Names of ops and tensors: free ones, and those that people give or tables print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence

ELIDED = "…"
"""Stands for the beginning of a name that a terminal has no room for."""


def numbered(name: str, taken: Container[str]) -> str:
    """`name`, or the first of `name_1`, `name_2`, ... where `taken` holds it."""
    free, n = name, 0
    while free in taken:
        n += 1
        free = f"{name}_{n}"
    return free


def closest(given: str, names: Iterable[str]) -> list[str]:
    """The names that `given` stands for where it is no pattern.

    Itself; else those that end in it after a slash, of which those with the shortest path. Of
    names joined by `;`, as converters write them, the first one counts.
    """
    known = list(dict.fromkeys(names))
    if given in known:
        return [given]
    end, cut = given.removeprefix(ELIDED), given.startswith(ELIDED)
    depth: dict[str, int] = {}
    for name in known:
        for part in (name, name.partition(";")[0]):
            if part == end or part.endswith(f"/{end}") or (cut and part.endswith(end)):
                depth[name] = min(depth.get(name, part.count("/")), part.count("/"))
    least = min(depth.values(), default=0)
    return [name for name, slashes in depth.items() if slashes == least]


def shorten(names: Sequence[str], among: Iterable[str] | None = None) -> list[str]:
    """The names without the path that all of `among` share (by default these names).

    Of names joined by `;` only the first one is left. A name stays whole where the short one
    would stand for another too, or is another, so that `closest` finds from each what it was.
    """
    whole = list(dict.fromkeys([*(names if among is None else among), *names]))
    first = {name: name.partition(";")[0] for name in whole}
    paths = [name.split("/") for name in first.values()]
    shared = 0
    while len(paths) > 1 and all(
        len(p) > shared + 1 and p[shared] == paths[0][shared] for p in paths
    ):
        shared += 1
    short = {name: "/".join(part.split("/")[shared:]) for name, part in first.items()}
    uses = Counter(short.values())
    uses.update(name for name in whole if short[name] != name)
    return [short[name] if uses[short[name]] == 1 else name for name in names]
