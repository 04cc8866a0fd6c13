"""Arguments and options that several commands take, and what they mean in a call of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click import IntRange, argument

import qfrewrite as qf
from qfrewrite.cli.tables import FORMATS, Column, print_report
from qfrewrite.errors import UsageError

if TYPE_CHECKING:
    from qfrewrite.cli.render import Reporter
    from qfrewrite.data.labels import LabelledImages
    from qfrewrite.data.preprocess import Preprocess
    from qfrewrite.passes import PassContext
    from qfrewrite.records import Record

F = TypeVar("F", bound=Callable[..., Any])

# Kept here as text: looking them up would import what they name before --help is printed.
TARGETS = ("litert", "tflm", "cmsis-nn", "vela", "edgetpu", "hexagon-dsp")
SCHEMES = ("int8", "uint8", "int16x8", "dynamic", "weight-only", "float16", "float32")
WEIGHTS = ("per-channel", "per-tensor")

POSITIVE = IntRange(min=1)
FILE = click.Path(path_type=Path)


def _load_plugins(ctx: click.Context, param: click.Parameter, files: tuple[str, ...]) -> None:
    if files:
        from qfrewrite.passes import load_plugin

        for file in files:
            load_plugin(file)


def opt(names: str, kind: Any, help: str, **more: Any) -> Callable[[F], F]:
    """An option: names with spaces between them, what its value is, and the line of the help.

    kind: texts are the choices, one text is the name of a free text in the help, and None makes a
    flag; else a type of click.
    """
    if kind is None:
        more["is_flag"] = True
    elif isinstance(kind, str):
        more["metavar"] = kind
    else:
        more["type"] = kind if isinstance(kind, click.ParamType) else click.Choice(kind)
    return click.option(*names.split(), help=help, **more)


MODEL = argument("model", type=FILE)
MODELS = argument("models", type=FILE, nargs=-1, required=True)
PLUGIN = opt(
    "--plugin",
    "FILE",
    "Python file with passes of your own; may be given again.",
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=_load_plugins,
)
FORMAT = opt("--format how", FORMATS, "How to print.", default=FORMATS[0])
WEIGHT_SCALES = opt("--weights", WEIGHTS, "Scales of 8-bit weights.", default=WEIGHTS[0])
CORES = opt("--threads", POSITIVE, "Threads for the runtime  [default: all cores]")
ONE_THREAD = opt("--threads", POSITIVE, "Threads for the runtime.", default=1)
DEBUG = opt("--debug", None, "Show tracebacks.")
_INPUT = "Input node of a .pb, e.g. input:1x224x224x3 (repeatable)."
NODES = (
    opt("--input inputs", "NAME[:SHAPE]", _INPUT, multiple=True),
    opt("--output outputs", "NAME", "Output node of a .pb (repeatable).", multiple=True),
)
QUIET = (opt("-q --quiet", None, "Print errors only."), DEBUG)
_FRACTION = click.FloatRange(0, 1, min_open=True)
_PREPROCESS = (
    "mobilenet (x/127.5-1), unit (x/255), raw, imagenet, or mean=..,std=..  "
    "[default: what the model's metadata say, else mobilenet]"
)
_PIXELS = (
    opt("--preprocess", "HOW", _PREPROCESS),
    opt("--crop", _FRACTION, "Central fraction of each image to use.", default=1.0),
)
SAMPLES = (
    opt("--samples", POSITIVE, "How many samples to calibrate on.", default=200),
    *_PIXELS,
    CORES,
    opt("--seed", IntRange(min=0), "Of shuffling and synthetic inputs.", default=0),
)
_DATA = "Calibration data: image folder, .txt list of images, .npy or .npz"
_EACH = f"{_DATA}; once for each signature that has its own."
DATA = (opt("--data", "PATH", f"{_DATA}."), *SAMPLES)
SIGNATURE_DATA = (opt("--data", "[SIGNATURE=]PATH", _EACH, multiple=True), *SAMPLES)
IMAGES = (
    opt("--data", "DIR", "Folder of images."),
    opt("--labels", "CSV", "Table of file,label for the images of --data."),
    opt("--limit", POSITIVE, "Only the first N images.", metavar="N"),
    *_PIXELS,
)


def rounds(default: int, help: str) -> Callable[[F], F]:
    """--runs: how often models are timed."""
    return opt("--runs", IntRange(3), help, default=default)


def top(what: str) -> Callable[[F], F]:
    """--top, with what it keeps."""
    return opt("--top", POSITIVE, f"Only the {what}.", metavar="N")


def pass_option(*, help: str, default: str | None = None) -> Callable[[F], F]:
    """-p, as often as it is given: one list in this order."""

    def joined(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> str | None:
        return ",".join(given) if given else default

    return opt("-p --passes pass_list", "PASSES", help, multiple=True, callback=joined)


def command(
    *parameters: Callable[[F], F], **settings: Any
) -> Callable[[Callable[[Call], Any]], click.Command]:
    """A command from a function of its `Call`, with parameters in the order of the help."""

    def made(function: Callable[[Call], Any]) -> click.Command:
        @wraps(function)
        def run(**given: Any) -> Any:
            call = Call(given)
            try:
                return function(call)
            finally:
                call.reporter_is_done()

        for parameter in reversed(parameters):
            parameter(run)
        finished: click.Command = click.command(**settings)(run)
        return finished

    return made


class Call:
    """One call of a command: what was given, and what that means for models, data and tables."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given

    def __getitem__(self, name: str) -> Any:
        """The value of an argument or option."""
        return self._given[name]

    def given(self, *names: str) -> dict[str, Any]:
        """The values of some options, to be passed on under the same names."""
        return {name: self._given[name] for name in names}

    def load(self, argument: str = "model") -> qf.Model:
        """The model that an argument names, with the nodes of --input and --output."""
        return qf.load(self[argument], **self.given("inputs", "outputs"))

    @cached_property
    def reporter(self) -> Reporter:
        """Progress and notices, as much of them as was asked for."""
        from qfrewrite.cli.render import Reporter

        names = ("quiet", "verbose", "explain", "dump_after")
        return Reporter(**{name: value for name, value in self._given.items() if name in names})

    def reporter_is_done(self) -> None:
        """Take progress off the terminal."""
        if "reporter" in vars(self):
            self.reporter.close()

    @property
    def running(self) -> dict[str, Any]:
        """How to run models: threads, and where progress is shown."""
        return {"threads": self["threads"], "progress": self.reporter.progress}

    def preprocess(self, model: qf.Model) -> Preprocess:
        """What --preprocess and --crop say, or without --preprocess what the model says."""
        from dataclasses import replace

        from qfrewrite.data.preprocess import chosen_preprocess

        how = chosen_preprocess(model, self["preprocess"])
        return replace(how, crop=self["crop"]) if self["crop"] != 1.0 else how

    def context(self, model: qf.Model) -> PassContext | None:
        """The samples of --data; None where it is not given."""
        if self["data"] is None:
            return None
        from qfrewrite.solve.context import open_context

        how = self.preprocess(model)
        settings = self.given("samples", "seed") | self.running
        return open_context(model, self["data"], preprocess=how, once=True, **settings)

    def images(self) -> LabelledImages:
        """The images of --data with the classes of --labels."""
        return qf.read_labels(self["data"], self["labels"], self["limit"])

    def data_of_signatures(self, model: qf.Model) -> Any:
        """What --data says: a path for the main graph, or a path for each signature."""
        keys = [s.key for s in model.signatures]
        main = model.signature_of(model.graph)
        paths: dict[str | None, str] = {}
        for text in self["data"]:
            key, equals, path = text.partition("=")
            named = bool(equals) and not Path(text).exists()
            signature, path = (key, path) if named else (main, text)
            if named and key not in keys:
                raise UsageError(
                    f"the model has no signature '{key}'",
                    where="--data",
                    remedy=f"it has {', '.join(keys)}" if keys else "give a path",
                )
            if signature in paths:
                remedy = "name the signature: --data SIGNATURE=PATH"
                raise UsageError(f"is given twice: {path}", where="--data", remedy=remedy)
            paths[signature] = path
        return next(iter(paths.values()), None) if set(paths) <= {main} else paths

    def print(
        self,
        report: Record,
        columns: Sequence[Column],
        key: str = "layers",
        head: Sequence[str] = (),
        names: Iterable[str] = (),
    ) -> bool:
        """Print `report` in the format asked for; returns whether it is a table for a terminal.

        The rest as in `print_report`.
        """
        self.reporter_is_done()
        from qfrewrite.cli.render import open_console

        console, how = open_console(), self["how"]
        room = console.width if console.is_terminal else None
        top = self._given.get("top")
        print_report(report, columns, how, key=key, head=head, names=names, top=top, room=room)
        return bool(how == "table")
