"""Ops that others take the place of: without a kernel in the type wanted, or with a slow one."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import normal
from quantizing import quantized

from qfrewrite.ir import Graph
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.saving import quant_options
from qfrewrite.targets.table import TARGETS


def activated(kind: str, *, gain: float = 3.0, shift: float = 0.0) -> Graph:
    """A layer whose outputs spread around `shift`, and its activation."""
    b = GraphBuilder()
    w, bias = normal(8, 3, 3, 4, scale=gain / 3), np.full(8, shift, "f4")
    y = b.op("CONV_2D", b.input("x", (1, 9, 9, 4)), b.const("w", w), b.const("b", bias))
    slopes = (b.const("slopes", normal(1, 1, 8, scale=0.5)),) if kind == "PRELU" else ()
    return b.finish(b.op(kind, y, *slopes, name="y"))


def options(target: str | None, scheme: str = "int8") -> dict[str, object]:
    """What `--target` and `--scheme` make of the options."""
    return {"scheme": scheme, "slow": quant_options(scheme, target=target).slow}


FAST = ["CONV_2D", "ADD", "RELU6", "MUL", "MUL"]


@pytest.mark.parametrize("target", [None, *TARGETS])
def test_hard_swish_is_written_as_the_target_computes_it_fastest(target: str | None) -> None:
    graph, report, _ = quantized(activated("HARD_SWISH"), **options(target))
    kinds = [op.kind for op in graph.ops]
    assert kinds == (FAST if target == "litert" else ["CONV_2D", "HARD_SWISH"])
    assert not report.float_ops
    assert [t.name for t in graph.outputs] == ["y"]


@pytest.mark.parametrize("scheme", ["int8", "uint8"])
@pytest.mark.parametrize(("gain", "shift"), [(3, 0), (1, 0), (1, 2), (6, 4), (2, -3)])
def test_the_fast_form_is_as_close_to_float(scheme: str, gain: float, shift: float) -> None:
    """The gate's own rounding costs most where it hardly opens (0.4 dB at shift -3)."""
    graph = activated("HARD_SWISH", gain=gain, shift=shift)
    plain = quantized(graph, **options(None, scheme))[2]
    fast = quantized(graph, **options("litert", scheme))[2]
    assert fast.sqnr_db > plain.sqnr_db - 0.5


@pytest.mark.parametrize("shift", [-30.0, 30.0])
def test_where_the_gate_is_shut_or_open_throughout(shift: float) -> None:
    graph, _, fidelity = quantized(
        activated("HARD_SWISH", gain=1, shift=shift), **options("litert")
    )
    assert [op.kind for op in graph.ops] == FAST
    assert fidelity.sqnr_db > 40


@pytest.mark.parametrize("kind", ["HARD_SWISH", "PRELU"])
def test_what_has_no_kernel_of_16_bits_is_computed_by_ops_that_have(kind: str) -> None:
    """As good as in float: what is lost is lost by the weights, which have 8 bits."""
    graph, report, fidelity = quantized(activated(kind), scheme="int16x8")
    assert not report.float_ops
    assert kind not in [op.kind for op in graph.ops]
    in_float = quantized(activated(kind), scheme="int16x8", keep_float=("y",))[2]
    assert fidelity.sqnr_db > in_float.sqnr_db - 0.05


def test_hard_swish_of_what_is_always_shut_runs() -> None:
    """Its output has no range; LiteRT refuses an output scale 128 times finer than the input's."""
    _, _, fidelity = quantized(activated("HARD_SWISH", gain=1, shift=-30))
    assert fidelity.sqnr_db > 40


def test_what_stays_float_stays_what_it_is() -> None:
    graph, report, _ = quantized(activated("HARD_SWISH"), keep_float=("y",), **options("litert"))
    assert [name for name, _, _ in report.float_ops] == ["y"]
    assert graph.ops_of("HARD_SWISH")
