"""Every row of the op table: numpy reference and shape rule against LiteRT."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qfrewrite.ir import Array
from qfrewrite.ops import OPS
from qfrewrite.ops.build import GraphBuilder, append_op
from qfrewrite.runtime.session import Session

RNG = np.random.default_rng(11)


def f(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def i(*values: Any) -> Array:
    return np.array(values, np.int32)


X = (1, 6, 6, 4)
STRIDED = {"stride_h": 2, "stride_w": 2, "padding": "SAME"}
VALID = {"padding": "VALID", "dilation_h_factor": 2, "dilation_w_factor": 2}
POOL = {"filter_height": 3, "filter_width": 2, "stride_h": 2, "stride_w": 1}
# kind -> cases of (shape of each computed input or constant, attributes)
CASES: dict[str, list[tuple[list[Any], dict[str, Any]]]] = {
    "CONV_2D": [([X, f(5, 3, 3, 4), f(5)], STRIDED), ([X, f(5, 2, 2, 4), None], VALID)],
    "DEPTHWISE_CONV_2D": [
        ([X, f(1, 3, 3, 4), f(4)], STRIDED),
        ([X, f(1, 3, 3, 8), f(8)], {**VALID, "depth_multiplier": 2}),
    ],
    "TRANSPOSE_CONV": [
        ([i(1, 12, 12, 3), f(3, 3, 3, 4), X], {"stride_h": 2, "stride_w": 2, "padding": "SAME"}),
        ([i(1, 8, 8, 3), f(3, 3, 3, 4), X], {"padding": "VALID"}),
    ],
    "FULLY_CONNECTED": [([(1, 6), f(3, 6), f(3)], {}), ([(2, 3), f(4, 3), None], {})],
    "BATCH_MATMUL": [
        ([(2, 3, 4), (2, 4, 5)], {}),
        ([(2, 4, 3), (2, 5, 4)], {"adj_x": True, "adj_y": True}),
    ],
    "BATCH_NORM": [([X, f(4), f(4), f(4), np.abs(f(4)) + 1], {"epsilon": 1e-3})],
    "PRELU": [([X, f(1, 1, 4)], {})],
    "CONCATENATION": [([X, X, X], {"axis": 3}), ([(1, 2), (1, 3)], {"axis": -1})],
    "PACK": [([(2, 3), (2, 3)], {"axis": 1, "values_count": 2})],
    "UNPACK": [([(3, 2, 4)], {"axis": 0, "num": 3})],
    "SPLIT": [([i(3), X], {"num_splits": 2})],
    "SPLIT_V": [([X, i(1, 3), i(3)], {"num_splits": 2})],
    "RESHAPE": [([X, i(1, 36, 4)], {}), ([X, i(-1, 4)], {})],
    "SQUEEZE": [([(1, 3, 1, 2)], {"squeeze_dims": (0, 2)})],
    "EXPAND_DIMS": [([(2, 3), i(1)], {})],
    "TRANSPOSE": [([X, i(0, 3, 1, 2)], {})],
    "PAD": [([X, np.array([[0, 0], [1, 2], [0, 1], [0, 0]], np.int32)], {})],
    "PADV2": [([X, np.array([[0, 0], [1, 2], [0, 1], [0, 0]], "i4"), np.array([2.5], "f4")], {})],
    "MIRROR_PAD": [
        ([(2, 4), np.array([[1, 0], [2, 1]], "i4")], {"mode": m}) for m in ("REFLECT", "SYMMETRIC")
    ],
    "SLICE": [([X, i(0, 1, 2, 0), i(1, 3, -1, 2)], {})],
    "STRIDED_SLICE": [
        ([X, i(0, 1, 5, 0), i(1, 6, 0, 4), i(1, 2, -2, 1)], {"begin_mask": 1, "end_mask": 1}),
        ([X, i(0, 2, 0, 0), i(1, 3, 6, 4), i(1, 1, 1, 1)], {"shrink_axis_mask": 2}),
    ],
    "TILE": [([(2, 3), i(2, 1)], {})],
    "GATHER": [([(4, 3), i(2, 0, 2)], {"axis": 0}), ([(4, 3), i(1, 0)], {"axis": 1})],
    "SPACE_TO_DEPTH": [([X], {"block_size": 2})],
    "DEPTH_TO_SPACE": [([X], {"block_size": 2})],
    "AVERAGE_POOL_2D": [([X], {**POOL, "padding": p}) for p in ("SAME", "VALID")],
    "MAX_POOL_2D": [([X], {**POOL, "padding": p}) for p in ("SAME", "VALID")],
    "LEAKY_RELU": [([X], {"alpha": 0.3})],
    "GELU": [([X], {"approximate": a}) for a in (False, True)],
    "SOFTMAX": [([(2, 5)], {"beta": 1.0}), ([(1, 2, 3)], {"beta": 0.5})],
    "FAKE_QUANT": [([X], {"min": -1.0, "max": 1.5})],
    **{k: [([X, i(1, 2)], {"keep_dims": d}) for d in (False, True)]
       for k in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")},
    **{k: [([X, X], {}), ([X, f(4)], {}), ([X, (1, 6, 1, 1)], {})]
       for k in ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE")},
    **{k: [([X], {})] for k in (
        "RELU", "RELU6", "RELU_N1_TO_1", "ELU", "LOGISTIC", "TANH", "HARD_SWISH", "ABS", "NEG",
        "EXP", "SQUARE", "LOG_SOFTMAX", "L2_NORMALIZATION", "IDENTITY")},
    **{k: [([X], {"positive": True})] for k in ("LOG", "SQRT", "RSQRT")},
}  # fmt: skip
# Rows that need another element type, tested elsewhere: casts, shapes, quantization itself.
ELSEWHERE = {"CAST", "SHAPE", "QUANTIZE", "DEQUANTIZE"}
# Kinds without a numpy reference.
NO_REFERENCE = {k for k, spec in OPS.items() if spec.reference is None}


def test_every_row_has_a_case() -> None:
    assert set(OPS) == set(CASES) | ELSEWHERE | NO_REFERENCE


@pytest.mark.parametrize(
    ("kind", "case"), [(k, n) for k, cases in sorted(CASES.items()) for n in range(len(cases))]
)
def test_reference_equals_the_runtime(kind: str, case: int) -> None:
    operands, attrs = CASES[kind][case]
    attrs = dict(attrs)
    positive = attrs.pop("positive", False)
    b = GraphBuilder()
    inputs = [
        None if o is None
        else b.input(f"x{n}", o) if isinstance(o, tuple)
        else b.const(f"c{n}", o)
        for n, o in enumerate(operands)
    ]  # fmt: skip
    op = append_op(b.graph, kind, inputs, name="y", attrs=attrs)
    graph = b.finish(*op.outputs)
    sample = {t.name: np.abs(f(*t.shape)) + 0.1 if positive else f(*t.shape) for t in graph.inputs}
    got = Session(graph, graph.outputs, threads=1).run(sample)
    values = [None if t is None else t.data if t.is_const else sample[t.name] for t in op.inputs]
    reference = OPS[kind].reference
    assert reference is not None
    for have, want, out in zip(got, reference(op, values), op.outputs, strict=True):
        assert have.shape == out.shape == want.shape
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=2e-5)
