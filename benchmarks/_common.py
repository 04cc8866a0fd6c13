"""What the benchmark scripts share: the models, the images, running and scoring a `.tflite`.

Nothing here imports TensorFlow or qfrewrite: both sides are measured as the files they write,
through one and the same code. Heavy modules are imported where they are used, since `tf_convert.py`
is also timed.
"""

from __future__ import annotations

import csv
import functools
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FloatArray = NDArray[np.float32]

PROJECT = Path(__file__).resolve().parent.parent
THREADS = 2
IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".bmp"})
CALIBRATION_SAMPLES = 200
# Ops that only reshape or re-code their input: looked through from an output back to its Softmax.
PASS_THROUGH = frozenset({"RESHAPE", "SQUEEZE", "QUANTIZE", "DEQUANTIZE", "FAKE_QUANT"})


@dataclass(frozen=True)
class Model:
    """A classifier: where it is, how it is fed, how its classes are counted."""

    name: str
    file: str
    output: str
    size: int
    class_offset: int | None = 1  # 1: background at 0; 0: none; None: not ImageNet, no top-1
    input: str = "input"


MODELS: dict[str, Model] = {
    m.name: m
    for m in (
        Model(
            name="mobilenet_v1_0.25_128",
            file="mobilenet_v1_0.25_128_2017_06_frozen_graph.pb",
            output="MobilenetV1/Predictions/Reshape_1",
            size=128,
        ),
        Model(
            name="mobilenet_v1_0.25_224",
            file="mobilenet_v1_0.25_224_2017_06_frozen_graph.pb",
            output="MobilenetV1/Predictions/Reshape_1",
            size=224,
        ),
        Model(
            name="mobilenet_v1_0.75_224_fusedbn",
            file="mobilenet_v1_0.75_224_fusedbn_frozen_graph.pb",
            output="Predictions/Softmax",
            size=224,
            class_offset=0,
        ),
        Model(
            name="mobilenet_v2_1.0_224_folded",
            file="mobilenet_v2_1.0_224_folded_frozen_graph.pb",
            output="MobilenetV2/Predictions/Softmax",
            size=224,
        ),
        Model(
            name="mobilenet_v1_0.25_128_quantized_graph",
            file="mobilenet_v1_0.25_128_2017_06_quantized_graph.pb",
            output="MobilenetV1/Predictions/Reshape_1",
            size=128,
        ),
        Model(
            name="flowers_mobilenet_v1_0.25_128",
            file="flowers_mobilenet_v1_0.25_128_retrained_graph.pb",
            output="final_result",
            size=128,
            class_offset=None,
        ),
    )
}
# The four that carry the accuracy table; the other two only show what can be converted at all.
CLASSIFIERS = tuple(MODELS)[:4]


# Files -------------------------------------------------------------------------------------------


def shared_dir() -> Path:
    """The folder of shared models and images: `$QFREWRITE_SHARED`, else `../shared`.

    Raises FileNotFoundError where there is none.
    """
    folder = Path(os.environ.get("QFREWRITE_SHARED") or PROJECT.parent / "shared")
    if not folder.is_dir():
        raise FileNotFoundError(f"no shared material at {folder}; set QFREWRITE_SHARED")
    return folder


def model_path(model: Model) -> Path:
    """The frozen graph of `model`."""
    return shared_dir() / "models" / model.file


def list_images(folder: Path, limit: int | None = None) -> list[Path]:
    """The image files of `folder` in order of name, the first `limit` of them."""
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
    return files[:limit]


def make_calibration_folder(folder: Path, samples: int = CALIBRATION_SAMPLES) -> Path:
    """Fill `folder` with links to every k-th calibration image: the same files for both sides.

    File names start with the class, so an even stride covers the classes evenly where the first
    `samples` files would be fish and birds alone.
    """
    files = list_images(shared_dir() / "imagenet" / "calib")
    folder.mkdir(parents=True, exist_ok=True)
    for old in list_images(folder):
        old.unlink()
    for source in files[:: max(len(files) // samples, 1)][:samples]:
        (folder / source.name).symlink_to(source.resolve())
    return folder


# Images ------------------------------------------------------------------------------------------


def read_image(file: Path, size: int) -> FloatArray:
    """`file` as [size, size, 3] RGB in [-1, 1]: the whole image, resized bilinearly."""
    with Image.open(file) as image:
        rgb = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    pixels: FloatArray = np.asarray(rgb, np.float32) / np.float32(127.5) - np.float32(1)
    return pixels


@functools.lru_cache(maxsize=2)
def load_validation(size: int, limit: int | None = None) -> tuple[FloatArray, NDArray[np.int64]]:
    """The first `limit` validation images, [N, size, size, 3], and their classes 0..999, [N]."""
    folder = shared_dir() / "imagenet" / "val"
    with (folder / "labels.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))[:limit]
    images = np.stack([read_image(folder / row["file"], size) for row in rows])
    return images, np.array([int(row["label"]) for row in rows])


# Running a .tflite -------------------------------------------------------------------------------


def quantize(x: FloatArray, detail: dict[str, Any]) -> NDArray[Any]:
    """`x` as the tensor of an interpreter's `detail` wants it: q = clip(floor(x/scale + 1/2) + zp).

    Halves go up. A byte image scaled to [-1, 1] lies exactly on halves of a [-128, 127] grid of
    step 2/255; rounding to even would merge neighbouring grey levels, rounding up keeps all 256.
    The 1e-3 keeps float32 noise in x / scale from deciding which way a half goes.
    """
    dtype = detail["dtype"]
    if dtype == np.float32:
        return x
    scale, zero_point = detail["quantization"]
    q = np.floor(x / np.float32(scale) + np.float32(0.5 + 1e-3)) + zero_point
    clipped: NDArray[Any] = np.clip(q, np.iinfo(dtype).min, np.iinfo(dtype).max)
    return clipped.astype(dtype)


def dequantize(q: NDArray[Any], detail: dict[str, Any]) -> FloatArray:
    """Real values of an interpreter's output tensor."""
    if detail["dtype"] == np.float32:
        return q.astype(np.float32)
    scale, zero_point = detail["quantization"]
    real: FloatArray = (q.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
    return real


def run_tflite(model: bytes | Path, images: FloatArray, threads: int = THREADS) -> FloatArray:
    """The first output of `model` for each image, flattened: [N, classes], real values."""
    from ai_edge_litert.interpreter import Interpreter

    content = model if isinstance(model, bytes) else model.read_bytes()
    interpreter = Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for image in images:
        interpreter.set_tensor(source["index"], quantize(image[None], source))
        interpreter.invoke()
        rows.append(dequantize(interpreter.get_tensor(result["index"]), result).ravel())
    return np.stack(rows)


def _main_subgraph(content: bytes | bytearray) -> tuple[Any, list[str]]:
    """The first subgraph and the builtin name of each operator code."""
    import tflite

    model = tflite.Model.GetRootAs(content, 0)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    # Files older than schema 3a keep the code in the deprecated byte and zero in the other field.
    numbers = [max(c.BuiltinCode(), c.DeprecatedBuiltinCode()) for c in codes]
    return model.Subgraphs(0), [tflite.opcode2name(n) for n in numbers]


def op_counts(path: Path) -> dict[str, int]:
    """How many operators of each kind the main subgraph has, most frequent first."""
    graph, names = _main_subgraph(path.read_bytes())
    kinds = Counter(names[graph.Operators(i).OpcodeIndex()] for i in range(graph.OperatorsLength()))
    return dict(kinds.most_common())


def float_op_counts(path: Path) -> dict[str, int]:
    """How many operators of each kind compute in float32 in the main subgraph."""
    import tflite

    graph, names = _main_subgraph(path.read_bytes())
    kinds: Counter[str] = Counter()
    for op in (graph.Operators(i) for i in range(graph.OperatorsLength())):
        types = {graph.Tensors(op.Outputs(k)).Type() for k in range(op.OutputsLength())}
        kind = names[op.OpcodeIndex()]
        if tflite.TensorType.FLOAT32 in types and kind not in ("QUANTIZE", "DEQUANTIZE"):
            kinds[kind] += 1
    return dict(kinds.most_common())


def with_logits_output(content: bytes) -> bytes:
    """The same model with the input of its last Softmax as first output.

    SQNR is taken there: probabilities are mostly zeros, and the int8 grid of a Softmax (1/256) is
    fixed, so errors of the network hardly show in them. Without a Softmax the output stays.
    """
    buffer = bytearray(content)
    graph, names = _main_subgraph(buffer)
    ops = [graph.Operators(i) for i in range(graph.OperatorsLength())]
    producer = {op.Outputs(k): op for op in ops for k in range(op.OutputsLength())}
    tensor = graph.Outputs(0)
    while (op := producer.get(tensor)) is not None:
        kind, tensor = names[op.OpcodeIndex()], op.Inputs(0)
        if kind == "SOFTMAX":
            graph.OutputsAsNumpy()[0] = tensor  # a view: the change is in `buffer`
            return bytes(buffer)
        if kind not in PASS_THROUGH:
            break
    return content


# Scores ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outputs:
    """What a model says of the images: its output, and the logits behind it; both [N, classes]."""

    probabilities: FloatArray
    logits: FloatArray


@dataclass(frozen=True)
class Score:
    """Percent of labels hit, percent of equal top-1 with float, and SQNR of the logits in dB."""

    top1: float | None
    agreement: float | None = None
    sqnr_db: float | None = None

    def __str__(self) -> str:
        parts = (self.top1, self.agreement, self.sqnr_db)
        return " / ".join("-" if value is None else f"{value:.1f}" for value in parts)


def evaluate(path: Path, images: FloatArray) -> Outputs:
    """Run `path` over `images` twice, for its own output and for its logits."""
    content = path.read_bytes()
    probabilities = run_tflite(content, images)
    return Outputs(probabilities, run_tflite(with_logits_output(content), images))


def sqnr_db(reference: FloatArray, value: FloatArray) -> float:
    """Signal to quantization noise, 10 log10(sum x^2 / sum (x - xq)^2), over all elements."""
    x = reference.astype(np.float64)
    noise = float(np.sum((x - value) ** 2))
    return float("inf") if noise == 0 else float(10 * np.log10(np.sum(x**2) / noise))


def score(
    outputs: Outputs,
    labels: NDArray[np.int64],
    class_offset: int | None,
    reference: Outputs | None = None,
) -> Score:
    """Score `outputs` against the labels (0..999) and, where given, the float model's outputs."""
    best = outputs.probabilities.argmax(axis=1)
    top1 = None if class_offset is None else 100 * float(np.mean(best == labels + class_offset))
    if reference is None:
        return Score(top1)
    agreement = 100 * float(np.mean(best == reference.probabilities.argmax(axis=1)))
    return Score(top1, agreement, sqnr_db(reference.logits, outputs.logits))


# Child processes ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChildRun:
    """One finished command: wall time, peak resident memory in MB, exit code, what it printed."""

    seconds: float
    peak_mb: float
    code: int
    log: str

    @property
    def reason(self) -> str:
        """Why it failed: the first line it printed that says "error", else the last one."""
        lines = self.log.strip().splitlines() or [f"exit code {self.code}"]
        return next((line for line in lines if "error" in line.lower()), lines[-1])[-200:]


def run_child(command: Sequence[str | Path], log_file: Path) -> ChildRun:
    """Run `command` and measure it and nothing else: `wait4` gives the child's own peak memory.

    Its output goes to `log_file`, since reading a pipe would have to be interleaved with waiting.
    Linux starts a child's peak at the memory of its parent, so only a small parent measures memory.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("wb") as log:
        start = time.perf_counter()
        child = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, cwd=PROJECT)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return ChildRun(seconds, peak, child.returncode, log_file.read_text(errors="replace"))
