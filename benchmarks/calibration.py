"""Throughput and memory of calibration against bare inference and against peers, in one run.

A MobileNetV1 1.0 224 with random weights, samples in memory, 2 threads. Ratios to the bare LiteRT
interpreter on the same model count: both slow down alike on a busy machine.

    python benchmarks/calibration.py [--samples 400] [--rounds 5] [--json FILE]
    python benchmarks/calibration.py --memory
    python benchmarks/calibration.py --peers [--peer-python PYTHON]

Peers: AI Edge Quantizer (of PYTHON, or of this environment) and TensorFlow's converter; both are
timed as the difference between calibrating all samples and calibrating one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _common import THREADS, FloatArray, run_child
from PIL import Image

SIZE = 224
# Output channels and strides of the thirteen separable layers (Howard et al. 2017, table 1).
LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5,
          (1024, 2), (1024, 1))  # fmt: skip

AI_EDGE = """
import sys, time
import numpy as np
from ai_edge_quantizer import quantizer, recipe
model, file, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
x = np.load(file, mmap_mode="r")[:count]
q = quantizer.Quantizer(model, recipe.static_wi8_ai8())
key = "serving_default"
start = time.perf_counter()
q.calibrate({key: [{"input": np.asarray(s)} for s in x]})
print(time.perf_counter() - start)
"""

TENSORFLOW = """
import sys, time
import numpy as np
import tensorflow as tf
model, file, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
x = np.load(file, mmap_mode="r")[:count]
c = tf.compat.v1.lite.TFLiteConverter.from_frozen_graph(model, ["input"], ["softmax"])
c.optimizations = [tf.lite.Optimize.DEFAULT]
c.representative_dataset = lambda: ([np.asarray(s)] for s in x)
c.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
start = time.perf_counter()
c.convert()
print(time.perf_counter() - start)
"""


def write_models(folder: Path) -> tuple[Path, Path]:
    """The model as float `.tflite` and as frozen `.pb`."""
    import qfrewrite as qf
    from qfrewrite.ops.build import GraphBuilder

    rng, b = np.random.default_rng(0), GraphBuilder("mobilenet")

    def weights(*shape: int, fan_in: int) -> FloatArray:
        made: FloatArray = rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)
        return made

    def layer(kind: str, x: qf.Tensor, w: FloatArray, stride: int, name: str) -> qf.Tensor:
        offset = rng.normal(0, 0.3, w.shape[3 if kind.startswith("DEPTH") else 0])
        y = b.op(kind, x, b.const(f"{name}/w", w), b.const(f"{name}/b", offset), name=f"{name}/y",
                 attrs={"padding": "SAME", "stride_h": stride, "stride_w": stride})  # fmt: skip
        return b.op("RELU6", y, name=name)

    x, channels = b.input("input", (1, SIZE, SIZE, 3)), 32
    y = layer("CONV_2D", x, weights(32, 3, 3, 3, fan_in=27), 2, "conv")
    for k, (out, stride) in enumerate(LAYERS):
        depthwise = weights(1, 3, 3, channels, fan_in=9)
        y = layer("DEPTHWISE_CONV_2D", y, depthwise, stride, f"dw{k}")
        y = layer("CONV_2D", y, weights(out, 1, 1, channels, fan_in=channels), 1, f"pw{k}")
        channels = out
    y = b.op("MEAN", y, b.const("axes", np.array([1, 2], np.int32)), name="pool")
    fc = weights(1001, channels, fan_in=channels)
    y = b.op("FULLY_CONNECTED", y, b.const("fc/w", fc), b.const("fc/b", np.zeros(1001)), name="fc")
    model = qf.Model([b.finish(b.op("SOFTMAX", y, name="softmax"))])
    paths = folder / "mobilenet.tflite", folder / "mobilenet.pb"
    for path in paths:
        qf.save(model, path, scheme="float32")
    return paths


def make_samples(count: int, seed: int = 0) -> Iterator[FloatArray]:
    """Smooth random images, [1, 224, 224, 3] in [-1, 1]."""
    from qfrewrite.data.inputs import InputSpec
    from qfrewrite.data.source import synthetic

    for sample in synthetic([InputSpec("input", (1, SIZE, SIZE, 3))], count, seed):
        yield sample["input"]


def bare(model: Path, samples: list[FloatArray], threads: int = THREADS) -> float:
    """Seconds that LiteRT takes for the samples."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(model), num_threads=threads)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    result = interpreter.get_output_details()[0]["index"]
    start = time.perf_counter()
    for sample in samples:
        interpreter.set_tensor(source, sample)
        interpreter.invoke()
        interpreter.get_tensor(result)
    return time.perf_counter() - start


def sides(model: Path, samples: list[FloatArray]) -> dict[str, Callable[[], object]]:
    """What is timed besides bare inference: the API and the pass, from arrays and generators."""
    import qfrewrite as qf

    array, count = np.concatenate(samples), len(samples)

    def api(data: Any, **settings: Any) -> Callable[[], object]:
        graph = qf.load(model)
        return lambda: qf.calibrate(graph, data(), samples=count, threads=THREADS, **settings)

    def calibrate_pass(data: Any) -> Callable[[], object]:
        def run() -> object:
            # A pass edits its model.
            graph = qf.load(model)
            return qf.run_passes(graph, "calibrate", data=data(), samples=count, threads=THREADS)

        return run

    def generator() -> Iterator[FloatArray]:
        yield from samples

    return {
        "API, array": api(lambda: array),
        "API, generator": api(generator),
        "pass, array": calibrate_pass(lambda: array),
        "pass, generator": calibrate_pass(lambda: generator),
        "all statistics": api(lambda: array, histograms="always"),
        "greedy": api(lambda: array, method="greedy"),
    }


def throughput(model: Path, count: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Side -> milliseconds a sample and ratio to bare inference, medians over rounds."""
    # The same few images again and again: that does not change what is computed for each.
    distinct = list(make_samples(min(count, 64)))
    samples = [distinct[k % len(distinct)] for k in range(count)]
    timed = sides(model, samples)
    bare(model, samples[:10])
    times: dict[str, list[float]] = {"bare LiteRT": [], **{name: [] for name in timed}}
    ratios: dict[str, list[float]] = {name: [] for name in times}
    for _ in range(rounds):
        before = bare(model, samples)
        for name, run in timed.items():
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
            # Bare inference before and after: a drift of the machine burdens both sides.
            after = bare(model, samples)
            reference, before = (before + after) / 2, after
            times[name].append(1000 * seconds / count)
            ratios[name].append(reference / seconds)
        times["bare LiteRT"].append(1000 * before / count)
        ratios["bare LiteRT"].append(1.0)
    return {n: (statistics.median(times[n]), statistics.median(ratios[n])) for n in times}


def folder_of_images(model: Path, folder: Path, count: int, rounds: int) -> tuple[float, float]:
    """Seconds for a folder of JPEGs, and what two cores need for decoding and inference alone."""
    import qfrewrite as qf
    from qfrewrite.data.source import open_data
    from qfrewrite.runtime.session import input_specs

    images = folder / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for k in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(images / f"{k}.jpg", quality=90)
    graph = qf.load(model)
    taken, ideal = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        decoded = list(open_data(images, input_specs(graph.graph), threads=0).split(count)[0])
        decoding = time.perf_counter() - start
        alone = bare(model, [sample["input"] for sample in decoded], threads=1)
        ideal.append((decoding + alone) / 2)
        start = time.perf_counter()
        qf.calibrate(graph, images, samples=count, threads=THREADS)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken), statistics.median(ideal)


def peer(python: str, script: str, model: Path, file: Path, count: int) -> float | str:
    """Seconds for calibrating `count` samples instead of one, or why there are none."""
    seconds = []
    for samples in (1, count):
        command = [python, "-c", script, str(model), str(file), str(samples)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["failed"])[-1][:100]
        seconds.append(float(done.stdout.split()[-1]))
    return seconds[1] - seconds[0]


def stream(model: Path, count: int) -> None:
    """Calibrate samples made one by one, all statistics: what `--memory` measures."""
    import qfrewrite as qf

    samples = (s for s in make_samples(count))
    table = qf.calibrate(model, samples, samples=count, threads=THREADS, histograms="always")
    print(table.samples)


def memory(model: Path, folder: Path) -> dict[int, float]:
    """Number of samples -> peak resident memory of the process, MB."""
    peaks = {}
    for count in (100, 2000):
        command = [sys.executable, __file__, "--stream", str(count), "--model", str(model)]
        run = run_child(command, folder / "log.txt")
        if run.code != 0:
            raise RuntimeError(run.reason)
        peaks[count] = run.peak_mb
    return peaks


def main() -> None:
    """Measure what is asked for and print it as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="peak memory at 100 and 2,000")
    parser.add_argument("--peers", action="store_true", help="time the peers too")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stream", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stream:
        stream(args.model, args.stream)
        return
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        model, frozen = write_models(folder)
        if args.memory:
            peaks = results["memory"] = memory(model, folder)
            for count, peak in peaks.items():
                print(f"{count} samples: peak {peak:.0f} MB")
        else:
            from qfrewrite.calibration.kernels import COMPILED

            table = throughput(model, args.samples, args.rounds)
            results["throughput"] = table
            how = "compiled" if COMPILED else "numpy's"
            print(f"{args.samples} samples, {THREADS} threads, {how} loops\n")
            print("| | ms a sample | ratio |\n|---|---:|---:|")
            for name, (milliseconds, ratio) in table.items():
                print(f"| {name} | {milliseconds:.2f} | {ratio:.2f} |")
            taken, ideal = folder_of_images(model, folder, args.samples, args.rounds)
            results["JPEG folder"] = ideal / taken
            each = 1000 * taken / args.samples
            print(f"| JPEG folder, to decoding and inference | {each:.2f} | {ideal / taken:.2f} |")
            if args.peers:
                np.save(folder / "x.npy", np.stack(list(make_samples(args.samples))))
                reference = table["bare LiteRT"][0] * (args.samples - 1) / 1000
                for name, python, script, source in (
                    ("AI Edge Quantizer", args.peer_python, AI_EDGE, model),
                    ("TensorFlow converter", sys.executable, TENSORFLOW, frozen),
                ):
                    taken = peer(python, script, source, folder / "x.npy", args.samples)
                    if isinstance(taken, str):
                        print(f"| {name} | - | {taken} |")
                        continue
                    results[name] = reference / taken
                    per_sample = 1000 * taken / (args.samples - 1)
                    print(f"| {name} | {per_sample:.2f} | {reference / taken:.2f} |")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
