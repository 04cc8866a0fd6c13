"""Variables in several subgraphs: quantized everywhere or nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import shared_path
from state_models import smoothing

import qfrewrite as qf
from qfrewrite import api
from qfrewrite.errors import UnsupportedError
from qfrewrite.formats.tflite.read import read_tflite
from qfrewrite.formats.tflite.write import write_tflite
from qfrewrite.ir import Array, Model, Quant
from qfrewrite.ops.subgraphs import variables
from qfrewrite.runtime.metrics import collect, compare
from qfrewrite.runtime.session import Runner

FIRST = np.full((1, 8), 0.25, np.float32)


def samples(count: int = 24) -> list[dict[str, Array]]:
    """Inputs whose size changes slowly, so that the state matters."""
    rng = np.random.default_rng(3)
    return [
        {"x": (rng.normal(size=(1, 8)) * (1 + np.sin(i / 4))).astype(np.float32)}
        for i in range(count)
    ]


def types(model: Model) -> set[str]:
    """The element types of what is read from and written to variables."""
    return {use.value.dtype for v in variables(model.graphs) for use in v.uses}


@pytest.mark.parametrize(
    ("scheme", "dtype", "least"), [("int8", "int8", 40), ("uint8", "uint8", 43),
                                   ("int16x8", "int16", 80), ("float16", "float32", 100)],
)  # fmt: skip
def test_a_variable_is_quantized_in_all_subgraphs(
    scheme: str, dtype: str, least: float, tmp_path: Path
) -> None:
    """Left out of the group, the initial constant stays float32 and the file is not safe.

    Shuffled samples give other states, and 25 dB in every type.
    """
    model = smoothing(FIRST)
    write_tflite(model, tmp_path / "float.tflite")
    wanted = collect(Runner(tmp_path / "float.tflite", threads=1), samples())
    qf.run_passes(model, "calibrate", data=samples())
    saved = qf.save(model, tmp_path / "q.tflite", scheme=scheme)
    written = read_tflite(saved.path)
    assert types(written) == {dtype}
    assert compare(wanted, collect(Runner(saved.path, threads=1), samples())).sqnr_db > least
    if scheme == "int8":
        (variable,) = variables(written.graphs)
        scales = {float(use.value.quant.scale[0]) for use in variable.uses if use.value.quant}
        assert len(scales) == 1
        assert {(kind, name) for name, kind, _ in saved.lowering.float_ops} == set()


@pytest.mark.parametrize("name", ["read", "assign", "y"])
def test_a_variable_stays_float_everywhere(name: str, tmp_path: Path) -> None:
    """One of the ops at a variable is kept float: then none of them is quantized."""
    model = smoothing(FIRST)
    write_tflite(model, tmp_path / "float.tflite")
    wanted = collect(Runner(tmp_path / "float.tflite", threads=1), samples())
    qf.run_passes(model, "calibrate", data=samples())
    saved = qf.save(model, tmp_path / "int8.tflite", keep_float=(name,))
    assert types(read_tflite(saved.path)) == ({"int8"} if name == "y" else {"float32"})
    assert compare(wanted, collect(Runner(saved.path, threads=1), samples())).sqnr_db > 30
    reasons = {kind: why for _, kind, why in saved.lowering.float_ops}
    if name == "assign":
        assert reasons == {"READ_VARIABLE": "its variable must stay float elsewhere"}


def test_the_first_value_widens_the_scale(tmp_path: Path) -> None:
    """No sample shows the first value of 50: without it in the range it is clipped."""
    model = smoothing(np.full((1, 8), 50.0, np.float32))
    run = samples(1)
    qf.run_passes(model, "calibrate", data=samples())
    saved = qf.save(model, tmp_path / "int8.tflite")
    first = collect(Runner(saved.path, threads=1), run)[0][0]
    np.testing.assert_allclose(first, (50 + np.abs(run[0]["x"])) / 2, atol=0.5)


def test_a_quantized_variable_becomes_float_in_all_subgraphs(tmp_path: Path) -> None:
    model = smoothing(FIRST)
    qf.run_passes(model, "calibrate", data=samples())
    saved = qf.save(model, tmp_path / "int8.tflite")
    back = qf.load(saved.path)
    api.dequantize(back)
    assert types(back) == {"float32"}
    again = qf.save(back, tmp_path / "float.tflite")
    runs = [collect(Runner(path, threads=1), samples()) for path in (saved.path, again.path)]
    assert compare(*runs).sqnr_db > 40


def test_a_variable_with_two_scales_is_refused(tmp_path: Path) -> None:
    model = smoothing(FIRST)
    qf.run_passes(model, "calibrate", data=samples())
    back = qf.load(qf.save(model, tmp_path / "int8.tflite").path)
    (variable,) = variables(back.graphs)
    use = variable.uses[-1]
    use.graph.set_type(use.value, use.value.dtype, Quant.per_tensor(0.5, 0))
    with pytest.raises(UnsupportedError, match="'state': is read and written at different"):
        api.dequantize(back)


def test_order_of_samples_and_threads(tmp_path: Path) -> None:
    """Several workers would each keep a state of their own."""
    tables = [qf.calibrate(smoothing(FIRST), samples(), threads=n) for n in (1, 2)]
    assert [(r.name, r.range) for r in tables[0]] == [(r.name, r.range) for r in tables[1]]


def test_the_streaming_model(tmp_path: Path) -> None:
    """In a child process: what is wrong here ends it by a signal."""
    model = shared_path("models/streaming_wakeword_int8.tflite")
    jobs = {"calibrate": ["-p", "calibrate"], "fold": ["-p", "fold_bn"], "float": ["--dequantize"]}
    code = "from qfrewrite.cli.main import run; import sys\n"
    for name, args in jobs.items():
        line = [str(model), *args, "-q", "-o", str(tmp_path / f"{name}.tflite")]
        code += f"print('{name}', run({line!r}), flush=True)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == [f"{name} 0" for name in jobs]
    found = {name: types(read_tflite(tmp_path / f"{name}.tflite")) for name in jobs}
    assert found == {"calibrate": {"int8"}, "fold": {"float32"}, "float": {"float32"}}
    rng = np.random.default_rng(0)
    inputs = [{"x": rng.uniform(0, 26, (1, 3, 40)).astype(np.float32)} for _ in range(40)]
    original = collect(Runner(model, threads=1), inputs)
    floats = collect(Runner(tmp_path / "float.tflite", threads=1), inputs)
    largest = max(float(np.abs(a[0] - b[0]).max()) for a, b in zip(original, floats, strict=True))
    assert largest < 0.02  # of a score in 0..1; one step is 0.004


def test_layers_of_a_model_with_state_are_not_fitted_one_by_one(tmp_path: Path) -> None:
    """The units of `reconstruct` have no variables: 'internal error' before."""
    model = smoothing(FIRST)
    write_tflite(model, tmp_path / "float.tflite")
    wanted = collect(Runner(tmp_path / "float.tflite", threads=1), samples())
    report = qf.run_passes(model, "@per-channel", data=samples())
    said = [str(w) for one in report.passes for w in one.log.diagnostics.of("warning")]
    assert any("depends on those before it" in text for text in said)
    saved = qf.save(model, tmp_path / "int8.tflite")
    assert types(read_tflite(saved.path)) == {"int8"}
    assert compare(wanted, collect(Runner(saved.path, threads=1), samples())).sqnr_db > 35
