"""What dead channels hold."""

from __future__ import annotations

import numpy as np
from graphs import normal

from qfrewrite.ops.build import GraphBuilder
from qfrewrite.rewrite.dead_channels import DeadChannels, settle_values
from qfrewrite.rewrite.linear import LinearView


def test_a_dead_channel_holds_beta_unless_its_weights_are_next_to_nothing() -> None:
    """Then it holds the bias, whatever the moving mean says."""
    b = GraphBuilder()
    w = normal(3, 1, 1, 2)
    w[1] = 1e-30
    bias = np.array([1, 2, 3], "f4")
    y = b.op("CONV_2D", b.input("x", (1, 2, 2, 2)), b.const("w", w), b.const("b", bias))
    view = LinearView.of(b.finish(y).ops[0])
    assert isinstance(view, LinearView)
    dead = np.array([True, True, False])
    settled = settle_values(view, DeadChannels(dead, np.array([0.5, 0.6, 0.7])))
    assert settled.value.tolist() == [0.5, 2.0, 0.7]
    assert settled.dead.tolist() == dead.tolist()
