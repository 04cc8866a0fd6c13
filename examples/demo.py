"""The main job on a small trained MobileNet that comes with the project.

Rewrites, calibrates and quantizes `digits/digits_mobilenet.pb`, then measures float and int8
accuracy on test images the model has never seen.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import qfrewrite as qf
from qfrewrite.cli.main import run
from qfrewrite.runtime.session import Runner, Session

HERE = Path(__file__).resolve().parent / "digits"
MODEL = HERE / "digits_mobilenet.pb"
PASSES = "remove_dw_bn,relu6_to_relu,calibrate"
# What the table compares: passes and scales of the weights.
VARIANTS = (
    ("calibrate only, per-channel", "calibrate", "per-channel"),
    ("calibrate only, per-tensor", "calibrate", "per-tensor"),
    (f"{PASSES}, per-channel", PASSES, "per-channel"),
    (f"{PASSES}, per-tensor", PASSES, "per-tensor"),
    ("@per-channel", "@per-channel", "per-channel"),
    ("@per-tensor", "@per-tensor", "per-tensor"),
)


def test_set() -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 1, 32, 32, 3] scaled to [-1, 1], and labels [N]."""
    with np.load(HERE / "test.npz") as data:
        return data["images"][:, None].astype(np.float32) / 127.5 - 1, data["labels"]


def accuracy(runner: Runner | Session, images: np.ndarray, labels: np.ndarray) -> float:
    """Percent of images whose largest output is the label."""
    best = [int(runner.run({"input": image})[0].argmax()) for image in images]
    return 100 * float(np.mean(np.array(best) == labels))


def main() -> int:
    """Run the job as the command line does, then measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    target = out / "digits_mobilenet_int8.tflite"
    calib = str(HERE / "calib")
    print(f"$ qfrewrite {MODEL.name} -p {PASSES} --data calib -o {target}\n")
    code = run([str(MODEL), "-p", PASSES, "--data", calib, "--samples", "80", "-o", str(target)])
    if code:
        return code

    images, labels = test_set()
    model = qf.load(MODEL)
    rows = [("float", accuracy(Session(model.graph, model.graph.outputs), images, labels))]
    for name, passes, weights in VARIANTS:
        report = qf.quantize(
            MODEL, out / "variant.tflite", passes=passes, data=calib, samples=80, weights=weights
        )
        rows.append((f"int8, {name}", accuracy(Runner(report.path), images, labels)))
    (out / "variant.tflite").unlink()

    print(f"\nAccuracy on {len(labels)} test images:")
    for name, value in rows:
        print(f"  {name:<66} {value:5.1f} %")
    print(f"\nThe int8 model is {target}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
