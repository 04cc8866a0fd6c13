"""The text of a graph, and the graph of a text."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from math import prod
from typing import Any

import numpy as np
import pytest
from graphs import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import Recipe, grow, recipes

from qfrewrite.errors import QfError, UsageError, VerifyError
from qfrewrite.ir import (
    ChannelFacts,
    Graph,
    Normal,
    Op,
    Quant,
    Tensor,
    TrainedRange,
    constant,
)
from qfrewrite.ir.fingerprint import graph_fingerprint
from qfrewrite.ir.nodes import Precision
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


def arrays(size: int, dtype: str = "f8") -> st.SearchStrategy[np.ndarray]:
    element = st.booleans() if dtype == "?" else st.floats(-9, 9, width=32)
    return st.lists(element, min_size=size, max_size=size).map(lambda v: np.array(v, dtype))


@st.composite
def known_facts(draw: st.DrawFn, channels: int) -> dict[str, Any]:
    """Fields of a tensor: any of the facts, alone and together."""
    normal = draw(st.none() | st.builds(Normal, arrays(channels), arrays(channels)))
    mean, live = draw(st.none() | arrays(channels)), draw(st.none() | arrays(channels, "?"))
    size = draw(st.sampled_from([(), (channels,)]))
    ends = arrays(prod(size), draw(st.sampled_from(["f4", "f8"]))).map(lambda v: v.reshape(size))
    trained = st.builds(
        TrainedRange,
        ends,
        ends,
        st.sampled_from([None, 0, 1]),
        st.sampled_from([4, 8]),
        st.booleans(),
        st.sampled_from(["", "w/FakeQuant", "two words"]),
    )
    return {
        "channels": ChannelFacts(normal, mean, live),
        "trained": draw(st.none() | trained),
        "fused": draw(st.booleans()),
    }


def assert_same_facts(one: object, other: object) -> None:
    """Equal to the last bit, in type and shape too."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert isinstance(other, np.ndarray)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one, other)
    elif is_dataclass(one):
        for f in fields(one):
            assert_same_facts(getattr(one, f.name), getattr(other, f.name))
    elif isinstance(one, tuple):
        for a, b in zip(one, other, strict=True):
            assert_same_facts(a, b)
    else:
        assert one == other


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([1, 3, 20]), st.sampled_from([None, "float", "int16"]))
def test_facts_read_back(data: st.DataObject, channels: int, keep: Precision | None) -> None:
    """Fails where a fact is not written, or read with another type or value."""
    facts = [data.draw(known_facts(channels)) for _ in range(3)]
    x, w, y = (Tensor(n, (1, channels), **f) for n, f in zip("xwy", facts, strict=True))
    graph = Graph()
    w = replace(w, data=np.ones((1, channels), "f4"))
    graph.set_io([x])
    graph.set_keep(graph.add_op(Op("ADD", [x, w], [y])), keep)
    graph.set_io(outputs=[y])
    text = graph_text(graph, exact=True)
    back = parse_graph(text)
    assert graph_text(back, exact=True) == text
    assert back.op("y").keep == keep
    for name, wanted in zip("xwy", facts, strict=True):
        for field, fact in wanted.items():
            assert_same_facts(getattr(back.tensor(name), field), fact)


def test_facts_are_shown_where_there_are_any() -> None:
    graph = parse_graph(TINY)
    dense, op = graph.tensor("dense"), graph.op("y")
    graph.set_channels(dense, ChannelFacts(Normal(np.ones(2), np.array([0.5, 2]))))
    graph.set_trained(graph.tensor("w"), TrainedRange(np.array(-1.0), np.array(1.0), name="fq"))
    graph.set_fused(dense, True)
    graph.set_keep(op, "float")
    text = graph_text(graph)
    assert (
        text
        == """graph tiny(%x: f32[1,4]) {
  %w: f32[2,4] {trained.high=f64[] 1, trained.low=f64[] -1, trained.name=fq} = 0.5
  %b: f32[2] = [0.5, -1]
  %dense: f32[1,2] {channels.normal.mean=f64[2] 1, channels.normal.std=f64[2] [0.5, 2], \
fused=true} = FULLY_CONNECTED(%x, %w, %b)
  %y: f32[1,2] = LEAKY_RELU(%dense) {alpha=0.25} keep float
  return %y
}
"""
    )
    assert graph_text(parse_graph(text)) == text


def test_long_facts_are_digests_and_come_by_name() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 20))
    graph = b.finish(b.op("RELU", x))
    graph.set_channels(x, ChannelFacts(mean=np.arange(20.0)))
    text = graph_text(graph)
    assert "channels.mean=f64[20] #" in text
    back = parse_graph(text, {"x.channels.mean": np.arange(20.0)})
    np.testing.assert_array_equal(back.inputs[0].channels.mean, np.arange(20.0))


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
        ("%b: f32[2]", "%b: f32[2] {mean=f32[2] 1}", UsageError, ["line 3", "'b'", "mean"]),
        ("%b: f32[2]", "%b: f32[2] {trained.low=f32[] 1}", UsageError, ["line 3", "'high'"]),
        ("%b: f32[2]", "%b: f32[2] {fused=f32[] 1}", UsageError, ["line 3", "'b'", "fused"]),
        ("{alpha=0.25}", "keep int4", UsageError, ["line 5", "'int4'", "float, int16"]),
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
    text = TINY.replace(
        "%b: f32[2]", "%b: f32[2]<0.5, 3> {trained.low=f32[] -1, trained.high=f32[] 1, fused=true}"
    )
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
