"""`qfrewrite MODEL -p PASSES`: load, rewrite, write, report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qfrewrite.cli.options import (
    SCHEMES,
    TARGETS,
    WEIGHTS,
    data_of,
    model_options,
    pass_option,
    preprocessing,
    signature_data_options,
)

if TYPE_CHECKING:
    from qfrewrite.cli.render import Reporter
    from qfrewrite.passes import PassContext

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    pass_option(help="Passes in order, e.g. remove_dw_bn,relu6_to_relu,calibrate; with "
                "parameters: name(key=value); may be given again."),
    click.option("-o", "--out", metavar="OUT", type=click.Path(path_type=Path),
                 help="Result: .tflite or .pb  [default: <model>_<scheme>.tflite here]"),
    click.option("--scheme", type=click.Choice(SCHEMES),
                 help="How to quantize; the first three need ranges  [default: int8 where ranges "
                 "are known]"),
    click.option("--weights", type=click.Choice(WEIGHTS),
                 default="per-channel", show_default=True, help="Scales of 8-bit weights."),
    click.option("--fc-weights", type=click.Choice(WEIGHTS),
                 help="Those of FULLY_CONNECTED  [default: as --weights and --target]"),
    click.option("--io", type=click.Choice(["int8", "uint8", "int16", "float32"]),
                 help="Element type of inputs and outputs  [default: as the scheme computes]"),
    click.option("--keep-float", metavar="PATTERN", multiple=True,
                 help="Ops that stay float, by name with * and ?; may be given again."),
    click.option("--keep-int16", metavar="PATTERN", multiple=True,
                 help="Ops that compute with int16 activations; may be given again."),
    click.option("--target", help="Runtime or chip to write for; ops it lacks are reported.",
                 type=click.Choice(TARGETS)),
    click.option("--max-drop", type=click.FloatRange(0, 100, min_open=True),
                 help="Points of top-1 that @auto may cost  [default: 1.0]"),
    click.option("--dequantize", is_flag=True,
                 help="Make a quantized model float first; without passes it is written float."),
    click.option("--save-ranges", metavar="FILE", type=click.Path(path_type=Path),
                 help="Also write what calibration found, as JSON."),
    click.option("--resume", is_flag=True, help="Go on with a calibration that was interrupted."),
    click.option("--dump-after", metavar="PASS|all", help="Print the graph after this pass."),
    click.option("--verify", type=click.Choice(["off", "structure", "numeric"]),
                 default="structure", show_default=True,
                 help="What to check around passes; numeric proves exact ones."),
    click.option("--explain", is_flag=True, help="List every edit and skip, with reasons."),
    click.option("-v", "--verbose", is_flag=True, help="Print figures per layer as well."),
)  # fmt: skip


def _all_options(function: F) -> F:
    function = signature_data_options(model_options(function))
    # What is applied last stands first in the help.
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


# The options that say how to write.
_SAVING = ("scheme", "weights", "fc_weights", "io", "keep_float", "keep_int16", "target")


@dataclass(frozen=True)
class _Job:
    """The options of one conversion, as given."""

    model: Path
    pass_list: str | None
    out: Path | None
    data: tuple[str, ...]
    samples: int
    preprocess: str | None
    crop: float
    scheme: str | None
    weights: str
    fc_weights: str | None
    io: str | None
    keep_float: tuple[str, ...]
    keep_int16: tuple[str, ...]
    target: str | None
    max_drop: float | None
    dequantize: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    save_ranges: Path | None
    resume: bool
    dump_after: str | None
    verify: str
    explain: bool
    threads: int | None
    seed: int
    quiet: bool
    verbose: bool
    debug: bool


@click.command(hidden=True)
@click.argument("model", type=click.Path(path_type=Path))
@_all_options
def convert(**options: Any) -> None:
    """Rewrite MODEL with the passes of -p and write the result."""
    job = _Job(**options)
    from qfrewrite.cli.render import Reporter

    with Reporter(quiet=job.quiet, verbose=job.verbose, explain=job.explain) as reporter:
        _convert(job, reporter)


def _convert(job: _Job, reporter: Reporter) -> None:
    from qfrewrite import api
    from qfrewrite.formats.atomic import staged

    _check_names(job)
    if job.max_drop is not None and job.pass_list:
        job = replace(job, pass_list=_with_max_drop(job.pass_list, job.max_drop))
    saving = {name: getattr(job, name) for name in _SAVING}
    saving["scheme"] = api.asked_scheme(job.scheme, job.pass_list or "")
    api.quant_options(**saving)
    model = api.load(job.model, inputs=job.inputs, outputs=job.outputs)
    if job.dequantize or job.pass_list:
        api.dequantize(model)
    if job.out is not None:
        _check_target(job.model, job.out)
    reporter.loaded(model)
    reference, state = model.clone(), (model.graph, model.graph.version)
    context = api.open_context(
        model, data_of(model, job.data), samples=job.samples,
        preprocess=preprocessing(vars(job), model), seed=job.seed, threads=job.threads,
        held_back=api.judged_on(job.pass_list or ""),
    )  # fmt: skip
    context.checkpoint = (job.out or Path(f"{model.name}.tflite")).with_suffix(".partial.json")
    context.quant = api.quant_options(**saving)
    described, warnings = api.judge_data(reference, context)
    for text in warnings:
        reporter.notice(text, kind="warning")
    context.resume, context.full_statistics = job.resume, job.save_ranges is not None
    report = api.run_passes(
        model, job.pass_list or "", data=context, verify=job.verify, progress=reporter.progress,
        after=lambda one, state: _dump(job, one.name, state),
    ) if job.pass_list else None  # fmt: skip
    out = job.out or api.default_output(model, saving["scheme"])
    with staged(out) as temporary:
        with reporter.status("writing"):
            saved = api.save(model, temporary, **saving)
        with reporter.status("comparing the result with the float model"):
            names = report.names if report is not None else []
            found = api.judge(reference, temporary, context, state, names)
        if job.save_ranges is not None:
            _save_ranges(job.save_ranges, model.name, context)
    saved.path = out
    for own in (context, *context.signatures.values()):
        reporter.data_warnings(own)
    reporter.passes(report)
    reporter.result(job.model, saved, found, described)


def _with_max_drop(pass_list: str, max_drop: float) -> str:
    """The list with the bound given to `@auto`."""
    from qfrewrite.errors import UsageError

    if "@auto" not in pass_list or "@auto(" in pass_list:
        raise UsageError("goes with -p @auto", where="--max-drop",
                         remedy="or write @auto(max_drop=...)")  # fmt: skip
    return pass_list.replace("@auto", f"@auto(max_drop={max_drop})")


def _save_ranges(path: Path, model: str, context: PassContext) -> None:
    from qfrewrite.errors import UsageError

    table = context.ranges
    if table is None:
        raise UsageError("there are no ranges to save", where="--save-ranges",
                         remedy="add calibrate to the passes")  # fmt: skip
    table.model = model
    others = {k: own.ranges for k, own in context.signatures.items() if own.ranges is not None}
    table.with_signatures(others).save(path)


def _check_names(job: _Job) -> None:
    """Fail on a wrong pass list before anything slow happens."""
    from qfrewrite.errors import PassError
    from qfrewrite.passes import make_passes

    names = [p.name for p in make_passes(job.pass_list)] if job.pass_list else []
    if job.dump_after not in (None, "all", *names):
        raise PassError(
            f"'{job.dump_after}' is not among the passes", where="--dump-after",
            remedy=f"use all or one of: {', '.join(names) or 'none given'}",
        )  # fmt: skip


def _check_target(model: Path, out: Path) -> None:
    """Fail on an output that cannot be before the work is done."""
    from qfrewrite.errors import OutputError

    if out.suffix not in (".tflite", ".pb"):
        raise OutputError(
            f"the suffix '{out.suffix}' names no format", where=str(out),
            remedy="end the output in .tflite or .pb",
        )  # fmt: skip
    if out.exists() and model.exists() and out.samefile(model):
        raise OutputError("is the model itself", where=str(out), remedy="choose another -o")
    if not out.parent.is_dir():
        raise OutputError(
            "the folder does not exist", where=str(out.parent), remedy="create it or choose another"
        )


def _dump(job: _Job, name: str, model: Any) -> None:
    if job.dump_after not in ("all", name):
        return
    from qfrewrite.ir.text import graph_text

    click.echo(f"# after {name}")
    for graph in model.graphs:
        click.echo(graph_text(graph), nl=False)
