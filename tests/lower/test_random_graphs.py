"""Random small graphs: each converts, or is refused with a reason; none breaks the runtime."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from graphs import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from quantizing import quantized

from qfrewrite.errors import QfError
from qfrewrite.ir import Tensor
from qfrewrite.ops.build import GraphBuilder

UNARY = ("RELU", "RELU6", "ABS", "LOGISTIC", "TANH", "HARD_SWISH", "ELU", "GELU", "LEAKY_RELU",
         "NEG", "SQUARE", "SOFTMAX", "L2_NORMALIZATION", "EXP", "RELU_N1_TO_1",
         "IDENTITY")  # fmt: skip
BINARY = ("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE")
SHAPED = ("CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "AVERAGE_POOL_2D", "PAD", "CONCATENATION",
          "SPLIT", "TRANSPOSE", "RESHAPE", "MEAN", "REVERSE_V2", "CUMSUM", "TILE", "SLICE",
          "CONSTANT")  # fmt: skip


def grow(b: GraphBuilder, kind: str, pool: list[Tensor], pick: st.DataObject) -> Tensor:
    """One more op on tensors of the pool; all have rank 4."""
    x = pick.draw(st.sampled_from(pool))
    if kind in UNARY:
        return b.op(kind, x)
    if kind in BINARY:
        fitting = [t for t in pool if t.shape == x.shape or (t.shape[:3] == (1, 1, 1)
                   and t.shape[3] in (1, x.shape[3]))]  # fmt: skip
        return b.op(kind, x, pick.draw(st.sampled_from(fitting)))
    return shaped(b, kind, x, pool)


def shaped(b: GraphBuilder, kind: str, x: Tensor, pool: list[Tensor]) -> Tensor:
    c, axes = x.shape[3], lambda *v: b.const("axes", np.array(v, "i4"))
    if kind == "CONV_2D":
        return b.op(kind, x, b.const("w", normal(3, 3, 3, c, scale=0.3)), b.const("b", normal(3)))
    if kind == "DEPTHWISE_CONV_2D":
        return b.op(kind, x, b.const("w", normal(1, 3, 3, c)), b.const("b", normal(c)))
    if kind.endswith("POOL_2D"):
        return b.op(kind, x, attrs={"filter_height": 2, "filter_width": 2, "padding": "SAME"})
    if kind == "PAD":
        return b.op(kind, x, axes([0, 0], [1, 0], [0, 1], [0, 0]))
    if kind == "CONCATENATION":
        same = next(t for t in reversed(pool) if t.shape[:3] == x.shape[:3])
        return b.op(kind, x, same, attrs={"axis": 3})
    if kind == "SPLIT":
        return b.op(kind, axes(3), b.op("CONCATENATION", x, x, attrs={"axis": 3}),
                    attrs={"num_splits": 2})  # fmt: skip
    if kind == "CONSTANT":
        return b.op("MUL", x, b.const("c", normal(c)))
    operand = {
        "TRANSPOSE": [0, 2, 1, 3], "RESHAPE": [x.shape[0], x.shape[2], x.shape[1], c],
        "MEAN": [1, 2], "REVERSE_V2": [1], "CUMSUM": 3, "TILE": [1, 1, 1, 2],
    }  # fmt: skip
    if kind == "SLICE":
        return b.op(kind, x, axes(0, 0, 0, 0), axes(-1, -1, -1, max(c // 2, 1)))
    attrs = {"keep_dims": True} if kind == "MEAN" else {}
    const = b.const("operand", np.array(operand[kind], "i4"))
    return b.op(kind, x, const, attrs=attrs)


@pytest.mark.parametrize(
    "scheme", ["int8", "uint8", "int16x8", "dynamic", "weight-only", "float16"]
)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_random_graphs_convert_and_run(scheme: str, data: st.DataObject) -> None:
    b = GraphBuilder()
    pool = [b.input("x", (1, 5, 4, 3)), b.input("z", (1, 5, 4, 3))]
    for kind in data.draw(
        st.lists(st.sampled_from(UNARY + BINARY + SHAPED), min_size=1, max_size=7)
    ):
        new = grow(b, kind, pool, data)
        if new.size <= 4096 and new.shape[3] <= 48:
            pool.append(new)
    outputs = data.draw(
        st.lists(st.sampled_from(pool[2:] or pool), min_size=1, max_size=2, unique=True)
    )
    if all(b.graph.producer(t) is None for t in outputs):
        return
    graph = b.finish(*outputs)
    graph.prune()
    with contextlib.suppress(QfError):  # refused with a reason
        quantized(graph, scheme=scheme)
