"""Sparse constants against the runtime, and what is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared_path

import qfrewrite as qf
from qfrewrite.data.source import synthetic
from qfrewrite.errors import ModelFileError
from qfrewrite.formats.tflite.read import parse_tflite, read_tflite
from qfrewrite.formats.tflite.write import serialize, write_tflite
from qfrewrite.ir import Array, Graph, Model, Op, Tensor
from qfrewrite.ops.build import append_op
from qfrewrite.ops.sparsity import dense_value
from qfrewrite.runtime.metrics import collect, compare
from qfrewrite.runtime.session import Runner, input_specs

Index = tuple[int, ...]


def mostly_zero(*shape: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * (rng.random(shape) < 0.3)).astype(np.float32)


def sparse(
    dense: Array, order: Index, formats: str, block_map: Index = (), block: Index = ()
) -> Tensor:
    """`dense` in sparse form, encoded place by place.

    formats: `D` or `S` for each dimension in the order of `order`; block: the size of each block.
    """
    rank = dense.ndim
    counts = list(dense.shape)
    for dim, size in zip(block_map, block, strict=True):
        counts[dim] //= size
    counts += block

    def element(place: dict[int, int]) -> Any:
        at = [place[d] for d in range(rank)]
        for k, (dim, size) in enumerate(zip(block_map, block, strict=True)):
            at[dim] = place[dim] * size + place[rank + k]
        return dense[tuple(at)]

    def filled(place: dict[int, int], level: int) -> bool:
        """Whether anything below is not zero."""
        if level == len(order):
            return bool(element(place) != 0)
        dim = order[level]
        return any(filled({**place, dim: i}, level + 1) for i in range(counts[dim]))

    places: list[dict[int, int]] = [{}]
    levels = []
    for level, (dim, how) in enumerate(zip(order, formats, strict=True)):
        segments, indices, below = [0], [], []
        for place in places:
            for i in range(counts[dim]):
                if how == "D" or filled({**place, dim: i}, level + 1):
                    indices.append(i)
                    below.append({**place, dim: i})
            segments.append(len(indices))
        places = below
        if how == "D":
            levels.append({"format": "DENSE", "dense_size": counts[dim]})
        else:
            arrays = {"array_segments": segments, "array_indices": indices}
            levels.append({
                "format": "SPARSE_CSR", "dense_size": 0,
                **{f"{k}_type": "Int32Vector" for k in arrays},
                **{k: {"values": v} for k, v in arrays.items()},
            })  # fmt: skip
    values = np.array([element(place) for place in places], dense.dtype)
    sparsity = {"traversal_order": list(order), "block_map": list(block_map),
                "dim_metadata": levels}  # fmt: skip
    return Tensor("w", dense.shape, "float32", values.view(np.uint8), sparsity=sparsity)


def model_of(weights: Tensor) -> Model:
    """y = x + DENSIFY(w)."""
    graph = Graph()
    x = Tensor("x", weights.shape)
    graph.set_io([x])
    dense = append_op(graph, "DENSIFY", [graph.add_tensor(weights)], name="dense").output
    graph.set_io(outputs=[append_op(graph, "ADD", [x, dense], name="y").output])
    return Model([graph])


CASES = [
    ((3, 5), (0, 1), "DS", (), ()),
    ((4, 6), (1, 0), "DS", (), ()),
    ((4, 6), (0, 1), "SS", (), ()),
    ((4, 2, 3, 5), (0, 1, 2, 3), "DDDS", (), ()),
    ((8, 6), (0, 1, 2, 3), "DSDD", (0, 1), (4, 2)),
    ((6, 8), (0, 1, 2), "DSD", (1,), (4,)),
]


@pytest.mark.parametrize("case", CASES)
def test_dense_values_are_those_of_the_runtime(case: Any, tmp_path: Path) -> None:
    shape, order, formats, block_map, block = case
    dense = mostly_zero(*shape)
    weights = sparse(dense, order, formats, block_map, block)
    assert weights.value().nbytes < dense.nbytes
    np.testing.assert_array_equal(dense_value(weights), dense)
    content = serialize(model_of(weights))
    np.testing.assert_array_equal(dense_value(parse_tflite(content).graph.tensor("w")), dense)
    (got,) = Runner(content, threads=1).run({"x": np.zeros(shape, np.float32)})
    np.testing.assert_array_equal(got, dense)


def test_what_is_damaged_is_not_read() -> None:
    """A segment, an index, the order, the size: each would lead outside the value."""
    good = sparse(mostly_zero(4, 6), (0, 1), "DS")
    sparsity = good.sparsity
    assert sparsity is not None
    dense, csr = sparsity["dim_metadata"]
    vector = csr["array_segments"]["values"]
    changes: list[dict[str, Any]] = [
        {"traversal_order": [0, 0]},
        {"traversal_order": [0]},
        {"block_map": [7], "traversal_order": [0, 1, 2]},
        {"dim_metadata": [{**dense, "dense_size": 1 << 30}, csr]},
        {"dim_metadata": [dense, {**csr, "array_segments": {"values": [*vector[:-1], 99]}}]},
        {"dim_metadata": [dense, {**csr, "array_segments": {"values": [0, 3, 1, 4, vector[-1]]}}]},
        {"dim_metadata": [dense, {**csr, "array_segments": None}]},
        {"dim_metadata": [dense, {**csr, "array_indices": {"values": [6] * vector[-1]}}]},
        {"dim_metadata": [dense, dense]},
    ]
    for change in changes:
        bad = Tensor("w", good.shape, "float32", good.data, sparsity={**sparsity, **change})
        with pytest.raises(ModelFileError, match="'w': is a sparse constant that"):
            dense_value(bad)
        with pytest.raises(ModelFileError, match="'w': is a sparse constant that"):
            parse_tflite(serialize(model_of(bad)))


def test_weights_that_a_kernel_reads_sparse_become_dense(tmp_path: Path) -> None:
    graph = Graph()
    x, y = Tensor("x", (1, 8)), Tensor("y", (1, 6))
    graph.set_io([x])
    weights = sparse(mostly_zero(6, 8), (0, 1), "DS")
    bias = Tensor("b", (6,), "float32", mostly_zero(6, seed=1))
    graph.add_op(Op("FULLY_CONNECTED", [x, weights, bias], [y], name="y"))
    graph.set_io(outputs=[y])
    write_tflite(Model([graph]), tmp_path / "m.tflite")
    model = qf.load(tmp_path / "m.tflite")
    qf.run_passes(model, "calibrate")
    saved = qf.save(model, tmp_path / "int8.tflite")
    assert saved.lowering.float_ops == []
    written = read_tflite(saved.path)
    assert all(t.sparsity is None for t in written.graph.tensors)
    samples = synthetic(input_specs(model.graph), 8)
    floats = [[s["x"] @ mostly_zero(6, 8).T + mostly_zero(6, seed=1)] for s in samples]
    assert compare(floats, collect(Runner(saved.path, threads=1), samples)).sqnr_db > 35


def test_an_unedited_file_stays_sparse(tmp_path: Path) -> None:
    write_tflite(model_of(sparse(mostly_zero(4, 6), (0, 1), "DS")), tmp_path / "m.tflite")
    qf.save(qf.load(tmp_path / "m.tflite"), tmp_path / "same.tflite", scheme="float32")
    assert read_tflite(tmp_path / "same.tflite").graph.tensor("w").sparsity is not None


@pytest.mark.slow
def test_the_sparse_detector_has_no_float_op(tmp_path: Path) -> None:
    """92 of its ops stayed float behind DENSIFY."""
    path = shared_path("models/face_detection_sparse_fp16.tflite")
    model = qf.load(path)
    samples = synthetic(input_specs(model.graph), 4)
    wanted = collect(Runner(path, threads=1), samples)
    qf.run_passes(model, "calibrate", data=[{k: v.copy() for k, v in s.items()} for s in samples])
    saved = qf.save(model, tmp_path / "int8.tflite")
    assert saved.lowering.float_ops == []
    assert compare(wanted, collect(Runner(saved.path, threads=1), samples)).sqnr_db > 15
