"""Every name that a table prints can be given back to the tool."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT, shared_path
from graphs import normal

import qfrewrite as qf
from qfrewrite.cli.main import run
from qfrewrite.errors import UsageError
from qfrewrite.formats.tflite.write import write_tflite
from qfrewrite.ir import Model
from qfrewrite.ops.build import GraphBuilder

DIGITS = str(ROOT / "examples" / "digits" / "digits_mobilenet.pb")

Output = pytest.CaptureFixture[str]


def converted(folder: Path) -> str:
    """Names as TensorFlow's converter writes them, and some that look like patterns."""
    b = GraphBuilder()
    y = b.input("serving_default_x:0", (1, 4, 4, 8))
    for k in range(4):
        y = b.op("CONV_2D", y, b.const(f"w{k}", normal(8, 1, 1, 8, seed=k, scale=0.35)),
                 b.const(f"b{k}", normal(8, seed=k)),
                 name=f"model/block/conv_{k}/BiasAdd;model/bn_{k}/Fused;model/conv")  # fmt: skip
    y = b.op("RELU", y, name="model/act[0]/Relu")
    y = b.op("CONV_2D", y, b.const("w", normal(8, 1, 1, 8)), b.const("b", normal(8)),
             name="model/inner/block/conv_0/BiasAdd")  # fmt: skip
    path = folder / "converted.tflite"
    write_tflite(Model([b.finish(y)]), path)
    return str(path)


def column(capsys: Output) -> list[str]:
    """The names in the first column of the table that was printed."""
    lines = capsys.readouterr().out.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("layer ")) + 2
    end = next(k for k in range(start, len(lines)) if not lines[k].strip())
    return [line.split("  ")[0] for line in lines[start:end]]


MODELS = {
    "digits": lambda folder: DIGITS,
    "converted": converted,
    "v1": lambda folder: str(shared_path("models/mobilenet_v1_0.25_128_2017_06_frozen_graph.pb")),
    "vww": lambda folder: str(shared_path("models/vww_96_float.tflite")),
}


@pytest.mark.parametrize("name", [
    "digits", "converted", *(pytest.param(n, marks=pytest.mark.slow) for n in ("v1", "vww")),
])  # fmt: skip
def test_names_of_inspect(name: str, tmp_path: Path, capsys: Output) -> None:
    path = MODELS[name](tmp_path)
    whole = [layer.name for layer in qf.inspect_model(qf.load(path)).layers]
    parts = ([], ["--top", "2"], ["--filter", "CONV_2D"], ["--sort", "parameters", "--top", "3"])
    shown: set[str] = set()
    for part in parts:
        assert run(["inspect", path, *part]) == 0
        shown.update(column(capsys))
    assert len(shown) >= len(whole)
    model = qf.load(path)
    qf.run_passes(model, "calibrate")
    for short in sorted(shown)[::8]:
        assert run(["inspect", path, "--layer", short, "--format", "json"]) == 0
        layer = json.loads(capsys.readouterr().out)["name"]
        assert run(["inspect", path, "--filter", short, "--format", "json"]) == 0
        assert layer in [x["name"] for x in json.loads(capsys.readouterr().out)["layers"]]
        saved = qf.save(model, tmp_path / "q.tflite", keep_float=[short])
        kept = [op for op, _, why in saved.lowering.float_ops if why == "kept float by name"]
        assert layer in kept


def test_names_of_the_other_tables(tmp_path: Path, capsys: Output) -> None:
    path, out = converted(tmp_path), str(tmp_path / "q.tflite")
    assert run([path, "-p", "calibrate", "-o", out, "-q"]) == 0
    model = qf.load(path)
    qf.run_passes(model, "calibrate")
    bench = ["bench", path, "--per-layer", "--runs", "3"]
    for command in (["compare", path, out], ["sensitivity", path], bench):
        for part in ([], ["--top", "2"]) if command is not bench else ([],):
            assert run([*command, *part]) == 0
            for short in column(capsys):
                kept = qf.save(model, tmp_path / "k.tflite", keep_float=[short]).lowering
                assert any(why == "kept float by name" for _, _, why in kept.float_ops), short


def test_a_short_name_is_not_that_of_a_deeper_layer(tmp_path: Path) -> None:
    model = qf.load(converted(tmp_path))
    qf.run_passes(model, "calibrate")
    kept = qf.save(model, tmp_path / "k.tflite", keep_float=["block/conv_0/BiasAdd"]).lowering
    assert len([1 for *_, why in kept.float_ops if why == "kept float by name"]) == 1
    every = qf.save(model, tmp_path / "k.tflite", keep_float=["block/conv_*"]).lowering
    assert len([1 for *_, why in every.float_ops if why == "kept float by name"]) == 5
    with pytest.raises(UsageError, match="'conv_9' names no op"):
        qf.save(model, tmp_path / "k.tflite", keep_float=["conv_9"])
