"""`qfrewrite MODEL -p PASSES`: load, rewrite, write, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from qfrewrite.cli.options import (
    PLUGIN,
    SCHEMES,
    TARGETS,
    WEIGHTS,
    data_of,
    model_options,
    pass_option,
    preprocessing,
    signature_data_options,
)

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    pass_option(help="Passes in order, e.g. remove_dw_bn,relu6_to_relu,calibrate; with "
                "parameters: name(key=value); may be given again."),
    PLUGIN,
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
# The options of a job that are passed on as they are.
_JOB = ("samples", "seed", "threads", "verify", "dequantize", "save_ranges", "resume")
_SHOWN = ("quiet", "verbose", "explain", "dump_after")


@click.command(hidden=True)
@click.argument("model", type=click.Path(path_type=Path))
@_all_options
def convert(model: Path, **given: Any) -> None:
    """Rewrite MODEL with the passes of -p and write the result."""
    from qfrewrite import conversion
    from qfrewrite.cli.render import Reporter
    from qfrewrite.passes import make_passes

    pass_list = given["pass_list"]
    if pass_list and given["max_drop"] is not None:
        pass_list = _with_max_drop(pass_list, given["max_drop"])
    job = conversion.Job(
        passes=make_passes(pass_list) if pass_list else None,
        output=given["out"],
        saving={name: given[name] for name in _SAVING},
        **{name: given[name] for name in _JOB},
    )
    _check_dump(given["dump_after"], [one.name for one in job.passes or ()])
    with Reporter(**{name: given[name] for name in _SHOWN}) as reporter:
        loaded = conversion.load(model, inputs=given["inputs"], outputs=given["outputs"])
        job = replace(
            job,
            data=data_of(loaded, given["data"]),
            preprocess=preprocessing(given, loaded),
            checkpoint=(job.output or Path(f"{loaded.name}.tflite")).with_suffix(".partial.json"),
        )
        reporter.result(model, conversion.convert(loaded, job, reporter))


def _with_max_drop(pass_list: str, max_drop: float) -> str:
    """The list with the bound given to `@auto`."""
    from qfrewrite.errors import UsageError

    if "@auto" not in pass_list or "@auto(" in pass_list:
        raise UsageError(
            "goes with -p @auto", where="--max-drop", remedy="or write @auto(max_drop=...)"
        )
    return pass_list.replace("@auto", f"@auto(max_drop={max_drop})")


def _check_dump(dump_after: str | None, names: Sequence[str]) -> None:
    """Fail on the name of a pass that is not run."""
    from qfrewrite.errors import PassError

    if dump_after not in (None, "all", *names):
        raise PassError(
            f"'{dump_after}' is not among the passes",
            where="--dump-after",
            remedy=f"use all or one of: {', '.join(names) or 'none given'}",
        )
