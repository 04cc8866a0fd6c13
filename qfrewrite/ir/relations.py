"""Relations between any things: what belongs together, and what comes first."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from graphlib import TopologicalSorter
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
    TopologicalSorter(sources).prepare()
    graph: Any = nx.DiGraph()
    graph.add_nodes_from(sources)
    graph.add_edges_from((source, name) for name in sources for source in sources[name])
    rank = {name: i for i, name in enumerate(sources)}
    return list(nx.lexicographical_topological_sort(graph, rank.get))
