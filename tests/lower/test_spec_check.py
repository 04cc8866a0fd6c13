"""The specification's rules: each is broken once and found; sound models pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from graphs import normal
from quantizing import quantized
from test_schemes import network

from qfrewrite.formats.tflite.read import read_tflite
from qfrewrite.formats.tflite.write import write_tflite
from qfrewrite.ir import Graph, Model, Op, Quant, Tensor
from qfrewrite.lower.spec_check import RULES, check_graph, check_model
from qfrewrite.ops.build import GraphBuilder


def sound() -> Graph:
    b = GraphBuilder()
    y = b.op("CONV_2D", b.input("x", (1, 4, 4, 2)), b.const("w", normal(3, 1, 1, 2)),
             b.const("b", normal(3)), name="conv")  # fmt: skip
    y = b.op("RESHAPE", y, b.const("s", np.array([1, 48], "i4")), name="flat")
    z = b.op("SOFTMAX", y, name="softmax")
    z = b.op("SCATTER_ND", b.const("i", np.array([[1]], "i4")), b.op("ABS", z, name="abs"),
             b.const("n", np.array([3, 48], "i4")), name="scattered")  # fmt: skip
    return quantized(b.finish(z))[0]


def quant(
    graph: Graph, tensor: Tensor, *, scale: float | None = None, zero: int | None = None,
    axis: int | None = None,
) -> None:  # fmt: skip
    old = tensor.quant
    assert old is not None
    new = Quant(
        old.scale if scale is None else old.scale * np.float32(scale),
        old.zero_point if zero is None else np.full_like(old.zero_point, zero),
        old.axis if axis is None else axis,
    )
    graph.set_type(tensor, tensor.dtype, new)


def operand(graph: Graph, kind: str, slot: int) -> Tensor:
    return graph.ops_of(kind)[0].operand(slot)


def negative(g: Graph) -> None:
    quant(g, g.inputs[0], scale=-1)


def no_code(g: Graph) -> None:
    quant(g, g.inputs[0], zero=300)


def two_scales(g: Graph) -> None:
    g.set_type(g.inputs[0], g.inputs[0].dtype, Quant(np.ones(2, "f4"), np.zeros(2, np.int64), 3))


def shifted_weights(g: Graph) -> None:
    quant(g, operand(g, "CONV_2D", 1), zero=3)


def wrong_axis(g: Graph) -> None:
    w = operand(g, "CONV_2D", 1)
    g.set_type(w, w.dtype, Quant(np.ones(2, "f4"), np.zeros(2, np.int64), 3))


def lowest_code(g: Graph) -> None:
    w = operand(g, "CONV_2D", 1)
    g.set_data(w, np.full_like(w.value(), -128), quant=w.quant)


def wrong_bias_scale(g: Graph) -> None:
    quant(g, operand(g, "CONV_2D", 2), scale=1.01)


def wrong_bias_type(g: Graph) -> None:
    b = operand(g, "CONV_2D", 2)
    g.set_data(b, b.value().astype("i2"), dtype="int16", quant=b.quant)


def too_large_bias(g: Graph) -> None:
    b = operand(g, "CONV_2D", 2)
    g.set_data(b, np.full_like(b.value(), 2**31 - 1), quant=b.quant)


def far_apart(g: Graph) -> None:
    quant(g, g.inputs[0], scale=1e6)
    quant(g, operand(g, "CONV_2D", 2), scale=1e6)


def rescaled_move(g: Graph) -> None:
    quant(g, g.ops_of("RESHAPE")[0].output, scale=2)


def free_softmax(g: Graph) -> None:
    quant(g, g.ops_of("SOFTMAX")[0].output, scale=2)


def shifted_scatter(g: Graph) -> None:
    op = g.ops_of("SCATTER_ND")[0]
    for tensor in (op.operand(1), op.output):
        quant(g, tensor, zero=5)


def mixed(g: Graph) -> None:
    g.set_type(g.ops_of("ABS")[0].output, "float32", None)


def old_version(g: Graph) -> None:
    op = g.ops_of("CONV_2D")[0]
    g.set_version(op, 1)


BROKEN: list[tuple[str, Callable[[Graph], None], str]] = [
    ("tensor", negative, "tensor 'x': has the scale"),
    ("tensor", no_code, "zero point 300, which is no int8"),
    ("tensor", two_scales, "has 2 scales along axis 3|is an activation with 2 scales"),
    ("weights", shifted_weights, "weights 'w' have zero point 3, need 0"),
    ("weights", wrong_axis, "weights 'w' have scales on axis 3, need 0"),
    ("weights", lowest_code, "hold the code -128"),
    ("bias", wrong_bias_scale, "bias 'b' has scale"),
    ("bias", wrong_bias_type, "bias 'b' is int16, needs int32"),
    ("overflow", too_large_bias, "can reach .*int32 ends"),
    ("multiplier", far_apart, "rescales by"),
    ("same-scale", rescaled_move, "op 'flat' .RESHAPE.: 'conv' has scale"),
    ("same-scale", shifted_scatter, "has zero point 5, needs 0"),
    ("fixed-range", free_softmax, "needs scale 0.00390625, zero point -128"),
    ("types", mixed, "mixes float32 and int8 activations"),
    ("version", old_version, "is version 1, needs 3"),
]


@pytest.mark.parametrize(("rule", "damage", "text"), BROKEN, ids=[d.__name__ for _, d, _ in BROKEN])
def test_each_broken_rule_is_found(rule: str, damage: Callable[[Graph], None], text: str) -> None:
    graph = sound()
    assert check_graph(graph, versions=True) == []
    damage(graph)
    found = [v for v in check_graph(graph, versions=True) if v.code == rule]
    assert found
    import re

    assert re.search(text, str(found[0])), found[0]


def test_every_rule_is_broken_above() -> None:
    assert set(RULES) | {"tensor"} == {rule for rule, _, _ in BROKEN}


def test_a_written_file_passes(tmp_path: Path) -> None:
    for scheme in ("int8", "int16x8", "uint8", "dynamic"):
        graph, _, _ = quantized(network(), scheme=scheme)
        write_tflite(Model([graph]), tmp_path / "m.tflite")
        assert check_model(read_tflite(tmp_path / "m.tflite"), mapped=True) == []


def test_data_off_their_place_are_found(tmp_path: Path) -> None:
    graph, _, _ = quantized(network())
    write_tflite(Model([graph]), tmp_path / "m.tflite")
    model = read_tflite(tmp_path / "m.tflite")
    bias = model.graph.ops_of("CONV_2D")[0].operand(2)
    raw = np.zeros(bias.value().nbytes + 1, np.uint8)
    model.graph.set_data(bias, raw[1:].view("<i4"), quant=bias.quant)
    assert any(v.code == "alignment" for v in check_model(model, mapped=True))


def test_float_graphs_have_nothing_to_break() -> None:
    assert check_graph(network()) == []
    graph = Graph()
    x, y = Tensor("x", (1,), "int8"), Tensor("y", (1,), "int8")
    graph.set_io([x])
    graph.add_op(Op("ABS", [x], [y]))  # plain integers, not codes
    assert check_graph(graph) == []
