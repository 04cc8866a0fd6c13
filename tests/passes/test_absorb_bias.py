"""Which biases may move through an activation."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import normal

from qfrewrite.data.source import synthetic
from qfrewrite.ir import Graph, Model
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import Dataset, PassContext, run_passes
from qfrewrite.runtime.session import input_specs
from qfrewrite.testing import outputs_of


def two_layers(activation: str, bias: float) -> Graph:
    """Two 1x1 convolutions; two channels of the first stay near `bias`, others below 0."""
    b = GraphBuilder()
    biases = np.array([bias, bias, -1, -2], "f4")
    y = b.op("CONV_2D", b.input("x", (1, 4, 4, 3)), b.const("w", normal(4, 1, 1, 3, scale=0.1)),
             b.const("b", biases), name="first")  # fmt: skip
    return b.finish(b.op("CONV_2D", b.op(activation, y), b.const("v", normal(2, 1, 1, 4))))


@pytest.mark.parametrize(
    ("activation", "bias", "moves"), [("RELU6", 3, True), ("RELU6", 6, False), ("RELU", 6, True)]
)
def test_a_bias_moves_only_through_what_does_not_clip(
    activation: str, bias: float, moves: bool
) -> None:
    """Values around 6 are clipped by RELU6: less a constant they would not be."""
    graph = two_layers(activation, bias)
    before = outputs_of(graph)
    data = synthetic(input_specs(graph), 8)
    report = run_passes(Model([graph]), "absorb_bias", PassContext(Dataset(data), threads=1))
    assert bool(report["absorb_bias"].edits) == moves
    for old, new in zip(before, outputs_of(graph), strict=True):
        np.testing.assert_allclose(new[0], old[0], atol=1e-5)
