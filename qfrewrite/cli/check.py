"""`qfrewrite check`: hold a quantized `.tflite` against the specification and a target."""

from __future__ import annotations

import json
from pathlib import Path

import click

from qfrewrite.cli.options import TARGETS

_FOUND = 8


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--target",
    help="Also list ops that this runtime or chip does not take.",
    type=click.Choice(TARGETS),
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="A line each, or a JSON array.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def check(model: Path, target: str | None, form: str, debug: bool) -> int:
    """Check MODEL.tflite against the 8-bit specification.

    The model may be another tool's. Checked are scales, zero points, axes, same-scale groups,
    prescribed ranges, bias scales, overflow, alignment, op versions, and what subgraphs share. One
    line per violation; exit code 8 where there is one.
    """
    from qfrewrite import api

    found = api.check(model, target=target)
    if form == "json":
        click.echo(json.dumps([_record(v) for v in found], indent=1))
    else:
        for violation in found:
            click.echo(str(violation))
        if not found:
            click.echo(f"{model}: nothing found" + (f", all ops map to {target}" if target else ""))
    return _FOUND if found else 0


def _record(finding: object) -> dict[str, str]:
    return {key: value for key, value in vars(finding).items() if isinstance(value, str)}
