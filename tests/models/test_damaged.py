"""Models that say what no model is: one line, before anything is computed or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import normal, separable
from state_models import smoothing

import qfrewrite as qf
from qfrewrite.analyze.costs import model_cost
from qfrewrite.analyze.layers import inspect_model
from qfrewrite.errors import DataError, QfError, VerifyError
from qfrewrite.formats.tflite.write import write_tflite
from qfrewrite.ir import Graph, Model, Op, Quant, Tensor
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.check import verify_op


def network() -> Graph:
    """Convolution, product of matrices, sum, of images and a matrix of their own."""
    b = GraphBuilder()
    x = b.input("x", (1, 6, 6, 4))
    y = b.op("CONV_2D", x, b.const("w", normal(8, 3, 3, 4)), b.const("b", normal(8)), name="conv",
             attrs={"padding": "SAME"})  # fmt: skip
    y = b.op("RESHAPE", y, b.const("shape", np.array([1, 36, 8], "i4")), name="flat")
    y = b.op("BATCH_MATMUL", y, b.input("m", (1, 8, 5)), name="product")
    y = b.op("SUM", y, b.const("axes", np.array([1], "i4")), name="sum")
    return b.finish(b.op("TRANSPOSE", y, b.const("perm", np.array([1, 0], "i4")), name="turned"))


def put(thing: Op | Tensor, **fields: Any) -> None:
    """Set fields past every check, as a damaged file does."""
    for name, value in fields.items():
        object.__setattr__(thing, name, value)


def of_rank_1(g: Graph) -> None:
    w = g.tensor("w")
    put(w, shape=(288,), data=w.value().reshape(-1))
    for tensor in (g.op("conv").output, g.inputs[0]):
        put(tensor, shape_signature=(-1, -1, -1, -1))


def of_bytes(g: Graph) -> None:
    put(g.tensor("w"), dtype="string", data=np.zeros(30, np.uint8))


def one_operand_only(g: Graph) -> None:
    put(g.op("product"), inputs=g.op("product").inputs[:1])


DAMAGE: dict[str, Callable[[Graph], None]] = {
    "a bias of fewer channels": lambda g: put(g.tensor("b"), shape=(4,), data=normal(4)),
    "a bias of one value": lambda g: put(g.tensor("b"), shape=(1,), data=normal(1)),
    "floats computed as strings": lambda g: put(g.op("product").output, dtype="string"),
    "floats computed as bytes": lambda g: put(g.op("product").output, dtype="int8"),
    "a negative scale of integers": lambda g: put(g.tensor("axes"), quant=Quant.per_tensor(-1, 0)),
    "stride 0": lambda g: put(g.op("conv"), attrs={**g.op("conv").attrs, "stride_w": 0}),
    "dilation 0": lambda g: put(g.op("conv"), attrs={**g.op("conv").attrs, "dilation_h_factor": 0}),
    "weights of rank 1": of_rank_1,
    "weights of bytes": of_bytes,
    "a missing operand": one_operand_only,
    "an empty operand": lambda g: put(g.op("sum"), inputs=(None, *g.op("sum").inputs[1:])),
    "no such axis": lambda g: put(g.tensor("axes"), data=np.array([7], "i4")),
    "no permutation": lambda g: put(g.tensor("perm"), data=np.array([1, 1], "i4")),
    "matrices that do not fit": lambda g: put(g.inputs[1], shape=(1, 7, 5)),
    "matrices that do not broadcast": lambda g: put(g.inputs[1], shape=(3, 2, 8, 5)),
    "a matrix of rank 1": lambda g: put(g.inputs[1], shape=(8,)),
    "a scale that is NaN": lambda g: put(g.op("sum").output, quant=Quant.per_tensor(np.nan, 0)),
    "coded, at a scale that is NaN": lambda g: put(
        g.op("sum").output, quant=Quant.per_tensor(np.nan, 0), dtype="int8"
    ),
}


@pytest.fixture
def damaged(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    graph = network()
    DAMAGE[request.param](graph)
    write_tflite(Model([graph]), tmp_path / "damaged.tflite")
    return tmp_path / "damaged.tflite"


JOBS: dict[str, Callable[[Model, Path], Any]] = {
    "inspect": lambda model, out: inspect_model(model),
    "cost": lambda model, out: model_cost(model),
    "fold_bn": lambda model, out: qf.run_passes(model, "fold_bn"),
    "calibrate": lambda model, out: qf.run_passes(model, "calibrate"),
    "float16": lambda model, out: qf.save(model, out, scheme="float16"),
    "pb": lambda model, out: qf.save(model, out.with_suffix(".pb")),
}


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("damaged", DAMAGE, indirect=True)
def test_damage_is_one_line(damaged: Path, job: str, tmp_path: Path) -> None:
    """Any other exception, or a warning of numpy's, fails this."""
    with pytest.raises(QfError, match=r"\A[^\n]+\Z"):
        JOBS[job](qf.load(damaged), tmp_path / "out.tflite")
    assert [file.name for file in tmp_path.iterdir()] == ["damaged.tflite"]


def test_a_huge_input_is_not_made_up(tmp_path: Path) -> None:
    """1.75 GiB of noise would end in a MemoryError, or take all the memory there is."""
    b = GraphBuilder()
    x = b.input("x", (1, 21675, 21675, 1))
    write_tflite(Model([b.finish(b.op("ABS", x))]), tmp_path / "huge.tflite")
    with pytest.raises(DataError, match=r"takes 1\.75 GB"):
        qf.run_passes(qf.load(tmp_path / "huge.tflite"), "calibrate")


@pytest.mark.parametrize("dtype", ["int64", "bool", "int32", "int8"])
def test_inputs_that_are_no_floats_need_no_data(dtype: str, tmp_path: Path) -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4, 3), dtype)
    y = b.op("MUL", b.op("CAST", x, dtype="float32"), b.const("w", normal(4, 3)))
    y = b.op("FULLY_CONNECTED", b.op("SUM", y, b.const("axes", np.array([1], "i4"))),
             b.const("fc", normal(5, 3)), name="scores")  # fmt: skip
    write_tflite(Model([b.finish(y)]), tmp_path / "model.tflite")
    report = qf.quantize(tmp_path / "model.tflite", tmp_path / "int8.tflite", passes="calibrate")
    assert report.saved.lowering.counts["int8"] >= 2
    back = qf.load(tmp_path / "int8.tflite")
    assert back.graph.inputs[0].dtype == dtype


@pytest.mark.parametrize("worst", [np.inf, np.nan, 3e38])
@pytest.mark.parametrize("which", ["bn/variance", "bn/beta", "bn/gamma"])
def test_statistics_that_are_no_numbers_give_no_ranges(which: str, worst: float) -> None:
    """Ranges of such statistics are NaN; they come from made-up inputs instead."""
    graph = separable()
    put(graph.tensor(which), data=np.array([worst, 1, 1, 1], "f4"))
    model = Model([graph])
    with np.errstate(all="ignore"):
        qf.run_passes(model, "calibrate")
    for op in model.graph.ops_of("FAKE_QUANT"):
        assert np.isfinite(np.array([op.attrs["min"], op.attrs["max"]], "f4")).all()


def test_a_bias_may_have_any_rank(tmp_path: Path) -> None:
    """Kernels count its elements; of shape [1, C] it made weights of two axes of scales."""
    graph = network()
    put(graph.tensor("b"), shape=(1, 8), data=normal(1, 8))
    write_tflite(Model([graph]), tmp_path / "model.tflite")
    qf.quantize(tmp_path / "model.tflite", tmp_path / "int8.tflite", passes="calibrate")
    conv = next(op for op in qf.load(tmp_path / "int8.tflite").graph.ops_of("CONV_2D"))
    scales = [t.quant.scale.shape for t in conv.inputs[1:] if t is not None and t.quant is not None]
    assert scales == [(8,), (8,)]


@pytest.mark.parametrize(
    ("kind", "lost"),
    [("VAR_HANDLE", {"outputs": ()}), ("READ_VARIABLE", {"outputs": ()}),
     ("READ_VARIABLE", {"inputs": ()}), ("ASSIGN_VARIABLE", {"inputs": ()})],
)  # fmt: skip
def test_variables_without_a_value(kind: str, lost: dict[str, Any], tmp_path: Path) -> None:
    model = smoothing(np.ones((1, 8), "f4"))
    op = model.graphs[1].ops_of(kind) or model.graph.ops_of(kind)
    put(op[0], **lost)
    write_tflite(model, tmp_path / "damaged.tflite")
    with pytest.raises(QfError, match=r"\A[^\n]+\Z"):
        qf.run_passes(qf.load(tmp_path / "damaged.tflite"), "fold_bn")


def test_the_scale_of_a_shape_means_nothing(tmp_path: Path) -> None:
    """Nothing reads it; the check of what is written must not end in an error either."""
    graph = network()
    put(graph.tensor("axes"), quant=Quant.per_tensor(0, 300))
    write_tflite(Model([graph]), tmp_path / "model.tflite")
    qf.quantize(tmp_path / "model.tflite", tmp_path / "int8.tflite", passes="calibrate")
    assert qf.check(tmp_path / "int8.tflite") == []


@pytest.mark.parametrize(("size", "samples"), [(64, 16), (1 << 22, 8), (1 << 25, 1), (1 << 26, 1)])
def test_large_inputs_are_made_up_fewer_times(
    size: int, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 samples of 100 MB, which a damaged shape asks for, took a minute."""
    counts: list[int] = []

    def made_up(inputs: Any, samples: int, seed: int) -> Any:
        counts.append(samples)
        raise DataError("enough is known")

    monkeypatch.setattr("qfrewrite.data.source.synthetic", made_up)
    b = GraphBuilder()
    model = Model([b.finish(b.op("ABS", b.input("x", (1, size))))])
    with pytest.raises(DataError, match="enough"):
        qf.run_passes(model, "calibrate")
    assert counts == [samples]


def test_bytes_are_not_dequantized(tmp_path: Path) -> None:
    """The values of a string are raw bytes, of rank 1: weights made of them had one axis."""
    qf.save(Model([network()]), tmp_path / "half.tflite", scheme="float16")
    model = qf.load(tmp_path / "half.tflite")
    half = next(t for t in model.graph.tensors if t.shape == (8, 3, 3, 4))
    put(half, dtype="string", data=np.frombuffer(half.value().tobytes(), np.uint8))
    write_tflite(model, tmp_path / "damaged.tflite")
    with pytest.raises(VerifyError, match=r"\A[^\n]*computed from string[^\n]*\Z"):
        inspect_model(qf.load(tmp_path / "damaged.tflite"))


@pytest.mark.parametrize("dtype", ["int4", "unknown_38"])
def test_weights_of_a_type_that_numpy_lacks_are_not_computed_with(
    dtype: str, tmp_path: Path
) -> None:
    """Their raw bytes have one axis."""
    qf.save(Model([network()]), tmp_path / "half.tflite", scheme="float16")
    model = qf.load(tmp_path / "half.tflite")
    half = next(t for t in model.graph.tensors if t.shape == (8, 3, 3, 4))
    put(half, dtype=dtype, data=np.frombuffer(half.value().tobytes(), np.uint8))
    layer = inspect_model(model).layer("conv")
    assert layer.weights is None
    assert layer.dead == []


def test_a_split_into_none(tmp_path: Path) -> None:
    """With a computed axis no shape rule speaks, and the kernel divides by the number of parts."""
    b = GraphBuilder()
    x, axis = b.input("x", (1, 4)), b.input("axis", (1,), "int32")
    graph = b.finish(b.op("RELU", b.op("ABS", x, name="parts")))
    op = graph.op("parts")
    graph.add_tensor(axis)
    put(op, kind="SPLIT", inputs=(axis, x), attrs={"num_splits": 0})
    with pytest.raises(VerifyError, match="num_splits 0, needs 1 or more"):
        verify_op(op)
