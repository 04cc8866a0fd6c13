"""BatchNorm as numbers: its scale and offset, and what stays known of the channels."""

from __future__ import annotations

import numpy as np
from graphs import normal

from qfrewrite.calibration.statistics import propagate
from qfrewrite.ir import Array, Graph, Model
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import PassContext, run_passes
from qfrewrite.rewrite.fold import bn_scale_offset

# As large as the variances, so that leaving it out shows.
EPSILON = 0.7


def layer() -> tuple[Graph, dict[str, Array]]:
    """A convolution and its BatchNorm, and the parameters of that."""
    b = GraphBuilder()
    values = {
        "gamma": normal(5) + 2,
        "beta": normal(5, seed=1),
        "mean": normal(5, seed=2),
        "variance": np.linspace(0.2, 1.5, 5, dtype="f4"),
    }
    y = b.op("CONV_2D", b.input("x", (1, 4, 4, 3)), b.const("w", normal(5, 1, 1, 3)), name="conv")
    operands = [b.const(name, value) for name, value in values.items()]
    y = b.op("BATCH_NORM", y, *operands, name="bn", attrs={"epsilon": EPSILON})
    return b.finish(y), {name: value.astype("f8") for name, value in values.items()}


def test_scale_and_offset_are_those_of_the_formula() -> None:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta (Ioffe and Szegedy 2015)."""
    graph, v = layer()
    scale, offset = bn_scale_offset(graph.ops_of("BATCH_NORM")[0])
    x = normal(7, 5, seed=3).astype("f8")
    wanted = (x - v["mean"]) / np.sqrt(v["variance"] + EPSILON) * v["gamma"] + v["beta"]
    np.testing.assert_allclose(x * scale + offset, wanted, rtol=1e-12)


def test_a_folded_layer_is_still_known_to_be_gaussian() -> None:
    """Mean beta, and the deviation that data of that variance have behind the normalization."""
    graph, v = layer()
    run_passes(Model([graph]), "fold_bn", PassContext())
    known = propagate(graph)[graph.outputs[0]]
    np.testing.assert_allclose(known.mean, v["beta"], rtol=1e-6)
    std = np.abs(v["gamma"]) * np.sqrt(v["variance"] / (v["variance"] + EPSILON))
    np.testing.assert_allclose(known.std, std, rtol=1e-6)


def test_a_value_before_batch_norm_keeps_the_distribution_that_training_saw_there() -> None:
    """N(mean, variance) where the next layer takes BatchNorm in: N(beta, gamma^2) holds behind it.

    Fails where the distribution of the normalized value is left on the value before.
    """
    graph, v = layer()
    norm = graph.op("bn")
    b = GraphBuilder()
    x = b.input("x", (1, 4, 4, 5))
    operands = [b.const(t.name, t.value()) for t in norm.inputs[1:] if t is not None]
    y = b.op("BATCH_NORM", b.op("ABS", x, name="before"), *operands, attrs={"epsilon": EPSILON})
    folded = b.finish(b.op("CONV_2D", y, b.const("w", normal(2, 1, 1, 5))))
    run_passes(Model([folded]), "fold_bn", PassContext())
    assert [op.kind for op in folded.ops] == ["ABS", "CONV_2D"]
    facts = folded.tensor("before").channels.normal
    assert facts is not None
    np.testing.assert_allclose(facts, [v["mean"], np.sqrt(v["variance"])], rtol=1e-6)
