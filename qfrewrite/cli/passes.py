"""`qfrewrite passes`: what there is, with parameters."""

from __future__ import annotations

import click


@click.command()
@click.argument("name", required=False)
def passes(name: str | None) -> None:
    """List the passes, or describe one of them."""
    from qfrewrite.cli.render import pass_table, print_pass
    from qfrewrite.passes import all_passes, make_passes

    if name is None:
        pass_table(all_passes())
    else:
        print_pass(type(make_passes(name)[0]))
