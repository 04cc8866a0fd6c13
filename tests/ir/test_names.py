"""Free names, and short names that lead back to the whole ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qfrewrite.ir.names import closest, numbered, shorten

PATHS = st.lists(
    st.lists(st.sampled_from(["a", "b", "conv", "x;y", "a;a/b", "[0]", "b*"]), min_size=1,
             max_size=4).map("/".join),
    min_size=1, max_size=8, unique=True,
)  # fmt: skip


@given(PATHS, st.data())
def test_a_short_name_stands_for_what_it_was(names: list[str], data: st.DataObject) -> None:
    """Also where only some of the names are shown: fails where the prefix is that of the shown."""
    shown = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    for name, short in zip(shown, shorten(shown, names), strict=True):
        assert name in closest(short, names)
        assert closest(short, names) == [name] or short.count("/") == 0 or ";" in name


def test_the_whole_name_goes_before_the_end_of_another() -> None:
    assert closest("conv", ["net/conv", "conv"]) == ["conv"]
    assert closest("conv", ["net/x/conv", "net/conv"]) == ["net/conv"]
    assert closest("conv", ["a/conv", "b/conv"]) == ["a/conv", "b/conv"]
    assert closest("onv", ["a/conv"]) == []
    assert closest("…onv", ["a/conv"]) == ["a/conv"]
    assert closest("relu", ["m/relu;m/bias", "m/bias"]) == ["m/relu;m/bias"]
    assert closest("[0]", ["a/[0]", "a/0"]) == ["a/[0]"]


def test_a_name_stays_whole_where_its_short_form_is_that_of_another() -> None:
    assert shorten(["m/x;1", "m/x;2", "m/y"]) == ["m/x;1", "m/x;2", "y"]
    assert shorten(["m/x"], ["m/x", "n/x"]) == ["m/x"]
    assert shorten(["m/x"], ["m/x", "m/y"]) == ["x"]
    assert shorten(["a/a/a", "a/a"]) == ["a/a/a", "a"]


def test_a_taken_name_gets_the_first_free_number() -> None:
    """Catches a number that is appended to a numbered name (`x_1_2`), and one too high."""
    assert numbered("x", ()) == "x"
    assert numbered("x", {"x"}) == "x_1"
    assert numbered("x", {"x", "x_1", "x_3"}) == "x_2"
