"""Geometry and latency: rounding channels, factorizing layers, input sizes, and the bench itself.

    python benchmarks/geometry.py --workdir DIR [--parts rounding,removal,svd,sizes,repeat]

Latencies are of int8 models on LiteRT, one thread, all models of a table in turn; ratios are
taken round by round. Accuracy is that of the int8 model on the validation images.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from math import sqrt
from pathlib import Path

import numpy as np
from _common import MODELS, make_calibration_folder, model_path, shared_dir

import qfrewrite as qf
from qfrewrite.analyze.bench import bench_layers, time_models
from qfrewrite.analyze.evaluate import evaluate
from qfrewrite.analyze.sweep import sweep
from qfrewrite.data.labels import read_labels
from qfrewrite.ir import Graph, Model, Tensor
from qfrewrite.lower.cost import total_macs
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import PassContext, run_passes

STAGES = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2),
          (1024, 1))  # fmt: skip
V1 = "mobilenet_v1_0.75_224_fusedbn"
RUNS = 40


def mobilenet(width: float, more: int, size: int) -> Graph:
    """MobileNetV1 with random weights; every channel count has `more` more."""
    rng = np.random.default_rng(more)
    b = GraphBuilder(f"v1_{width}_plus_{more}")

    def layer(kind: str, x: Tensor, outputs: int, window: int, stride: int) -> Tensor:
        depth = kind == "DEPTHWISE_CONV_2D"
        inputs = x.shape[-1]
        shape = (1, 3, 3, inputs) if depth else (outputs, window, window, inputs)
        w = rng.normal(size=shape) * sqrt(2 / (9 if depth else window * window * inputs))
        y = b.op(kind, x, b.const("w", w), b.const("b", rng.normal(size=outputs) * 0.1),
                 attrs={"stride_h": stride, "stride_w": stride})  # fmt: skip
        return b.op("RELU6", y)

    y = layer("CONV_2D", b.input("x", (1, size, size, 3)), int(32 * width) + more, 3, 2)
    for outputs, stride in STAGES:
        y = layer("DEPTHWISE_CONV_2D", y, y.shape[-1], 3, stride)
        y = layer("CONV_2D", y, int(outputs * width) + more, 1, 1)
    y = b.op("MEAN", y, b.const("axes", [1, 2], "int32"))
    w = rng.normal(size=(1000, y.shape[-1])) * 0.05
    y = b.op("FULLY_CONNECTED", y, b.const("fc", w), b.const("fb", np.zeros(1000)))
    return b.finish(b.op("SOFTMAX", y))


def int8(graph: Graph, path: Path) -> Model:
    """The graph as a plain int8 file, read again."""
    model = Model([graph.clone()[0]], source="graphdef")
    run_passes(model, "calibrate(bias=false)", PassContext(), verify="off")
    return qf.load(qf.save(model, path).path)


def rounding(folder: Path) -> None:
    """Latency before and after `round_geometry`, by how far counts are from a multiple."""
    print("\n## Rounding channels: MobileNetV1, 8k + r channels in every layer\n")
    print("| r | width 0.25, 128: MACs | latency | width 0.5, 160: MACs | latency |")
    print("|---|---|---|---|---|")
    for more in range(1, 8):
        cells = []
        for width, size in ((0.25, 128), (0.5, 160)):
            plain = mobilenet(width, more, size)
            rounded = plain.clone()[0]
            run_passes(Model([rounded], source="graphdef"), "round_geometry", PassContext())
            models = [int8(g, folder / f"round{i}.tflite") for i, g in enumerate((plain, rounded))]
            old, new = time_models(models, runs=RUNS)
            cells += [f"{total_macs(rounded) / total_macs(plain):.3f}", f"{new.ratio(old):.3f}"]
        print(f"| {more} | " + " | ".join(cells) + " |", flush=True)


def removal(folder: Path) -> None:
    """What taking dead channels out saves."""
    print("\n## Dead channels taken out, then rounded\n")
    print("| model | passes | MACs | latency | top-1 |")
    print("|---|---|---|---|---|")
    for name in ("mobilenet_v1_0.25_128", V1):
        lists = ("absorb_dead_channels", "absorb_dead_channels(remove=true)",
                 "absorb_dead_channels(remove=true),round_geometry")  # fmt: skip
        table(name, [(p, f"{p},calibrate") for p in lists], folder)


def svd(folder: Path) -> None:
    """The trade-off of `svd_factorize`."""
    print("\n## svd_factorize on MobileNetV1 0.75 224, int8\n")
    print("| model | parameters | MACs | latency | top-1 |")
    print("|---|---|---|---|---|")
    params = ["energy=0.99", "energy=0.98", "energy=0.95", "speedup=1.05", "speedup=1.1",
              "speedup=1.2", "speedup=1.3", "speedup=1.6"]  # fmt: skip
    rows = [("none", "calibrate"),
            *((p, f"svd_factorize({p}),calibrate") for p in params)]  # fmt: skip
    table(V1, rows, folder)


def table(name: str, rows: list[tuple[str, str]], folder: Path) -> None:
    """A row per pass list: MACs and latency as ratios to the first, and top-1 of the int8 model."""
    source, data = model_path(MODELS[name]), make_calibration_folder(folder / "calib")
    models, costs = [], []
    for i, (_, passes) in enumerate(rows):
        path = folder / f"{name}_{i}.tflite"
        subprocess.run([sys.executable, "-m", "qfrewrite", str(source), "-p", passes, "--data",
                        str(data), "-o", str(path), "-q"], check=True)  # fmt: skip
        models.append(qf.load(path))
        costs.append(total_macs(models[-1].graph))
    timings = time_models(models, runs=RUNS)
    val = shared_dir() / "imagenet" / "val"
    images = read_labels(val, val / "labels.csv")
    for (label, _), model, cost, timing in zip(rows, models, costs, timings, strict=True):
        top1 = 100 * evaluate(model, images).top1
        print(f"| {name} | `{label}` | {cost / costs[0]:.3f} | {timing.ratio(timings[0]):.3f} | "
              f"{top1:.1f} |", flush=True)  # fmt: skip


def sizes(folder: Path) -> None:
    """What each input size costs and reaches."""
    print("\n## Input sizes: MobileNetV1 0.25 224 at other resolutions\n")
    print("| size | MACs | int8 ms | padding | maps not x8 | top-1, float |")
    print("|---|---|---|---|---|---|")
    val = shared_dir() / "imagenet" / "val"
    images = read_labels(val, val / "labels.csv")
    model = qf.load(model_path(MODELS["mobilenet_v1_0.25_224"]))
    for p in sweep(
        model, [128, 160, 192, 208, 224, 236, 240, 256, 288], images=images, runs=RUNS
    ).sizes:
        assert p.macs is not None
        print(f"| {p.size} | {p.macs / 1e6:.1f} M | {p.ms:.2f} | {100 * (p.padding or 0):.0f} % | "
              f"{p.unaligned} | {100 * (p.top1 or 0):.1f} |", flush=True)  # fmt: skip


def repeat(folder: Path) -> None:
    """How far the bench can be trusted."""
    print("\n## The bench: one file twice, and the sum of its ops against the whole\n")
    print("| model | threads | ratio of the same file | sum of ops / whole |")
    print("|---|---|---|---|")
    for name in MODELS:
        if MODELS[name].class_offset is None:
            continue
        model = int8(qf.load(model_path(MODELS[name])).graph, folder / "repeat.tflite")
        for threads in (1, 2):
            first, second = time_models([model, model], runs=RUNS, threads=threads)
            layers = bench_layers(model, runs=RUNS, threads=threads)
            print(f"| {name} | {threads} | {second.ratio(first):.3f} | "
                  f"{layers.sum_ms / layers.whole_ms:.2f} |", flush=True)  # fmt: skip


PARTS: dict[str, Callable[[Path], None]] = {
    "rounding": rounding, "removal": removal, "svd": svd, "sizes": sizes, "repeat": repeat,
}  # fmt: skip


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(PARTS))
    given = parser.parse_args()
    given.workdir.mkdir(parents=True, exist_ok=True)
    for part in given.parts.split(","):
        PARTS[part](given.workdir)


if __name__ == "__main__":
    main()
