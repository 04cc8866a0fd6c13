"""Ranges that no kernel takes: the op stays float by itself, and nothing ends the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from graphs import normal

import qfrewrite as qf
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Array, Graph, Model
from qfrewrite.lower.model import lower_model
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.lower.spec_check import check_model
from qfrewrite.ops.build import GraphBuilder, append_op
from qfrewrite.passes.calibrate import observable
from qfrewrite.runtime.metrics import collect, compare
from qfrewrite.runtime.session import Runner

# Run in a child process: each op with ranges from 0 to 3e38, in every type; a crash names it last.
FUZZ = """
import random, sys
sys.path[:0] = [{tests!r} + folder for folder in ("", "/ops", "/lower")]
from cases import CASES, built
from qfrewrite.errors import QfError
from test_extreme_ranges import ranged, run
for kind in {kinds!r}:
    for scheme in ("int8", "uint8", "int16x8"):
        for seed in range({seeds}):
            print(kind, scheme, seed, flush=True)
            graph, _, _ = built(kind, 0)
            ranged(graph, random.Random(f"{{kind}} {{scheme}} {{seed}}"))
            run(graph, scheme)
print("done")
"""
# One of each kind of arithmetic; every op of the table passes.
KINDS = ("ADD", "SUB", "MUL", "BATCH_NORM", "BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D",
         "FULLY_CONNECTED", "HARD_SWISH", "SOFTMAX", "MEAN", "SQUARED_DIFFERENCE")  # fmt: skip


def ranged(graph: Graph, rng: object) -> None:
    """Give every tensor of `graph` a range of its own."""
    import random

    from qfrewrite.lower.canonical import canonicalise

    assert isinstance(rng, random.Random)
    canonicalise(graph)
    for tensor in observable(graph):
        size = rng.choice([0.0, 1.0, min(10 ** rng.uniform(-38, 38.5), 3.4e38)])
        low, high = rng.choice([(-size, size), (0.0, size), (-size, 0.0)])
        attrs = {"min": low, "max": high, "num_bits": 8}
        fake = append_op(graph, "FAKE_QUANT", [tensor], attrs=attrs, anchor=tensor.producer)
        graph.replace_uses(tensor, fake.output, skip=(fake,))


def run(graph: Graph, scheme: str) -> None:
    """What is written obeys the specification, and runs."""
    lowered, report = lower_model(Model([graph]), QuantOptions(scheme))
    assert check_model(lowered) == []
    runner = Runner(serialize(lowered), threads=1)
    runner.run([np.zeros(spec.shape, spec.dtype) for spec in runner.inputs])
    assert report.counts or report.float_ops


@pytest.mark.slow
def test_no_range_ends_the_process() -> None:
    """Without the largest scale an ADD beside 3e38 aborts; without the fallback layers are
    refused with a request to report it."""
    code = FUZZ.format(tests=str(ROOT / "tests"), kinds=KINDS, seeds=6)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{lines[-1:]}: {done.stderr[-1000:]}"
    assert lines[-1] == "done"


def decoder(steps: int = 16, width: int = 8) -> Model:
    """One step of attention over a cache: what decoders of language models repeat."""
    b = GraphBuilder("decode")
    x, mask = b.input("x", (1, width)), b.input("mask", (1, steps))
    caches = [b.input(f"{name}_cache", (steps, width)) for name in "kv"]
    q, k, v = (
        b.op("FULLY_CONNECTED", x, b.const(f"w{n}", normal(width, width, seed=i)), None, name=n)
        for i, n in enumerate("qkv")
    )
    at = b.const("at", np.array([3, 0], np.int32))
    keys, values = (
        b.op("DYNAMIC_UPDATE_SLICE", cache, new, at, name=f"{new.name}_next")
        for cache, new in zip(caches, (k, v), strict=True)
    )
    scores = b.op("BATCH_MATMUL", q, keys, name="scores", attrs={"adj_y": True})
    weights = b.op("SOFTMAX", b.op("ADD", scores, mask, name="masked"), name="p")
    out = b.op("BATCH_MATMUL", weights, values, name="attended")
    return Model([b.finish(out, keys, values)])


def steps_of(lowest: float, count: int = 8) -> list[dict[str, Array]]:
    """Inputs of the decoder with empty caches; lowest: what masks the steps to come."""
    mask = np.where(np.arange(16) <= 3, 0, lowest).astype(np.float32)[None]
    empty = np.zeros((16, 8), np.float32)
    return [
        {"x": normal(1, 8, seed=i), "mask": mask, "k_cache": empty, "v_cache": empty}
        for i in range(count)
    ]


def test_attention_with_a_mask_of_the_lowest_float() -> None:
    model, samples = decoder(), steps_of(-3.4e38)
    wanted = collect(Runner(serialize(model), threads=1), samples)
    qf.run_passes(model, "calibrate", data=samples)
    lowered, report = lower_model(model, QuantOptions("int8"))
    assert {name: why for name, _, why in report.float_ops} == {
        "masked": "the range of 'mask' is too wide: -3.4e+38..0",
        "p": "the range of 'masked' is too wide: -3.4e+38..0",
    }
    assert report.counts == {"int8": 7}
    assert compare(wanted, collect(Runner(serialize(lowered), threads=1), samples)).sqnr_db > 35


def test_a_layer_whose_multiplier_is_out_of_range(tmp_path: Path) -> None:
    """The bias asks for steps of the weights that no kernel rescales to so narrow a result."""
    b = GraphBuilder("root")
    x = b.input("x", (1, 8))
    y = b.op("FULLY_CONNECTED", x, b.const("w", normal(6, 8)), b.const("b", normal(6)), name="y")
    model = Model([b.finish(b.op("ABS", y, name="z"))])
    qf.run_passes(model, "calibrate", data=[normal(1, 8, seed=i) for i in range(4)])
    graph = model.graph
    for fake in graph.ops_of("FAKE_QUANT"):
        if fake.operand(0).name in ("x", "y"):
            graph.set_attrs(fake, min=0.0, max=1e-30)
    saved = qf.save(model, tmp_path / "int8.tflite")
    ((name, kind, why),) = saved.lowering.float_ops
    assert (name, kind) == ("y", "FULLY_CONNECTED")
    assert why.startswith("rescales by ")
    assert saved.lowering.counts == {"int8": 1}
    assert qf.check(saved.path) == []
    samples = [{"x": normal(1, 8, seed=i)} for i in range(4)]
    collect(Runner(saved.path, threads=1), samples)


def test_a_result_that_is_always_zero_gets_steps_of_its_type() -> None:
    """A range of no width grows to steps that kernels can rescale to, in 8 and in 16 bits."""
    for scheme in ("int8", "int16x8"):
        b = GraphBuilder("root")
        x = b.input("x", (1, 8))
        model = Model([b.finish(b.op("ADD", x, b.const("c", normal(8)), name="y"))])
        qf.run_passes(model, "calibrate", data=[normal(1, 8)])
        graph = model.graph
        for fake in graph.ops_of("FAKE_QUANT"):
            if fake.operand(0).name == "y":
                graph.set_attrs(fake, min=0.0, max=1e-30)
        lowered, report = lower_model(model, QuantOptions(scheme))
        assert report.float_ops == []
        scales = {t.name: float(t.quant.scale[0]) for t in lowered.graph.tensors if t.quant}
        assert scales["y"] > 2.0**-13 * scales["x"]
        Runner(serialize(lowered), threads=1)
