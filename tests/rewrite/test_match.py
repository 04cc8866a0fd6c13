from __future__ import annotations

import pytest
from graphs import normal

from qfrewrite.ops.build import GraphBuilder
from qfrewrite.rewrite.linear import LinearView, linear_before
from qfrewrite.rewrite.match import NoMatch, sole_user


def test_a_reason_has_no_truth_value() -> None:
    """While a NoMatch was false, `if why := check(op)` never fired."""
    why = NoMatch("is not a constant", at="w")
    assert str(why) == "'w' is not a constant"
    for wrong in (lambda: bool(why), lambda: not why, lambda: why or None):
        with pytest.raises(TypeError, match=r"'w' is not a constant.*isinstance"):
            wrong()


def test_look_ups_say_why_there_is_no_match() -> None:
    b = GraphBuilder()
    x, w = b.input("x", (1, 4)), b.input("w", (3, 4))
    y = b.op("FULLY_CONNECTED", x, w, name="dense")
    z = b.op("FULLY_CONNECTED", x, b.const("w8", normal(3, 4).astype("u1")), name="hybrid")
    graph = b.finish(b.op("RELU", y), b.op("NEG", y), b.op("RELU", z))
    dense, hybrid = graph.op("dense"), graph.op("hybrid")
    assert str(LinearView.of(dense)) == "'w' is not a constant"
    assert str(LinearView.of(hybrid)) == "'w8' is uint8, needs float32"
    assert str(sole_user(y)) == "'dense' has 2 users, needs 1"
    assert str(linear_before(z)) == "'w8' is uint8, needs float32"
    assert str(linear_before(x)) == "'x' is not computed by an op"
