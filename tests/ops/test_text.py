"""The text of a graph, and the graph of a text."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import Recipe, grow, recipes

from qfrewrite.errors import QfError, UsageError, VerifyError
from qfrewrite.ir import Graph, Op, Quant, Tensor, constant
from qfrewrite.ir.fingerprint import graph_fingerprint
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.text import graph_text, parse_graph

TINY = """graph tiny(%x: f32[1,4]) {
  %w: f32[2,4] = 0.5
  %b: f32[2] = [0.5, -1]
  %dense: f32[1,2] = FULLY_CONNECTED(%x, %w, %b)
  %y: f32[1,2] = LEAKY_RELU(%dense) {alpha=0.25}
  return %y
}
"""


@settings(max_examples=60, deadline=None)
@given(recipe=recipes())
def test_an_exact_text_is_the_whole_graph(recipe: Recipe) -> None:
    """The fingerprint tells every value of every constant."""
    graph = grow(recipe)
    text = graph_text(graph, exact=True)
    back = parse_graph(text)
    assert graph_text(back, exact=True) == text
    assert graph_fingerprint(back) == graph_fingerprint(graph)


@settings(max_examples=60, deadline=None)
@given(recipe=recipes())
def test_a_short_text_reads_back_with_its_constants(recipe: Recipe) -> None:
    graph = grow(recipe)
    text = graph_text(graph)
    values = {t.name: t.data for t in graph.tensors if t.data is not None}
    assert graph_text(parse_graph(text, values)) == text


def test_what_is_written_by_hand_reads_as_it_stands() -> None:
    graph = parse_graph(TINY)
    assert graph_text(graph) == TINY
    assert graph.ops[1].attrs["alpha"] == 0.25
    assert np.array_equal(graph.tensor("w").value(), np.full((2, 4), 0.5, "f4"))


def test_types_of_results_follow_from_the_ops() -> None:
    short = TINY.replace("%dense: f32[1,2]", "%dense").replace("%y: f32[1,2]", "%y")
    assert short != TINY
    assert graph_text(parse_graph(short)) == TINY


def every_form() -> Graph:
    """Names, types and values of all kinds that a file may hold."""
    graph = Graph("a graph: (1)")
    x = graph.add_tensor(Tensor("in put,%", (1, 6), "int8", quant=Quant.per_tensor(0.1, -3),
                                shape_signature=(-1, 6)))  # fmt: skip
    scales = Quant(np.array([0.1, 2e-7, 3], "f4"), np.zeros(3, "i8").astype("i8"), 1)
    w = Tensor("w:1", (2, 3), "int8", normal(2, 3).astype("i1"), scales)
    empty, flags = constant("e", np.zeros((0, 3), "f4")), constant("b", np.array([True, False]))
    odd = constant("odd", np.array([np.inf, -np.inf, np.nan, 1e-30], "f4"))
    y = Tensor("y", (), "string", shape_signature=(-1, -1))
    graph.set_io([x])
    attrs = {
        "text": "two words", "word": "SAME", "like_none": "none", "number": 3, "real": 3.0,
        "nothing": None, "flag": True, "list": (1, 2.5, "x"), "bytes": b"\x00\xff",
        "array": np.array([1.5, 2.5], "f8"), "infinite": float("inf"),
    }  # fmt: skip
    graph.add_op(Op("CUSTOM", [x, None, w, empty, flags, odd], [y], attrs, name="not y"))
    graph.set_io(outputs=[y, odd])
    return graph


def test_every_form_reads_back() -> None:
    graph = every_form()
    text = graph_text(graph, exact=True)
    back = parse_graph(text)
    assert graph_text(back, exact=True) == text
    assert graph_fingerprint(back) == graph_fingerprint(graph)


@pytest.mark.parametrize("size", [2, 20])
def test_the_same_text_on_every_machine(size: int) -> None:
    """The last bits of a value are not in it, the sixth digit is; in a digest too."""

    def text(factor: float) -> str:
        b = GraphBuilder()
        values = np.arange(1, size + 1, dtype="f4") / 4 * np.float32(factor)
        return graph_text(b.finish(b.op("MUL", b.input("x", (1, size)), b.const("c", values))))

    assert text(1 + 2e-7) == text(1)
    assert text(1 + 2e-5) != text(1)


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ("return", "", UsageError, ["line 6", "expected"]),
        ("%b)", "%c)", UsageError, ["line 4", "'%c'", "nothing before it"]),
        ("[0.5, -1]", "[0.5]", UsageError, ["line 3", "2 values for 'b', not 1"]),
        ("= 0.5", "= #01234567", UsageError, ["line 2", "no values of 'w'", "parse_graph(text,"]),
        ("f32[1,4]", "f32[1,", UsageError, ["line 1", "a number"]),
        ("%y: f32[1,2] = LEAKY_RELU", "%y = LEAKY", QfError, ["LEAKY"]),
        ("%dense: f32[1,2]", "%dense: f32[1,3]", VerifyError, ["dense"]),
        ("%y\n}", "%y\n} more", UsageError, ["the end of the text", "more"]),
    ],
)
def test_errors_name_the_line(old: str, new: str, error: type[QfError], words: list[str]) -> None:
    from qfrewrite.ops.check import verify_graph

    with pytest.raises(error) as caught:
        verify_graph(parse_graph(TINY.replace(old, new)))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_other_values_than_the_text_was_made_from_are_refused() -> None:
    b = GraphBuilder()
    w = normal(3, 4)
    text = graph_text(b.finish(b.op("FULLY_CONNECTED", b.input("x", (1, 4)), b.const("w", w))))
    assert "%w: f32[3,4] = #" in text
    parse_graph(text, {"w": w})
    with pytest.raises(UsageError, match="'w' has the digest"):
        parse_graph(text, {"w": w + 1})


BROKEN = (
    "abc 7 -1 1.5 2000000000000 nan \\ \" ' % %x %w # #01234567 ( ) [ ] { } < > , : = ? | none as"
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(TINY)), st.integers(0, 6), st.sampled_from(BROKEN.split())),
        min_size=1,
        max_size=3,
    )
)
def test_a_broken_text_is_refused_in_one_line(changes: list[tuple[int, int, str]]) -> None:
    text = TINY.replace("%b: f32[2]", "%b: f32[2]<0.5, 3>")
    for at, length, new in changes:
        text = text[:at] + new + text[at + length :]
    said = ""
    try:
        parse_graph(text)
    except QfError as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[0.5, -1]", "[0.5, abc]", ["line 3", "a value", "abc"]),
        ("f32[1,4]", "f32[1.5,4]", ["line 1", "a whole number", "1.5"]),
        ("f32[1,4]", "f32[-1,4]", ["line 1", "a whole number", "-1"]),
        ("%w: f32[2,4] = 0.5", "%w: f32[2000000,4000000] = 0.5", ["line 2", "elements"]),
        ("%w: f32[2,4]", '%"\\q": f32[2,4]', ["line 2", "text in quotes"]),
        ("%w: f32[2,4] = 0.5", "%x: f32[2,4] = 0.5", ["line 2", "'x'", "twice"]),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, words: list[str]) -> None:
    assert old in TINY
    with pytest.raises(UsageError) as caught:
        parse_graph(TINY.replace(old, new))
    assert all(word in str(caught.value) for word in words), str(caught.value)
