"""The main job: load, run passes, save, and compare what was written with the float model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qfrewrite.analyze.judge import judge
from qfrewrite.analyze.preprocessing import judge_data
from qfrewrite.errors import Diagnostic, OutputError, UsageError
from qfrewrite.formats.atomic import staged
from qfrewrite.ir import Model
from qfrewrite.passes import Pass, RunReport, judged_on, run_passes
from qfrewrite.runtime.metrics import Fidelity
from qfrewrite.saving import (
    DEFAULT_SCHEME,
    SaveReport,
    default_output,
    is_tflite,
    quant_options,
    save,
)
from qfrewrite.solve.context import open_context


def load(
    path: str | Path,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> Model:
    """Read a frozen GraphDef `.pb` or a `.tflite` model.

    inputs, outputs: names where they shall not be found by themselves (GraphDef only); an input
    may carry a shape: `input:1x224x224x3`. Raises ModelFileError, UnsupportedError, UsageError.
    """
    path = Path(path)
    if is_tflite(path):
        from qfrewrite.formats.tflite.read import read_tflite

        if inputs or outputs:
            raise UsageError(
                "inputs and outputs of a .tflite are fixed",
                where=str(path),
                remedy="leave out --input and --output",
            )
        return read_tflite(path)
    from qfrewrite.formats.graphdef.read import read_graphdef
    from qfrewrite.rewrite.raising import raise_graph

    model = read_graphdef(path, inputs=inputs, outputs=outputs)
    for graph in model.graphs:
        raise_graph(graph)
    model.mark_loaded()
    return model


def dequantize(model: Model) -> None:
    """Make a quantized model the float model it stands for, in place; says so in its diagnostics.

    A float model stays as it is. Raises UnsupportedError for ops that only exist quantized.
    """
    from qfrewrite.ops.check import verify_model
    from qfrewrite.ops.shapes import settle_shapes
    from qfrewrite.rewrite.dequantize import dequantize_graph, quantized_graphs
    from qfrewrite.rewrite.rewriter import Rewriter

    if quantized := quantized_graphs(model.graphs):
        for graph in model.graphs:
            settle_shapes(graph)
        verify_model(model)
        count = sum(dequantize_graph(Rewriter(graph)) for graph in quantized)
        model.diagnostics.notice(
            "quantized-already",
            f"the model is quantized already: {count} tensors were made float; what it lost by "
            "that stays lost, so start from the float model where there is one",
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a conversion shall do, as asked for; wrong names fail when it is made."""

    passes: Sequence[Pass] | None
    """None: the model is only written, as it is or in another format."""
    output: Path | None = None
    """By default `<model>_<scheme>.tflite` in the current directory."""
    data: Any = None
    """Samples to calibrate on, as for `run_passes`."""
    samples: int = 200
    """How many samples are calibrated on."""
    preprocess: Any = None
    """How images become inputs."""
    seed: int = 0
    """Of shuffling and of synthetic inputs."""
    threads: int | None = None
    """Of the runtime; None: all cores."""
    verify: str = "structure"
    """What the runner checks around passes."""
    dequantize: bool = False
    """Whether a quantized model is made float also where no passes are run."""
    saving: Mapping[str, Any] = field(default_factory=dict)
    """The arguments of `save`."""
    save_ranges: Path | None = None
    """Where the ranges are written too."""
    checkpoint: Path | None = None
    """Where an interrupted calibration leaves its statistics."""
    resume: bool = False
    """Whether calibration goes on from there."""

    def __post_init__(self) -> None:
        """Find the scheme that is asked for, and fail on wrong names before the work."""
        ranged = any(one.gives_ranges for one in self.passes or ())
        scheme = self.saving.get("scheme") or (DEFAULT_SCHEME if ranged else None)
        saving = {**self.saving, "scheme": scheme}
        quant_options(**saving)
        object.__setattr__(self, "saving", saving)


class Watcher:
    """Follows a conversion while it runs; this one does nothing."""

    def loaded(self, model: Model) -> None:
        """The model is read, and made float where it was quantized."""

    def say(self, one: Diagnostic) -> None:
        """Something speaks against the data."""

    def progress(self, label: str, total: int | None) -> Callable[[int], None]:
        """A long step begins; what is returned is called with how many of `total` are done."""
        return lambda done: None

    def status(self, label: str) -> AbstractContextManager[Any]:
        """A short step runs."""
        return nullcontext()

    def after(self, one: Pass, model: Model) -> None:
        """A pass was run."""


@dataclass
class QuantizeReport:
    """What a conversion did: passes, file, and how close the result is to float."""

    passes: RunReport
    """What each pass did; empty without passes."""
    saved: SaveReport
    """What was written."""
    fidelity: Fidelity | None
    """None if it was not measured, as without data."""
    measured_on: str
    """The samples that it was measured on, or why it was not measured."""
    signatures: dict[str, Fidelity]
    """The fidelity of other entry points that have data, by the names of their signatures."""
    preprocess: str
    """How images became the model's input; empty for other data."""
    about_model: list[Diagnostic]
    """What is unusual about the model."""
    about_data: list[Diagnostic]
    """What speaks against the data."""
    about_result: list[Diagnostic]
    """What speaks against the result."""

    def __repr__(self) -> str:
        found = f"{self.fidelity}, " if self.fidelity is not None else ""
        return f"<QuantizeReport {str(self.path)!r}: {found}{len(self.warnings)} warnings>"

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        return {
            **self.passes.to_dict(),
            "saved": self.saved.to_dict(),
            "fidelity": None if self.fidelity is None else self.fidelity.to_dict(),
            "measured_on": self.measured_on,
            "signatures": {key: found.to_dict() for key, found in self.signatures.items()},
            "preprocess": self.preprocess,
            "diagnostics": [one.to_dict() for one in self.diagnostics],
        }

    @property
    def path(self) -> Path:
        """Where the result is."""
        return self.saved.path

    @property
    def diagnostics(self) -> list[Diagnostic]:
        """Notices and warnings, in order: exactly what the command line writes to stderr."""
        of_passes = [one for report in self.passes.passes for one in report.diagnostics]
        found = (*self.about_model, *self.about_data, *of_passes, *self.about_result)
        return [one for one in found if one.severity != "note"]

    @property
    def warnings(self) -> list[Diagnostic]:
        """What must not be overlooked."""
        return [one for one in self.diagnostics if one.severity == "warning"]


def convert(model: Model, job: Job, watcher: Watcher | None = None) -> QuantizeReport:
    """Do `job` on a loaded model, in place; a result that the runtime fails on is not left behind.

    Raises DataError, OutputError, PassError, RunError, UsageError, VerifyError.
    """
    watcher = watcher or Watcher()
    passes, scheme = job.passes, job.saving["scheme"]
    if passes is not None or job.dequantize:
        dequantize(model)
    if job.output is not None:
        _check_output(model, job.output)
    watcher.loaded(model)
    reference = model.clone()
    context = open_context(
        model, job.data, samples=job.samples, preprocess=job.preprocess, seed=job.seed,
        threads=job.threads, held_out=judged_on(passes or ()), quant=quant_options(**job.saving),
        progress=watcher.progress, checkpoint=job.checkpoint, resume=job.resume,
        full_statistics=job.save_ranges is not None,
    )  # fmt: skip
    preprocess, about_data = judge_data(reference, context)
    for one in about_data:
        watcher.say(one)
    report = RunReport()
    if passes is not None:
        report = run_passes(model, passes, context, verify=job.verify, after=watcher.after)
    if report.size is not None and context.samples is not None:
        context = replace(context, samples=context.samples.for_graph(model.graph))
    output = job.output or default_output(model, scheme)
    with staged(output) as temporary:
        with watcher.status("writing"):
            saved = save(model, temporary, **job.saving)
        with watcher.status("comparing the result with the float model"):
            found = judge(reference, temporary, context, size=report.size, passes=report.names)
        if job.save_ranges is not None:
            _save_ranges(job.save_ranges, model.name, report)
    saved.path = output
    for samples in (context.samples, *context.signatures.values()):
        for one in samples.diagnostics if samples is not None else ():
            watcher.say(one)
            about_data.append(one)
    return QuantizeReport(
        report,
        saved,
        found.fidelity,
        found.measured_on,
        found.signatures,
        preprocess,
        list(model.diagnostics),
        about_data,
        found.diagnostics,
    )


def _check_output(model: Model, output: Path) -> None:
    """Fail on an output that cannot be before the work is done."""
    if output.suffix not in (".tflite", ".pb"):
        raise OutputError(
            f"the suffix '{output.suffix}' names no format",
            where=str(output),
            remedy="end the output in .tflite or .pb",
        )
    if output.exists() and model.path and model.path.exists() and output.samefile(model.path):
        raise OutputError("is the model itself", where=str(output), remedy="choose another output")
    if not output.parent.is_dir():
        raise OutputError(
            "the folder does not exist",
            where=str(output.parent),
            remedy="create it or choose another",
        )


def _save_ranges(path: Path, model: str, report: RunReport) -> None:
    table = report.ranges.get(None)
    if table is None:
        raise UsageError(
            "there are no ranges to save",
            where="--save-ranges",
            remedy="add calibrate to the passes",
        )
    table.model = model
    others = {key: own for key, own in report.ranges.items() if key is not None}
    table.with_signatures(others).save(path)
