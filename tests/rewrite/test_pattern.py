"""Patterns: what they fit, what they capture, and the reasons where they do not fit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graphs import normal

from qfrewrite.errors import PassError
from qfrewrite.ir import Graph
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.rewrite.match import NoMatch
from qfrewrite.rewrite.pattern import Match, Pattern, Patterns, match
from qfrewrite.rewrite.rewriter import Rewriter
from qfrewrite.testing import largest_difference, outputs_of

p = Patterns()


def at(graph: Graph, pattern: Pattern, name: str = "y") -> Match | NoMatch:
    return match(graph, graph.op(name), pattern)


def binary(kind: str, *values: Any) -> Graph:
    """y = kind(x, c), or of the constant first."""
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    operands = [x if isinstance(v, str) else b.const("c", v) for v in values]
    return b.finish(b.op(kind, *operands, name="y"))


def test_operands_are_in_their_slots_unless_the_op_commutes() -> None:
    sub, mul = binary("SUB", 1.0, "x"), binary("MUL", 1.0, "x")
    assert str(at(sub, p.SUB(p.x, p.const(1)))) == "'c' is a constant, needs a computed value"
    assert isinstance(at(mul, p.MUL(p.x, p.const(1))), NoMatch)
    found = at(mul, p.MUL(p.x, p.const(1)).commute())
    assert found.x is mul.inputs[0]
    assert found.root is mul.op("y")


def test_captures_that_are_not_there_are_named() -> None:
    found = at(binary("MUL", "x", 2.0), p.MUL(p.x, p.number("n")))
    assert found.n == 2.0
    assert found.tensor("n").name == "c"
    with pytest.raises(AttributeError, match=r"captures no 'y'.*\['x', 'n'\]"):
        found.y  # noqa: B018


def test_one_name_is_one_value() -> None:
    """Fails where the second operand is bound without a look at the first."""
    b = GraphBuilder()
    x, z = b.input("x", (1, 4)), b.input("z", (1, 4))
    graph = b.finish(b.op("MUL", x, x, name="square"), b.op("MUL", x, z, name="product"))
    square = p.MUL(p.x, p.x)
    assert at(graph, square, "square").x is x
    assert str(at(graph, square, "product")) == "'z' is another value than the one before"


def test_a_pattern_used_twice_is_one_value_read_twice() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    exp, other = b.op("EXP", x), b.op("EXP", x)
    graph = b.finish(b.op("ADD", exp, exp, name="same"), b.op("ADD", exp, other, name="two"))
    shared = p.EXP(p.x)
    assert isinstance(at(graph, p.ADD(shared, shared), "same"), Match)
    assert isinstance(at(graph, p.ADD(shared, shared), "two"), NoMatch)
    assert isinstance(at(graph, p.ADD(p.EXP(p.x), p.EXP(p.x)), "two"), Match)


def test_orders_of_inner_ops_are_tried_again_when_outer_ones_fail() -> None:
    """x * (c + x): the inner ADD binds x to its first operand, which only its other order can."""
    b = GraphBuilder()
    x, z = b.input("x", (1, 4)), b.input("z", (1, 4))
    graph = b.finish(b.op("MUL", b.op("ADD", z, x), x, name="y"))
    found = at(graph, p.MUL(p.ADD(p.x, p.z).commute(), p.x))
    assert (found.x, found.z) == (x, z)


@pytest.mark.parametrize(
    ("shape", "fits"), [((), True), ((1,), True), ((4,), True), ((1, 4), True), ((2, 1), False)]
)
def test_values_per_channel(shape: tuple[int, ...], fits: bool) -> None:
    graph = binary("MUL", "x", normal(*shape))
    found = at(graph, p.MUL(p.x, p.per_channel("s")))
    assert isinstance(found, Match) == fits
    if fits:
        assert found.s.shape == (4,)
    else:
        assert str(found) == "'c' is [2, 1], needs a value per channel"
        assert found.near


@pytest.mark.parametrize(("x", "s"), [((3, 1), (4,)), ((), (1,))])
def test_values_per_channel_of_what_they_broadcast_are_none(
    x: tuple[int, ...], s: tuple[int, ...]
) -> None:
    """x of [3, 1] has one channel, and the four values make four of it."""
    b = GraphBuilder()
    graph = b.finish(b.op("MUL", b.input("x", x), b.const("s", normal(*s)), name="y"))
    found = at(graph, p.MUL(p.x, p.per_channel("s")))
    assert str(found) == f"'s' is {list(s)}, needs a value per channel"


@pytest.mark.parametrize("users", [1, 2])
def test_values_that_one_op_alone_reads(users: int) -> None:
    b = GraphBuilder()
    inner = b.op("EXP", b.input("x", (1, 4)), name="inner")
    others = [b.op("RELU", inner) for _ in range(users - 1)]
    graph = b.finish(b.op("NEG", inner, name="y"), *others)
    assert isinstance(at(graph, p.NEG(p.EXP(p.x))), Match)
    for pattern in (p.EXP(p.x).then(p.NEG()), p.NEG(p.EXP(p.x).sole())):
        found = at(graph, pattern)
        assert isinstance(found, Match) == (users == 1)
        if users == 2:
            assert str(found) == "'inner' has 2 users, needs 1"


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        (p.op("MUL", "ADD")(p.x, p.const(2)), True),
        (p.any_of(p.ADD(p.x, p.const()), p.MUL(p.x, p.const("c"))), True),
        (p.ADD(p.x, p.const(2)), False),
        (p.MUL(p.x, p.const(3)), False),
        (p.MUL(p.x, p.const(2)).where(fused_activation_function="RELU"), False),
    ],
)
def test_kinds_constants_and_attributes(pattern: Pattern, fits: bool) -> None:
    assert isinstance(at(binary("MUL", "x", 2.0), pattern), Match) == fits


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("users", [1, 2])
def test_any_number_of_steps_each_of_one_user(steps: int, users: int) -> None:
    """Fails where a step is left out of the capture, or one that others read is taken."""
    b = GraphBuilder()
    value = b.op("EXP", b.input("x", (1, 4)))
    for i in range(steps):
        value = b.op("RELU", value) if i % 2 else b.op("ADD", b.const("c", normal(4)), value)
    others = [b.op("TANH", value) for _ in range(users - 1)]
    graph = b.finish(b.op("NEG", value, name="y"), *others)
    chain = p.EXP(p.x).through("steps", p.RELU(), p.ADD(p.per_channel()))
    found = at(graph, chain.then(p.NEG()))
    assert isinstance(found, Match) == (users == 1)
    if isinstance(found, Match):
        assert [op.kind for op in found.steps] == ["ADD", "RELU", "ADD"][:steps]


def test_integers_are_a_tuple() -> None:
    b = GraphBuilder()
    y = b.op("TRANSPOSE", b.input("x", (2, 3, 4)), b.const("perm", np.array([2, 0, 1], "i4")))
    assert at(b.finish(y), p.TRANSPOSE(p.x, p.integers("perm")), y.name).perm == (2, 0, 1)


def test_an_op_with_a_fused_activation_is_another_op() -> None:
    b = GraphBuilder()
    fused = {"fused_activation_function": "RELU"}
    graph = b.finish(b.op("ADD", b.input("x", (1, 4)), b.const("c", 0.0), name="y", attrs=fused))
    why = at(graph, p.ADD(p.x, p.const(0)))
    assert str(why) == "'y' has fused_activation_function RELU, needs NONE"


def layer_with(users: int) -> Graph:
    b = GraphBuilder()
    x = b.op("FULLY_CONNECTED", b.input("x", (2, 4)), b.const("w", normal(3, 4)), name="dense")
    y = b.op("ADD", b.const("t", normal(3, seed=1)), b.op("MUL", x, b.const("s", normal(3))))
    return b.finish(b.op("NEG", y, name="y"), *(b.op("RELU", x) for _ in range(users - 1)))


AFFINE = p.linear("layer").then(p.MUL(p.per_channel("s"))).then(p.ADD(p.per_channel("t")))


def folded(m: Match) -> Any:
    return m.layer.scaled(m.s).shifted(m.t)


def test_a_chain_behind_a_layer_is_folded_into_it() -> None:
    """Fails where the result loses its name, or ops of the chain stay."""
    graph = layer_with(1)
    before, name = outputs_of(graph), graph.ops_of("ADD")[0].output.name
    assert Rewriter(graph).rewrite_all(AFFINE, folded)
    assert [op.kind for op in graph.ops] == ["FULLY_CONNECTED", "NEG"]
    assert graph.ops[0].output.name == name
    assert largest_difference(before, outputs_of(graph)) < 1e-6


def test_a_layer_that_others_read_stays_and_the_log_says_why() -> None:
    graph = layer_with(2)
    rw = Rewriter(graph)
    assert not rw.rewrite_all(AFFINE, folded)
    assert [str(e) for e in rw.log.skips] == ["skipped add: 'dense' has 2 users, needs 1"]


def test_reasons_of_ops_that_are_no_part_of_the_pattern_are_not_told() -> None:
    graph = binary("MUL", "x", 2.0)
    rw = Rewriter(graph)
    assert not rw.rewrite_all(p.MUL(p.x, p.const(1)), lambda m: m.x)
    assert rw.log.skips == []


def test_values_of_another_shape_do_not_fit() -> None:
    """x * ones(3, 4) is no x of [1, 4]."""
    graph = binary("MUL", "x", np.ones((3, 4)))
    rw = Rewriter(graph)
    assert not rw.rewrite_all(p.MUL(p.x, p.const(1)), lambda m: m.x)
    why = "'x' is float32[1, 4], needs float32[3, 4]"
    assert [str(e) for e in rw.log.skips] == [f"skipped y: {why}"]
    assert not rw.rewrite_all(p.MUL(p.x, p.const(1)), lambda m: m.new("RELU", m.new("NEG", m.x)))
    assert [op.kind for op in graph.ops] == ["MUL"]


@pytest.mark.parametrize(
    ("rewrite", "kinds"),
    [
        (lambda m: m.x, ["IDENTITY"]),
        (lambda m: m.new("NEG", m.new("RELU", m.x)), ["RELU", "NEG"]),
        (lambda m: m.new("ADD", m.x, m.constant("c", 3.0)), ["ADD"]),
        (lambda m: NoMatch("stays", at=m.new("NEG", m.x).name), ["MUL"]),
    ],
)
def test_outputs_keep_their_names(rewrite: Callable[[Match], Any], kinds: list[str]) -> None:
    graph = binary("MUL", "x", 1.0)
    Rewriter(graph).rewrite_all(p.MUL(p.x, p.const(1)), rewrite)
    assert [op.kind for op in graph.ops] == kinds
    assert [t.name for t in graph.outputs] == ["y"]


def test_what_is_refused_in_one_order_is_tried_in_the_other() -> None:
    """Fails where only the first way in which the pattern fits is rewritten."""
    b = GraphBuilder()
    graph = b.finish(b.op("ADD", b.input("a", (1, 4)), b.input("b", (1, 4)), name="y"))

    def of_b(m: Match) -> Any:
        made = m.new("NEG", m.x)
        return made if m.x.name == "b" else NoMatch("is not b", at=m.x.name)

    assert Rewriter(graph).rewrite_all(p.ADD(p.x, p.other).commute(), of_b)
    assert [(op.kind, op.inputs[0].name) for op in graph.ops] == [("NEG", "b")]


def test_an_unknown_op_is_named_with_the_nearest() -> None:
    with pytest.raises(PassError, match=r"pattern: no such op: MULL.*did you mean MUL\?"):
        p.MULL(p.x)


@pytest.mark.parametrize(("second", "fits"), [(2.0, True), (3.0, False)])
@pytest.mark.parametrize("capture", [p.number("c"), p.const("c"), p.per_channel("c")])
def test_a_constant_captured_twice_is_one_value(
    capture: Pattern, second: float, fits: bool
) -> None:
    """By what it holds: files often store equal constants twice."""
    b = GraphBuilder()
    product = b.op("MUL", b.input("x", (1, 4)), b.const("a", np.full(1, 2.0)))
    graph = b.finish(b.op("ADD", product, b.const("b", np.full(1, second)), name="y"))
    found = at(graph, p.ADD(p.MUL(p.x, capture), capture))
    assert isinstance(found, Match) is fits
    if not fits:
        assert str(found) == "'b' is another value than the one before"


def test_any_of_tries_values_that_any_op_may_compute() -> None:
    """Fails where the kinds of the steps hide that there may be no step."""
    b = GraphBuilder()
    graph = b.finish(b.op("ABS", b.op("NEG", b.input("x", (1, 4))), name="y"))
    steps = p.x.through("steps", p.RELU())
    for pattern in (steps, p.any_of(steps), p.any_of(p.any_of(p.RELU(p.x), p.x), p.RELU(p.z))):
        assert isinstance(at(graph, p.ABS(pattern)), Match)


@pytest.mark.parametrize("first", [True, False])
def test_a_value_read_in_either_slot(first: bool) -> None:
    graph = binary("ADD", *(("x", 3.0) if first else (3.0, "x")))
    assert isinstance(at(graph, p.x.then(p.ADD())), Match)
    assert isinstance(at(graph, p.ADD(p.x).commute()), Match)
    assert isinstance(at(graph, p.ADD(p.x)), Match) is first


def test_an_op_of_one_operand_does_not_commute() -> None:
    b = GraphBuilder()
    graph = b.finish(b.op("ABS", b.input("x", (1, 4)), name="y"))
    assert isinstance(at(graph, p.ABS(p.x).commute()), Match)
    assert isinstance(at(graph, p.ABS(p.const()).commute()), NoMatch)


@pytest.mark.parametrize("name", ["root", "graph", "tensor", "new", "constant", "get", "made"])
def test_names_that_a_match_has_itself_are_refused(name: str) -> None:
    for make in (p.number, p.linear, p.const, p.RELU(p.x).named, lambda n: getattr(p, n)):
        with pytest.raises(PassError, match=f"'{name}' cannot be captured"):
            make(name)


def test_a_layer_of_an_unknown_kind_is_named_with_the_nearest() -> None:
    with pytest.raises(PassError, match="no such op: CONV2D; did you mean CONV_2D"):
        p.linear("layer", "CONV2D")


def test_real_numbers_are_no_integers_and_nothing_equals_no_number() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 0))
    graph = b.finish(b.op("MUL", x, b.const("c", np.zeros(0)), name="y"))
    assert isinstance(at(graph, p.MUL(p.x, p.const(1))), NoMatch)
    halves = binary("MUL", "x", 0.5)
    assert str(at(halves, p.MUL(p.x, p.integers("n")))) == "'c' is float32, needs integers"


def test_a_match_can_be_copied() -> None:
    found = at(binary("MUL", "x", 2.0), p.MUL(p.x, p.number("n")))
    assert copy.copy(found).n == 2.0
    assert (found.get("n"), found.get("z", 7)) == (2.0, 7)


def test_the_reason_names_all_kinds_that_would_do() -> None:
    b = GraphBuilder()
    inner = b.op("NEG", b.input("x", (1, 4)), name="n")
    graph = b.finish(b.op("ABS", inner, name="y"))
    for pattern in (p.op("RELU", "RELU6")(p.x), p.any_of(p.RELU(p.x), p.RELU6(p.x))):
        assert "is not computed by RELU or RELU6" in str(at(graph, p.ABS(pattern)))
