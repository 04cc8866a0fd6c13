"""Int8 by TensorFlow's converter and by qfrewrite on networks of many kinds.

The small networks of `tests/zoo`, and Keras's own at full size, with random weights from a seed.
Both tools calibrate on the same 100 samples; 64 others measure. qfrewrite starts from the frozen
graph and from TensorFlow's float `.tflite`.

    python benchmarks/zoo.py [--networks NAME,...] [--rounds 60]

For each network: the largest difference of the float outputs to Keras as a share of their range,
SQNR and ops of the int8 files, and latency as a ratio to that of TensorFlow's file: CPU time on one
thread, the least of all rounds, all files interleaved in one process.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from _common import PROJECT, op_counts

sys.path.insert(0, str(PROJECT / "tests" / "zoo"))

import zoo
from peers import WITHOUT_PEER, Subject, float_ops, largest_difference, sqnr_db

# Calls of one file are repeated until they take this long, since short ones time the clock.
LEAST_SECONDS = 2e-3
# Title -> form of the source, target.
OURS: dict[str, tuple[str, str | None]] = {
    "pb": ("pb", None),
    "tflite": ("tflite", None),
    "tflite, litert": ("tflite", "litert"),
}
# Networks of Keras at full size: arguments besides those of `_application`.
FULL_SIZE: dict[str, dict[str, Any]] = {
    "MobileNet": {},
    "MobileNetV2": {},
    "MobileNetV3Small": {"include_preprocessing": False},
    "MobileNetV3Large": {"include_preprocessing": False},
    "EfficientNetB0": {},
    "NASNetMobile": {},
    "ResNet50": {},
    "DenseNet121": {},
}


def _application(name: str) -> Any:
    """One of Keras's own networks for images of 224 pixels in [-1, 1], without its Softmax."""
    import keras

    build: Callable[..., Any] = getattr(keras.applications, name)
    body = build(
        input_shape=(224, 224, 3), weights=None, classifier_activation=None, **FULL_SIZE[name]
    )
    if name != "EfficientNetB0":
        return body
    # It brings its own preprocessing of 0..255.
    source = keras.layers.Input((224, 224, 3), name="image")
    return keras.Model(source, body(keras.layers.Rescaling(127.5, 127.5)(source)))


for _name in FULL_SIZE:
    zoo.NETWORKS[f"{_name} 224"] = functools.partial(_application, _name)


@dataclass(frozen=True)
class Measured:
    """Figures of one int8 file."""

    db: float
    """SQNR of the worst output, dB."""
    ops: int
    in_float: int
    milliseconds: float

    def __str__(self) -> str:
        floats = f" ({self.in_float} float)" if self.in_float else ""
        return f"{self.ops}{floats}, {self.db:.1f}"


def least_milliseconds(files: dict[str, bytes], rounds: int) -> dict[str, float]:
    """The least CPU time of one inference on one thread, by title.

    CPU time does not count what other programs do on the machine. Equal files are timed once.
    """
    from qfrewrite.runtime.session import Runner
    from qfrewrite.runtime.timing import fed

    runners = {content: fed(Runner(content, threads=1)) for content in set(files.values())}
    least = dict.fromkeys(runners, float("inf"))
    calls = {}
    for content, runner in runners.items():
        runner.again()
        start = time.thread_time()
        runner.again()
        calls[content] = max(1, int(LEAST_SECONDS / max(time.thread_time() - start, 1e-7)))
    for turn in range(rounds):
        for content in list(runners) if turn % 2 else list(reversed(runners)):
            start = time.thread_time()
            for _ in range(calls[content]):
                runners[content].again()
            passed = time.thread_time() - start
            least[content] = min(least[content], 1e3 * passed / calls[content])
    return {title: least[content] for title, content in files.items()}


def measured(name: str, rounds: int, folder: Path) -> tuple[float, dict[str, Measured]]:
    """The larger float difference of both forms, and the figures by title, TensorFlow's first."""
    import qfrewrite as qf

    subject = Subject(name)
    difference = 0.0
    for form in ("pb", "tflite"):
        model = subject.loaded(form, folder)
        qf.run_passes(model, "fold_bn")
        content = qf.save(model, folder / "float.tflite", scheme="float32").path.read_bytes()
        difference = max(
            difference, largest_difference(subject.wanted, subject.outputs_of(content))
        )
    files = {}
    if name not in WITHOUT_PEER:
        files["TensorFlow"] = subject.tflite_int8
    for title, (form, target) in OURS.items():
        files[title] = subject.quantized(form, folder, target=target)
    taken = least_milliseconds(files, rounds)
    figures = {}
    for title, content in files.items():
        path = folder / "measured.tflite"
        path.write_bytes(content)
        figures[title] = Measured(
            min(sqnr_db(subject.wanted, subject.outputs_of(content))),
            sum(op_counts(path).values()),
            len(float_ops(content, folder)),
            taken[title],
        )
    return difference, figures


def line(name: str, difference: float, figures: dict[str, Measured]) -> str:
    """One line of the table."""
    peer = figures.get("TensorFlow")
    cells = [name.replace("_", " "), f"{difference:.0e}", str(peer or "-")]
    for title in OURS:
        ours = figures[title]
        ratio = f", {ours.milliseconds / peer.milliseconds:.2f}" if peer else ""
        cells.append(f"{ours}{ratio}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Convert, measure, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", default=",".join(zoo.NETWORKS), help="names, by commas")
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    names = args.networks.split(",")
    if unknown := [name for name in names if name not in zoo.NETWORKS]:
        parser.error(f"no such network: {unknown[0]}; known: {', '.join(zoo.NETWORKS)}")
    print("| | float difference | TensorFlow: ops, dB | `.pb`: ops, dB, latency |", end="")
    print(" `.tflite`: ops, dB, latency | the same, `--target litert` |")
    print("|---" * (3 + len(OURS)) + "|", flush=True)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            print(line(name, *measured(name, args.rounds, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
