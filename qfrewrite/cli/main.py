"""`qfrewrite`: the group of commands, and how errors leave the process."""

from __future__ import annotations

import gc
import sys
from typing import Any

import click

from qfrewrite import __version__
from qfrewrite.cli.bench import bench
from qfrewrite.cli.check import check
from qfrewrite.cli.compare import compare
from qfrewrite.cli.convert import convert
from qfrewrite.cli.evaluate import evaluate
from qfrewrite.cli.inspect import inspect
from qfrewrite.cli.passes import passes
from qfrewrite.cli.process import Terminated, ended_by_sigterm, keep_on_without_reader
from qfrewrite.cli.ranges import ranges
from qfrewrite.cli.sensitivity import sensitivity
from qfrewrite.cli.sweep import sweep
from qfrewrite.errors import Interrupted, QfError

_COMMANDS = (convert, inspect, compare, ranges, check, bench, evaluate, sweep, sensitivity, passes)
_EPILOG = """\b
Exit codes: 0 done, 1 other errors, 2 wrong usage, 3 model file, 4 not supported,
5 passes, 6 data, 7 output, 8 verification, 9 runtime, 130 interrupted,
143 terminated."""


class _DefaultGroup(click.Group):
    """A group whose first word may be a model: then `convert` is meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `convert` before anything that is neither a command nor an option of the group."""
        own = {"-h", "--help", "--version"}
        if args and args[0] not in self.commands and args[0] not in own:
            args = [convert.name or "convert", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the form without a command first: it is the main one."""
        formatter.write_usage(ctx.command_path, "MODEL -p PASSES [-o OUT] [--data PATH] [OPTIONS]")
        formatter.write_usage(ctx.command_path, "COMMAND [ARGS]...", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of `convert`, then the commands."""
        click.Command.format_options(convert, ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(
    cls=_DefaultGroup,
    commands=_COMMANDS,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
    epilog=_EPILOG,
)
@click.version_option(__version__, prog_name="qfrewrite")
def main() -> None:
    """Rewrite a trained TensorFlow graph (.pb or .tflite) for an 8-bit chip.

    \b
    qfrewrite model.pb -p remove_dw_bn,relu6_to_relu,calibrate --data images/
    """


def entry(argv: list[str] | None = None) -> None:
    """Run the command line and exit; errors become one line on stderr and an exit code."""
    args = sys.argv[1:] if argv is None else argv
    # Graphs are many small objects that all stay: looking for garbage among them takes a third of
    # the time of large models.
    gc.set_threshold(100_000, 50, 50)
    keep_on_without_reader()
    sys.exit(run(args))


def run(args: list[str]) -> int:
    """Run the command line; returns the exit code."""
    debug = "--debug" in args
    try:
        with ended_by_sigterm():
            result: Any = main.main(
                args=args or ["--help"], prog_name="qfrewrite", standalone_mode=False
            )
        return result if isinstance(result, int) else 0
    except click.exceptions.Abort as error:
        return _interrupted(error.__cause__)  # click makes this of every KeyboardInterrupt
    except KeyboardInterrupt as error:
        return _interrupted(error)
    except click.ClickException as error:
        return _fail(f"{error.format_message()} (qfrewrite --help)", 2)
    except BrokenPipeError:
        return 0
    except MemoryError:
        return _fail("not enough memory for this model", 1)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, QfError):
            return _fail(str(error), error.exit_code)
        what = " ".join(str(error).split())
        return _fail(
            f"internal error: {type(error).__name__}: {what}; --debug shows where, please report", 1
        )


def _interrupted(error: BaseException | None) -> int:
    """What became of the work, and the code by which shells tell Ctrl-C from SIGTERM."""
    text = str(error) if isinstance(error, Interrupted) else "interrupted; nothing was written"
    while error is not None and not isinstance(error, Terminated):
        error = error.__cause__
    return _fail(text, 130 if error is None else 143)


def _fail(text: str, code: int) -> int:
    print(f"qfrewrite: error: {text}", file=sys.stderr)
    return code
