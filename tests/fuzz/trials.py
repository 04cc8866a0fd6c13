"""Damaged models through the whole package, in child processes with limits.

A child is a fork of a process that has everything imported, and takes many files. Where it ends by
a signal or at a limit, the file that it had is counted so, and another child goes on behind it.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mutations import mutated

import qfrewrite as qf
from qfrewrite.analyze.layers import inspect_model
from qfrewrite.errors import QfError

CPU_SECONDS = 10.0
MEMORY = 2 << 30
BATCH = 200


@dataclass(frozen=True)
class Trial:
    """What became of one damaged file."""

    seed: int
    """Makes the same file again, from the same models."""
    model: str
    """The file that was damaged."""
    outcome: str
    """`written` or `refused`; anything else is a defect of the package."""
    what: str = ""
    """The error, or the signal."""
    where: str = ""
    """The last lines of the package that the error came through."""
    seconds: float = 0.0
    """Processor time."""

    @property
    def defect(self) -> bool:
        """Whether this should not have happened."""
        return self.outcome not in ("written", "refused")


def damaged(models: list[Path], contents: list[bytes], seed: int) -> tuple[Path, bytes]:
    """The damaged file that belongs to a seed. Larger models are taken less often.

    Small ones all count alike, so that the choice does not depend on how they are written.
    """
    rng = random.Random(seed)
    weights = [1 / max(len(data), 10_000) for data in contents]
    at = rng.choices(range(len(models)), weights)[0]
    return models[at], mutated(contents[at], models[at].suffix, rng)


def use(path: Path, out: Path) -> None:
    """What is asked of every file."""
    model = qf.load(path)
    inspect_model(model)
    qf.run_passes(model, "fold_bn")
    qf.run_passes(model, "calibrate")
    qf.save(model, out)


def run_trials(
    models: list[Path], first: int, count: int, keep: Path | None = None
) -> Iterator[Trial]:
    """Try the seeds from `first` on. keep: a folder for the files that showed a defect."""
    contents = [path.read_bytes() for path in models]
    end = first + count
    _prepare(models)
    while first < end:
        for trial in _batch(models, contents, range(first, min(first + BATCH, end))):
            if trial.defect and keep is not None:
                path, data = damaged(models, contents, trial.seed)
                (keep / f"{trial.seed}{path.suffix}").write_bytes(data)
            first = trial.seed + 1
            yield trial


def _prepare(models: list[Path]) -> None:
    """Import all that is going to be used, so that no child has to."""
    with tempfile.TemporaryDirectory() as folder:
        for path in models:
            use(path, Path(folder) / "out.tflite")


def _batch(models: list[Path], contents: list[bytes], seeds: range) -> Iterator[Trial]:
    """Results of one child, until it is through or ends too soon."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    source, target = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of numpy's: they are idle
        child = os.fork()
    if not child:
        try:
            os.close(source)
            _serve(models, contents, seeds, folder, target)
        finally:
            os._exit(70)
    os.close(target)
    done = seeds.start
    with os.fdopen(source) as lines:
        for line in lines:
            done += 1
            yield Trial(**json.loads(line))
    status = os.waitpid(child, 0)[1]
    shutil.rmtree(folder, ignore_errors=True)
    if done < seeds.stop:
        ended = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "exit"
        slow = ended in ("SIGPROF", "SIGALRM")
        name = damaged(models, contents, done)[0].name
        yield Trial(done, name, "too slow" if slow else "process ended", ended)


def _serve(
    models: list[Path], contents: list[bytes], seeds: range, folder: Path, target: int
) -> None:
    """Take files one by one; the alarm by processor time ends the process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    for seed in seeds:
        path, data = damaged(models, contents, seed)
        file = folder / f"damaged{path.suffix}"
        file.write_bytes(data)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        # A process that waits for ever uses no processor time.
        signal.alarm(int(30 * CPU_SECONDS))
        start = time.process_time()
        outcome, what, where = _outcome(file, folder)
        seconds = round(time.process_time() - start, 4)
        signal.setitimer(signal.ITIMER_PROF, 0)
        trial = Trial(seed, path.name, outcome, what, where, seconds)
        os.write(target, (json.dumps(asdict(trial)) + "\n").encode())
    os._exit(0)


def _outcome(file: Path, folder: Path) -> tuple[str, str, str]:
    out = folder / "out.tflite"
    outcome, what, where = "written", "", ""
    try:
        use(file, out)
    except QfError as error:
        outcome, what, where = "refused", _named(error), _place(error)
        if "\n" in str(error) or "report this" in str(error):
            outcome = "no clear line"
    except BaseException as error:
        outcome, what, where = "other exception", _named(error), _place(error)
    file.unlink()
    left = sorted(path.name for path in folder.iterdir())
    if left != (["out.tflite"] if outcome == "written" else []):
        outcome, what = "file left", f"{left} after {outcome}: {what}"
    for name in left:
        (folder / name).unlink()
    return outcome, what, where


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"


def _place(error: BaseException) -> str:
    """Where the error came from, within the package: the last three places."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        _, found, name = code.co_filename.rpartition("qfrewrite/")
        if found:
            places.append(f"{name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " ".join(places[-3:])
