"""`qfrewrite check`: check a quantized `.tflite` against the specification and a target."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

import qfrewrite as qf
from qfrewrite.cli.options import MODEL, TARGETS, Call, command, opt
from qfrewrite.errors import Diagnostic

_FOUND = 8


@command(
    MODEL,
    opt("--target", TARGETS, "Also list ops that this runtime or chip does not take."),
    opt("--format how", ("text", "json"), "A line each, or a JSON array.", default="text"),
    opt("--debug", None, "Show the traceback of an error."),
)
def check(call: Call) -> int:
    """Check MODEL.tflite against the 8-bit specification.

    The model may be another tool's. Checked are scales, zero points, axes, same-scale groups,
    prescribed ranges, bias scales, overflow, alignment, op versions, and what subgraphs share. One
    line per violation; exit code 8 where there is one.
    """
    model, target = call["model"], call["target"]
    violations = qf.check(model, target=target)
    if call["how"] == "json":
        click.echo(json.dumps([_fields(one) for one in violations], indent=1))
    elif violations:
        click.echo("\n".join(map(str, violations)))
    else:
        click.echo(f"{model}: nothing found" + (f", all ops map to {target}" if target else ""))
    return _FOUND if violations else 0


def _fields(one: Any) -> dict[str, str]:
    """A violation, or an op that the target does not take."""
    if isinstance(one, Diagnostic):
        return {"rule": one.code, "where": one.where, "what": one.text}
    return asdict(one)
