"""SHA-256 of what qfrewrite writes for many models, pass lists and schemes: did anything change?

A change of the package's structure must not change a byte of its output. Run this before and after:

    python benchmarks/outputs.py --workdir DIR --out before.json
    python benchmarks/outputs.py --workdir DIR --out after.json --against before.json

The models are those of the shared folder, the digits model, and 20 networks of `tests/zoo` (made
once and kept in DIR, since that takes TensorFlow). Each model runs in a process of its own, on one
thread. Where a job is refused, the list holds the message. Lists of two machines differ: float
kernels do. Only names of the public API are used, so that older versions run too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from _common import PROJECT, FloatArray, shared_dir

SAMPLES = 6
# Passes, with data or without, and the suffix of the file that is written.
JOBS: tuple[tuple[str, bool, str], ...] = (
    ("fold_bn", False, "pb"),
    ("absorb_dead_channels(remove=true)", False, "tflite"),
    ("remove_dw_bn,relu6_to_relu,calibrate", False, "tflite"),
    ("remove_dw_bn,relu6_to_relu,calibrate", True, "tflite"),
    ("remove_dw_bn(layers=all),relu6_to_relu(force=true)", True, "tflite"),
    ("calibrate(method=greedy)", True, "tflite"),
    ("calibrate(method=mse)", True, "pb"),
    ("equalize,absorb_bias,correct_bias,calibrate", True, "tflite"),
    ("round_geometry,calibrate", True, "tflite"),
    ("svd_factorize(energy=0.9),calibrate", True, "tflite"),
    ("resize_input(size=96)", False, "tflite"),
    ("strip_postprocess,calibrate", False, "tflite"),
    ("@per-tensor", True, "tflite"),
    ("@per-channel", True, "tflite"),
)
# With `calibrate` and data where a scheme takes ranges.
SCHEMES = ("int8", "uint8", "int16x8", "dynamic", "weight-only", "float16", "float32")
WITH_RANGES = SCHEMES[:3]
NETWORKS = (
    "mobilenet_v1", "mobilenet_v3_small", "efficientnet_b0", "resnet_v2", "densenet", "xception",
    "inception", "unet_transposed", "unet_upsampled", "deeplab", "ssd_heads", "super_resolution",
    "prelu", "group_norm", "convnext", "shuffle", "several_inputs_and_outputs", "ds_cnn", "tcn",
    "transformer",
)  # fmt: skip


def make_networks(folder: Path) -> list[Path]:
    """The zoo's networks as files, by turns a frozen graph and a `.tflite`; those there stay."""
    files = [folder / f"{n}.{('pb', 'tflite')[i % 2]}" for i, n in enumerate(NETWORKS)]
    missing = [file for file in files if not file.exists()]
    if missing:
        sys.path.insert(0, str(PROJECT / "tests" / "zoo"))
        from peers import Subject

        folder.mkdir(parents=True, exist_ok=True)
        for file in missing:
            subject = Subject(file.stem)
            file.write_bytes(subject.graphdef if file.suffix == ".pb" else subject.tflite)
    return files


def samples_for(graph: object, seed: int = 0) -> list[dict[str, FloatArray]]:
    """Smooth random values in [-1, 1] (tokens for integers) for every input of a graph."""
    rng = np.random.default_rng(seed)

    def value(shape: tuple[int, ...], dtype: str) -> FloatArray:
        shape = tuple(d if d and d > 0 else 1 for d in shape)
        if dtype != "float32":
            return rng.integers(0, 4, shape).astype(dtype)
        x = rng.normal(size=shape)
        for axis in range(1, len(shape) - 1):
            for step in (1, 2, 4):
                x = x + np.roll(x, step, axis)
        return (x / max(float(np.abs(x).max()), 1e-6)).astype(np.float32)

    return [{t.name: value(t.shape, t.dtype) for t in graph.inputs} for _ in range(SAMPLES)]  # type: ignore[attr-defined]


def run_job(model_file: Path, passes: str, with_data: bool, out: Path, scheme: str | None) -> str:
    """The digest of what one job writes, or why it is refused."""
    import qfrewrite as qf

    try:
        model = qf.load(model_file)
        qf.dequantize(model)
        data = samples_for(model.graph) if with_data else None
        if passes:
            qf.run_passes(model, passes, data=data, samples=SAMPLES, threads=1)
        path = qf.save(model, out, **({"scheme": scheme} if scheme else {})).path
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except qf.QfError as error:
        return f"{type(error).__name__}: {error}"


def run_model(model_file: Path, folder: Path) -> dict[str, str]:
    """Every job of one model."""
    digests = {}
    for passes, with_data, suffix in JOBS:
        title = f"{model_file.name} | {passes} | {'data' if with_data else '-'} | {suffix}"
        digests[title] = run_job(model_file, passes, with_data, folder / f"out.{suffix}", None)
    for scheme in SCHEMES:
        passes = "calibrate" if scheme in WITH_RANGES else ""
        title = f"{model_file.name} | {passes or '-'} | {scheme}"
        digests[title] = run_job(model_file, passes, True, folder / "out.tflite", scheme)
    return digests


def in_child(model_file: Path, workdir: Path) -> dict[str, str]:
    """`run_model` in a process of its own."""
    folder = workdir / "out" / model_file.name
    folder.mkdir(parents=True, exist_ok=True)
    # Sums of several threads differ in their last bits from run to run.
    one_thread = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, __file__, "--one", model_file, "--workdir", folder],
        capture_output=True, text=True, env=os.environ | one_thread,
    )  # fmt: skip
    print(f"{model_file.name}: exit {done.returncode}", file=sys.stderr, flush=True)
    if done.returncode:
        return {f"{model_file.name} | process": f"exit {done.returncode}: {done.stderr[-500:]}"}
    digests: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return digests


def main() -> int:
    """Run every job, write the list, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="where to write the list")
    parser.add_argument("--against", type=Path, help="an earlier list")
    parser.add_argument("--models", default="", help="only files whose names contain this")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run_model(args.one, args.workdir)))
        return 0
    files = sorted((shared_dir() / "models").iterdir())
    files += [PROJECT / "examples" / "digits" / "digits_mobilenet.pb"]
    files += make_networks(args.workdir / "networks")
    files = [file for file in files if args.models in file.name]
    files.sort(key=lambda file: -file.stat().st_size)
    with ThreadPoolExecutor(args.workers) as pool:
        digests = {
            title: digest
            for each in pool.map(lambda file: in_child(file, args.workdir), files)
            for title, digest in each.items()
        }
    if args.out:
        args.out.write_text(json.dumps(digests, indent=1, sort_keys=True) + "\n")
    if not args.against:
        return 0
    before = json.loads(args.against.read_text())
    changed = [title for title in digests if before.get(title) != digests[title]]
    for title in changed:
        print(f"{title}\n  before: {before.get(title)}\n  now:    {digests[title]}")
    print(f"{len(digests)} outputs, {len(changed)} differ")
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main())
