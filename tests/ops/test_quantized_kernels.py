"""Every op in every quantized type it has a kernel for, on LiteRT, against float.

The quantized model and the float model made back from it (`dequantize_graph`) hold the same
constants and get the same inputs, which lie on the input's grid. What is left between them is the
rounding of the result to its own step s: half a step, and at most half a step or so of the kernel's
fixed-point arithmetic. So every output must lie within `SLACK` steps of float.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
from cases import CASES, MOVES, built

from qfrewrite.formats.tflite.read import parse_tflite
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Array, Graph, Model, Quant, Tensor
from qfrewrite.ir.quant import dequantize, quantize
from qfrewrite.lower.model import lower_model
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.ops import OPS
from qfrewrite.passes import Dataset, PassContext, run_passes
from qfrewrite.rewrite.dequantize import dequantize_graph
from qfrewrite.rewrite.rewriter import Rewriter
from qfrewrite.runtime.session import Session

SCHEME_OF = {"int8": "int8", "uint8": "uint8", "int16": "int16x8"}
# Output steps between the quantized and the float result.
SLACK = 1.0
# An int16 step is 1/256 of one in int8: there kernels' own arithmetic shows. Sums are rescaled in
# 16 bits, and functions come from tables of 513 points.
SLACK_OF = {
    "int16": {
        "CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "TRANSPOSE_CONV": 2, "LOGISTIC": 2, "SOFTMAX": 3,
        "TANH": 4, "EXP": 128, "GELU": 32, "SQRT": 16, "REDUCE_PROD": 32, "RESIZE_BILINEAR": 128,
    },
    "int8": {"SQRT": 1.5},
}  # fmt: skip
# What the reference kernels lack, or get wrong (SUM, wherever the scales differ).
NO_REFERENCE_KERNEL = {"DEPTH_TO_SPACE", "ELU", "TILE", "SUM"}
FRAMEWORK = {"FAKE_QUANT", "BATCH_NORM", "IDENTITY", "QUANTIZE", "DEQUANTIZE", "CAST"}


class Samples:
    """A few samples of one graph's inputs."""

    description = "random samples"

    def __init__(self, graph: Graph, *, positive: bool, count: int = 8) -> None:
        rng = np.random.default_rng(5)
        values = [
            {t.name: rng.normal(size=t.shape).astype("f4") for t in graph.inputs}
            for _ in range(count)
        ]
        self.values = [
            {k: np.abs(v) + 0.1 if positive else v for k, v in one.items()} for one in values
        ]

    def __iter__(self) -> Any:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)


def run_codes(content: bytes, codes: list[Array], resolver: str) -> list[Array]:
    """Outputs of LiteRT, as codes; resolver: `xnnpack`, `optimized` or `reference` kernels."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kinds = {
        "xnnpack": OpResolverType.AUTO,
        "optimized": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        "reference": OpResolverType.BUILTIN_REF,
    }
    interpreter = Interpreter(
        model_content=content, num_threads=1, experimental_op_resolver_type=kinds[resolver]
    )
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), codes, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]


def quantized(kind: str, case: int, dtype: str) -> tuple[Graph, Samples, Any]:
    """The lowered graph of a case, samples for it, and the report."""
    graph, _, positive = built(kind, case)
    samples = Samples(graph, positive=positive)
    model = Model([graph], source="graphdef")
    run_passes(model, "calibrate(bias=false)", PassContext(Dataset(samples), threads=1))
    lowered, report = lower_model(model, QuantOptions(SCHEME_OF[dtype]))
    return lowered.graph, samples, report


def float_twin(graph: Graph) -> Graph:
    """The float graph that a quantized one stands for."""
    twin, _ = graph.clone()
    dequantize_graph(Rewriter(twin))
    return twin


def real(codes: Array, quant: Quant | None) -> Array:
    return codes if quant is None else dequantize(codes, quant)


def errors(
    graph: Graph, twin: Graph, samples: Samples, resolver: str, *, written: Graph | None = None
) -> list[float]:
    """The largest distance from float of each output, in steps of that output.

    written: the graph that runs, where it is not `graph`, which makes and reads the codes.
    """
    content = serialize(Model([written or graph]))
    session = Session(twin, twin.outputs, threads=1)
    worst = [0.0] * len(graph.outputs)
    for sample in samples:
        codes = [
            quantize(sample[t.name], t.quant, t.dtype) if t.quant is not None else sample[t.name]
            for t in graph.inputs
        ]
        given = [real(c, t.quant) for c, t in zip(codes, graph.inputs, strict=True)]
        wanted = session.run(dict(zip((t.name for t in twin.inputs), given, strict=True)))
        got = run_codes(content, codes, resolver)
        for n, (have, want) in enumerate(zip(got, wanted, strict=True)):
            worst[n] = max(worst[n], distance(have, want, graph.outputs[n]))
    return worst


def distance(have: Array, want: Array, out: Tensor) -> float:
    """How far codes lie from real values, in steps; the fraction that differs where none is."""
    if out.quant is None:
        return float((have != want).mean())
    step, zero = float(out.quant.scale[0]), int(out.quant.zero_point[0])
    info = np.iinfo(out.dtype)
    clipped = np.clip(want.astype("f8"), (info.min - zero) * step, (info.max - zero) * step)
    return float(np.abs(real(have, out.quant) - clipped).max() / step)


# LiteRT before 2.2 lacks these in some types, or computes them otherwise.
LATE = {"BATCH_MATMUL", "DYNAMIC_UPDATE_SLICE", "GELU", "REVERSE_V2", "SQRT", "SUM", "TILE"}
LITERT = tuple(int(part) for part in version("ai-edge-litert").split(".")[:2])


RUNS = [
    (kind, case, dtype)
    for kind, cases in sorted({**CASES, **MOVES}.items())
    # SQUARED_DIFFERENCE is written as SUB and MUL.
    if kind not in FRAMEWORK | {"SQUARED_DIFFERENCE"}
    for case, (operands, _) in enumerate(cases)
    if any(isinstance(o, tuple) for o in operands)
    for dtype in sorted(OPS[kind].kernels)
]


@pytest.mark.parametrize(("kind", "case", "dtype"), RUNS)
def test_the_error_is_that_of_rounding_the_result(kind: str, case: int, dtype: str) -> None:
    if kind in LATE and LITERT < (2, 2):
        pytest.skip("LiteRT before 2.2 computes this otherwise or not at all")
    graph, samples, report = quantized(kind, case, dtype)
    assert not report.float_ops
    assert report.counts == {dtype: 1}
    content = serialize(Model([graph]))
    assert serialize(parse_tflite(content)) == content
    twin = float_twin(graph)
    slack = SLACK_OF.get(dtype, {}).get(kind, SLACK)
    resolvers = ["xnnpack", "optimized", "reference"]
    for resolver in resolvers[: 2 if kind in NO_REFERENCE_KERNEL else 3]:
        worst = errors(graph, twin, samples, resolver)
        assert max(worst) <= slack, (resolver, worst)


# What only moves or compares values cannot tell a scale by its result.
BLIND = {
    "ARG_MAX",
    "ARG_MIN",
    "EQUAL",
    "NOT_EQUAL",
    "GREATER",
    "GREATER_EQUAL",
    "LESS",
    "LESS_EQUAL",
}


@pytest.mark.parametrize("kind", sorted({k for k, _, d in RUNS if d == "int8"} - BLIND))
def test_a_wrong_scale_is_found(kind: str) -> None:
    """One scale in the file is off by a fifth: the runtime refuses it, or the result is wrong."""
    graph, samples, _ = quantized(kind, 0, "int8")
    twin, (written, twins) = float_twin(graph), graph.clone()
    prescribed = OPS[kind].outputs[0].fixed is not None
    blind = kind == "L2_NORMALIZATION"
    mutated = graph.inputs[0] if prescribed and not blind else graph.outputs[0]
    quant = mutated.quant
    assert quant is not None
    wrong = Quant(quant.scale * np.float32(1.2), quant.zero_point, quant.axis)
    written.set_type(twins[mutated], twins[mutated].dtype, wrong)
    if OPS[kind].same_scale or blind:
        # Codes only move: whoever reads them by the scale of the file reads wrong values.
        graph.set_type(mutated, mutated.dtype, wrong)
    try:
        worst = errors(graph, twin, samples, "optimized", written=written)
    except (RuntimeError, ValueError):
        return
    assert max(worst) > SLACK_OF["int8"].get(kind, SLACK)
