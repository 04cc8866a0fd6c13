"""What the terminal shows: progress, notices, tables, the closing summary."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from qfrewrite.cli.tables import byte_count
from qfrewrite.conversion import QuantizeReport, Watcher
from qfrewrite.errors import Diagnostic
from qfrewrite.ir import Model, Tensor
from qfrewrite.ops.shapes import open_axes
from qfrewrite.ops.text import graph_text
from qfrewrite.passes import Pass, PassReport, RunReport
from qfrewrite.solve.parameters import Parameter, parameters, shown
from qfrewrite.targets.target import grouped

_PIPE_WIDTH = 100
# Figures of layers that are shown in percent.
_SHARES = ("clip_rate",)


def open_console(*, stderr: bool = False) -> Console:
    """A terminal, or plain text of a fixed width where output is piped."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


class Reporter(Watcher):
    """Progress and notices on stderr (bars only on a terminal), the summary on stdout.

    dump_after: the name of a pass after which the graph is printed, or `all`.
    """

    def __init__(
        self,
        *,
        quiet: bool,
        verbose: bool = False,
        explain: bool = False,
        dump_after: str | None = None,
    ) -> None:
        self._dump_after = dump_after
        self._quiet, self._verbose, self._explain = quiet, verbose, explain or verbose
        self._out, self._err = open_console(), open_console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._err,
            transient=True,
            disable=quiet or not self._err.is_terminal,
        )

    def close(self) -> None:
        """Take bars off the terminal."""
        self._bars.stop()

    def progress(self, label: str, total: int | None) -> Callable[[int], None]:
        """A bar for one long step; the function it returns takes how many are done."""
        if self._bars.disable:
            return super().progress(label, total)
        self._bars.start()
        task = self._bars.add_task(label, total=total)

        def update(done: int) -> None:
            self._bars.update(task, completed=done)
            if total is not None and done >= total:
                self._bars.remove_task(task)

        return update

    def status(self, label: str) -> AbstractContextManager[Any]:
        """A line on a terminal while something short runs."""
        if not self._bars.disable:
            self._err.print(f"[dim]{label} ...[/dim]")
        return super().status(label)

    def say(self, one: Diagnostic) -> None:
        """One line on stderr; notes belong to the summary on stdout."""
        if self._quiet:
            return
        if one.severity == "note":
            self._out.print(f"  {escape(str(one))}", soft_wrap=True)
        else:
            style = "yellow" if one.severity == "warning" else "cyan"
            line = f"[{style}]{one.severity}:[/{style}] {escape(str(one))}"
            self._err.print(line, soft_wrap=True)

    def loaded(self, model: Model) -> None:
        """What was read."""
        for one in model.diagnostics:
            self.say(one)
        if self._quiet:
            return
        graph = model.graph
        sides = (
            ", ".join(f"{t.name} {t.dtype}[{','.join(_sizes(t))}]" for t in side)
            for side in (graph.inputs, graph.outputs)
        )
        ops = sum(len(g.ops) for g in model.graphs)
        name = model.path.name if model.path else model.name
        self._out.print(f"[bold]{escape(name)}[/bold]  {ops} ops")
        for label, text in zip(("inputs ", "outputs"), sides, strict=True):
            self._out.print(f"  {label}  {escape(text)}", soft_wrap=True)

    def after(self, one: Pass, model: Model) -> None:
        """The graphs behind the pass that was asked for, as text."""
        if self._dump_after in ("all", one.name):
            print(f"# after {one.name}")
            for graph in model.graphs:
                print(graph_text(graph), end="")

    def _passes(self, report: RunReport) -> None:
        """One row per pass; notes below; edits and skips where asked for."""
        if not report.passes or self._quiet:
            return
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name in ("pass", "edits", "skips", "seconds", "cost"):
            table.add_column(name, justify="left" if name in ("pass", "cost") else "right")
        for p in report.passes:
            table.add_row(escape(p.name), str(p.edits), str(p.skips), f"{p.seconds:.2f}", _cost(p))
        self._out.print()
        self._out.print(table)
        for p in report.passes:
            self._pass_notes(p)

    def _pass_notes(self, p: PassReport) -> None:
        short = p.short_name
        for one in p.diagnostics:
            self.say(one)
        if self._verbose or p.log.diagnostics.of("warning"):
            self._layers(p)
        if self._explain:
            for entry in p.log.edits:
                self._out.print(f"  {short}: {escape(str(entry))}", soft_wrap=True)
            for entry in p.log.skips:
                self._out.print(f"  {short}: [yellow]{escape(str(entry))}[/yellow]", soft_wrap=True)
        elif p.skips:
            reasons = _common([e.detail for e in p.log.skips])
            self._out.print(f"  {short}: skipped {escape(reasons)}", soft_wrap=True)

    def _layers(self, p: PassReport) -> None:
        if not p.log.layers:
            return
        table = Table(box=SIMPLE_HEAD, pad_edge=False, title=f"{p.name}, per layer")
        columns = list(dict.fromkeys(k for row in p.log.layers for k in row))
        for name in columns:
            table.add_column(name, overflow="fold")
        for row in p.log.layers:
            table.add_row(*(_figure(k, row.get(k)) for k in columns))
        self._out.print(table)

    def result(self, source: Path, report: QuantizeReport) -> None:
        """What the passes did, where the result is, how large, how close to float, what stayed."""
        self._passes(report.passes)
        for one in report.about_result:
            self.say(one)
        if self._quiet:
            return
        saved = report.saved
        before, low = source.stat().st_size, saved.lowering
        lines = [
            ("written", f"[bold]{escape(str(saved.path))}[/bold]"),
            (
                "size",
                f"{byte_count(before)} -> {byte_count(saved.size)} "
                f"({100 * saved.size / before:.0f} %)",
            ),
        ]
        if low.counts:
            stayed = ", ".join(f"{count} {what}" for what, count in low.counts.items())
            if low.float_ops:
                stayed += f", {len(low.float_ops)} float: " + "; ".join(
                    f"{kind} '{name}' ({why})" for name, kind, why in low.float_ops
                )
            lines.append(("ops", escape(stayed)))
        if report.preprocess:
            lines.append(("preprocess", escape(report.preprocess)))
        if report.measured_on:
            figures = f"{report.fidelity}, " if report.fidelity is not None else ""
            lines.append(("float vs result", f"{figures}{escape(report.measured_on)}"))
        lines += [("", escape(f"signature '{k}': {v}")) for k, v in report.signatures.items()]
        self._out.print()
        for label, text in lines:
            self._out.print(f"  {label:<16} {text}", soft_wrap=True)
        for note in low.diagnostics:
            self._out.print(f"  {'note':<16} {escape(str(note))}", soft_wrap=True)
        if saved.target is not None and not saved.unmapped:
            self._out.print(f"  {'target':<16} all ops map to {saved.target}")
        for line in grouped(saved.unmapped):
            self._out.print(f"  {'not mapped':<16} {escape(line)}", soft_wrap=True)


def pass_table(known: Mapping[str, type[Pass]]) -> None:
    """Every pass: parameters with defaults, exactness, one line."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("pass", "parameters", "exact", "what"):
        table.add_column(name, overflow="fold")
    for name, cls in known.items():
        given = ", ".join(map(_with_default, parameters(cls))) or "-"
        table.add_row(name, escape(given), "yes" if cls.exact else "no", _first_line(cls))
    open_console().print(table)


def print_pass(cls: type[Pass]) -> None:
    """One pass in full."""
    console = open_console()
    console.print(f"[bold]{cls.name}[/bold]  ({'exact' if cls.exact else 'not exact'})")
    console.print(escape(inspect.getdoc(cls) or ""))
    for one in parameters(cls):
        default = "(required)" if one.default is MISSING else f"= {shown(one.default)}"
        console.print(escape(f"  {one.name}: {one} {default}"))


def _first_line(cls: type[Pass]) -> str:
    return escape((inspect.getdoc(cls) or "").partition("\n")[0])


def _with_default(one: Parameter) -> str:
    """A parameter in the table of passes: with its choices, or with its default."""
    if one.choices:
        return f"{one.name}={'|'.join(map(shown, one.choices))}"
    return (
        f"{one.name} (required)" if one.default is MISSING else f"{one.name}={shown(one.default)}"
    )


def _cost(p: PassReport) -> str:
    if p.fidelity is not None:
        return escape(str(p.fidelity))
    if p.exact or not p.edits:
        return "exact" if p.exact else "nothing changed"
    return "not measured"


def _common(reasons: list[str]) -> str:
    """`27 (say --explain for the reasons), e.g. ...`."""
    return f"{len(reasons)}, e.g. {reasons[0]} (--explain lists all)"


def _figure(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key in _SHARES:
        return f"{100 * value:.3g} %"
    return f"{value:.1f}" if isinstance(value, float) else escape(str(value))


def _sizes(tensor: Tensor) -> list[str]:
    """The dimensions of a model's input or output; `?` where samples may have any size."""
    free = open_axes(tensor.dims)
    return ["?" if axis in free else str(n) for axis, n in enumerate(tensor.shape)]
