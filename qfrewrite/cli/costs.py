"""`qfrewrite inspect MODEL --cost`: what each op costs."""

from __future__ import annotations

from typing import Any

import click

from qfrewrite.ir import Model


def print_costs(model: Model, how: str, top: int | None, *, quiet: bool) -> None:
    """A row per op, and the sums."""
    from qfrewrite.analyze.costs import model_cost
    from qfrewrite.cli import tables as t
    from qfrewrite.cli.render import Reporter, open_console

    found = model_cost(model)
    with Reporter(quiet=quiet) as reporter:
        for one in found.diagnostics:
            reporter.say(one)
    records = [op.record() for op in found.ops]
    t.shorten_names(records, how)
    columns = (
        t.Column("name", "layer", right=False),
        t.Column("op", "op", right=False),
        t.Column("shape", "output", t.shape),
        t.Column("macs", "MACs", t.count),
        t.Column("parameters", "params", t.count),
        t.Column("weight_bytes", "weights, B", t.count),
        t.Column("arena_bytes", "memory, B", t.count),
        t.Column("int8_weight_bytes", "int8 weights", t.count),
        t.Column("int8_arena_bytes", "int8 memory", t.count),
    )
    names = ("macs", "parameters", "weight_bytes", "int8_weight_bytes")
    head: dict[str, Any] = {"model": model.name, **{name: found.total(name) for name in names}}
    peaks = {name: found.peak(name) for name in ("arena_bytes", "int8_arena_bytes")}
    head |= {f"peak_{k}": 0 if op is None else getattr(op, k) for k, op in peaks.items()}
    t.print_rows(records[:top], columns, how, head, open_console(), key="ops")
    if how == "table":
        where = peaks["int8_arena_bytes"]
        click.echo(
            f"{t.count(head['macs'])} MACs, {t.count(head['parameters'])} parameters; weights "
            f"{t.byte_count(head['weight_bytes'])} as they are, "
            f"{t.byte_count(head['int8_weight_bytes'])} in int8; activations at their peak "
            f"{t.byte_count(head['peak_arena_bytes'])}, "
            f"{t.byte_count(head['peak_int8_arena_bytes'])} in int8"
            + ("" if where is None else f" (at {where.name})")
        )
