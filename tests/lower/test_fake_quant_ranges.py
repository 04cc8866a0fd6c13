"""Fake quantization is what TensorFlow computes, in float and in int8, whatever its range."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import normal

from qfrewrite.errors import UnsupportedError
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Array, Graph, Model
from qfrewrite.ir.quant import SMALLEST_SCALE
from qfrewrite.lower.model import lower_model
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.quantization import holding_zero, nudged
from qfrewrite.rewrite.raising import raise_graph
from qfrewrite.runtime.session import Runner

tensorflow = pytest.mark.tensorflow
# Ranges that hold 0, that do not, and whose zero point must be nudged.
RANGES = [
    (-3.0, -0.5), (0.5, 3.0), (-128.0, -127.0), (0.001, 0.01), (0.1, 5.0), (-6.0, 0.0), (-1.0, 2.0),
    (-0.3, 2.7), (0.0, 6.0),
]  # fmt: skip
X = normal(4, 500, scale=3)


def ranged(low: Any, high: Any, **attrs: Any) -> Graph:
    """y = FAKE_QUANT(x), in another shape."""
    b = GraphBuilder()
    x = b.input("x", X.shape)
    q = b.op("FAKE_QUANT", x, name="q", attrs={"min": low, "max": high, **attrs})
    return b.finish(b.op("RESHAPE", q, b.const("s", [X.size], "int32"), name="y"))


def theirs(x: Array, low: float, high: float, bits: int = 8, narrow: bool = False) -> Array:
    import tensorflow as tf

    f = tf.quantization.fake_quant_with_min_max_vars
    result: Array = f(x, low, high, bits, narrow).numpy()
    return result


def run(graph: Graph, x: Array, scheme: str = "float32") -> Array:
    """The output for `x` of what is written in `scheme`."""
    raise_graph(graph)
    model = Model([graph], source="graphdef")
    return Runner.of(model, QuantOptions(scheme), threads=1).run({"x": x})[0].copy()


def check_steps(got: Array, want: Array, step: float, share: float) -> None:
    """`got` lies on the steps of `want`; at the edge of two steps it may be on either."""
    off = np.abs(got - want) / step
    assert off.max() <= 1.01
    assert (off > 0.01).mean() <= share


@tensorflow
@pytest.mark.parametrize(("bits", "narrow"), [(8, False), (8, True), (4, False), (2, True)])
@pytest.mark.parametrize("ends", RANGES)
def test_float_computes_what_tensorflow_does(
    ends: tuple[float, float], bits: int, narrow: bool
) -> None:
    """Runtimes refuse a narrow range: it becomes a plain one behind a MAXIMUM."""
    low, high = ends
    x = X * np.float32(high - low)
    got = run(ranged(low, high, num_bits=bits, narrow_range=narrow), x).reshape(X.shape)
    want = theirs(x, low, high, bits, narrow)
    check_steps(got, want, (high - low) / (2**bits - 1 - narrow), 0.002)


@tensorflow
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("ends", RANGES)
def test_int8_has_the_steps_of_tensorflow(ends: tuple[float, float], narrow: bool) -> None:
    """Catches a range that is widened to hold 0: [-3, -0.5] would be 51 steps off.

    A narrow range has one code less than int8: values at its lower end may be a step lower.
    """
    low, high = ends
    x = X * np.float32(high - low)
    want = theirs(x, low, high, 8, narrow)
    got = run(ranged(low, high, narrow_range=narrow), x, "int8").reshape(X.shape)
    got = np.maximum(got, want.min()) if narrow else got
    check_steps(got, want, (high - low) / (255 - narrow), 0.005)


@tensorflow
@pytest.mark.parametrize("ends", [(-1.0, 2.0), (-2.0, -0.5), (0.25, 1.5)])
@pytest.mark.parametrize("scheme", ["int8", "uint8", "dynamic", "float32"])
def test_weights_beyond_their_range_are_clipped(scheme: str, ends: tuple[float, float]) -> None:
    """Codes lie symmetrically about 0: without clipping, -2 in [-1, 2] would stay -2."""
    b = GraphBuilder()
    w = normal(8, 6, scale=1.5)
    x = b.op("FAKE_QUANT", b.input("x", (4, 6)), attrs={"min": -4.0, "max": 4.0})
    wq = b.op("FAKE_QUANT", b.const("w", w), attrs={"min": ends[0], "max": ends[1]})
    y = b.op("FULLY_CONNECTED", x, wq, b.const("b", normal(8)), name="fc")
    graph = b.finish(b.op("FAKE_QUANT", y, name="y", attrs={"min": -20.0, "max": 20.0}))
    sample = normal(4, 6, seed=5)
    fc = theirs(sample, -4.0, 4.0) @ theirs(w, *ends).T + normal(8)
    want = theirs(fc, -20.0, 20.0)
    # The grids of weights differ, what is clipped does not; `dynamic` drops ranges of activations.
    off = np.abs(run(graph, sample, scheme) - want) / (40 / 255)
    assert off.max() <= {"float32": 1.01, "dynamic": 2}.get(scheme, 1.5)


@tensorflow
@pytest.mark.parametrize("ends", [(-3.0, -0.5), (0.5, 1.5)])
def test_a_constant_operand_keeps_its_range(ends: tuple[float, float]) -> None:
    c = normal(500, scale=2)
    b = GraphBuilder()
    x = b.op("FAKE_QUANT", b.input("x", X.shape), attrs={"min": -8.0, "max": 8.0})
    factor = b.op("FAKE_QUANT", b.const("c", c), attrs={"min": ends[0], "max": ends[1]})
    y = b.op("MUL", x, factor)
    graph = b.finish(b.op("FAKE_QUANT", y, name="y", attrs={"min": -20.0, "max": 20.0}))
    want = theirs(theirs(X, -8.0, 8.0) * theirs(c, *ends), -20.0, 20.0)
    assert np.abs(run(graph, X, "int8") - want).max() <= 1.01 * 40 / 255


def test_a_range_without_width_holds_zero_alone() -> None:
    """As in TensorFlow; TFLite's kernel would give NaN."""
    assert np.abs(run(ranged(0.0, 0.0), X)).max() < 1e-20
    assert np.abs(run(ranged(0.0, 0.0), X, "int8")).max() <= 128 * SMALLEST_SCALE


@pytest.mark.parametrize("attrs", [
    {"min": -1.0, "max": 1.0, "narrow_range": True},
    {"min": np.array([-1, -2], "f4"), "max": np.array([1, 2], "f4"), "axis": 1},
])  # fmt: skip
@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_a_constant_that_is_an_output_keeps_its_name(scheme: str, attrs: dict[str, Any]) -> None:
    """In float32 its FAKE_QUANT was removed although the output was still to be computed."""
    b = GraphBuilder()
    x = b.op("FAKE_QUANT", b.input("x", (1, 2)), attrs={"min": -1.0, "max": 1.0})
    c = b.op("FAKE_QUANT", b.const("c", np.array([[0.3, 5]], "f4")), name="kept", attrs=attrs)
    y = b.op("FAKE_QUANT", b.op("ADD", x, c), name="y", attrs={"min": -4.0, "max": 4.0})
    lowered, _ = lower_model(Model([b.finish(y, c)], source="graphdef"), QuantOptions(scheme))
    assert [t.name for t in lowered.graph.outputs] == ["y", "kept"]
    outputs = Runner(serialize(lowered), threads=1).run({"x": np.zeros((1, 2), np.float32)})
    clipped = [0.3, float(np.max(attrs["max"]))]
    for values in outputs:
        np.testing.assert_allclose(values[0], clipped, atol=8 / 255)


def test_a_range_per_channel_of_computed_values_is_refused_in_a_tflite() -> None:
    low, high = np.full(500, -1, np.float32), np.full(500, 1, np.float32)
    with pytest.raises(UnsupportedError, match=r"'q'.*per channel"):
        run(ranged(low, high, axis=1), X)


@pytest.mark.parametrize(
    ("ends", "want"),
    [((-3, -0.5), (-2.5, 0)), ((0.5, 3), (0, 2.5)), ((-1, 2), (-1, 2)), ((2, 2), (0, 2))],
)
def test_a_range_is_shifted_to_zero(ends: tuple[float, float], want: tuple[float, float]) -> None:
    assert tuple(float(v) for v in holding_zero(np.float64(ends[0]), np.float64(ends[1]))) == want


@pytest.mark.parametrize("end", [1e38, 3e38, 1e39])
def test_the_width_of_a_range_may_exceed_float32(end: float) -> None:
    """In float32 alone [-3e38, 3e38] became [0, 6e38], and [-1e39, 1e39] NaN."""
    low, high = nudged(np.float64(-end), np.float64(end), 8, False)
    assert high - low == pytest.approx(2 * end, rel=1e-6)
    assert abs(low + end) <= end / 255 * 1.0001
