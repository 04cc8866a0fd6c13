"""Linear layers as matrices against their own references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import normal

from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.spec import computed
from qfrewrite.rewrite.layers import (
    columns,
    grouped_outputs,
    grouped_weights,
    positions,
    ungrouped,
)
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.rewrite.match import LINEAR

CASES: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("CONV_2D", (1, 7, 6, 4), (5, 3, 3, 4), {}),
    ("CONV_2D", (1, 7, 6, 4), (5, 3, 2, 4), {"stride_h": 2, "stride_w": 3, "padding": "VALID"}),
    ("CONV_2D", (1, 9, 9, 4), (6, 3, 3, 2), {"dilation_h_factor": 2, "dilation_w_factor": 2}),
    ("CONV_2D", (2, 4, 4, 3), (5, 1, 1, 3), {}),
    ("DEPTHWISE_CONV_2D", (1, 7, 6, 3), (1, 3, 3, 3), {"stride_h": 2, "stride_w": 2}),
    ("DEPTHWISE_CONV_2D", (1, 7, 6, 3), (1, 3, 3, 6), {"depth_multiplier": 2}),
    ("FULLY_CONNECTED", (3, 8), (5, 8), {}),
    ("FULLY_CONNECTED", (2, 3, 8), (5, 8), {"keep_num_dims": True}),
    ("TRANSPOSE_CONV", (1, 4, 3, 2), (3, 3, 3, 2), {"stride_h": 2, "stride_w": 2}),
    ("TRANSPOSE_CONV", (1, 4, 3, 2), (3, 2, 4, 2), {"stride_h": 1, "stride_w": 2,
                                                    "padding": "VALID"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "shape", "weights", "attrs"), CASES)
@pytest.mark.parametrize("count", [5, 10_000])
def test_columns_times_weights_are_the_outputs(
    kind: str, shape: tuple[int, ...], weights: tuple[int, ...], attrs: dict[str, Any], count: int
) -> None:
    b = GraphBuilder()
    x = b.input("x", shape)
    operands = [x, b.const("w", normal(*weights))]
    if kind == "TRANSPOSE_CONV":
        sizes = [8, 6] if attrs.get("padding") is None else [5, 8]
        operands = [b.const("s", np.array([1, *sizes, 3], "i4")), operands[1], x]
    op = b.op(kind, *operands, attrs=attrs).producer
    assert op is not None
    value, w = normal(*shape, seed=1), normal(*weights)
    first = operands[0].data if operands[0].is_const else value
    want = computed(op, [first, w, value] if kind == "TRANSPOSE_CONV" else [value, w])[0]
    view = LinearView.of(op)
    assert isinstance(view, LinearView)
    at = positions(view, count, np.random.default_rng(0))
    grouped = grouped_weights(view)
    np.testing.assert_allclose(ungrouped(view, grouped), w, rtol=1e-6)
    got = np.einsum("ngk,gmk->ngm", columns(view, value, at), grouped)
    rows = want.reshape(-1, want.shape[-1])[at]
    np.testing.assert_allclose(got, grouped_outputs(view, rows), atol=1e-4)


def test_every_linear_kind_is_covered() -> None:
    assert set(LINEAR) == {kind for kind, *_ in CASES}
