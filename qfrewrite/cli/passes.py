"""`qfrewrite passes`: what there is, with parameters."""

from __future__ import annotations

import click

from qfrewrite.cli.options import PLUGIN, Call, command


@command(click.argument("name", required=False), PLUGIN)
def passes(call: Call) -> None:
    """List the passes and pipelines, or describe one of them."""
    from qfrewrite.cli.render import pass_table, print_pass
    from qfrewrite.passes import all_passes, make_passes
    from qfrewrite.passes._registry import PIPELINES

    name = call["name"]
    if name is None:
        pass_table(all_passes())
        for title, pipeline in PIPELINES.items():
            click.echo(f"{title:<14} {pipeline.what}\n{'':<14} = {pipeline.passes}")
    elif name in PIPELINES:
        click.echo(f"{name}  {PIPELINES[name].what}\n{PIPELINES[name].passes}")
    else:
        print_pass(type(make_passes(name)[0]))
