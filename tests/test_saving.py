"""What was asked for is what is written, or nothing is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from quantizing import quantized
from test_schemes import network

import qfrewrite as qf
from qfrewrite.cli.main import run
from qfrewrite.errors import DataError, UsageError, VerifyError
from qfrewrite.formats.tflite.read import read_tflite
from qfrewrite.formats.tflite.write import write_tflite
from qfrewrite.ir import Graph, Model
from qfrewrite.ops.build import GraphBuilder

DIGITS = ROOT / "examples" / "digits" / "digits_mobilenet.pb"
CALIB = str(ROOT / "examples" / "digits" / "calib")

Output = pytest.CaptureFixture[str]


@pytest.fixture
def int8(tmp_path: Path) -> Path:
    path = tmp_path / "int8.tflite"
    write_tflite(Model([quantized(network())[0]]), path)
    return path


def types(path: Path) -> set[str]:
    graph = read_tflite(path).graph
    return {t.dtype for t in (*graph.inputs, *graph.outputs)}


@pytest.mark.parametrize("scheme", ["int8", "uint8", "int16x8"])
@pytest.mark.parametrize("passes", [[], ["-p", "fold_bn"]])
def test_integers_without_ranges_are_an_error(
    scheme: str, passes: list[str], tmp_path: Path, capsys: Output
) -> None:
    out = tmp_path / "x.tflite"
    assert run([str(DIGITS), *passes, "--scheme", scheme, "-o", str(out)]) == 8
    error = capsys.readouterr().err.splitlines()[-1]
    assert "calibrate" in error
    assert not list(tmp_path.iterdir())


def test_the_default_scheme_asks_for_nothing(tmp_path: Path) -> None:
    out = tmp_path / "x.tflite"
    assert run([str(DIGITS), "-p", "fold_bn", "-q", "-o", str(out)]) == 0
    assert types(out) == {"float32"}


def test_every_list_of_passes_is_run_in_order(tmp_path: Path, capsys: Output) -> None:
    """Fails where the last -p overrides the others, whichever comes last."""
    for first, second in (("calibrate", "fold_bn"), ("fold_bn", "calibrate")):
        out = tmp_path / f"{first}.tflite"
        assert run([str(DIGITS), "-p", first, "-p", second, "-o", str(out)]) == 0
        said = capsys.readouterr().out
        rows = [line.split()[0] for line in said.splitlines() if line.strip()]
        assert rows.index(first) < rows.index(second)
        assert types(out) == {"int8"}


def test_data_without_a_finite_value_is_an_error(tmp_path: Path, capsys: Output) -> None:
    np.save(tmp_path / "nan.npy", np.full((4, 32, 32, 3), np.nan, "f4"))
    out = tmp_path / "x.tflite"
    argv = [str(DIGITS), "-p", "calibrate", "--data", str(tmp_path / "nan.npy"), "-o", str(out)]
    assert run(argv) == DataError.exit_code
    error = capsys.readouterr().err.splitlines()[-1]
    assert "'input'" in error
    assert "NaN" in error
    assert not out.exists()


def summed(*, reshaped: bool) -> Graph:
    """What computes in it has no integer kernel."""
    b = GraphBuilder()
    y = b.op("CUMSUM", b.input("x", (1, 4)), b.const("axis", 1, "int32"), name="summed")
    shape = b.const("shape", [4, 1], "int32")
    return b.finish(b.op("RESHAPE", y, shape) if reshaped else y)


def test_calibrate_asks_for_integers(tmp_path: Path) -> None:
    """Ranges alone make no int8 model: the error names an op that stays float, and why."""
    source = tmp_path / "m.tflite"
    write_tflite(Model([summed(reshaped=False)]), source)
    with pytest.raises(VerifyError, match=r"'summed'.*no int8 kernel"):
        qf.quantize(source, tmp_path / "x.tflite", passes="calibrate")
    assert not (tmp_path / "x.tflite").exists()


def test_what_only_moves_does_not_make_a_model_int8(tmp_path: Path) -> None:
    """Codes that a float model only passes on are not what int8 means."""
    model = Model([summed(reshaped=True)])
    qf.run_passes(model, "calibrate", data=[np.ones((1, 4), "f4"), np.zeros((1, 4), "f4")])
    with pytest.raises(VerifyError, match="'summed'"):
        qf.save(model, tmp_path / "x.tflite", scheme="int8")
    assert qf.save(model, tmp_path / "x.tflite").path.exists()


@pytest.mark.parametrize("scheme", ["uint8", "int16x8", "float32", "dynamic", "float16"])
def test_a_quantized_model_is_no_other_scheme(scheme: str, int8: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.tflite"
    with pytest.raises(VerifyError, match=r"int8.*dequantize"):
        qf.save(qf.load(int8), out, scheme=scheme)
    assert not out.exists()
    assert qf.save(qf.load(int8), out, scheme="int8").path.read_bytes() == int8.read_bytes()


def test_a_graphdef_is_what_was_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "x.pb"
    with pytest.raises(VerifyError, match="calibrate"):
        qf.save(qf.load(DIGITS), out, scheme="int8")
    with pytest.raises(UsageError, match="float16"):
        qf.save(qf.load(DIGITS), out, scheme="float16")
    assert not out.exists()
    assert qf.save(qf.load(DIGITS), out).size > 0


def test_ops_kept_float_by_name_are_asked_for_too(tmp_path: Path) -> None:
    """All of them, and int8 as well: that cannot be, and the message says whose fault it is."""
    model = qf.load(DIGITS)
    qf.run_passes(model, "calibrate", data=CALIB, samples=4)
    with pytest.raises(VerifyError, match="kept float by name"):
        qf.save(model, tmp_path / "x.tflite", scheme="int8", keep_float=["*"])
    saved = qf.save(model, tmp_path / "x.tflite", scheme="int8", keep_float=["conv*"])
    assert saved.lowering.counts["int8"] > 0


@pytest.mark.parametrize("scheme", ["int8", "uint8", "int16x8"])
def test_ranges_that_a_tflite_brings_are_used(scheme: str, tmp_path: Path) -> None:
    """Without a pass the file is unedited: it was copied, float as it is."""
    model = qf.load(DIGITS)
    qf.run_passes(model, "calibrate", data=CALIB, samples=4)
    ranged = qf.save(model, tmp_path / "ranged.tflite", scheme="float32").path
    out = tmp_path / "x.tflite"
    assert run([str(ranged), "--scheme", scheme, "-q", "-o", str(out)]) == 0
    assert types(out) == {scheme.replace("x8", "")}
    assert run([str(ranged), "--scheme", "float32", "-q", "-o", str(out)]) == 0
    assert out.read_bytes() == ranged.read_bytes()
