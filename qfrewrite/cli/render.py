"""What the terminal shows: progress, notices, tables, the closing summary."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
        hidden = quiet or not self._err.is_terminal
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        left = TimeRemainingColumn()
        self._bars = Progress(*columns, left, console=self._err, transient=True, disable=hidden)

    def close(self) -> None:
        """Take bars off the terminal."""
        if not self._bars.disable:
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

    def status(self, label: str) -> None:
        """A line on a terminal before something short runs."""
        if not self._bars.disable:
            self._err.print(f"[dim]{label} ...[/dim]")

    def say(self, *diagnostics: Diagnostic) -> None:
        """A line each on stderr; notes belong to the summary on stdout."""
        for one in () if self._quiet else diagnostics:
            if one.severity == "note":
                self._out.print(f"  {escape(str(one))}", soft_wrap=True)
            else:
                style = "yellow" if one.severity == "warning" else "cyan"
                line = f"[{style}]{one.severity}:[/{style}] {escape(str(one))}"
                self._err.print(line, soft_wrap=True)

    def loaded(self, model: Model) -> None:
        """What was read."""
        self.say(*model.diagnostics)
        if self._quiet:
            return
        graph = model.graph
        ops = sum(len(g.ops) for g in model.graphs)
        name = model.path.name if model.path else model.name
        self._out.print(f"[bold]{escape(name)}[/bold]  {ops} ops")
        for label, side in (("inputs ", graph.inputs), ("outputs", graph.outputs)):
            text = ", ".join(f"{t.name} {t.dtype}[{','.join(_sizes(t))}]" for t in side)
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
        rows = [(p.name, p.edits, p.skips, f"{p.seconds:.2f}", _cost(p)) for p in report.passes]
        names = ("pass", "edits", "skips", "seconds", "cost")
        self._out.print()
        self._out.print(_table(names, rows, right=names[1:4]))
        for p in report.passes:
            self._pass_notes(p)

    def _pass_notes(self, p: PassReport) -> None:
        short = p.short_name
        self.say(*p.diagnostics)
        if self._verbose or p.log.diagnostics.of("warning"):
            self._layers(p)
        if self._explain:
            for entry in p.log.edits:
                self._out.print(f"  {short}: {escape(str(entry))}", soft_wrap=True)
            for entry in p.log.skips:
                self._out.print(f"  {short}: [yellow]{escape(str(entry))}[/yellow]", soft_wrap=True)
        elif p.skips:
            example = escape(p.log.skips[0].detail)
            text = f"skipped {p.skips}, e.g. {example} (--explain lists all)"
            self._out.print(f"  {short}: {text}", soft_wrap=True)

    def _layers(self, p: PassReport) -> None:
        if p.log.layers:
            names = list(dict.fromkeys(name for row in p.log.layers for name in row))
            rows = [[_figure(name, row.get(name)) for name in names] for row in p.log.layers]
            self._out.print(_table(names, rows, title=f"{p.name}, per layer"))

    def result(self, source: Path, report: QuantizeReport) -> None:
        """What the passes did, where the result is, how large, how close to float, what stayed."""
        self._passes(report.passes)
        self.say(*report.about_result)
        if self._quiet:
            return
        self._out.print()
        for label, text in _result_lines(source, report):
            styled = escape(text) if label != "written" else f"[bold]{escape(text)}[/bold]"
            self._out.print(f"  {label:<16} {styled}", soft_wrap=True)


def _result_lines(source: Path, report: QuantizeReport) -> Iterator[tuple[str, str]]:
    saved, low = report.saved, report.saved.lowering
    before = source.stat().st_size
    yield "written", str(saved.path)
    share = f"{100 * saved.size / before:.0f} %"
    yield "size", f"{byte_count(before)} -> {byte_count(saved.size)} ({share})"
    if low.counts:
        ops = ", ".join(f"{count} {what}" for what, count in low.counts.items())
        if low.float_ops:
            stayed = "; ".join(f"{kind} '{name}' ({why})" for name, kind, why in low.float_ops)
            ops += f", {len(low.float_ops)} float: {stayed}"
        yield "ops", ops
    if report.preprocess:
        yield "preprocess", report.preprocess
    if report.measured_on:
        figures = f"{report.fidelity}, " if report.fidelity is not None else ""
        yield "float vs result", figures + report.measured_on
    for key, fidelity in report.signatures.items():
        yield "", f"signature '{key}': {fidelity}"
    for note in low.diagnostics:
        yield "note", str(note)
    if saved.target is not None and not saved.unmapped:
        yield "target", f"all ops map to {saved.target}"
    for line in grouped(saved.unmapped):
        yield "not mapped", line


def pass_table(passes: Mapping[str, type[Pass]]) -> None:
    """Every pass: parameters with defaults, exactness, one line."""
    rows = [
        (
            name,
            ", ".join(map(_with_default, parameters(cls))) or "-",
            "yes" if cls.exact else "no",
            (inspect.getdoc(cls) or "").partition("\n")[0],
        )
        for name, cls in passes.items()
    ]
    open_console().print(_table(("pass", "parameters", "exact", "what"), rows))


def print_pass(cls: type[Pass]) -> None:
    """One pass in full."""
    console = open_console()
    console.print(f"[bold]{cls.name}[/bold]  ({'exact' if cls.exact else 'not exact'})")
    console.print(escape(inspect.getdoc(cls) or ""))
    for one in parameters(cls):
        default = "(required)" if one.default is MISSING else f"= {shown(one.default)}"
        console.print(escape(f"  {one.name}: {one} {default}"))


def _table(
    names: Sequence[str],
    rows: Iterable[Sequence[Any]],
    right: Sequence[str] = (),
    title: str | None = None,
) -> Table:
    """right: the columns of figures."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title)
    for name in names:
        table.add_column(name, overflow="fold", justify="right" if name in right else "left")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    return table


def _with_default(one: Parameter) -> str:
    """A parameter in the table of passes: with its choices, or with its default."""
    if one.choices:
        return f"{one.name}={'|'.join(map(shown, one.choices))}"
    return (
        f"{one.name} (required)" if one.default is MISSING else f"{one.name}={shown(one.default)}"
    )


def _cost(p: PassReport) -> str:
    if p.fidelity is not None:
        return str(p.fidelity)
    if p.exact or not p.edits:
        return "exact" if p.exact else "nothing changed"
    return "not measured"


def _figure(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key in _SHARES:
        return f"{100 * value:.3g} %"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _sizes(tensor: Tensor) -> list[str]:
    """The dimensions of a model's input or output; `?` where samples may have any size."""
    free = open_axes(tensor.dims)
    return ["?" if axis in free else str(n) for axis, n in enumerate(tensor.shape)]
