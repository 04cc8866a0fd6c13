"""The main job: load, run passes, save, and compare what was written with the float model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qfrewrite.analyze.judge import judge
from qfrewrite.analyze.preprocessing import judge_data
from qfrewrite.errors import Diagnostic, OutputError, UsageError
from qfrewrite.formats.atomic import staged
from qfrewrite.ir import Model
from qfrewrite.passes import Pass, RunReport, judged_on, run_passes
from qfrewrite.records import Record
from qfrewrite.runtime.metrics import Fidelity
from qfrewrite.saving import (
    DEFAULT_SCHEME,
    SaveReport,
    default_output,
    is_tflite,
    quant_options,
    save,
)
from qfrewrite.solve.context import no_progress, open_context


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
            what = "inputs and outputs of a .tflite are fixed"
            raise UsageError(what, where=str(path), remedy="leave out --input and --output")
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


# The fields that are settings of a context.
_SETTINGS = ("samples", "preprocess", "seed", "threads", "checkpoint", "resume")


class Watcher:
    """Follows a conversion while it runs; this one does nothing."""

    def loaded(self, model: Model) -> None:
        """The model is read, and made float where it was quantized."""

    def say(self, *diagnostics: Diagnostic) -> None:
        """Something speaks against the data."""

    def progress(self, label: str, total: int | None) -> Callable[[int], None]:
        """A long step begins; what is returned is called with how many of `total` are done."""
        return no_progress(label, total)

    def status(self, label: str) -> None:
        """A short step begins."""

    def after(self, one: Pass, model: Model) -> None:
        """A pass was run."""


@dataclass(repr=False)
class QuantizeReport(Record):
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
        close = f"{self.fidelity}, " if self.fidelity is not None else ""
        return f"<QuantizeReport {str(self.path)!r}: {close}{len(self.warnings)} warnings>"

    def figures(self) -> dict[str, Any]:
        """The fields, with the passes as rows and all diagnostics in one list."""
        names = ("fidelity", "measured_on", "signatures", "preprocess", "diagnostics")
        own = {name: getattr(self, name) for name in names}
        return {**self.passes.to_dict(), "saved": self.saved.to_dict(), **own}

    @property
    def path(self) -> Path:
        """Where the result is."""
        return self.saved.path

    @property
    def diagnostics(self) -> list[Diagnostic]:
        """Notices and warnings, in order: exactly what the command line writes to stderr."""
        of_passes = [one for report in self.passes.passes for one in report.diagnostics]
        everything = (*self.about_model, *self.about_data, *of_passes, *self.about_result)
        return [one for one in everything if one.severity != "note"]

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
        model,
        job.data,
        held_out=judged_on(passes or ()),
        quant=quant_options(**job.saving),
        progress=watcher.progress,
        full_statistics=job.save_ranges is not None,
        **{name: getattr(job, name) for name in _SETTINGS},
    )
    preprocess, about_data = judge_data(reference, context)
    watcher.say(*about_data)
    report = RunReport()
    if passes is not None:
        report = run_passes(model, passes, context, verify=job.verify, after=watcher.after)
    if report.size is not None and context.samples is not None:
        context = replace(context, samples=context.samples.for_graph(model.graph))
    output = job.output or default_output(model, scheme)
    with staged(output) as temporary:
        watcher.status("writing")
        saved = save(model, temporary, **job.saving)
        watcher.status("comparing the result with the float model")
        judgement = judge(reference, temporary, context, size=report.size, passes=report.names)
        if job.save_ranges is not None:
            _save_ranges(job.save_ranges, model.name, report)
    saved.path = output
    for samples in (context.samples, *context.signatures.values()):
        if samples is not None:
            watcher.say(*samples.diagnostics)
            about_data += samples.diagnostics
    measured = judgement.fidelity, judgement.measured_on, judgement.signatures
    diagnostics = list(model.diagnostics), about_data, judgement.diagnostics
    return QuantizeReport(report, saved, *measured, preprocess, *diagnostics)


def _check_output(model: Model, output: Path) -> None:
    """Fail on an output that cannot be before the work is done."""
    if output.suffix not in (".tflite", ".pb"):
        what = f"the suffix '{output.suffix}' names no format"
        raise OutputError(what, where=str(output), remedy="end the output in .tflite or .pb")
    if output.exists() and model.path and model.path.exists() and output.samefile(model.path):
        raise OutputError("is the model itself", where=str(output), remedy="choose another output")
    if not output.parent.is_dir():
        what = "the folder does not exist"
        raise OutputError(what, where=str(output.parent), remedy="create it or choose another")


def _save_ranges(path: Path, model: str, report: RunReport) -> None:
    table = report.ranges.get(None)
    if table is None:
        what = "there are no ranges to save"
        raise UsageError(what, where="--save-ranges", remedy="add calibrate to the passes")
    table.model = model
    others = {key: own for key, own in report.ranges.items() if key is not None}
    table.with_signatures(others).save(path)
