"""Every row of the op table: numpy reference and shape rule against LiteRT."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CASES, built, f

from qfrewrite.errors import VerifyError
from qfrewrite.ops import OPS
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.spec import computed
from qfrewrite.runtime.session import Session

# Rows that need another element type or form, tested elsewhere: casts, shapes, sparse constants,
# quantization itself.
ELSEWHERE = {"CAST", "DENSIFY", "SHAPE", "QUANTIZE", "DEQUANTIZE"}
# Kinds without a numpy reference.
NO_REFERENCE = {k for k, spec in OPS.items() if spec.reference is None}


def test_every_row_has_a_case() -> None:
    assert set(OPS) - ELSEWHERE - NO_REFERENCE <= set(CASES)


@pytest.mark.parametrize(
    ("kind", "case"),
    [(k, n) for k, cases in sorted(CASES.items()) for n in range(len(cases))
     if k not in NO_REFERENCE],
)  # fmt: skip
def test_reference_equals_the_runtime(kind: str, case: int) -> None:
    graph, op, positive = built(kind, case)
    sample = {t.name: np.abs(f(*t.shape)) + 0.1 if positive else f(*t.shape) for t in graph.inputs}
    values = [None if t is None else t.data if t.is_const else sample[t.name] for t in op.inputs]
    wanted = computed(op, values)
    if graph.inputs:
        got = Session(graph, graph.outputs, threads=1).run(sample)
        for have, want in zip(got, wanted, strict=True):
            np.testing.assert_allclose(have, want, rtol=1e-4, atol=2e-5)
    for want, out in zip(wanted, op.outputs, strict=True):
        assert out.shape == want.shape


@pytest.mark.parametrize("bits", [0, 1, 17])
def test_fake_quantization_has_2_to_16_bits(bits: int) -> None:
    """One of 0 bits has no steps: the scale of its range was not a number."""
    b = GraphBuilder()
    with pytest.raises(VerifyError, match=f"num_bits is {bits}, must be 2 to 16"):
        b.op("FAKE_QUANT", b.input("x", (1, 4)), attrs={"max": 1.0, "num_bits": bits})
