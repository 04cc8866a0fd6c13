from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qfrewrite.ir import (
    Array,
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
from qfrewrite.ops.build import GraphBuilder


def graph() -> Graph:
    """Every kind of fact that a graph holds, in few ops."""
    b = GraphBuilder()
    x = b.input("x", (1, 4, 4, 16))
    w = b.const("w", ((np.arange(6400) % 251 - 125) / 64).reshape(400, 1, 1, 16))
    codes = b.const("codes", np.arange(16, dtype="i1").reshape(16))
    b.graph.set_type(codes, codes.dtype, Quant(np.arange(1, 17, dtype="f4"),
                                             np.zeros(16, np.int64)))  # fmt: skip
    y = b.op("CONV_2D", x, w, name="conv")
    y = b.op("LEAKY_RELU", y, attrs={"alpha": 0.1}, name="act")
    z = b.graph.add_tensor(Tensor("z", (1, 4, 4, 16)))
    custom = {
        "custom_code": "Mine",
        "custom_options": b"abcd",
        "table": np.array([0.0, 0.5, 1.0], "f4"),
    }
    b.graph.add_op(Op("CUSTOM", [x, codes], [z], custom))
    graph = b.finish(y, z)
    body = GraphBuilder("body")
    graph.bodies = (body.finish(body.op("ADD", body.input("i", (1,)), body.const("one", [1.0]))),)
    return graph


def _values(name: str, index: int, change: Callable[[Array], object]) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        tensor = graph.tensor(name)
        data = np.array(tensor.value())
        data.reshape(-1)[index] = change(data.reshape(-1)[index])
        graph.set_data(tensor, data, quant=tensor.quant)

    return edit


def _attrs(name: str, **attrs: object) -> Callable[[Graph], None]:
    return lambda g: g.set_attrs(g.op(name), **attrs)


def _quant(scale: float, zero: int) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        quant = graph.tensor("codes").quant
        assert quant is not None
        scales, zeros = np.array(quant.scale), np.array(quant.zero_point)
        scales[7] += scale
        zeros[7] += zero
        graph.set_type(graph.tensor("codes"), graph.tensor("codes").dtype, Quant(scales, zeros))

    return edit


def _body(graph: Graph) -> None:
    body = graph.bodies[0]
    body.set_data(body.tensor("one"), np.array([2.0], "f4"))


def _swapped(graph: Graph) -> None:
    graph.set_io(outputs=graph.outputs[::-1])


CHANGES: dict[str, Callable[[Graph], None]] = {
    "a value behind the 4,096th": _values("w", 5000, lambda v: v + 1),
    "the last bit of a value": _values("w", 3, lambda v: np.nextafter(v, np.float32(9))),
    "a code": _values("codes", 15, lambda v: v + 1),
    "the last bits of an attribute": _attrs("act", alpha=0.1 + 1e-12),
    "bytes of equal length": _attrs("z", custom_options=b"abce"),
    "an array between equal ends": _attrs("z", table=np.array([0.0, 0.6, 1.0], "f4")),
    "a type of attribute": _attrs("act", alpha="0.1"),
    "a scale between the ends": _quant(1e-6, 0),
    "a zero point": _quant(0, 1),
    "what a custom op is": _attrs("z", custom_code="Other"),
    "an unknown dimension": lambda g: g.set_signature(
        g.tensor("x"), (-1, 4, 4, 16)
    ),
    "a name": lambda g: g.rename(g.tensor("act"), "other"),
    "the order of outputs": _swapped,
    "a subgraph": _body,
    "statistics": lambda g: g.set_channels(
        g.tensor("act"), ChannelFacts(Normal(np.zeros(400), np.ones(400)))
    ),
    "padding": lambda g: g.set_channels(g.tensor("act"), ChannelFacts(live=np.arange(400) < 9)),
    "a trained range": lambda g: g.set_trained(
        g.tensor("w"), TrainedRange(np.asarray(-1.0), np.asarray(1.0))
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_everything_that_matters_changes_the_fingerprint(change: str) -> None:
    """The digest was one of display text: thirteen of these sixteen left it as it was."""
    changed = graph()
    before = graph_fingerprint(changed)
    CHANGES[change](changed)
    assert graph_fingerprint(changed) != before


def test_the_same_graph_has_the_same_fingerprint() -> None:
    """Layout in memory, spare tensors and what a file keeps for itself do not count."""
    one, other = graph(), graph().clone()[0]
    w = other.tensor("w")
    other.set_data(w, np.asfortranarray(w.value()))
    object.__setattr__(w, "meta", {"unknown": ("x",)})
    other.add_tensor(constant("spare", np.ones(3, "f4")))
    assert graph_fingerprint(one) == graph_fingerprint(other)
    # A change of the digest makes files of interrupted runs useless: it should be meant.
    assert graph_fingerprint(one) == "1bdb587a06dd231a48223ba1aa2bd173"
