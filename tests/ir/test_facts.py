"""Facts of values: they move with the value, by one call."""

from __future__ import annotations

import numpy as np
import pytest

from qfrewrite.errors import VerifyError
from qfrewrite.ir import ChannelFacts, Graph, Normal, Op, Tensor, TrainedRange, constant
from qfrewrite.ir.verify import verify_structure

FACTS = ChannelFacts(
    Normal(np.array([1.0, -2.0, 3.0]), np.array([0.5, 1.0, 2.0])), np.array([10.0, 20.0, 30.0])
)


def test_a_value_that_is_scaled_and_shifted_takes_its_facts_along() -> None:
    """Fails where a standard deviation gets the sign of the factor, or the offset."""
    now = FACTS.scaled(np.array([2.0, -1.0, 0.0])).shifted(np.array([0.0, 1.0, 5.0]))
    assert now.normal is not None
    assert now.mean is not None
    assert now.normal.mean.tolist() == [2, 3, 5]
    assert now.normal.std.tolist() == [1, 1, 0]
    assert now.mean.tolist() == [20, -19, 5]


def test_channels_that_are_selected_take_their_facts_along() -> None:
    padded = FACTS.selected(np.array([2, -1, 0]))
    assert padded.normal is not None
    assert padded.mean is not None
    assert padded.live is not None
    assert padded.normal.mean.tolist() == [3, 0, 1]
    assert padded.mean.tolist() == [30, 0, 10]
    assert padded.live.tolist() == [True, False, True]
    again = padded.selected(np.array([1, 2, -1]))
    assert again.live is not None
    assert again.live.tolist() == [False, True, False]
    assert again.spread(np.array([7.0])).tolist() == [0, 7, 0]
    assert FACTS.selected(np.array([1, 0])).live is None


def test_nothing_known_stays_nothing_known() -> None:
    nothing = ChannelFacts().scaled(np.ones(3)).shifted(np.ones(3)).selected(np.arange(3))
    assert (nothing.normal, nothing.mean, nothing.live) == (None, None, None)


def test_a_trained_range_follows_its_constant() -> None:
    """Fails where a negative factor leaves the lower end above the upper one."""
    one = TrainedRange(np.asarray(-1.0), np.asarray(2.0), name="fq")
    each = one.scaled(np.array([1.0, -2.0]), 3)
    assert each is not None
    assert (each.axis, each.name) == (3, "fq")
    assert (each.low.tolist(), each.high.tolist()) == ([-1, -4], [2, 2])
    assert each.scaled(np.ones(2), 3) is not None
    assert each.scaled(np.ones(2), 0) is None


def test_another_value_has_no_range_of_the_old_one() -> None:
    graph, w = Graph(), constant("w", np.ones((2, 2), "f4"))
    graph.add_tensor(w)
    graph.set_trained(w, TrainedRange(np.asarray(-1.0), np.asarray(1.0)))
    graph.set_data(w, np.zeros((3, 2), "f4"))
    assert w.trained is None
    assert w.shape == (3, 2)


def test_facts_of_other_channels_are_refused() -> None:
    graph, x, y = Graph(), Tensor("x", (1, 3)), Tensor("y", (1, 3))
    graph.set_io([x])
    graph.add_op(Op("RELU", [x], [y]))
    graph.set_io(outputs=[y])
    graph.set_channels(y, FACTS)
    verify_structure(graph)
    graph.set_shape(y, (1, 4))
    with pytest.raises(VerifyError, match=r"'y'.*facts of other channels"):
        verify_structure(graph)
    graph.set_shape(y, (1, 3))
    graph.set_trained(x, TrainedRange(np.asarray(-1.0), np.asarray(1.0)))
    with pytest.raises(VerifyError, match=r"'x'.*trained range and no value"):
        verify_structure(graph)


def test_a_clone_has_every_field() -> None:
    """Fails where a field is added that `clone` does not copy."""
    graph = Graph()
    x = Tensor("x", (1, 3), shape_signature=(-1, 3), has_rank=True, is_variable=True, fused=True)
    y = Tensor("y", (1, 3))
    graph.set_io([x])
    op = graph.add_op(Op("RELU", [x], [y], {"a": 1}, name="r", version=4, meta={"node": 1}))
    graph.set_keep(op, "int16")
    graph.set_channels(x, FACTS)
    copy, twins = graph.clone()
    for field in set(Tensor.__slots__) - {"_index"}:
        assert getattr(twins[x], field) is getattr(x, field)
    for field in set(Op.__slots__) - {"inputs", "outputs"}:
        assert getattr(copy.ops[0], field) == getattr(op, field)
    assert copy.ops[0].inputs == (twins[x],)
    assert twins[y].producer is copy.ops[0]
    assert y.producer is op
