"""Facets of ops against what the ops compute, and every facet that holds and is not stated.

A stated facet that numbers contradict fails, and so does an op that a facet could hold for until it
is stated or listed in `GAPS`. So who adds an op is asked for each facet.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from cases import CASES, MOVES, built

import qfrewrite
from qfrewrite.ir import Array, Op
from qfrewrite.lower.cost import macs
from qfrewrite.ops import OPS
from qfrewrite.ops.spec import computed, facets, kinds_that
from qfrewrite.runtime.session import Session

PACKAGE = Path(qfrewrite.__file__).parent
# Facet -> kinds for which it holds in every case, and which do not state it: nothing asks for it
# there, or it depends on the axes that the op names.
GAPS = {
    "activation": """ABS CEIL COS ERF EXP FAKE_QUANT FLOOR LOG ROUND RSQRT SIGN SIN SQRT SQUARE""",
    "bounds": """
        ABS COS ELU ERF EXP FAKE_QUANT FLOOR_MOD GELU HARD_SWISH L2_NORMALIZATION L2_POOL_2D
        LOCAL_RESPONSE_NORMALIZATION LOG_SOFTMAX SIGN SIN SQUARE SQUARED_DIFFERENCE""",
    "channelwise": """EXPAND_DIMS FAKE_QUANT FLOOR_DIV FLOOR_MOD GATHER_ND MEAN PAD PADV2 REDUCE_MAX
        REDUCE_MIN REDUCE_PROD RESHAPE REVERSE_V2 SCATTER_ND SQUEEZE STRIDED_SLICE SUM TILE
        UNPACK""",
    "homogeneous": """
        ABS ADD_N BATCH_TO_SPACE_ND BROADCAST_TO CUMSUM DEPTH_TO_SPACE DYNAMIC_UPDATE_SLICE
        EXPAND_DIMS GATHER GATHER_ND NEG PACK RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR
        REVERSE_SEQUENCE REVERSE_V2 SCATTER_ND SELECT SPACE_TO_BATCH_ND SQUEEZE TOPK_V2
        UNPACK""",
    "neutral": """POW PRELU""",
    "reshapes": """IDENTITY""",
    "selects": """BATCH_TO_SPACE_ND BROADCAST_TO DEPTH_TO_SPACE GATHER GATHER_ND IDENTITY MIRROR_PAD
        REDUCE_MAX REDUCE_MIN RESIZE_NEAREST_NEIGHBOR REVERSE_SEQUENCE REVERSE_V2 SLICE
        SPACE_TO_DEPTH SPLIT SPLIT_V STRIDED_SLICE TILE TOPK_V2 UNPACK""",
}
# Kinds that no case computes float values from float values with: their facets are looked up in
# what they are documented to do.
UNSEEN = """ARG_MAX ARG_MIN ASSIGN_VARIABLE BIDIRECTIONAL_SEQUENCE_LSTM BUCKETIZE CALL_ONCE CAST
    CONV_3D_TRANSPOSE CUSTOM DENSIFY DEPTHWISE_CONV_2D DEQUANTIZE EMBEDDING_LOOKUP EQUAL FILL
    FLOAT_BITS GREATER GREATER_EQUAL IF LESS LESS_EQUAL LOGICAL_AND LOGICAL_NOT
    LOGICAL_OR LSTM NOT_EQUAL ONE_HOT QUANTIZE RANGE READ_VARIABLE REDUCE_ALL REDUCE_ANY RFFT
    SHAPE STABLEHLO_COMPOSITE SVDF UNIDIRECTIONAL_SEQUENCE_LSTM VAR_HANDLE WHERE WHILE"""
# Kinds that compute nothing here, and have no effect beyond their outputs.
WITHOUT_EFFECTS = """
    BATCH_TO_SPACE_ND BIDIRECTIONAL_SEQUENCE_LSTM CONV_3D CONV_3D_TRANSPOSE FLOAT_BITS LSTM
    READ_VARIABLE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RFFT SPACE_TO_BATCH_ND
    STABLEHLO_COMPOSITE SVDF UNIDIRECTIONAL_SEQUENCE_LSTM WHERE"""


class Case:
    """One case of an op as a function of its computed operands."""

    def __init__(self, kind: str, number: int) -> None:
        self.graph, self.op, self.positive = built(kind, number)
        self.names = [t.name for t in self.graph.inputs]
        self.shapes = [t.shape for t in self.graph.inputs]

    def operands(self, seed: int = 0, scale: float = 1.0) -> list[Array]:
        """Random operands."""
        rng = np.random.default_rng(seed)
        values = [np.asarray(rng.normal(size=s), np.float32) for s in self.shapes]
        return [(np.abs(v) + 0.1 if self.positive else v) * np.float32(scale) for v in values]

    def __call__(self, *operands: Array) -> Array:
        """The first result."""
        sample = dict(zip(self.names, operands, strict=True))
        if OPS[self.op.kind].reference is None:
            return Session(self.graph, self.graph.outputs, threads=1).run(sample)[0]
        values = [
            None if t is None else t.data if t.is_const else sample[t.name] for t in self.op.inputs
        ]
        return computed(self.op, values)[0]


@cache
def float_cases(kind: str) -> Sequence[Case]:
    """The cases of a kind that compute float values from float values; none if there are others."""
    cases = [Case(kind, n) for n in range(len({**CASES, **MOVES}[kind]))]
    cases = [c for c in cases if c.names]
    floats = all(c.op.output.dtype == c.graph.inputs[0].dtype == "float32" for c in cases)
    return [c for c in cases if not _takes_bias(c)] if floats else []


def _takes_bias(case: Case) -> bool:
    """Whether a layer has a bias: it is scaled with the layer's output, apart from the input."""
    slot = facets(case.op).slot("bias")
    return slot is not None and case.op.input(slot) is not None


def near(a: Array, b: Array) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


def homogeneous(case: Case) -> bool:
    x = case.operands(scale=0.5)
    return near(case(*(2 * v for v in x)), 2 * case(*x))


def channelwise(case: Case) -> bool:
    if len(case.names) != 1 or case.shapes[0][-1] < 2:
        return False
    (x,) = case.operands()
    y, turned, one, zero = case(x), case(x[..., ::-1]), x.copy(), np.zeros_like(x)
    if y.shape[-1:] != x.shape[-1:]:
        return False
    one[..., 0] += 1
    alone = near(case(one)[..., 1:], y[..., 1:])
    return alone and near(turned, y[..., ::-1]) and bool(np.isfinite(case(zero)).all())


def selects(case: Case) -> bool:
    x = case.operands()
    return len(x) == 1 and bool(np.isin(case(*x), x[0]).all())


def reshapes(case: Case) -> bool:
    x = case.operands()
    return len(x) == 1 and np.array_equal(case(*x).reshape(-1), x[0].reshape(-1))


def bounds(case: Case) -> bool:
    if case.positive:
        return False
    x = case.operands(scale=1e3)
    signed = (x, [np.abs(v) for v in x], [-np.abs(v) for v in x])
    y = np.concatenate([case(*values).reshape(-1) for values in signed])
    return bool(y.min() >= -1.01 or y.max() <= 1.01)


def _one_by_one(case: Case) -> bool:
    """Whether each value of the result follows from the values at its place alone."""
    x = case.operands()
    if any(v.shape != x[0].shape for v in x):
        return False
    shuffled = np.random.default_rng(1).permutation(x[0].size)
    mixed = [v.reshape(-1)[shuffled].reshape(v.shape) for v in x]
    y, z = case(*x), case(*mixed)
    return y.shape == x[0].shape and near(y.reshape(-1)[shuffled].reshape(y.shape), z)


def activation(case: Case) -> bool:
    if len(case.names) != 1 or len(case.op.inputs) != 1 or not _one_by_one(case):
        return False
    (x,) = case.operands()
    return not near(case(x) + case(x + 1), case(2 * x + 1))


def combines(case: Case) -> bool:
    if [port.role for port in OPS[case.op.kind].inputs] != ["act", "act"]:
        return False
    a, b = case.op.operand(0), case.op.operand(1)
    try:
        fits = np.broadcast_shapes(a.shape, b.shape) == case.op.output.shape
    except ValueError:
        return False
    return fits and (len(case.names) == 1 or a.shape != b.shape or _one_by_one(case))


def divides(case: Case) -> bool:
    if not combines(case):
        return False
    x, zeros = -np.ones(4, np.float32), np.zeros(4, np.float32)
    return not all(np.isfinite(computed(case.op, [*p])[0]).all() for p in ((x, zeros), (zeros, x)))


def neutral(case: Case) -> bool:
    return combines(case) and bool(neutral_constants(case))


def neutral_constants(case: Case) -> list[tuple[float, tuple[int, ...]]]:
    """Each constant of 0 and 1 that leaves the other operand as it is, with its slots."""
    x = np.array([-2, -0.5, 0.3, 4], np.float32)
    found = []
    for value in (0.0, 1.0):
        c = np.full_like(x, value)
        pairs = ((c, x), (x, c))
        slots = tuple(s for s, p in enumerate(pairs) if near(computed(case.op, [*p])[0], x))
        found += [(value, slots)] if slots else []
    return found


HOLDS: dict[str, Callable[[Case], bool]] = {
    f.__name__: f
    for f in (
        activation, bounds, channelwise, combines, divides, homogeneous, neutral, reshapes, selects
    )
}  # fmt: skip


def holding(facet: str) -> set[str]:
    """The kinds for which a facet holds in all their float cases."""
    kinds = {**CASES, **MOVES}
    return {k for k in kinds if (cases := float_cases(k)) and all(HOLDS[facet](c) for c in cases)}


@pytest.mark.parametrize("facet", sorted(HOLDS))
def test_what_is_stated_holds_and_what_holds_is_stated(facet: str) -> None:
    stated = set(kinds_that(lambda spec: getattr(spec, facet)))
    seen = {k for k in {**CASES, **MOVES} if float_cases(k)}
    held = holding(facet)
    assert stated & seen - held == set()
    assert held - stated == set(GAPS.get(facet, "").split())


def test_kinds_whose_facets_no_numbers_decide() -> None:
    cases = {**CASES, **MOVES}
    assert {k for k in OPS if k not in cases or not float_cases(k)} == set(UNSEEN.split())


def test_kinds_that_may_have_effects() -> None:
    dark = kinds_that(lambda spec: spec.reference is None and not spec.effects)
    assert set(dark) == set(WITHOUT_EFFECTS.split())


@pytest.mark.parametrize("kind", kinds_that(lambda spec: spec.bounds))
def test_bounds_are_those_of_the_results(kind: str) -> None:
    """A bound that is too narrow drops clips that clip; one that is too wide is not reached."""
    (case,) = float_cases(kind)[:1]
    low, high = OPS[kind].bounds or (0.0, 0.0)
    # They are written into ranges files as they are.
    assert isinstance(low, float)
    assert isinstance(high, float)
    x = case.operands(scale=100)
    y = case(*x)
    assert low <= y.min() <= low + 0.01
    assert y.max() <= high
    assert y.max() >= min(high, 100) - 0.01
    if OPS[kind].clips:
        np.testing.assert_array_equal(y, np.clip(x[0], low, high))


@pytest.mark.parametrize("kind", kinds_that(lambda spec: spec.neutral))
def test_neutral_constants(kind: str) -> None:
    assert neutral_constants(float_cases(kind)[0]) == [OPS[kind].neutral]


def test_facets_that_go_together() -> None:
    for spec in OPS.values():
        assert not spec.clips or spec.bounds is not None, spec.kind
        assert not spec.linear or spec.macs is not None, spec.kind
        assert not spec.scatters or spec.linear, spec.kind
        assert not spec.fuses or spec.unfuses, spec.kind
        assert not spec.fusible or spec.activation, spec.kind


def test_multiply_accumulates() -> None:
    """By hand: weights times positions of the output, of the input where it scatters."""
    assert {k: macs(built(k, 0)[1]) for k in kinds_that(lambda spec: spec.macs)} == {
        "CONV_2D": 180 * 9, "DEPTHWISE_CONV_2D": 36 * 9, "TRANSPOSE_CONV": 108 * 36,
        "FULLY_CONNECTED": 18, "CONV_3D": 108 * 60, "BATCH_MATMUL": 2 * 3 * 4 * 5,
    }  # fmt: skip


def test_an_op_without_a_definition_has_no_facets() -> None:
    op = Op("CUSTOM_KIND", [], [])
    assert not facets(op).reshapes
    assert not facets(None).linear
    assert facets(op).macs is None


# Where kinds of ops stand together for what one module does with them, not for what they are: the
# ops that a formula may consist of, what a pattern may hold, rules for each kind, and what chips
# support.
LISTS = {
    "calibration/statistics.py", "rewrite/channel_rules.py",
    "rewrite/activations.py",
}  # fmt: skip


def test_no_module_lists_kinds_of_ops() -> None:
    """A property of ops that a module keeps in a list of its own is one that new ops lack."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Tuple | ast.List | ast.Set):
                values = [e.value for e in node.elts if isinstance(e, ast.Constant)]
                if sum(isinstance(v, str) and v in OPS for v in values) > 2:
                    found.add(str(path.relative_to(PACKAGE)))
    assert {f for f in found if not f.startswith("ops/")} == LISTS
