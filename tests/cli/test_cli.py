"""The command line: what it writes, what it says, and how it fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from graphdefs import Nodes

from qfrewrite.cli.main import run
from qfrewrite.formats.graphdef.schema import GraphDef
from qfrewrite.formats.tflite.read import read_tflite
from qfrewrite.formats.tflite.write import write_tflite
from qfrewrite.ir import Model
from qfrewrite.ops.build import GraphBuilder

DIGITS = ROOT / "examples" / "digits"
MODEL = str(DIGITS / "digits_mobilenet.pb")
CALIB = str(DIGITS / "calib")
TITLE = "remove_dw_bn,relu6_to_relu,calibrate"

Output = pytest.CaptureFixture[str]


def test_the_main_job(tmp_path: Path, capsys: Output) -> None:
    out = tmp_path / "int8.tflite"
    code = run([MODEL, "-p", TITLE, "--data", CALIB, "--samples", "20", "-o", str(out)])
    said = capsys.readouterr()
    assert code == 0
    assert said.err.startswith("warning: only 20 samples: ")
    for text in ("remove_dw_bn", "relu6_to_relu", "calibrate", "written", "SQNR", "held out"):
        assert text in said.out
    graph = read_tflite(out).graph
    assert {t.dtype for t in (*graph.inputs, *graph.outputs)} == {"int8"}
    assert [t.name for t in graph.outputs] == ["predictions/Softmax"]


def test_without_data_the_notice_is_on_stderr(tmp_path: Path, capsys: Output) -> None:
    assert run([MODEL, "-p", TITLE, "-o", str(tmp_path / "x.tflite")]) == 0
    assert "no data: ranges of" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["RSQRT", "SQRT"])
def test_a_result_that_cannot_be_run_is_not_left(kind: str, tmp_path: Path, capsys: Output) -> None:
    """The int8 kernels fail on negative inputs, where the float kernels give NaN."""
    b = GraphBuilder("root")
    graph = b.finish(b.op(kind, b.input("x", (1, 8)), name="y"))
    write_tflite(Model([graph]), tmp_path / "m.tflite")
    out, ranges = tmp_path / "out.tflite", tmp_path / "ranges.json"
    args = ["-p", "calibrate", "-o", str(out), "--save-ranges", str(ranges), "-q"]
    assert run([str(tmp_path / "m.tflite"), *args]) == 9
    error = capsys.readouterr().err.splitlines()
    assert [line for line in error if "error" in line] == error[-1:]
    assert "is only defined for" in error[-1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.tflite"]


@pytest.mark.parametrize(("passes", "name"), [("calibrate", "int8"), ("fold_bn", "float")])
def test_default_output_is_in_the_current_directory(
    passes: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([MODEL, "-p", passes, "-q"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == [f"digits_mobilenet_{name}.tflite"]


@pytest.mark.parametrize("io", ["int8", "uint8", "float32"])
def test_input_and_output_types(io: str, tmp_path: Path) -> None:
    out = tmp_path / "x.tflite"
    assert run([MODEL, "-p", "calibrate", "--io", io, "-o", str(out), "-q"]) == 0
    graph = read_tflite(out).graph
    assert [(t.name, t.dtype) for t in (*graph.inputs, *graph.outputs)] == [
        ("input", io), ("predictions/Softmax", io),
    ]  # fmt: skip


def test_a_graphdef_holds_the_fake_quant_nodes(tmp_path: Path) -> None:
    out = tmp_path / "x.pb"
    assert run([MODEL, "-p", "calibrate", "-o", str(out), "-q"]) == 0
    ops = [n.op for n in GraphDef.FromString(out.read_bytes()).node]
    assert ops.count("FakeQuantWithMinMaxVars") == 16


def test_no_arguments_show_the_help(capsys: Output) -> None:
    assert run([]) == 0
    assert "MODEL -p PASSES" in capsys.readouterr().out


def test_quiet_says_nothing(tmp_path: Path, capsys: Output) -> None:
    assert run([MODEL, "-p", TITLE, "-q", "-o", str(tmp_path / "x.tflite")]) == 0
    assert capsys.readouterr() == ("", "")


def test_explain_lists_edits_and_reasons(tmp_path: Path, capsys: Output) -> None:
    assert run([MODEL, "-p", TITLE, "--explain", "-o", str(tmp_path / "x.tflite")]) == 0
    out = capsys.readouterr().out
    assert "dead channels (by BatchNorm) into the next bias" in out
    assert "ReLU6 stays" in out


def test_dump_after_prints_the_graph(tmp_path: Path, capsys: Output) -> None:
    argv = [MODEL, "-p", "fold_bn", "--dump-after", "fold_bn", "-o", str(tmp_path / "x.tflite")]
    assert run(argv) == 0
    assert "DEPTHWISE_CONV_2D(" in capsys.readouterr().out


def test_forced_passes_warn(tmp_path: Path, capsys: Output) -> None:
    passes = "remove_dw_bn(layers=all),relu6_to_relu(force=true)"
    argv = [
        MODEL,
        "-p",
        passes,
        "--data",
        CALIB,
        "--samples",
        "10",
        "-o",
        str(tmp_path / "x.tflite"),
    ]
    assert run(argv) == 0
    said = capsys.readouterr()
    assert said.err.count("must be trained again") == 2
    assert "clip_rate" in said.out


def test_numeric_verification(tmp_path: Path) -> None:
    argv = [MODEL, "-p", "fold_bn", "--verify", "numeric", "-q", "-o", str(tmp_path / "x.tflite")]
    assert run(argv) == 0


def test_passes_are_listed_with_parameters(capsys: Output) -> None:
    assert run(["passes"]) == 0
    out = capsys.readouterr().out
    for text in ("fold_bn", "max_clip=0.001", "layers=auto", "exact"):
        assert text in out
    assert run(["passes", "calibrate"]) == 0
    assert "FAKE_QUANT" in capsys.readouterr().out


def test_parameters_that_must_be_given_are_shown_as_such(capsys: Output) -> None:
    assert run(["passes"]) == 0
    assert run(["passes", "calibrate"]) == 0
    assert run(["passes", "resize_input(size=64x64)"]) == 0
    said = capsys.readouterr().out
    assert "MISSING" not in said
    assert "size" in said
    assert "(required)" in said


def test_the_help_describes_every_command_and_starts_with_the_passes(capsys: Output) -> None:
    """Click cuts off, with three dots, a first sentence that fills more than its line."""
    assert run(["--help"]) == 0
    options, _, commands = capsys.readouterr().out.partition("Commands:")
    assert "..." not in commands
    assert options.partition("Options:")[2].split()[0] == "-p,"


def test_help_and_import_load_nothing_heavy() -> None:
    code = (
        "import sys, qfrewrite; from qfrewrite.cli.main import run; run(['--help']);"
        "print([m for m in ('tensorflow', 'networkx', 'numpy', 'rich') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_main_job_never_imports_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys; from qfrewrite.cli.main import run;"
        f"run([{MODEL!r}, '-p', {TITLE!r}, '-q', '-o', {str(tmp_path / 'x.tflite')!r}]);"
        "print('tensorflow' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


# -- bad input -----------------------------------------------------------------------------


def graph_with(op: str) -> bytes:
    g = Nodes()
    g.placeholder("x", (1, 4))
    g.add(op, "strange", ["x"] if op != "VariableV2" else [])
    g.add("Add", "y", ["x", "strange"])
    return g.bytes()


def saved_model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"\x08\x01")
    return folder


def written(content: bytes, name: str = "bad.pb") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return make


REAL = Path(MODEL).read_bytes()
BAD_MODELS = {
    "missing": (lambda folder: folder / "nowhere.pb", 3, "does not exist"),
    "missing tflite": (lambda folder: folder / "nowhere.tflite", 3, "cannot be read"),
    "empty": (written(b""), 3, "is empty"),
    "truncated": (written(REAL[:50_000]), 3, "damaged"),
    "random": (written(np.random.default_rng(0).bytes(5000)), 3, "not a GraphDef"),
    "checkpoint": (written(b"x" * 100, "model.ckpt-1.data-00000-of-00001"), 3, "checkpoint"),
    "saved model": (lambda folder: saved_model(folder / "saved"), 3, "SavedModel"),
    "truncated tflite": (written(b"\x1c\0\0\0TFL3" + b"\0" * 20, "bad.tflite"), 3, "bad.tflite"),
    "variables": (written(graph_with("VariableV2")), 4, "freeze"),
    "unsupported": (written(graph_with("FancyOp")), 4, "op FancyOp is not supported"),
}


def fails(argv: list[str], capsys: Output, folder: Path) -> tuple[int, str]:
    """Run, and hold the failure against what every failure must be."""
    before = sorted(folder.rglob("*"))
    code = run(argv)
    said = capsys.readouterr()
    assert said.err.startswith("qfrewrite: error: ") or "\nqfrewrite: error: " in said.err
    assert "Traceback" not in said.err
    assert sorted(folder.rglob("*")) == before
    return code, said.err.splitlines()[-1]


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models(case: str, tmp_path: Path, capsys: Output) -> None:
    make, code, words = BAD_MODELS[case]
    path = make(tmp_path)
    got, text = fails(
        [str(path), "-p", "calibrate", "-o", str(tmp_path / "o.tflite")], capsys, tmp_path
    )
    assert got == code
    assert words in text
    assert path.name in text


def images_folder(folder: Path) -> str:
    (folder / "broken.jpg").write_bytes(b"no image")
    return str(folder)


BAD_ARGUMENTS: dict[str, tuple[list[str], int, str]] = {
    "unknown pass": (["-p", "fold_bm"], 5, "did you mean 'fold_bn'"),
    "unknown parameter": (["-p", "remove_dw_bn(layer=all)"], 5, "did you mean 'layers'"),
    "no such data": (["-p", "calibrate", "--data", "/no/such/folder"], 6, "/no/such/folder"),
    "no images": (["-p", "calibrate", "--data", "{empty}"], 6, "empty"),
    "broken image": (["-p", "calibrate", "--data", "{broken}"], 6, "broken.jpg"),
    "wrong npz": (["-p", "calibrate", "--data", "{npz}"], 6, "input"),
    "preprocess": (["-p", "calibrate", "--data", CALIB, "--preprocess", "odd"], 2, "odd"),
    "input name": (["-p", "calibrate", "--input", "inptu"], 2, "did you mean 'input'"),
    "output name": (["-p", "calibrate", "--output", "nothing"], 2, "no such node"),
    "option": (["--nonsense"], 2, "nonsense"),
    "dump": (["-p", "fold_bn", "--dump-after", "calibrate"], 5, "--dump-after"),
    "suffix": (["-p", "fold_bn", "-o", "{tmp}/x.onnx"], 7, ".onnx"),
    "no folder": (["-p", "fold_bn", "-o", "{tmp}/no/x.tflite"], 7, "does not exist"),
    "file as folder": (["-p", "fold_bn", "-o", "{npz}/x.tflite"], 7, "x.npz"),
    "itself": (["-p", "fold_bn", "-o", MODEL], 7, "is the model itself"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(case: str, tmp_path: Path, capsys: Output) -> None:
    for name in ("empty", "broken"):
        (tmp_path / name).mkdir()
    images_folder(tmp_path / "broken")
    np.savez(tmp_path / "x.npz", a=np.zeros((2, 32, 32, 3), "f4"), b=np.zeros(3))
    places = {"tmp": tmp_path, "empty": tmp_path / "empty", "broken": tmp_path / "broken",
              "npz": tmp_path / "x.npz"}  # fmt: skip
    argv, code, words = BAD_ARGUMENTS[case]
    argv = [a.format(**places) for a in argv]
    if "-o" not in argv:
        argv += ["-o", str(tmp_path / "out.tflite")]
    got, text = fails([MODEL, *argv], capsys, tmp_path)
    assert got == code
    assert words in text
