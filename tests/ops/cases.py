"""Cases of every op: shapes of computed operands, constants, attributes."""

from __future__ import annotations

from typing import Any

import numpy as np

from qfrewrite.ir import Array, Graph, Op
from qfrewrite.ops.build import GraphBuilder, append_op

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
    "CONV_3D": [([(1, 4, 5, 5, 2), f(2, 3, 3, 2, 3), f(3)], {"stride_h": 2})],
    "PRELU": [([X, f(1, 1, 4)], {})],
    "ADD_N": [([X, X, X], {})],
    "GATHER_ND": [([(3, 4, 2), i([0, 1], [2, 3])], {}), ([(3, 2), i([2], [0])], {})],
    "SCATTER_ND": [([i([1], [4]), (2, 3), i(6, 3)], {})],
    "BROADCAST_TO": [([(1, 4, 1), i(2, 4, 3)], {}), ([(3,), i(2, 3)], {})],
    "REVERSE_SEQUENCE": [([(2, 5, 3), i(5, 2)], {"seq_dim": 1, "batch_dim": 0}),
                         ([(2, 5, 3), i(1, 3, 0, 2, 3)], {"seq_dim": 2, "batch_dim": 1})],
    "REVERSE_V2": [([X, i(2)], {})],
    "CUMSUM": [([(2, 5), i(1)], {"exclusive": e, "reverse": r})
               for e in (False, True) for r in (False, True)],
    "DYNAMIC_UPDATE_SLICE": [([(4, 6), (2, 3), i(1, 2)], {}), ([(4, 6), (2, 3), i(3, 9)], {})],
    "EMBEDDING_LOOKUP": [([i(2, 0, 2), f(5, 4)], {})],
    **{k: [([X, X], {}), ([X, f(4)], {})]
       for k in ("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")},
    **{k: [([np.array([[True], [False]]), np.array([True, False])], {})]
       for k in ("LOGICAL_AND", "LOGICAL_OR")},
    "LOGICAL_NOT": [([np.array([True, False])], {})],
    "SELECT": [([np.array([[True, False, True]]), (1, 3), (1, 3)], {}),
               ([np.array([True, False]), (2, 3), (2, 3)], {})],
    "SELECT_V2": [([np.array([[True], [False]]), (2, 3), (1, 3)], {}),
                  ([np.array([True, False, True]), (2, 3), f(1)], {})],
    "ARG_MAX": [([(2, 5), i(1)], {"output_type": "INT64"}), ([X, i(3)], {"output_type": "INT32"})],
    "ARG_MIN": [([(2, 5), i(0)], {"output_type": "INT32"})],
    "TOPK_V2": [([(2, 7), np.array(3, np.int32)], {})],
    "ONE_HOT": [([i(2, 0), np.array(4, np.int32), np.float32(1.5), np.float32(-0.5)], {"axis": 0}),
                ([i(2, 0), np.array(4, np.int32), np.float32(1.5), np.float32(-0.5)], {})],
    "FILL": [([i(2, 3), np.float32(1.25)], {})],
    "RANGE": [([np.float32(0.5), np.float32(3), np.float32(0.5)], {})],
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
    "GATHER": [([(4, 3), i(2, 0, 2)], {"axis": 0}), ([(4, 3), i(1, 0)], {"axis": 1}),
               ([(2, 4, 3), i([2, 0], [1, 1])], {"axis": 1, "batch_dims": 1}),
               ([(2, 3, 4), i([2, 0], [1, 1])], {"axis": 2, "batch_dims": 1})],
    "SPACE_TO_DEPTH": [([X], {"block_size": 2})],
    "DEPTH_TO_SPACE": [([X], {"block_size": 2})],
    "AVERAGE_POOL_2D": [([X], {**POOL, "padding": p}) for p in ("SAME", "VALID")],
    "MAX_POOL_2D": [([X], {**POOL, "padding": p}) for p in ("SAME", "VALID")],
    "L2_POOL_2D": [([X], {**POOL, "padding": p}) for p in ("SAME", "VALID")],
    "LEAKY_RELU": [([X], {"alpha": 0.3})],
    "GELU": [([X], {"approximate": a}) for a in (False, True)],
    "SOFTMAX": [([(2, 5)], {"beta": 1.0}), ([(1, 2, 3)], {"beta": 0.5})],
    "FAKE_QUANT": [([X], {"min": -1.0, "max": 1.5})],
    **{k: [([X, i(1, 2)], {"keep_dims": d}) for d in (False, True)]
       for k in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")},
    **{k: [([np.array([[True, False], [True, True]]), i(1)], {"keep_dims": d})
           for d in (False, True)] for k in ("REDUCE_ANY", "REDUCE_ALL")},
    "REDUCE_PROD": [([(1, 2, 2, 4), i(1, 2)], {"keep_dims": d}) for d in (False, True)],
    **{k: [([X, X], {}), ([X, f(4)], {}), ([X, (1, 6, 1, 1)], {})]
       for k in ("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE")},
    **{k: [([X], {})] for k in (
        "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "ELU", "LOGISTIC", "TANH", "HARD_SWISH",
        "ABS", "NEG",
        "EXP", "SQUARE", "LOG_SOFTMAX", "L2_NORMALIZATION", "IDENTITY")},
    **{k: [([X], {"positive": True})] for k in ("LOG", "SQRT", "RSQRT")},
    **{k: [([X], {})] for k in ("SIN", "COS", "FLOOR", "CEIL", "ROUND", "SIGN", "ERF")},
    "POW": [([X, f(4)], {"positive": True})],
    "DIV": [([X, X], {}), ([X, f(4)], {}), ([i(-7, 7, 8), i(2, -2, 3)], {})],
    "FLOOR_DIV": [([X, np.float32(0.75)], {}), ([i(-7, 7, 8), i(2, -2, 3)], {})],
    "FLOOR_MOD": [([X, np.float32(0.75)], {}), ([i(-7, 7, 8), i(2, -2, 3)], {})],
    "ATAN2": [([X, X], {})],
    "BUCKETIZE": [([X], {"boundaries": (-1.0, 0.5, 1.25)})],
    "LOCAL_RESPONSE_NORMALIZATION": [
        ([X], {}), ([X], {"radius": 1, "bias": 1.5, "alpha": 0.3, "beta": 0.6})
    ],
}  # fmt: skip
# Moves without a numpy reference: LiteRT in float is what int8 is held against.
MOVES: dict[str, list[tuple[list[Any], dict[str, Any]]]] = {
    **{k: [([X, i(12, 9)], {"half_pixel_centers": h}) for h in (False, True)]
       for k in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")},
    "SPACE_TO_BATCH_ND": [([X, i(2, 3), i([0, 0], [0, 0])], {}),
                          ([X, i(2, 2), i([1, 1], [0, 2])], {})],
    "BATCH_TO_SPACE_ND": [([(4, 3, 3, 2), i(2, 2), i([0, 1], [0, 0])], {})],
}  # fmt: skip


def built(kind: str, case: int) -> tuple[Graph, Op, bool]:
    """A graph of one op, the op, and whether its operands must be positive."""
    operands, attrs = {**CASES, **MOVES}[kind][case]
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
    return b.finish(*op.outputs), op, positive
