"""Options that several commands take."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from qfrewrite.cli.render import Reporter
    from qfrewrite.data.preprocess import Preprocess
    from qfrewrite.ir import Model
    from qfrewrite.passes import PassContext

F = TypeVar("F", bound=Callable[..., Any])

# Kept here as text: looking them up would import what they name before --help is printed.
TARGETS = ("litert", "tflm", "cmsis-nn", "vela", "edgetpu", "hexagon-dsp")
SCHEMES = ("int8", "uint8", "int16x8", "dynamic", "weight-only", "float16", "float32")
WEIGHTS = ("per-channel", "per-tensor")

POSITIVE = click.IntRange(min=1)


def _load_plugins(ctx: click.Context, param: click.Parameter, files: tuple[str, ...]) -> None:
    if files:
        from qfrewrite.passes import load_plugin

        for file in files:
            load_plugin(file)


PLUGIN = click.option(
    "--plugin",
    metavar="FILE",
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=_load_plugins,
    help="Python file with passes of your own; may be given again.",
)

FORMAT = click.option(
    "--format",
    "how",
    type=click.Choice(["table", "json", "csv", "markdown"]),
    default="table",
    show_default=True,
    help="How to print.",
)

_SEEN = (
    click.option("--preprocess", metavar="HOW",
                 help="mobilenet (x/127.5-1), unit (x/255), raw, imagenet, or mean=..,std=..  "
                 "[default: what the model's metadata say, else mobilenet]"),
    click.option("--crop", type=click.FloatRange(0, 1, min_open=True), default=1.0,
                 show_default=True, help="Central fraction of each image to use."),
)  # fmt: skip
_ONE_SOURCE = click.option(
    "--data",
    metavar="PATH",
    help="Calibration data: image folder, .txt list of images, .npy or .npz.",
)
_SOURCES = click.option(
    "--data",
    metavar="[SIGNATURE=]PATH",
    multiple=True,
    help="Calibration data: image folder, .txt list of images, .npy or .npz; once for each "
    "signature that has its own.",
)
_DATA = (
    click.option("--samples", type=POSITIVE, default=200, show_default=True,
                 help="How many samples to calibrate on."),
    *_SEEN,
    click.option("--threads", type=POSITIVE, help="Threads for the runtime  [default: all cores]"),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
                 help="Of shuffling and synthetic inputs."),
)  # fmt: skip
_IMAGES = (
    click.option("--data", metavar="DIR", help="Folder of images."),
    click.option("--labels", metavar="CSV", help="Table of file,label for the images of --data."),
    click.option("--limit", type=POSITIVE, metavar="N", help="Only the first N images."),
    *_SEEN,
)
_SAID = (
    click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
    click.option("--debug", is_flag=True, help="Show tracebacks."),
)
_PRINT = (
    FORMAT,
    *_SAID,
)
_NODES = (
    click.option("--input", "inputs", metavar="NAME[:SHAPE]", multiple=True,
                 help="Input node of a .pb, e.g. input:1x224x224x3 (repeatable)."),
    click.option("--output", "outputs", metavar="NAME", multiple=True,
                 help="Output node of a .pb (repeatable)."),
)  # fmt: skip


def pass_option(*, help: str, default: str | None = None) -> Callable[[F], F]:
    """-p, as often as it is given: one list in this order."""

    def joined(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> str | None:
        return ",".join(given) if given else default

    return click.option(
        "-p",
        "--passes",
        "pass_list",
        metavar="PASSES",
        multiple=True,
        callback=joined,
        help=help,
    )


def data_options(function: F) -> F:
    """--data and how it is read."""
    return _all((_ONE_SOURCE, *_DATA), function)


def signature_data_options(function: F) -> F:
    """--data for each signature, and how it is read."""
    return _all((_SOURCES, *_DATA), function)


def data_of(model: Model, given: tuple[str, ...]) -> Any:
    """What --data says: a path for the main graph, or a path for each signature."""
    from pathlib import Path

    from qfrewrite.errors import UsageError

    keys = [s.key for s in model.signatures]
    main = model.signature_of(model.graph)
    paths: dict[str | None, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        signature: str | None = name
        if not equals or Path(text).exists():
            signature, path = main, text
        elif name not in keys:
            raise UsageError(
                f"the model has no signature '{name}'",
                where="--data",
                remedy=f"it has {', '.join(keys)}" if keys else "give a path",
            )
        if signature in paths:
            raise UsageError(
                f"is given twice: {path}",
                where="--data",
                remedy="name the signature: --data SIGNATURE=PATH",
            )
        paths[signature] = path
    return next(iter(paths.values()), None) if set(paths) <= {main} else paths


def model_options(function: F) -> F:
    """How the model is read, and how much is printed."""
    return _all((*_NODES, *_SAID), function)


def model_files(function: F) -> F:
    """--input and --output alone."""
    return _all(_NODES, function)


def image_options(function: F) -> F:
    """Labelled images, and how they are read."""
    return _all(_IMAGES, function)


def print_options(function: F) -> F:
    """How rows are printed."""
    return _all(_PRINT, function)


def _all(options: tuple[Callable[[F], F], ...], function: F) -> F:
    for option in reversed(options):
        function = option(function)
    return function


def preprocessing(given: dict[str, Any], model: Model) -> Preprocess:
    """What --preprocess and --crop say, or without --preprocess what the model says."""
    from dataclasses import replace

    from qfrewrite.data.preprocess import chosen_preprocess

    how = chosen_preprocess(model, given["preprocess"])
    return replace(how, crop=given["crop"]) if given["crop"] != 1.0 else how


def open_data_context(
    model: Model, given: dict[str, Any], reporter: Reporter
) -> PassContext | None:
    """The context of a command's --data; None where it is not given."""
    if given["data"] is None:
        return None
    from qfrewrite import api

    return api.open_context(
        model,
        given["data"],
        samples=given["samples"],
        preprocess=preprocessing(given, model),
        seed=given["seed"],
        threads=given["threads"],
        once=True,
        progress=reporter.progress,
    )
