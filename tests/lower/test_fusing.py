"""Activations that a kernel applies itself, on LiteRT's three sets of kernels."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import normal
from test_quantized_kernels import SCHEME_OF, Samples, errors, float_twin

from qfrewrite.formats.tflite.read import parse_tflite
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Graph, Model
from qfrewrite.lower.canonical import fuse_activations, is_fused
from qfrewrite.lower.model import lower_model
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.spec import least_version
from qfrewrite.passes import Dataset, PassContext, run_passes
from qfrewrite.runtime.session import Session
from qfrewrite.targets.table import TARGETS
from qfrewrite.targets.target import unmapped


def upsampling(activation: str, *, scale: float = 0.3) -> Graph:
    b = GraphBuilder()
    shape = b.const("shape", np.array([1, 12, 12, 3], np.int32))
    y = b.op(
        "TRANSPOSE_CONV", shape, b.const("w", normal(3, 3, 3, 4, scale=scale)),
        b.input("x", (1, 6, 6, 4)), b.const("b", normal(3)),
        attrs={"stride_h": 2, "stride_w": 2, "padding": "SAME"},
    )  # fmt: skip
    return b.finish(b.op(activation, y, name="y"))


def lowered(graph: Graph, dtype: str) -> Model:
    model = Model([graph], source="graphdef")
    data = Samples(graph, positive=False)
    run_passes(model, "calibrate(bias=false)", PassContext(Dataset(data), threads=1))
    return lower_model(model, QuantOptions(SCHEME_OF[dtype]))[0]


@pytest.mark.parametrize("activation", ["RELU", "RELU6", "RELU_N1_TO_1"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_a_transposed_convolution_takes_its_activation(activation: str, dtype: str) -> None:
    """int16 has no zero point that would clip at zero: a kernel that left the activation out
    would show there."""
    graph = upsampling(activation)
    model = lowered(graph, dtype)
    (op, fused) = model.graph.ops
    assert is_fused(fused)
    assert least_version(op) == 4
    back = parse_tflite(serialize(model)).graph
    assert [o.kind for o in back.ops] == ["TRANSPOSE_CONV", activation]
    for resolver in ("xnnpack", "optimized", "reference"):
        worst = errors(model.graph, float_twin(model.graph), Samples(graph, positive=False),
                       resolver)  # fmt: skip
        assert max(worst) <= (2 if dtype == "int16" else 1), (resolver, worst)


@pytest.mark.parametrize("activation", ["RELU", "RELU6"])
def test_the_fused_form_computes_the_same_in_float(activation: str) -> None:
    graph = upsampling(activation, scale=2)
    both = Session(graph, [graph.ops[0].output, graph.outputs[0]], threads=1)
    alone = graph.clone()[0]
    fuse_activations(alone)
    assert is_fused(alone.ops[1])
    fused = Session(alone, alone.outputs, threads=1)
    x = normal(1, 6, 6, 4)
    before, after = (v.copy() for v in both.run({"x": x}))
    assert before.min() < 0
    assert before.max() > 6
    assert np.array_equal(fused.run({"x": x})[0], after)


@pytest.mark.parametrize(
    ("target", "dtype", "maps"),
    [("tflm", "int8", True), ("tflm", "int16", False), ("cmsis-nn", "int16", False),
     ("litert", "int16", True)],
)  # fmt: skip
def test_a_kernel_that_leaves_the_activation_out_is_named(
    target: str, dtype: str, maps: bool
) -> None:
    """In int8 the zero point clips what the kernel of TensorFlow Lite Micro does not."""
    missing = unmapped(lowered(upsampling("RELU"), dtype), TARGETS[target])
    assert [m.why for m in missing] == ([] if maps else ["leaves out the fused activation"])
