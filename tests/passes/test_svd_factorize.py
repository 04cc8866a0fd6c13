"""svd_factorize: exact where nothing is cut off, best where something is."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import normal
from hypothesis import given
from hypothesis import strategies as st
from networks import conv, dense, mobilenet_v1, pooled

from qfrewrite.data.source import synthetic
from qfrewrite.errors import PassError
from qfrewrite.ir import Graph, Model
from qfrewrite.lower.cost import macs
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import Dataset, PassContext, RunReport, make_passes, run_passes
from qfrewrite.runtime.session import input_specs
from qfrewrite.solve.fit import factorize
from qfrewrite.testing import check_pass, largest_difference, outputs_of


def factorized(graph: Graph, params: str, *, data: bool = True, count: int = 24) -> RunReport:
    samples = Dataset(synthetic(input_specs(graph), count)) if data else None
    return run_passes(Model([graph]), f"svd_factorize({params})", PassContext(samples, threads=1))


def low_rank(rank: int = 4, stride: int = 1) -> Graph:
    """A 1x1 convolution and a dense layer over a flattened map, both of low rank."""
    b = GraphBuilder("low_rank")
    y = conv(b, b.input("x", (1, 6, 6, 3)), 24, 3)
    w = (normal(32, rank) @ normal(rank, 24)).reshape(32, 1, 1, 24).astype("f4")
    y = b.op("CONV_2D", y, b.const("w", w), b.const("b", normal(32)), name="pointwise",
             attrs={"stride_h": stride, "stride_w": stride})  # fmt: skip
    y = b.op("RELU", y)
    v = (normal(20, rank) @ normal(rank, y.size)).astype("f4") / 10
    return b.finish(b.op("FULLY_CONNECTED", y, b.const("v", v), b.const("c", normal(20)),
                         name="dense"))  # fmt: skip


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_at_full_rank_the_function_stays(data: bool, stride: int) -> None:
    graph = low_rank(stride=stride)
    before, work = outputs_of(graph), sum(map(macs, graph.ops))
    report = factorized(graph, "rank=4,refit=false", data=data)
    assert len(report.passes[0].log.edits) == 2
    assert largest_difference(before, outputs_of(graph)) < 2e-5
    assert sum(map(macs, graph.ops)) < work
    assert [op.name for op in graph.ops if "factor" in op.name]
    assert {"pointwise", "dense"} <= {op.name for op in graph.ops}


@given(outputs=st.integers(1, 9), inputs=st.integers(1, 9), seed=st.integers(0, 99))
def test_all_factors_together_are_the_weights(outputs: int, inputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=(outputs, inputs)), rng.normal(size=(40, inputs))
    factors = factorize(w, np.cov(x.T).reshape(inputs, inputs))
    rank = factors.rank_for(1.0)
    assert rank <= min(outputs, inputs)
    assert np.allclose(factors.of_rank(rank), w, atol=1e-6)


@given(seed=st.integers(0, 99), rank=st.integers(1, 5))
def test_what_is_cut_off_is_what_the_spectrum_says(seed: int, rank: int) -> None:
    """And no other weights of that rank lose less over these inputs (Eckart, Young)."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(7, 6))
    x = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6))
    covariance = np.cov(x.T, bias=True)
    factors = factorize(w, covariance)

    def lost(other: np.ndarray) -> float:
        return float(((w - other) @ covariance * (w - other)).sum())

    signal, noise = factors.powers(rank)
    assert lost(factors.of_rank(rank)) == pytest.approx(noise, rel=1e-4, abs=1e-7 * signal)
    plain = factorize(w)
    assert noise <= lost(plain.of_rank(rank)) * (1 + 1e-6)


def test_minding_the_inputs_loses_less_of_the_outputs() -> None:
    def network() -> Graph:
        b = GraphBuilder()
        mix = normal(24, 4) @ normal(4, 3)
        y = b.op("CONV_2D", b.input("x", (1, 8, 8, 3)),
                 b.const("in", mix.reshape(24, 1, 1, 3).astype("f4")), name="mix")  # fmt: skip
        y = b.op("TANH", y)
        w = normal(24, 1, 1, 24)
        return b.finish(b.op("CONV_2D", y, b.const("w", w), name="wide"))

    before = outputs_of(network())
    errors = []
    for data in (True, False):
        graph = network()
        factorized(graph, "rank=6,layers=wide", data=data)
        errors.append(largest_difference(before, outputs_of(graph)))
    assert errors[0] < 0.7 * errors[1]


def test_a_refit_makes_up_for_what_earlier_layers_lost() -> None:
    before = outputs_of(mobilenet_v1(0.5), 16)
    powers = []
    for refit in ("true", "false"):
        graph = mobilenet_v1(0.5)
        factorized(graph, f"energy=0.8,refit={refit}", count=64)
        pairs = [(a[0], b[0]) for a, b in zip(before, outputs_of(graph, 16), strict=True)]
        powers.append(sum(float(((a - b) ** 2).sum()) for a, b in pairs))
    assert powers[0] < powers[1]


@pytest.mark.parametrize("stride", [(2, 2), (3, 1)])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_a_strided_layer_is_fitted_where_it_reads(padding: str, stride: tuple[int, int]) -> None:
    """Behind a layer that lost something; all positions would not even be as many as outputs."""
    b = GraphBuilder()
    y = conv(b, b.input("x", (1, 9, 9, 3)), 32, 3)
    for name, seed in (("first", 1), ("second", 2)):
        w = (normal(32, 4, seed=seed) @ normal(4, 32, seed=seed + 2)).reshape(32, 1, 1, 32) / 8
        attrs = {"stride_h": stride[0], "stride_w": stride[1], "padding": padding}
        y = b.op("CONV_2D", y, b.const(f"{name}/w", w), b.const(f"{name}/b", normal(32)),
                 name=name, attrs=attrs)  # fmt: skip
        y = b.op("RELU", y)
    graph = b.finish(y)
    before = outputs_of(graph)
    report = factorized(graph, "rank=4")
    assert report.passes[0].edits >= 2
    assert largest_difference(before, outputs_of(graph)) < 1e-4


def test_the_speedup_asked_for_is_reached() -> None:
    graph = mobilenet_v1(1.0)
    work = sum(map(macs, graph.ops))
    report = factorized(graph, "speedup=1.5").passes[0]
    assert work / sum(map(macs, graph.ops)) == pytest.approx(1.5, abs=0.1)
    assert work / sum(map(macs, graph.ops)) >= 1.5
    rows = [row for row in report.log.layers if row["decision"] == "factorized"]
    assert rows
    assert all(row["sqnr_db"] > 0 for row in rows)
    out_of_reach = factorized(mobilenet_v1(0.5), "speedup=1000").passes[0]
    assert "is not reached" in out_of_reach.log.diagnostics.of("warning")[0].text


def test_only_where_it_lowers_the_work() -> None:
    b = GraphBuilder()
    graph = b.finish(dense(b, pooled(b, conv(b, b.input("x", (1, 4, 4, 3)), 8)), 8))
    report = check_pass(graph, "svd_factorize(rank=8)", tolerance=1e-6, data=True)
    assert not report.edits
    assert "does not lower" in str(report.log.skips[0])


def test_layers_are_chosen_by_name() -> None:
    graph = low_rank()
    report = factorized(graph, "rank=4,layers=dense")
    assert [entry.where for entry in report.passes[0].log.edits] == ["dense"]


@pytest.mark.parametrize(("params", "words"), [
    ("energy=0.9,rank=3", "one of"), ("energy=0", "0 to 1"), ("energy=1.5", "0 to 1"),
    ("rank=0", "1 or more"), ("speedup=1", "more than 1"),
])  # fmt: skip
def test_bounds_that_cannot_be(params: str, words: str) -> None:
    with pytest.raises(PassError, match=words):
        make_passes(f"svd_factorize({params})")
