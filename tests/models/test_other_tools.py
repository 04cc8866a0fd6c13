"""Other people's compilers and runtimes on what is written here."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import shared_path
from quantizing import quantized
from test_quantized_kernels import run_codes
from test_schemes import network

import qfrewrite as qf
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Model

VELA = shutil.which("vela", path=str(Path(sys.executable).parent)) or shutil.which("vela")
COMPILED = (
    "mobilenet_v1_0.25_128_2017_06_frozen_graph.pb",
    "mobilenet_v1_0.25_224_2017_06_frozen_graph.pb",
    "mobilenet_v1_0.75_224_fusedbn_frozen_graph.pb",
    "mobilenet_v2_1.0_224_folded_frozen_graph.pb",
    "vww_96_float.tflite",
)


def compiled(path: Path, folder: Path) -> dict[str, int]:
    """How many operators Vela puts where."""
    assert VELA is not None
    run = subprocess.run(
        [VELA, str(path), "--output-dir", str(folder), "--accelerator-config", "ethos-u55-128"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return {side: int(n) for side, n in re.findall(r"(CPU|NPU) operators = (\d+)", run.stdout)}


@pytest.mark.slow
@pytest.mark.skipif(VELA is None, reason="ethos-u-vela is not installed")
@pytest.mark.parametrize("name", COMPILED)
def test_vela_puts_everything_on_the_npu(name: str, tmp_path: Path) -> None:
    model = qf.load(shared_path(f"models/{name}"))
    qf.run_passes(model, "calibrate")
    saved = qf.save(model, tmp_path / "int8.tflite", target="vela")
    assert not saved.unmapped
    placed = compiled(saved.path, tmp_path / "out")
    assert placed["CPU"] == 0
    assert placed["NPU"] > 30


@pytest.mark.slow
@pytest.mark.skipif(VELA is None, reason="ethos-u-vela is not installed")
def test_what_vela_leaves_on_the_cpu_was_foretold(tmp_path: Path) -> None:
    from qfrewrite.ops.build import GraphBuilder

    b = GraphBuilder()
    y = b.op("AVERAGE_POOL_2D", b.input("x", (1, 18, 18, 8)), name="pool",
             attrs={"filter_height": 9, "filter_width": 9, "padding": "SAME"})  # fmt: skip
    graph = b.finish(b.op("RELU", y, name="relu"))
    model = Model([graph], source="graphdef")
    qf.run_passes(model, "calibrate")
    saved = qf.save(model, tmp_path / "int8.tflite", target="vela")
    assert [u.name for u in saved.unmapped] == ["pool"]
    assert compiled(saved.path, tmp_path / "out")["CPU"] >= 1


@pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="tflite-micro is not installed"
)
@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_tensorflow_lite_micro_computes_the_same(scheme: str) -> None:
    from tflite_micro.python.tflite_micro import runtime

    graph, _, _ = quantized(network(), scheme=scheme)
    content = serialize(Model([graph]))
    micro = runtime.Interpreter.from_bytes(content, arena_size=1 << 20)
    info = np.iinfo(graph.inputs[0].dtype)
    rng = np.random.default_rng(0)
    for _ in range(4):
        shape = graph.inputs[0].shape
        codes = rng.integers(info.min // 2, info.max // 2, shape).astype(info.dtype)
        micro.set_input(codes, 0)
        micro.invoke()
        (want,) = run_codes(content, [codes], "reference")
        distance = np.abs(micro.get_output(0).astype(int) - want).max()
        assert distance <= (2 if scheme == "int8" else 64)
