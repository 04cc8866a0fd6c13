"""Relations between any things: what belongs together, and what comes first."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from graphlib import TopologicalSorter
from heapq import heappop, heappush
from typing import Any, TypeVar

import networkx as nx

_Thing = TypeVar("_Thing")


class Classes:
    """Things that belong together; a class is named by one of them."""

    def __init__(self) -> None:
        self._sets: Any = nx.utils.UnionFind()

    def of(self, thing: _Thing) -> _Thing:
        """The class of a thing; one that was not united with others is a class of its own."""
        named: _Thing = self._sets[thing]
        return named

    def unite(self, a: _Thing, b: _Thing) -> None:
        """Make one class of those of `a` and `b`."""
        self._sets.union(a, b)


def sources_first(sources: Mapping[str, Collection[str]]) -> list[str]:
    """The keys, each behind its sources, else in their order.

    Raises graphlib.CycleError where there is no such order.
    """
    names = list(sources)
    rank = {name: i for i, name in enumerate(names)}
    sorter = TopologicalSorter(sources)
    sorter.prepare()
    ready: list[int] = []
    order: list[str] = []
    while sorter.is_active():
        for name in sorter.get_ready():
            heappush(ready, rank[name])
        order.append(names[heappop(ready)])
        sorter.done(order[-1])
    return order
