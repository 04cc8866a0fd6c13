from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from graphs import separable
from hypothesis import given
from hypothesis import strategies as st

from qfrewrite.errors import UsageError, VerifyError
from qfrewrite.ir import Graph, Op, Tensor, constant
from qfrewrite.ir.verify import verify_structure
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.text import graph_text


def chain(*kinds: str) -> Graph:
    b = GraphBuilder()
    t = b.input("x", (1, 4))
    for kind in kinds:
        t = b.op(kind, t, name=kind.lower())
    return b.finish(t)


def test_an_operand_may_stand_twice() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    graph = b.finish(b.op("MUL", x, x, name="y"))
    assert [(r.op.name, r.slot) for r in x.users] == [("y", 0), ("y", 1)]
    assert graph.nx.number_of_edges(x, graph.op("y")) == 1


def test_cycles_are_refused_before_anything_changes() -> None:
    graph = chain("RELU", "TANH", "ABS")
    before, version = graph_text(graph), graph.version
    with pytest.raises(VerifyError, match="cycle"):
        graph.set_inputs(graph.op("relu"), [graph.tensor("abs")])
    with pytest.raises(VerifyError, match="cycle"):
        graph.set_inputs(graph.op("relu"), [graph.tensor("relu")])
    assert (graph_text(graph), graph.version) == (before, version)


def test_a_tensor_has_one_producer() -> None:
    graph = chain("RELU")
    with pytest.raises(VerifyError, match="value from elsewhere"):
        graph.add_op(Op("ABS", [graph.inputs[0]], [graph.tensor("relu")]))
    with pytest.raises(VerifyError, match="value from elsewhere"):
        graph.add_op(Op("ABS", [graph.tensor("relu")], [graph.inputs[0]]))
    with pytest.raises(VerifyError, match="cannot hold a constant"):
        graph.set_data(graph.tensor("relu"), np.zeros((1, 4), "f4"))


def test_a_kind_that_does_not_exist_is_refused_with_the_nearest_name() -> None:
    """A misspelt kind gave no ops, and the pass said that there was nothing to do."""
    graph = chain("RELU")
    assert graph.ops_of("CONV_2D") == ()
    with pytest.raises(UsageError, match=r"no kind of op 'conv_2d'; did you mean 'CONV_2D'\?"):
        graph.ops_of("RELU", "conv_2d")
    with pytest.raises(UsageError, match="'MY_OP'"):
        graph.ops_of("MY_OP")
    graph.add_op(Op("MY_OP", [graph.inputs[0]], [Tensor("mine", (1, 4))]))
    assert [op.name for op in graph.ops_of("MY_OP")] == ["mine"]


def test_tensors_know_their_neighbours_in_the_graph_that_holds_them() -> None:
    graph = chain("RELU", "TANH")
    x, relu, tanh = graph.inputs[0], graph.tensor("relu"), graph.tensor("tanh")
    assert (x.producer, x.is_input, x.is_output) == (None, True, False)
    assert (relu.producer, [u.op for u in relu.users]) == (graph.op("relu"), [graph.op("tanh")])
    assert (tanh.users, tanh.is_output) == ((), True)
    spare = Tensor("spare", (1, 4))
    assert (spare.producer, spare.users, spare.is_output) == (None, (), False)
    graph.set_inputs(graph.op("tanh"), [x])
    graph.remove_op(graph.op("relu"))
    assert (relu.producer, relu.users) == (None, ())
    with pytest.raises(VerifyError, match="is in another graph"):
        chain("RELU").add_tensor(tanh)


def test_tensors_of_a_clone_find_the_clone_also_when_it_takes_over() -> None:
    """Fails where `become` leaves tensors on the index of the graph that was given up."""
    graph = chain("RELU", "TANH")
    old = graph.tensor("relu")
    copy, twins = graph.clone()
    assert twins[old].producer is copy.op("relu")
    graph.become(copy)
    del copy
    assert twins[old].producer is graph.op("relu")
    assert twins[old].users[0].op is graph.op("tanh")
    graph.set_input(graph.op("tanh"), 0, graph.inputs[0])
    assert twins[old].users == ()


def test_a_tensor_keeps_the_graph_around_it() -> None:
    """Fails where a tensor refers to its graph weakly: nothing else holds this one."""
    y = chain("RELU", "TANH").outputs[0]
    assert y.is_output
    assert y.producer is not None
    x = y.producer.operand(0)
    assert [user.op for user in x.users] == [y.producer]
    assert x.producer is not None
    assert x.producer.operand(0).is_input


def test_graphs_that_nobody_holds_are_freed_with_their_constants() -> None:
    """Fails where something beside tensors and ops refers to a graph that was given up."""
    data = np.ones(4, np.float32)
    b = GraphBuilder()
    graph = b.finish(b.op("ADD", b.input("x", (4,)), b.graph.add_tensor(constant("c", data))))
    copy, twins = graph.clone()
    graph.become(copy)
    held = weakref.ref(data)
    del data, b, graph, copy, twins
    gc.collect()
    assert held() is None


def test_empty_slots_before_a_new_operand_stay_empty() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    y = b.op("FULLY_CONNECTED", x, b.const("w", np.ones((2, 4), "f4")), name="dense")
    graph = b.finish(y)
    bias = constant("bias", np.ones(2, "f4"))
    graph.set_input(graph.op("dense"), 3, bias)
    assert graph.op("dense").inputs[2:] == (None, bias)


def test_what_is_read_is_not_removed() -> None:
    graph = chain("RELU", "TANH")
    for name in ("relu", "tanh"):
        with pytest.raises(VerifyError, match="still read"):
            graph.remove_op(graph.op(name))


def test_a_graph_output_keeps_its_name_when_another_tensor_takes_its_place() -> None:
    graph = chain("RELU", "TANH")
    relu, tanh = graph.tensor("relu"), graph.tensor("tanh")
    graph.replace_uses(tanh, relu)
    assert graph.outputs == (relu,)
    assert (relu.name, tanh.name) == ("tanh", "relu")
    graph.remove_op(graph.ops[-1])
    assert [op.kind for op in graph.ops] == ["RELU"]


def test_objects_are_written_through_the_graph_only() -> None:
    graph = chain("RELU")
    op, tensor = graph.ops[0], graph.inputs[0]
    with pytest.raises(AttributeError, match="through its Graph"):
        op.kind = "ABS"
    with pytest.raises(AttributeError, match="through its Graph"):
        tensor.name = "z"
    with pytest.raises(TypeError):
        op.attrs["x"] = 1  # type: ignore[index]
    with pytest.raises(Exception, match=r"[Ff]rozen"):
        graph.nx.add_node("x")


def test_the_view_is_live() -> None:
    graph = chain("RELU")
    view, count = graph.nx, graph.nx.number_of_nodes()
    graph.add_tensor(Tensor("free", (1,)))
    assert view.number_of_nodes() == count + 1


def test_clones_are_independent_and_share_data() -> None:
    graph = separable()
    copy, twins = graph.clone()
    text = graph_text(graph)
    assert graph_text(copy) == text
    w = graph.tensor("dw/w")
    assert twins[w].data is w.data
    copy.set_kind(copy.op("relu6"), "RELU")
    copy.set_data(twins[w], np.zeros_like(w.value()))
    assert graph_text(graph) == text


def test_inserted_ops_stand_behind_their_anchor() -> None:
    graph = chain("RELU", "TANH", "ABS")
    anchor = graph.op("relu")
    for name in ("a", "b"):
        graph.add_op(Op("NEG", [graph.inputs[0]], [Tensor(name, (1, 4))]), anchor=anchor)
    assert [op.name for op in graph.ops] == ["relu", "a", "b", "tanh", "abs"]


def test_prune_drops_what_no_output_needs() -> None:
    graph = chain("RELU", "TANH")
    graph.add_op(Op("NEG", [graph.inputs[0]], [Tensor("dead", (1, 4))]))
    graph.add_tensor(constant("unused", np.zeros(3, "f4")))
    assert [op.name for op in graph.prune()] == ["dead"]
    assert {t.name for t in graph.tensors} == {"x", "relu", "tanh"}


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 3)), max_size=40))
def test_random_edits_keep_a_graph_sound_and_its_order_stable(
    edits: list[tuple[int, int, int]],
) -> None:
    b = GraphBuilder()
    graph = b.finish(b.op("RELU", b.input("x", (1, 2)), name="first"))
    for n, (i, j, action) in enumerate(edits):
        ops, tensors = graph.ops, graph.tensors
        op, source = ops[i % len(ops)], tensors[j % len(tensors)]
        try:
            if action == 0:
                graph.add_op(Op("ABS", [source], [Tensor(f"t{n}", (1, 2))]), anchor=op)
            elif action == 1:
                graph.set_inputs(op, [source])
            elif action == 2:
                graph.replace_uses(op.output, source)
            else:
                graph.remove_op(op)
        except VerifyError:
            pass
        if not graph.ops:
            return
        verify_structure(graph)
        place = {op: k for k, op in enumerate(graph.ops)}
        for op in graph.ops:
            makers = [t.producer for t in op.inputs if t is not None]
            assert all(place[m] < place[op] for m in makers if m is not None)
        assert [op.name for op in graph.clone()[0].ops] == [op.name for op in graph.ops]


def test_a_constant_is_put_in_one_op_only() -> None:
    """In place where nothing else reads the old one; a shared one stays for its other users."""
    b = GraphBuilder()
    c = b.const("c", np.zeros(2, "f4"))
    first = b.op("ADD", b.input("x", (1, 2)), c, name="first")
    graph = b.finish(b.op("MUL", first, c, name="second"))
    add, mul = graph.ops
    new = graph.put_constant(add, 1, np.ones(2, "f4"))
    assert new is not c
    assert new is add.input(1)
    assert mul.input(1) is c
    assert graph.put_constant(mul, 1, np.full(2, 3, "f4")) is c
    assert c.value().tolist() == [3, 3]
    named = graph.put_constant(add, 1, np.ones(2, "f4"), "bias")
    assert named is new


def test_a_snapshot_tells_states_apart_and_not_copies() -> None:
    """Fails if a copy has a key of its own, or if an edit that is undone gives the old one."""
    graph = separable()
    before, (copy, _) = graph.snapshot(), graph.clone()
    assert graph.snapshot() == before == copy.snapshot() == copy.clone()[0].snapshot()
    name = graph.ops[0].name
    graph.rename(graph.ops[0], "other")
    assert graph.snapshot() not in (before, copy.snapshot())
    graph.rename(graph.ops[0], name)
    assert graph.snapshot() != before
    assert separable().snapshot() != before
    graph.become(copy)
    assert graph.snapshot() == before


def test_a_snapshot_holds_the_bodies() -> None:
    main, body = separable(), separable()
    main.bodies = (body,)
    before = main.snapshot()
    copy = main.clone()[0]
    copy.bodies = (body.clone()[0],)
    assert copy.snapshot() == before
    body.rename(body.ops[0], "other")
    assert main.snapshot() != before
