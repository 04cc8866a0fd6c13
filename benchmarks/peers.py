"""Int8 by TensorFlow's converter, by AI Edge Quantizer and by qfrewrite: accuracy, speed, size.

The same float model (as TensorFlow's converter writes it), the same 200 images for calibration,
the same 650 for measuring. Latency: one thread, all files in turn in one process.

    python benchmarks/peers.py --workdir DIR [--peer-python PYTHON] [--runs 60]

AI Edge Quantizer pins other versions of its dependencies; `--peer-python` names a Python that has
it. Without one its column stays empty.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from _common import (
    CALIBRATION_SAMPLES,
    CLASSIFIERS,
    MODELS,
    Model,
    evaluate,
    list_images,
    load_validation,
    make_calibration_folder,
    read_image,
    run_child,
    score,
)
from accuracy import REFERENCE, convert

from qfrewrite.formats.tflite.read import read_tflite
from qfrewrite.formats.tflite.write import write_tflite

AI_EDGE = """
import sys
import numpy as np
from ai_edge_quantizer import quantizer, recipe
source, samples, target = sys.argv[1:]
q = quantizer.Quantizer(source, recipe.static_wi8_ai8())
x = np.load(samples, mmap_mode="r")
name = sys.stdin.readline().strip()
found = q.calibrate({"serving_default": [{name: np.asarray(s)} for s in x]})
q.quantize(found).export_model(target, overwrite=True)
"""
OURS = {"qfrewrite": "calibrate", "qfrewrite, greedy": "calibrate(method=greedy)"}


def ai_edge(python: str, source: Path, target: Path, model: Model, images: Path) -> str | None:
    """Let AI Edge Quantizer write `target`; why it did not, or None."""
    samples, signed = target.with_suffix(".npy"), target.with_suffix(".float.tflite")
    # It asks for a signature, which TensorFlow's file of a frozen graph lacks and ours has.
    copy = read_tflite(source)
    copy.loaded = None  # as if it were edited
    write_tflite(copy, signed)
    files = list_images(images)
    np.save(samples, np.stack([read_image(f, model.size)[None] for f in files]))
    run = subprocess.run(
        [python, "-c", AI_EDGE, str(signed), str(samples), str(target)],
        input=f"{model.input}\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    samples.unlink()
    return None if run.returncode == 0 else run.stderr.strip().splitlines()[-1]


def files_of(model: Model, args: argparse.Namespace) -> tuple[Path, dict[str, Path]]:
    """The float model, and every tool's int8 file of it."""
    source, _ = convert(model, REFERENCE, args.workdir, CALIBRATION_SAMPLES)
    made = {"TF converter": convert(model, "tf", args.workdir, CALIBRATION_SAMPLES)[0]}
    images = args.workdir / "calibration"
    if args.peer_python:
        target = args.workdir / f"{model.name}-ai_edge.tflite"
        why = ai_edge(args.peer_python, source, target, model, images)
        if why is None:
            made["AI Edge Quantizer"] = target
        else:
            print(f"AI Edge Quantizer, {model.name}: {why}", file=sys.stderr)
    for title, passes in OURS.items():
        target = args.workdir / f"{model.name}-{title.replace(', ', '_')}.tflite"
        command = [sys.executable, "-m", "qfrewrite", source, "-p", passes, "-o", target, "-q",
                   "--data", images, "--samples", str(CALIBRATION_SAMPLES)]  # fmt: skip
        run = run_child(command, target.with_suffix(".log"))
        if run.code != 0:
            raise SystemExit(f"{title}: {run.reason}")
        made[title] = target
    return source, made


def latencies(files: dict[str, Path], runs: int) -> dict[str, float]:
    """Median milliseconds of one inference on one thread, taken in turn."""
    from ai_edge_litert.interpreter import Interpreter

    ready = {}
    for title, path in files.items():
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
        (detail,) = interpreter.get_input_details()
        codes = np.random.default_rng(0).integers(-128, 128, detail["shape"])
        interpreter.set_tensor(detail["index"], codes.astype(detail["dtype"]))
        interpreter.invoke()
        ready[title] = interpreter
    taken: dict[str, list[float]] = {title: [] for title in files}
    for turn in range(runs):
        order = list(ready) if turn % 2 else list(reversed(ready))
        for title in order:
            start = time.perf_counter()
            ready[title].invoke()
            taken[title].append(time.perf_counter() - start)
    return {title: 1e3 * float(np.median(values)) for title, values in taken.items()}


def main() -> None:
    """Convert, measure, print two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--peer-python", help="a Python with ai-edge-quantizer")
    parser.add_argument("--runs", type=int, default=60)
    args = parser.parse_args()
    args.workdir = args.workdir.resolve()
    make_calibration_folder(args.workdir / "calibration")
    titles = ["TF converter", *(["AI Edge Quantizer"] if args.peer_python else []), *OURS]
    accuracy, speed = [], []
    for name in CLASSIFIERS:
        model = MODELS[name]
        source, made = files_of(model, args)
        images, labels = load_validation(model.size)
        float_ = evaluate(source, images)
        cells = [score(float_, labels, model.class_offset)]
        for title in titles:
            outputs = evaluate(made[title], images) if title in made else None
            cells.append(score(outputs, labels, model.class_offset, float_) if outputs else "-")
        accuracy.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
        taken = latencies({t: made[t] for t in titles if t in made}, args.runs)
        base, size = taken["TF converter"], made["TF converter"].stat().st_size
        speed.append(f"| {name} | " + " | ".join(
            f"{taken[t]:.2f} ms ({taken[t] / base:.3f}), {made[t].stat().st_size / size:.3f}"
            if t in taken else "-" for t in titles) + " |")  # fmt: skip
        print(accuracy[-1], speed[-1], sep="\n", file=sys.stderr, flush=True)
    print("Top-1 %, agreement with float %, SQNR of the logits in dB:\n")
    print("| model | float | " + " | ".join(titles) + " |\n" + "|---" * (len(titles) + 2) + "|")
    print("\n".join(accuracy))
    print("\nLatency, one thread (ratio to TF's), size as a ratio to TF's:\n")
    print("| model | " + " | ".join(titles) + " |\n" + "|---" * (len(titles) + 1) + "|")
    print("\n".join(speed))


if __name__ == "__main__":
    main()
