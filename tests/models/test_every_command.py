"""Every command on every published model: done, or one clear line; the process survives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import shared_path

SCHEMES = ("int8", "uint8", "int16x8", "dynamic", "weight-only", "float16", "float32")
MODELS = (
    "face_detection_sparse_fp16.tflite",
    "flowers_mobilenet_v1_0.25_128_retrained_graph.pb",
    "kws_ref_model_float32.tflite",
    "mobilenet_v1_0.25_128_2017_06_frozen_graph.pb",
    "mobilenet_v1_0.25_128_2017_06_quantized_graph.pb",
    "mobilenet_v1_0.25_224_2017_06_frozen_graph.pb",
    "mobilenet_v1_0.25_224_glasses2_toco_float.tflite",
    "mobilenet_v1_0.75_224_fusedbn_frozen_graph.pb",
    "mobilenet_v2_1.0_224_folded_frozen_graph.pb",
    "selfie_segmentation_fp16.tflite",
    "streaming_wakeword_int8.tflite",
    "vww_96.h5",
    "vww_96_float.tflite",
)
# Run in a child process: each command is named before it starts, so that a crash names it too.
CHILD = """
import contextlib, io, json, sys
from qfrewrite.cli.main import run
for line in sys.stdin:
    args = json.loads(line)
    print(json.dumps(["start", args]), flush=True)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = run(args)
    print(json.dumps(["end", code, said.getvalue()]), flush=True)
"""
# Makes a few samples that fit the model's inputs: without data 150 images would be fitted to.
DATA = """
import sys
import numpy as np
import qfrewrite as qf
from qfrewrite.data.source import synthetic
from qfrewrite.runtime.session import input_specs
samples = list(synthetic(input_specs(qf.load(sys.argv[1]).graph), 10))
np.savez(sys.argv[2], **{k: np.stack([s[k] for s in samples]) for k in samples[0]})
"""


def commands(model: Path, out: Path, data: list[str]) -> list[list[str]]:
    """What is tried; results are written to `out`."""
    write = ["-o", str(out), "-q"]
    jobs = [
        ["inspect", str(model)],
        ["check", str(model)],
        ["bench", str(model), "--runs", "3"],
        [str(model), "--dequantize", *write],
        [str(model), "-p", "@per-channel", *data, *write],
    ]
    for scheme in SCHEMES:
        ranges = ["-p", "calibrate", *data] if scheme in SCHEMES[:3] else []
        jobs.append([str(model), *ranges, "--scheme", scheme, *write])
    # Without ranges this cannot be done.
    return [*jobs, [str(model), "--scheme", "int8", *write]]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_done_or_one_clear_line(name: str, tmp_path: Path) -> None:
    model, out, data = shared_path(f"models/{name}"), tmp_path / "out.tflite", tmp_path / "d.npz"
    given: list[str] = []
    if model.suffix != ".h5":  # which nothing reads without TensorFlow
        child(["-c", DATA, str(model), str(data)], "")
        given = ["--data", str(data), "--samples", "8"]
    jobs = commands(model, out, given)
    lines = child(["-c", CHILD], "".join(json.dumps(job) + "\n" for job in jobs))
    assert len(lines) == 2 * len(jobs)
    failed = []
    for (_, job), (_, code, said) in zip(lines[::2], lines[1::2], strict=True):
        errors = [line for line in said.splitlines() if line.startswith("qfrewrite: error: ")]
        assert "Traceback" not in said
        assert "internal error" not in said, f"{job}: {said}"
        if code:
            failed.append(job)
            assert code in range(2, 10), f"{job}: {said}"
            # `check` prints what it finds, and says it by its exit code.
            assert len(errors) == (job[0] != "check" or model.suffix != ".tflite"), f"{job}: {said}"
    assert [p.name for p in tmp_path.iterdir() if p not in (out, data)] == []
    if model.suffix != ".h5":  # which nothing reads without TensorFlow
        wrong = [job for job in failed if job[0] != "check" and "calibrate" in job]
        assert wrong == []


def child(args: list[str], text: str) -> list[list[object]]:
    """The lines that a child process prints, as JSON; fails where it ends by a signal."""
    done = subprocess.run([sys.executable, *args], input=text, capture_output=True, text=True)
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"ended by {done.returncode} in {last}: {done.stderr[-1000:]}"
    return [json.loads(line) for line in done.stdout.splitlines()]
