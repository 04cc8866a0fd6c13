"""Linear layers whose weights are computed, or quantized codes, through everything we do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import normal

import qfrewrite as qf
from qfrewrite.data.source import synthetic
from qfrewrite.formats.tflite.read import read_tflite
from qfrewrite.ir import Graph, Model, Quant, Tensor
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import Dataset, PassContext, all_passes, run_passes
from qfrewrite.runtime.session import input_specs
from qfrewrite.testing import largest_difference, outputs_of

SHAPES = {
    "CONV_2D": (4, 1, 1, 4), "DEPTHWISE_CONV_2D": (1, 3, 3, 4), "FULLY_CONNECTED": (4, 4),
    "TRANSPOSE_CONV": (4, 2, 2, 4),
}  # fmt: skip
PARAMETERS = {"resize_input": "(size=8)", "auto": "(max_drop=100)", "set_nms": "(max_detections=3)"}
NEEDS_DATA = ("auto", "reconstruct")


def layer(b: GraphBuilder, kind: str, x: Tensor, w: Tensor, name: str) -> Tensor:
    bias = b.const(f"{name}/bias", normal(4, scale=0.1))
    if kind == "TRANSPOSE_CONV":
        shape = b.const(f"{name}/shape", [x.shape[0], *x.shape[1:3], 4], "int32")
        return b.op(kind, shape, w, x, bias, name=name)
    return b.op(kind, x, w, bias, name=name)


def scaled(kind: str, computed: bool = True) -> Graph:
    """conv, RELU, the layer of that kind, MUL by a constant, ADD, RELU6, conv; twice."""
    b = GraphBuilder(kind.lower())
    flat = kind == "FULLY_CONNECTED"
    x = b.input("x", (1, 4) if flat else (1, 6, 6, 4))
    y = b.op("RELU", _plain(b, x, "first"))
    for i in range(2):
        w = b.const(f"w{i}", normal(*SHAPES[kind], scale=0.4, seed=i))
        if computed:
            # Depends on the input, so that no folding of constants makes it one.
            mean = b.op("MEAN", x, b.const("axes", list(range(len(x.shape))), "int32"))
            w = b.op("MUL", w, b.op("LOGISTIC", mean), name=f"computed{i}")
        y = layer(b, kind, y, w, f"layer{i}")
        y = b.op("MUL", y, b.const(f"s{i}", normal(4, seed=3)), name=f"mul{i}")
        y = b.op("ADD", y, b.const(f"t{i}", normal(4, seed=4)), name=f"add{i}")
        y = b.op("RELU6", y)
    return b.finish(_plain(b, y, "last"))


def _plain(b: GraphBuilder, x: Tensor, name: str) -> Tensor:
    if len(x.shape) == 2:
        return b.op("FULLY_CONNECTED", x, b.const(f"{name}/w", normal(4, 4, scale=0.4)), name=name)
    return b.op("CONV_2D", x, b.const(f"{name}/w", normal(4, 1, 1, 4, scale=0.4)), name=name)


@pytest.mark.parametrize("kind", SHAPES)
def test_computed_weights_are_written_and_inspected(kind: str, tmp_path: Path) -> None:
    """`MUL` behind computed weights was raised to a BatchNorm and folded into no constant."""
    graph = scaled(kind)
    before = outputs_of(graph)
    assert qf.inspect_model(Model([graph.clone()[0]])).layer("layer0").weights is None
    for scheme in ("float32", "float16", "dynamic"):
        path = tmp_path / f"{scheme}.tflite"
        qf.save(Model([graph.clone()[0]]), path, scheme=scheme)
        bound = 1e-6 if scheme == "float32" else 0.02
        assert largest_difference(before, outputs_of(read_tflite(path).graph)) <= bound


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("data", [True, False])
def test_no_pass_stumbles_over_computed_weights(kind: str, data: bool) -> None:
    for name, cls in all_passes().items():
        graph = scaled(kind)
        before = outputs_of(graph)
        if name == "resize_input" and (data or kind in ("FULLY_CONNECTED", "TRANSPOSE_CONV")):
            continue
        if name in NEEDS_DATA and not data:
            continue
        samples = Dataset(synthetic(input_specs(graph), 8)) if data else None
        model = Model([graph])
        run_passes(model, name + PARAMETERS.get(name, ""), PassContext(samples, threads=1))
        if cls.exact:
            assert largest_difference(before, outputs_of(model.graph)) <= 1e-5, name


@pytest.mark.parametrize("kind", SHAPES)
def test_computed_weights_are_quantized_or_stay_float(kind: str, tmp_path: Path) -> None:
    graph = scaled(kind)
    samples = synthetic(input_specs(graph), 8)
    before = outputs_of(graph)
    for scheme in ("int8", "int16x8", "uint8"):
        model = Model([graph.clone()[0]])
        run_passes(model, "calibrate", PassContext(Dataset(samples), threads=1))
        qf.save(model, tmp_path / "q.tflite", scheme=scheme, io="float32")
        bound = 0.02 if scheme == "int16x8" else 0.1
        after = outputs_of(read_tflite(tmp_path / "q.tflite").graph)
        assert largest_difference(before, after) <= bound, scheme


def hybrid(kind: str, dtype: str, zero_point: int) -> Graph:
    """y = 2 * layer(x), one weight with code 200 (or 72), scale 0.01."""
    b = GraphBuilder()
    flat = kind == "FULLY_CONNECTED"
    code = 200 if dtype == "uint8" else 72
    w = b.const("w", np.full((1, 1) if flat else (1, 1, 1, 1), code, dtype))
    b.graph.set_type(w, w.dtype, Quant.per_tensor(0.01, zero_point))
    x = b.input("x", (1, 1) if flat else (1, 1, 1, 1))
    y = b.op(kind, x, w, b.const("bias", np.zeros(1, "f4")))
    return b.finish(b.op("MUL", y, b.const("two", np.array([2.0], "f4")), name="y"))


@pytest.mark.parametrize("kind", ["CONV_2D", "FULLY_CONNECTED"])
@pytest.mark.parametrize(
    ("dtype", "zero_point", "weight"),
    [("int8", 0, 0.72), ("uint8", 0, -0.56), ("uint8", 128, 0.72)],
)
def test_codes_of_hybrid_weights_are_no_real_numbers(
    kind: str, dtype: str, zero_point: int, weight: float
) -> None:
    """The bytes of uint8 weights with zero point 0 are signed, as LiteRT's kernels read them."""
    graph = hybrid(kind, dtype, zero_point)
    before = outputs_of(graph)
    run_passes(Model([graph]), "fold_bn")
    (op,) = graph.ops
    assert op.operand(1).dtype == "float32"
    assert op.operand(1).value().item() == pytest.approx(2 * weight, rel=1e-6)
    if zero_point == 0:  # other zero points the kernels ignore
        # A hybrid kernel rounds what it multiplies to 8 bits.
        assert largest_difference(before, outputs_of(graph)) <= 0.01


def test_weights_that_no_rewrite_knows_stay() -> None:
    """Codes without a scale are left alone, by raising and by every pass."""
    for name in ("absorb_bias", "absorb_dead_channels", "equalize", "fold_bn", "round_geometry"):
        graph = hybrid("CONV_2D", "uint8", 0)
        w = graph.op("conv_2d").operand(1)
        graph.set_type(w, w.dtype, None)
        run_passes(Model([graph]), name, verify="structure")
        assert graph.op("conv_2d").operand(1).value().item() == 200
        assert [op.kind for op in graph.ops][-1] == "MUL"
