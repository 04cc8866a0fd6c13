"""Wall time and peak memory of a conversion: qfrewrite against TensorFlow's converter.

The same job (frozen graph to int8, the same calibration images) in alternating processes, so that a
busy machine burdens both alike; the median of the runs counts.

    python benchmarks/cost.py [--model NAME] [--runs 3]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _common import (
    CALIBRATION_SAMPLES,
    CLASSIFIERS,
    MODELS,
    PROJECT,
    ChildRun,
    make_calibration_folder,
    model_path,
    run_child,
)
from accuracy import VARIANTS, command_values

# What is compared: a title and the row of accuracy.VARIANTS whose commands are timed.
SIDES = {
    "TF converter": "tf",
    "qfrewrite, calibrate": "ours",
    "qfrewrite, title job": "ours_title",
}

IMPORT_PROBE = """
import sys, time
start = time.perf_counter()
import qfrewrite
seconds = time.perf_counter() - start
print(f"{seconds:.3f} s, tensorflow loaded: {'tensorflow' in sys.modules}")
"""


def conversions(model: str, runs: int, workdir: Path) -> dict[str, list[ChildRun]]:
    """Every side's runs, taken in turn. Raises RuntimeError where a command fails."""
    make_calibration_folder(workdir / "calibration")
    taken: dict[str, list[ChildRun]] = {title: [] for title in SIDES}
    for turn in range(runs):
        for title, variant in SIDES.items():
            values = command_values(MODELS[model], variant, workdir, CALIBRATION_SAMPLES)
            (step,) = VARIANTS[variant].steps
            run = run_child([part.format(**values) for part in step], workdir / "log.txt")
            if run.code != 0:
                raise RuntimeError(f"{title}: {run.reason}")
            taken[title].append(run)
            print(f"run {turn + 1} {title}: {run.seconds:.1f} s", file=sys.stderr, flush=True)
    return taken


def table(taken: dict[str, list[ChildRun]]) -> str:
    """Medians, and the ratio of each to the first side's."""
    medians = {
        title: (
            statistics.median(r.seconds for r in runs),
            statistics.median(r.peak_mb for r in runs),
        )
        for title, runs in taken.items()
    }
    base_seconds, base_mb = next(iter(medians.values()))
    lines = ["| | wall s | peak MB | time ratio | memory ratio |", "|---|---|---|---|---|"]
    for title, (seconds, megabytes) in medians.items():
        lines.append(
            f"| {title} | {seconds:.1f} | {megabytes:.0f} "
            f"| {seconds / base_seconds:.2f} | {megabytes / base_mb:.2f} |"
        )
    return "\n".join(lines)


def start_up(runs: int, workdir: Path) -> str:
    """Median wall time of `qfrewrite --help`, and what one `import qfrewrite` costs and loads."""
    command = [sys.executable, "-m", "qfrewrite", "--help"]
    helps = [run_child(command, workdir / "help.txt") for _ in range(runs)]
    if failed := [r for r in helps if r.code != 0]:
        raise RuntimeError(f"qfrewrite --help: {failed[0].reason}")
    probe = subprocess.run(
        [sys.executable, "-c", IMPORT_PROBE], capture_output=True, text=True, cwd=PROJECT
    )
    imported = probe.stdout.strip() or (probe.stderr.strip().splitlines() or ["failed"])[-1]
    seconds = statistics.median(r.seconds for r in helps)
    return f"`qfrewrite --help`: {seconds:.2f} s\n`import qfrewrite`: {imported}"


# A chain of 10,000 ops, as `.tflite`.
LONG_GRAPH = """
import sys
import numpy as np
import qfrewrite as qf
from qfrewrite.ops.build import GraphBuilder
b, rng = GraphBuilder("long"), np.random.default_rng(0)
y = b.input("x", (1, 4, 4, 8))
for k in range(5000):
    w = b.const(f"w{k}", rng.normal(size=(8, 1, 1, 8)).astype("f4"))
    y = b.op("CONV_2D", y, w, b.const(f"b{k}", np.zeros(8)), name=f"c{k}")
    y = b.op("RELU6", y, name=f"r{k}")
qf.save(qf.Model([b.finish(y)]), sys.argv[1])
"""


def inspections(runs: int, workdir: Path) -> str:
    """Median wall time of `qfrewrite inspect` without data: each model, and a long graph."""
    long = workdir / "long.tflite"
    subprocess.run([sys.executable, "-c", LONG_GRAPH, str(long)], check=True, cwd=PROJECT)
    files = {name: model_path(model) for name, model in MODELS.items()}
    lines = []
    for name, path in {**files, "10,000 ops": long}.items():
        command = [sys.executable, "-m", "qfrewrite", "inspect", str(path)]
        taken = [run_child(command, workdir / "inspect.txt") for _ in range(runs)]
        if failed := [r for r in taken if r.code != 0]:
            raise RuntimeError(f"inspect {name}: {failed[0].reason}")
        seconds = statistics.median(r.seconds for r in taken)
        lines.append(f"`qfrewrite inspect`, {name}: {seconds:.2f} s")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=list(MODELS), default=CLASSIFIERS[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--inspect", action="store_true", help="time `qfrewrite inspect` only")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder)
        if args.inspect:
            print(inspections(args.runs, workdir))
            return
        print(table(conversions(args.model, args.runs, workdir)))
        print()
        print(start_up(max(args.runs, 5), workdir))


if __name__ == "__main__":
    main()
