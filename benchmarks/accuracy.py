"""Accuracy of int8 models: TensorFlow's converter and qfrewrite side by side.

Both sides convert the same frozen graph with the same calibration images in a process of their own,
as a user would on the command line; the files they write are then run by the same interpreter.

    python benchmarks/accuracy.py --workdir DIR [--models NAME,...] [--variants NAME,...]

A cell is top-1 % / agreement with float top-1 % / SQNR of the logits in dB.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from _common import (
    CALIBRATION_SAMPLES,
    CLASSIFIERS,
    MODELS,
    Model,
    Outputs,
    Score,
    evaluate,
    load_validation,
    make_calibration_folder,
    model_path,
    op_counts,
    run_child,
    score,
    shared_dir,
)

Step = tuple[str, ...]

TF: Step = ("{python}", "benchmarks/tf_convert.py")
TF_NAMES: Step = ("--input", "{input}", "--output", "{output}")
OURS: Step = ("{python}", "-m", "qfrewrite", "{model}")
DATA: Step = ("--data", "{data}", "--samples", "{samples}")
MORE_DATA: Step = ("--data", "{calib}", "--samples", "500")
PER_TENSOR: Step = ("--weights", "per-tensor")
TITLE = "remove_dw_bn,relu6_to_relu,calibrate"
REFERENCE = "float"


@dataclass(frozen=True)
class Variant:
    """One column of the table: the commands that make `{out}` from `{model}`.

    `{pb}` is a file for a step in between. `cached` results are kept between runs: they change with
    TensorFlow, not with this project.
    """

    title: str
    steps: tuple[Step, ...]
    cached: bool = False


VARIANTS: dict[str, Variant] = {
    REFERENCE: Variant("float", ((*TF, "{model}", "{out}", *TF_NAMES, "--float"),), cached=True),
    "tf": Variant("TF int8", ((*TF, "{model}", "{out}", *TF_NAMES, *DATA),), cached=True),
    "tf_per_tensor": Variant(
        "TF int8, per-tensor weights",
        ((*TF, "{model}", "{out}", *TF_NAMES, *DATA, "--per-tensor"),),
        cached=True,
    ),
    "ours": Variant("ours int8", ((*OURS, "-p", "calibrate", *DATA, "-o", "{out}"),)),
    "ours_title": Variant(f"ours `{TITLE}`", ((*OURS, "-p", TITLE, *DATA, "-o", "{out}"),)),
    "ours_no_data": Variant("the same without data", ((*OURS, "-p", TITLE, "-o", "{out}"),)),
    "ours_fast": Variant("ours `@fast`", ((*OURS, "-p", "@fast", *DATA, "-o", "{out}"),)),
    "ours_channel": Variant(
        "ours `@per-channel`", ((*OURS, "-p", "@per-channel", *MORE_DATA, "-o", "{out}"),)
    ),
    "ours_tensor_plain": Variant(
        "ours `calibrate`, per-tensor weights",
        ((*OURS, "-p", "calibrate", *DATA, *PER_TENSOR, "-o", "{out}"),),
    ),
    "ours_tensor_fast": Variant(
        "ours `@fast`, per-tensor weights",
        ((*OURS, "-p", "@fast", *DATA, *PER_TENSOR, "-o", "{out}"),),
    ),
    "ours_tensor": Variant(
        "ours `@per-tensor`",
        ((*OURS, "-p", "@per-tensor", *MORE_DATA, *PER_TENSOR, "-o", "{out}"),),
    ),
    "ours_fakequant": Variant(
        "ours `.pb` with FakeQuant -> TF",
        (
            (*OURS, "-p", "calibrate", *DATA, "-o", "{pb}"),
            (*TF, "{pb}", "{out}", *TF_NAMES, "--fakequant"),
        ),
    ),
}


@dataclass(frozen=True)
class Result:
    """What became of one model in one variant; `error` is None where it worked."""

    model: str
    variant: str
    score: Score | None = None
    error: str | None = None
    seconds: float | None = None
    kilobytes: float | None = None
    ops: dict[str, int] | None = None

    def cell(self) -> str:
        """The table's cell."""
        return f"failed: {self.error}" if self.score is None else str(self.score)


def command_values(model: Model, name: str, workdir: Path, samples: int) -> dict[str, object]:
    """What the placeholders in a variant's steps stand for."""
    stem = f"{model.name}-{name}-{samples}"
    return {
        "python": sys.executable,
        "model": model_path(model).resolve(),
        "input": model.input,
        "output": model.output,
        "data": workdir / "calibration",
        "calib": shared_dir() / "imagenet" / "calib",
        "samples": samples,
        "pb": workdir / f"{stem}.pb",
        "out": workdir / f"{stem}.tflite",
    }


def convert(model: Model, name: str, workdir: Path, samples: int) -> tuple[Path, Result]:
    """Run the steps of variant `name`; the file they wrote, and a Result without a score."""
    values = command_values(model, name, workdir, samples)
    out = Path(str(values["out"]))
    seconds = 0.0
    if not (VARIANTS[name].cached and out.exists()):
        out.unlink(missing_ok=True)
        for step in VARIANTS[name].steps:
            run = run_child([part.format(**values) for part in step], out.with_suffix(".log"))
            seconds += run.seconds
            if run.code != 0:
                return out, Result(model.name, name, error=run.reason)
    if not out.exists():
        return out, Result(model.name, name, error="exit code 0 but no file")
    result = Result(
        model.name,
        name,
        seconds=round(seconds, 2) or None,
        kilobytes=round(out.stat().st_size / 1024, 1),
        ops=op_counts(out),
    )
    return out, result


def measure(
    model: Model, name: str, workdir: Path, samples: int, limit: int | None, float_: Outputs | None
) -> tuple[Result, Outputs | None]:
    """Convert and evaluate one cell; `float_` is what the float model gave, None for itself."""
    path, result = convert(model, name, workdir, samples)
    if result.error is not None:
        return result, None
    images, labels = load_validation(model.size, limit)
    outputs = evaluate(path, images)
    scored = score(outputs, labels, model.class_offset, float_)
    return Result(**{**vars(result), "score": scored}), outputs


def table(results: list[Result], models: list[str], variants: list[str]) -> str:
    """A markdown table, one row per model."""
    by_cell = {(r.model, r.variant): r.cell() for r in results}
    lines = [
        "| model | " + " | ".join(VARIANTS[v].title for v in variants) + " |",
        "|---" * (len(variants) + 1) + "|",
    ]
    for model in models:
        cells = (by_cell.get((model, v), "").replace("|", "\\|") for v in variants)
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def names_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """An argparse type: a comma-separated list of names from `known`."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [n for n in names if n not in known]:
            raise argparse.ArgumentTypeError(f"unknown {unknown}; one of {', '.join(known)}")
        return names

    return parse


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True, help="for .tflite files and logs")
    parser.add_argument("--models", type=names_of(MODELS), default=list(CLASSIFIERS))
    parser.add_argument("--variants", type=names_of(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--samples", type=int, default=CALIBRATION_SAMPLES)
    parser.add_argument("--limit", type=int, help="first N validation images (all)")
    parser.add_argument("--json", type=Path, help="also write every measurement here")
    return parser.parse_args()


def main() -> None:
    """Measure and print the table."""
    args = arguments()
    workdir = args.workdir.resolve()
    make_calibration_folder(workdir / "calibration", args.samples)
    # Agreement and SQNR are against float, so it is needed whether or not it is asked for.
    variants = [REFERENCE, *(v for v in args.variants if v != REFERENCE)]
    results: list[Result] = []
    for name in args.models:
        reference: Outputs | None = None
        for variant in variants:
            result, outputs = measure(
                MODELS[name], variant, workdir, args.samples, args.limit, reference
            )
            reference = outputs if variant == REFERENCE else reference
            results.append(result)
            print(f"{name} {variant}: {result.cell()}", file=sys.stderr, flush=True)
    print(table(results, args.models, variants))
    if args.json:
        args.json.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
