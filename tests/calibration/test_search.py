"""The choice of ranges, held against the raw values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfrewrite.calibration.kernels import Scratch
from qfrewrite.calibration.observers import Detail, TensorStats
from qfrewrite.calibration.search import METHODS, Method, MethodChoice, choose, losses
from qfrewrite.errors import UsageError
from qfrewrite.ir import Array
from qfrewrite.ir.quant import activation_quant

SCRATCH = Scratch()
DRAWS = {
    "normal": lambda rng, n: rng.normal(0.3, 1, n),
    "relu": lambda rng, n: np.maximum(rng.normal(0, 1, n), 0),
    "laplace": lambda rng, n: rng.laplace(2, 1, n),
    "uniform": lambda rng, n: rng.uniform(-3, 5, n),
    "student": lambda rng, n: rng.standard_t(3, n),
    "lognormal": lambda rng, n: np.exp(rng.normal(0, 1, n)),
    "negative": lambda rng, n: -np.exp(rng.normal(0, 0.5, n)),
}


def draw(name: str, seed: int = 0, size: int = 100_000) -> Array:
    values: Array = DRAWS[name](np.random.default_rng(seed), size).astype("f4")
    return values


def observed(x: Array) -> TensorStats:
    stats = TensorStats(1, detail=Detail(channel_mean=True, full=True))
    stats.add(x.reshape(-1, 1), SCRATCH)
    return stats


def direct(x: Array, low: float, high: float) -> tuple[float, float]:
    """Quantization and saturation loss of the raw values."""
    q = activation_quant(low, high)
    scale, zero = float(q.scale[0]), int(q.zero_point[0])
    ends = (-128 - zero) * scale, (127 - zero) * scale
    wide = x.astype(np.float64)
    held = np.clip(wide, *ends)
    rounded = np.rint((held - ends[0]) / scale) * scale + ends[0]
    return float(((held - rounded) ** 2).mean()), float(((wide - held) ** 2).mean())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(DRAWS)), st.integers(0, 20), st.floats(0.1, 1.2), st.floats(0.1, 1.2))
def test_losses_are_those_of_the_raw_values(name: str, seed: int, a: float, b: float) -> None:
    x = draw(name, seed)
    s = observed(x)
    d = s.distribution
    assert d is not None
    low, high = min(s.low, 0) * a, max(s.high, 0) * b
    found, wanted = losses(d, low, high), direct(x, low, high)
    assert found.total == pytest.approx(sum(wanted), rel=0.01)
    # Each loss by itself, where it matters at all.
    floor = 0.01 * sum(wanted)
    assert found.quantization == pytest.approx(wanted[0], rel=0.01, abs=floor)
    assert found.saturation == pytest.approx(wanted[1], rel=0.01, abs=floor)


@pytest.mark.parametrize("name", ["student", "lognormal", "laplace", "normal", "negative"])
def test_greedy_finds_what_looking_everywhere_finds(name: str) -> None:
    """On the raw values, over all pairs of ends on a grid of 100 steps each."""
    x = draw(name, 5, 40_000)
    s = observed(x)
    found = sum(direct(x, *choose(s, Method("greedy"))))
    lows = np.linspace(min(s.low, 0), 0, 100, endpoint=False) if s.low < 0 else [0.0]
    highs = np.linspace(max(s.high, 0), 0, 100, endpoint=False) if s.high > 0 else [0.0]
    d = s.distribution
    assert d is not None
    # Candidates in order of the losses that the histogram tells; the best hundred for certain.
    pairs = sorted(((a, b) for a in lows for b in highs), key=lambda p: losses(d, *p).total)
    best = min(sum(direct(x, *p)) for p in pairs[:100])
    assert found <= 1.01 * best
    if name in ("student", "lognormal"):
        assert found < 0.96 * sum(direct(x, s.low, s.high))


@pytest.mark.parametrize("name", sorted(DRAWS))
@pytest.mark.parametrize("method", sorted(METHODS))
def test_ranges_hold_zero_and_lie_within_what_was_seen(name: str, method: str) -> None:
    s = observed(draw(name))
    low, high = choose(s, Method.parse(method))
    assert min(s.low, 0) <= low <= 0 <= high <= max(s.high, 0)
    assert low < high
    if s.low >= 0:
        assert low == 0


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e-30])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_constants_have_a_range_that_holds_them(value: float, method: str) -> None:
    low, high = choose(observed(np.full(100, value, "f4")), Method.parse(method))
    assert low == pytest.approx(min(value, 0))
    assert high == pytest.approx(max(value, 0))
    assert choose(TensorStats(1, detail=Detail(True, True)), Method.parse(method)) == (0, 0)


@pytest.mark.parametrize("name", ["normal", "lognormal"])
def test_percentiles_are_numpys(name: str) -> None:
    x = draw(name)
    s = observed(x)
    assert s.histogram is not None
    low, high = choose(s, Method("percentile", 99.0))
    cuts = (0.5, 99.5) if name == "normal" else (0.0, 99.0)
    wanted = np.percentile(x, cuts)
    assert high == pytest.approx(wanted[1], abs=2 * s.histogram.width)
    assert low == pytest.approx(min(wanted[0], 0) if name == "normal" else 0, abs=0.05)


def test_entropy_clips_a_tail() -> None:
    x = np.r_[draw("normal"), np.array([60.0], "f4")]
    low, high = choose(observed(x), Method("entropy"))
    assert high < 40
    assert low < -2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("best", "no such method"), ("percentile(0)", "above 0"), ("percentile(x)", "no such"),
        ("ema(2)", "up to 1"), ("mse(1)", "takes none"), ("", "no such method"),
    ],
)  # fmt: skip
def test_wrong_methods_are_named(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        Method.parse(text)


def test_methods_by_layer() -> None:
    choice = MethodChoice.parse("greedy", "conv*:mse; */logits:percentile(99.9)")
    assert [str(choice.of(n)) for n in ("conv1", "a/logits", "dw")] == [
        "mse", "percentile(99.9)", "greedy",
    ]  # fmt: skip
    assert str(choice.of("scores", whole=True)) == "minmax"
    assert str(choice.of("conv9", whole=True)) == "mse"
    assert Method.parse("percentile") == Method("percentile", 99.99)


def test_a_method_without_its_histogram_is_refused() -> None:
    s = TensorStats(1)
    s.add(np.array([1.0, 2.0], "f4"), SCRATCH)
    assert choose(s, Method("minmax")) == (0, 2)
    with pytest.raises(UsageError, match="needs histograms"):
        choose(s, Method("mse"))
