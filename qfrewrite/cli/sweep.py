"""`qfrewrite sweep MODEL --sizes`: input size against cost, latency and accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qfrewrite.cli.options import POSITIVE, image_options, model_files, preprocessing, print_options


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--sizes", required=True, metavar="LIST", help="128..300:4 (from, to, step) or 128,160,224."
)
@click.option(
    "--threads", type=POSITIVE, default=1, show_default=True, help="Threads for the runtime."
)
@click.option(
    "--runs",
    type=click.IntRange(3),
    default=20,
    show_default=True,
    help="Rounds of timing; in each every size runs once.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a picture: latency and accuracy by size (needs matplotlib).",
)
@image_options
@model_files
@print_options
def sweep(model: Path, sizes: str, how: str, plot: Path | None, **given: Any) -> None:
    """Resize MODEL's input and print what each size costs.

    Multiply-accumulates, int8 latency, work wasted on padding maps up to multiples of eight, and
    with --data and --labels the accuracy in float.
    """
    from qfrewrite import api
    from qfrewrite.analyze.sweep import parse_sizes
    from qfrewrite.analyze.sweep import sweep as run
    from qfrewrite.cli import tables as t
    from qfrewrite.cli.render import Reporter, open_console
    from qfrewrite.data.labels import read_labels
    from qfrewrite.errors import UsageError

    wanted = parse_sizes(sizes)
    if (given["data"] is None) != (given["labels"] is None):
        raise UsageError("--data and --labels go together", remedy="give both or none")
    loaded = api.load(model, inputs=given["inputs"], outputs=given["outputs"])
    api.dequantize(loaded)
    images = None
    if given["data"] is not None:
        images = read_labels(given["data"], given["labels"], given["limit"])
    with Reporter(quiet=given["quiet"]) as reporter:
        points = run(
            loaded,
            wanted,
            images=images,
            preprocess=preprocessing(given, loaded),
            runs=given["runs"],
            threads=given["threads"],
            progress=reporter.progress,
        )
    columns = (
        t.Column("size", "size", str),
        t.Column("macs", "MACs", t.count),
        t.Column("ms", "int8 ms", t.figure),
        t.Column("padding", "padding", t.percent),
        t.Column("unaligned", "maps not x8", str),
        t.Column("top1", "top-1", t.percent),
        t.Column("top5", "top-5", t.percent),
        t.Column("error", "", str, right=False),
    )
    t.print_rows(
        [p.record() for p in points],
        columns,
        how,
        {"model": loaded.name},
        open_console(),
        key="sizes",
    )
    if plot is not None:
        from qfrewrite.analyze.plots import plot_sizes

        plot_sizes(loaded.name, points, plot)
        click.echo(f"picture in {plot}", err=True)
