"""Damage model files at random, and see that the package refuses or converts each of them.

Each file is loaded, inspected, folded, calibrated without data and written. Only a QfError of one
line may come out, within 10 seconds of processor time and 2 GB, and no file may be left behind.
The same seeds and models make the same files. `tests/fuzz/test_mutated.py` runs a part of it.

    python benchmarks/fuzz.py --count 200000 --workers 2 --keep /tmp/defects
    python benchmarks/fuzz.py --replay /tmp/defects/17.tflite

Needs a system with fork and resource limits (Linux).
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

# One thread per process: what forks has no others, and workers do not compete.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT / "tests" / name) for name in ("fuzz", "formats", "")]

from small_models import write_models  # noqa: E402
from trials import Trial, run_trials, use  # noqa: E402

DIGITS = PROJECT / "examples" / "digits" / "digits_mobilenet.pb"


def work(args: argparse.Namespace, worker: int, models: list[Path]) -> list[Trial]:
    """The share of one worker, without those that went well: these are counted only."""
    share = range(args.seed, args.seed + args.count)[
        worker * args.count // args.workers : (worker + 1) * args.count // args.workers
    ]
    trials = []
    until = time.monotonic() + args.minutes * 60
    for trial in run_trials(models, share.start, len(share), args.keep):
        trials.append(trial)
        if trial.defect:
            print(trial, file=sys.stderr, flush=True)
        if time.monotonic() > until:
            break
    return trials


def summary(trials: list[Trial]) -> dict[str, int]:
    """How many trials had each outcome, and the processor time of the slowest in milliseconds."""
    counts = dict(collections.Counter(trial.outcome for trial in trials))
    slowest = max((trial.seconds for trial in trials), default=0.0)
    return {**counts, "slowest, ms": round(1e3 * slowest)}


def table(trials: list[Trial]) -> str:
    """Outcomes by model."""
    by_model = collections.defaultdict(list)
    for trial in trials:
        by_model[trial.model].append(trial)
    columns = sorted({"written", "refused", *(trial.outcome for trial in trials)})
    columns.append("slowest, ms")
    lines = [f"| model | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, own in [*sorted(by_model.items()), ("all", trials)]:
        counts = summary(own)
        lines.append(f"| {name} | {' | '.join(str(counts.get(c, 0)) for c in columns)} |")
    return "\n".join(lines)


def options() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after that long")
    parser.add_argument("--models", type=Path, nargs="+", default=[], help="further files")
    parser.add_argument("--keep", type=Path, help="folder for the files that show a defect")
    parser.add_argument("--json", action="store_true", help="outcomes and defects, for programs")
    parser.add_argument("--replay", type=Path, help="take this file, with its traceback")
    return parser.parse_args()


def main() -> None:
    """Run, and print a table by outcome; ends with 1 where a defect was seen."""
    args = options()
    with tempfile.TemporaryDirectory() as folder:
        if args.replay:
            use(args.replay, Path(folder) / "out.tflite")
            return
        models = [*write_models(Path(folder)), DIGITS, *args.models]
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=True)
        jobs = [(args, worker, models) for worker in range(args.workers)]
        with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
            trials = [t for part in pool.starmap(work, jobs) for t in part]
    defects = [trial for trial in trials if trial.defect]
    if args.json:
        print(json.dumps({"outcomes": summary(trials), "defects": [str(t) for t in defects]}))
    else:
        print(table(trials))
    sys.exit(bool(defects))


if __name__ == "__main__":
    main()
