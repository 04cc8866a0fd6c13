"""Classes of numbers and orders, against their definitions."""

from __future__ import annotations

from graphlib import CycleError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfrewrite.ir.relations import Classes, sources_first

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)


@given(PAIRS)
def test_numbers_are_together_where_pairs_join_them(
    pairs: list[tuple[int, int]],
) -> None:
    classes, together = Classes(), {n: {n} for n in range(10)}
    for a, b in pairs:
        classes.unite(a, b)
        joined = together[a] | together[b]
        together.update(dict.fromkeys(joined, joined))
    for n in range(10):
        assert {m for m in range(10) if classes.of(m) == classes.of(n)} == together[n]
        assert classes.of(n) in together[n]


@given(PAIRS)
def test_sources_come_first_and_else_the_order_stays(pairs: list[tuple[int, int]]) -> None:
    names = [f"n{i}" for i in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)]
    sources = {n: {names[min(p)] for p in pairs if names[max(p)] == n} - {n} for n in names}
    order = sources_first(sources)
    assert sorted(order) == sorted(names)
    # Of those whose sources are all there, the first one given is next.
    for at, name in enumerate(order):
        ready = [n for n in names if n not in order[:at] and sources[n] <= set(order[:at])]
        assert name == ready[0]


def test_a_cycle_is_named() -> None:
    with pytest.raises(CycleError) as error:
        sources_first({"a": (), "b": ("a", "d"), "c": ("b",), "d": ("c",)})
    assert set(error.value.args[1]) == {"b", "c", "d"}
