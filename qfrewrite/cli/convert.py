"""`qfrewrite MODEL -p PASSES`: load, rewrite, write, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from click import FloatRange

from qfrewrite.cli import options as o
from qfrewrite.cli.options import FILE, Call, command, opt
from qfrewrite.errors import PassError, UsageError

# The options that say how to write.
_SAVING = ("scheme", "weights", "fc_weights", "io", "keep_float", "keep_int16", "target")
# The options of a job that are passed on as they are.
_JOB = ("samples", "seed", "threads", "verify", "dequantize", "save_ranges", "resume")


_PASSES = (
    "Passes in order, e.g. remove_dw_bn,relu6_to_relu,calibrate; with parameters: "
    "name(key=value); may be given again."
)
_SCHEME = "How to quantize; the first three need ranges  [default: int8 where ranges are known]"
_KEEP_FLOAT = "Ops that stay float, by name with * and ?; may be given again."
_KEEP_INT16 = "Ops that compute with int16 activations; may be given again."
_RESULT = "Result: .tflite or .pb  [default: <model>_<scheme>.tflite here]"
_IO = "Element type of inputs and outputs  [default: as the scheme computes]"
_FLOAT = "Make a quantized model float first; without passes it is written float."
_VERIFY = "What to check around passes; numeric proves exact ones."
_DROP = FloatRange(0, 100, min_open=True)


@command(
    o.MODEL,
    o.pass_option(help=_PASSES),
    o.PLUGIN,
    opt("-o --out", FILE, _RESULT, metavar="OUT"),
    opt("--scheme", o.SCHEMES, _SCHEME),
    o.WEIGHT_SCALES,
    opt(
        "--fc-weights", o.WEIGHTS, "Those of FULLY_CONNECTED  [default: as --weights and --target]"
    ),
    opt("--io", ("int8", "uint8", "int16", "float32"), _IO),
    opt("--keep-float", "PATTERN", _KEEP_FLOAT, multiple=True),
    opt("--keep-int16", "PATTERN", _KEEP_INT16, multiple=True),
    opt("--target", o.TARGETS, "Runtime or chip to write for; ops it lacks are reported."),
    opt("--max-drop", _DROP, "Points of top-1 that @auto may cost  [default: 1.0]"),
    opt("--dequantize", None, _FLOAT),
    opt("--save-ranges", FILE, "Also write what calibration found, as JSON.", metavar="FILE"),
    opt("--resume", None, "Go on with a calibration that was interrupted."),
    opt("--dump-after", "PASS|all", "Print the graph after this pass."),
    opt("--verify", ("off", "structure", "numeric"), _VERIFY, default="structure"),
    opt("--explain", None, "List every edit and skip, with reasons."),
    opt("-v --verbose", None, "Print figures per layer as well."),
    *o.SIGNATURE_DATA,
    *o.NODES,
    *o.QUIET,
    hidden=True,
)
def convert(call: Call) -> None:
    """Rewrite MODEL with the passes of -p and write the result."""
    from qfrewrite import conversion
    from qfrewrite.passes import make_passes

    pass_list = call["pass_list"]
    if pass_list and call["max_drop"] is not None:
        pass_list = _with_max_drop(pass_list, call["max_drop"])
    job = conversion.Job(
        passes=make_passes(pass_list) if pass_list else None,
        output=call["out"],
        saving=call.given(*_SAVING),
        **call.given(*_JOB),
    )
    _check_dump(call["dump_after"], [one.name for one in job.passes or ()])
    model = call.load()
    job = replace(
        job,
        data=call.data_of_signatures(model),
        preprocess=call.preprocess(model),
        checkpoint=(job.output or Path(f"{model.name}.tflite")).with_suffix(".partial.json"),
    )
    report = conversion.convert(model, job, call.reporter)
    call.reporter.result(call["model"], report)


def _with_max_drop(pass_list: str, max_drop: float) -> str:
    """The list with the bound given to `@auto`."""
    if "@auto" not in pass_list or "@auto(" in pass_list:
        what = "goes with -p @auto"
        raise UsageError(what, where="--max-drop", remedy="or write @auto(max_drop=...)")
    return pass_list.replace("@auto", f"@auto(max_drop={max_drop})")


def _check_dump(dump_after: str | None, names: Sequence[str]) -> None:
    """Fail on the name of a pass that is not run."""
    if dump_after not in (None, "all", *names):
        what = f"'{dump_after}' is not among the passes"
        remedy = f"use all or one of: {', '.join(names) or 'none given'}"
        raise PassError(what, where="--dump-after", remedy=remedy)
