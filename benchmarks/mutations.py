"""Mutations of the central arithmetic, each of which some test must catch.

    python benchmarks/mutations.py [--only TEXT]

Each mutation is made in a copy of the project, and the tests named beside it run there. A mutation
that they do not catch is a hole in the tests.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from _common import PROJECT

# Seconds; the slowest selection of tests takes a third of that.
_TIMEOUT = 240


class Mutation(NamedTuple):
    """One wrong piece of code in the place of a right one, and the tests that must fail."""

    file: str
    right: str
    wrong: str
    tests: str


FOLD = "tests/rewrite/test_fold.py tests/passes/test_fold_bn.py tests/rewrite/test_linear.py"
ACCURACY = (
    "tests/passes/test_equalize.py tests/passes/test_every_pass.py "
    "tests/passes/test_accuracy_passes.py"
)
SEARCH = "tests/calibration/test_search.py"
FIT = "tests/solve/test_fit.py"
LOWER = "tests/lower/test_weights.py tests/lower/test_int8.py tests/lower/test_corners.py"
GEOMETRY = "tests/passes/test_round_geometry.py"
DEAD = (
    "tests/rewrite/test_dead_channels.py tests/passes/test_remove_dw_bn.py "
    "tests/passes/test_every_pass.py"
)

MUTATIONS = (
    # Folding
    Mutation("rewrite/fold.py", "scale / np.sqrt(variance + attr(op, \"epsilon\"))",
             "scale / np.sqrt(variance)", FOLD),
    Mutation("rewrite/fold.py", "offset - scale * mean", "offset + scale * mean", FOLD),
    Mutation("rewrite/fold.py", "variance / (variance + attr", "variance * (variance + attr", FOLD),
    Mutation("rewrite/linear.py", "bias=self.bias * scale,", "bias=self.bias,", FOLD),
    Mutation("rewrite/linear.py", "channels=self.channels.scaled(scale)",
             "channels=self.channels", FOLD),
    Mutation("rewrite/linear.py", "self.response(offset)",
             "self.response(scale * offset)", FOLD),
    Mutation("rewrite/linear.py", "return taps * self.along_inputs(x)", "return taps * x.mean()",
             FOLD + " " + DEAD),
    # Equalizing
    Mutation("passes/equalize.py", "t = np.sqrt(r2 / r1)", "t = np.sqrt(r1 / r2)", ACCURACY),
    Mutation("passes/equalize.py", "scaled.weights / columns",
             "scaled.weights * columns", ACCURACY),
    Mutation("passes/equalize.py", "MARGIN * 6.0 / np.maximum(values.most[ids], 1e-9), np.inf)",
             "1e9 / np.maximum(values.most[ids], 1e-9), np.inf)", ACCURACY),
    Mutation("passes/equalize.py", "** self.power", "** 1.0", ACCURACY),
    # Absorbing
    Mutation("passes/absorb_bias.py", "np.maximum(least, 0.0)", "np.maximum(most, 0.0)",
             "tests/passes/test_absorb_bias.py"),
    Mutation("passes/absorb_bias.py", "NEAR * 6.0", "60.0", "tests/passes/test_absorb_bias.py"),
    Mutation("rewrite/dead_channels.py", "user.response(constant)",
             "user.response(0 * constant)", DEAD),
    Mutation("rewrite/dead_channels.py", "np.where(small, view.bias, channels.value)",
             "np.where(small, channels.value, view.bias)", DEAD),
    # Geometry
    Mutation("rewrite/relayout.py", "m * self._pad[source]", "self._pad[source]", GEOMETRY),
    Mutation("rewrite/relayout.py", "np.where(self._drop[ids], 0, 1) + self._pad[ids]",
             "np.where(self._drop[ids], 1, 1) + self._pad[ids]",
             GEOMETRY + " tests/passes/test_every_pass.py"),
    Mutation("solve/channel_counts.py", "-run.size % multiple", "run.size % multiple", GEOMETRY),
    # Fits and GPTQ
    Mutation("solve/fit.py", "- _outer(mx, x)", "+ _outer(mx, x)", FIT),
    Mutation("solve/fit.py", "/ (values + d)[:, None]", "/ (values)[:, None]", FIT),
    Mutation("solve/fit.py", "if error < least:", "if error > least or best is w:", FIT),
    Mutation("solve/fit.py", "left[:, stop:] -= errors", "left[:, stop:] += errors", FIT),
    Mutation("solve/fit.py", "left[:, i + 1 : stop] -= error[:, None]",
             "left[:, i + 1 : stop] -= 0 * error[:, None]", FIT),
    Mutation("solve/fit.py", "order = np.argsort(-np.diag(h)",
             "order = np.argsort(np.diag(h)", FIT),
    # The search for ranges
    Mutation("calibration/search.py", "nearest / 12", "nearest / 6", SEARCH),
    Mutation("calibration/search.py", "np.maximum(values.left - high, 0) ** 3",
             "np.maximum(values.left - high, 0) ** 2", SEARCH),
    Mutation("calibration/search.py", "(1 - value / 100) * values.total",
             "value / 100 * values.total", SEARCH),
    Mutation("calibration/search.py", "if not losses[k] < best:", "if losses[k] < best:", SEARCH),
    Mutation("calibration/search.py", "np.log(p / q)", "np.log(q / p)", SEARCH),
    # Bias correction, scales and multipliers
    Mutation("lower/weights.py", "else b + mean_response(error)", "else b - mean_response(error)",
             LOWER + " tests/passes/test_calibrate.py"),
    Mutation("lower/weights.py", "np.maximum(scale, wanted)", "np.maximum(scale, scale)", LOWER),
    Mutation("lower/weights.py", "_LEAST_MULTIPLIER * output_scale / input_scale",
             "_LEAST_MULTIPLIER * input_scale / output_scale", LOWER),
    Mutation("lower/weights.py", "np.clip(codes, -127, 127)", "np.clip(codes, -128, 127)",
             LOWER + " tests/lower/test_spec_check.py"),
    Mutation("ir/quant.py", "lowest - low / scale - 0.5", "lowest - low / scale + 0.5",
             "tests/ir/test_quant.py"),
    Mutation("ops/quantization.py", "np.float32(first) - low / safe",
             "np.float32(first) + low / safe",
             "tests/lower/test_fake_quant_ranges.py tests/ops/test_rows.py"),
)  # fmt: skip


def caught(mutation: Mutation, copy: Path) -> bool:
    """Whether the tests fail with it; raises LookupError where the right code is not there once."""
    path = copy / "qfrewrite" / mutation.file
    source = path.read_text()
    if source.count(mutation.right) != 1:
        raise LookupError(f"{source.count(mutation.right)} times in {mutation.file}")
    path.write_text(source.replace(mutation.right, mutation.wrong))
    try:
        command = [sys.executable, "-m", "pytest", "-W", "error", "-x", "-q", "-p",
                   "no:cacheprovider", "-m", "not slow", *mutation.tests.split()]  # fmt: skip
        # Golden texts tell of many a mutation, but the numbers must tell by themselves.
        environment = os.environ | {"PYTHONPATH": str(copy), "QFREWRITE_GOLDEN": "write"}
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, timeout=_TIMEOUT
        )
        return done.returncode == 1
    except subprocess.TimeoutExpired:  # what never ends is noticed too
        return True
    finally:
        path.write_text(source)


def main() -> int:
    """Try all, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="only mutations of files whose names have this")
    args = parser.parse_args()
    missed = 0
    print("| file | right | wrong | |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        ignored = shutil.ignore_patterns(".git", ".venv", "out", "build", "__pycache__")
        shutil.copytree(PROJECT, copy, ignore=ignored)
        for mutation in MUTATIONS:
            if args.only not in mutation.file:
                continue
            try:
                verdict = "caught" if caught(mutation, copy) else "**missed**"
            except LookupError as error:
                verdict = f"not tried: {error}"
            missed += verdict != "caught"
            cells = f"{mutation.file} | `{mutation.right}` | `{mutation.wrong}` | {verdict}"
            print(f"| {cells} |".replace("||", "\\|\\|"), flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
