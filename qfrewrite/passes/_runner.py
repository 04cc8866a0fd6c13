"""Run passes in order: verify around each, measure what inexact ones cost, report the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, TypeAlias

from qfrewrite.calibration.range_table import RangeTable
from qfrewrite.calibration.statistics import has_statistics
from qfrewrite.errors import Diagnostic, UsageError, VerifyError
from qfrewrite.ir import Graph, Model
from qfrewrite.ops.check import verify_model
from qfrewrite.ops.shapes import has_open_sizes, settle_shapes, take_sizes
from qfrewrite.ops.subgraphs import entries
from qfrewrite.passes._registry import FORMS, Pass, make_passes
from qfrewrite.records import Record
from qfrewrite.rewrite.raising import raise_graph
from qfrewrite.rewrite.rewriter import Log
from qfrewrite.runtime.metrics import Fidelity, compare, graph_outputs
from qfrewrite.solve.context import PassContext, PassRewriter, sample_count
from qfrewrite.solve.dataset import Samples

VERIFY_LEVELS = ("off", "structure", "numeric")
# An exact rewrite differs from its source by float32 rounding only.
_EXACT_DB = 60.0


@dataclass
class PassReport(Record):
    """What one pass did."""

    name: str
    """The pass as text, with its parameters."""
    exact: bool
    """Whether it keeps the function, with these parameters."""
    log: Log = field(repr=False)
    """Edits, skips, diagnostics, and figures per layer."""
    seconds: float = 0.0
    """How long it took."""
    fidelity: Fidelity | None = None
    """How close outputs stayed; None where it was not measured, as without data."""
    measured_on: str | None = None
    """The samples that this was measured on."""
    ranges: dict[str | None, RangeTable] = field(default_factory=dict)
    """What calibration found, by the names of signatures; None for the main graph."""
    size: tuple[int, int] | None = None
    """[H, W] of the image input, where the pass changed it."""

    @property
    def short_name(self) -> str:
        """What the pass is called in lists."""
        return self.log.where

    @property
    def diagnostics(self) -> list[Diagnostic]:
        """What the pass has to say, warnings last."""
        return sorted(self.log.diagnostics, key=lambda one: one.severity == "warning")

    def __repr__(self) -> str:
        cost = f", {self.fidelity}" if self.fidelity is not None else ""
        return f"<PassReport {self.name}: {self.edits} edits, {self.skips} skips{cost}>"

    def figures(self) -> dict[str, Any]:
        """The fields; of the log its entries, and of the ranges the figures of each tensor."""
        ranges = {key or "": table.records() for key, table in self.ranges.items()}
        return super().figures() | self.log.figures() | {"ranges": ranges}

    @property
    def edits(self) -> int:
        """How many edits the pass made."""
        return len(self.log.edits)

    @property
    def skips(self) -> int:
        """How many places the pass left, each with a reason."""
        return len(self.log.skips)


@dataclass
class RunReport(Record):
    """The reports of all passes of a run, in order."""

    passes: list[PassReport] = field(default_factory=list)
    """One report for each pass, and for each step before it that took edits."""

    def __repr__(self) -> str:
        return f"<RunReport: {', '.join(f'{r.name} {r.edits} edits' for r in self.passes)}>"

    def __getitem__(self, name: str) -> PassReport:
        """The last report of the pass called `name`."""
        return next(r for r in reversed(self.passes) if r.short_name == name)

    @property
    def ranges(self) -> dict[str | None, RangeTable]:
        """The ranges found last, by the names of signatures; None for the main graph."""
        return {key: table for r in self.passes for key, table in r.ranges.items()}

    @property
    def size(self) -> tuple[int, int] | None:
        """The size [H, W] that passes gave the image input last."""
        return next((r.size for r in reversed(self.passes) if r.size is not None), None)

    @property
    def names(self) -> list[str]:
        """What was run, without parameters."""
        return [r.short_name for r in self.passes]


def run_passes(
    model: Model,
    passes: str | Sequence[Pass],
    context: PassContext | None = None,
    *,
    verify: str = "structure",
    after: Callable[[Pass, Model], Any] | None = None,
) -> RunReport:
    """Run `passes` on every subgraph of `model`, in place.

    What prepares the graphs for passes is reported as steps of its own (`raise`, `canonical`),
    where it takes edits. verify: `off`, `structure` (before the first and after every step) or
    `numeric` (also proves exact steps on the runtime). `after` is called after each pass. A pass
    that fails leaves the model and its graphs as they were before that pass.
    """
    if verify not in VERIFY_LEVELS:
        raise UsageError(f"no such verify level: '{verify}'", remedy=f"one of {VERIFY_LEVELS}")
    todo = make_passes(passes) if isinstance(passes, str) else list(passes)
    context = context or PassContext()
    run = _Run(model, replace(context, nested=run_nested), verify)
    _settle_shapes(model, context, todo)
    if verify != "off":
        verify_model(model)
    with run.kept_whole():
        run.reach("raise", raise_graph)
        run.stand_in()
    for one in todo:
        with _named(f"pass {one.name}"), run.kept_whole():
            if one.requires is not None:
                run.reach(one.requires, FORMS[one.requires])
            run.do(one)
        if after is not None:
            after(one, model)
    return run.report


def run_nested(
    passes: str, graph: Graph, context: PassContext, log: Log, main: bool, signature: str | None
) -> RangeTable | None:
    """Run passes for another pass, on its graph or on a copy to try them on; see `PassRewriter`.

    Gives the ranges they found last.
    """
    context, ranges = replace(context, nested=run_nested), None
    for one in make_passes(passes):
        if one.requires is not None:
            FORMS[one.requires](graph, log)
        rw = PassRewriter(graph, context, log, main=main, signature=signature)
        one.run(graph, rw)
        ranges = ranges if rw.ranges is None else rw.ranges
    return ranges


def _settle_shapes(model: Model, context: PassContext, todo: Sequence[Pass]) -> None:
    """Fill in the sizes that follow from those of the inputs: of the data, where they are open."""
    resized = bool(todo) and todo[0].sets_size
    # Of data that can be read once only, nothing is taken ahead.
    data = None if context.samples is None else context.samples.calibration
    known = data is not None and sample_count(data) is not None
    if data is not None and known and has_open_sizes(model.graph) and not resized:
        first = next(iter(data), {})
        take_sizes(model.graph, {name: value.shape for name, value in first.items()})
    for graph in model.graphs:
        settle_shapes(graph)


class _Run:
    """One run over a model: what is done to its graphs, step by step, and the report of it."""

    def __init__(self, model: Model, context: PassContext, verify: str) -> None:
        self.model, self.context, self.verify = model, context, verify
        self.report = RunReport()
        # What the graphs held when they were copied last, and the copies.
        self._copied: tuple[list[Any], list[Graph]] = ([], [])

    def copies(self) -> list[Graph]:
        """Copies of all graphs as they are now; of one state only one is made."""
        state = [graph.snapshot() for graph in self.model.graphs]
        if self._copied[0] != state:
            twins = {graph: graph.clone()[0] for graph in self.model.graphs}
            for graph, twin in twins.items():
                twin.bodies = tuple(twins[body] for body in graph.bodies)
            self._copied = state, list(twins.values())
        return self._copied[1]

    @contextmanager
    def kept_whole(self) -> Iterator[None]:
        """Where what is done inside fails, leave the model as it was before it."""
        model, copies = self.model, self.copies()
        signatures, edited = list(model.signatures), model.edited
        try:
            yield
        except BaseException:
            # The graphs stay the objects that others hold, also as bodies of the main graph.
            for graph, copy in zip(model.graphs, copies, strict=True):
                copy.bodies = graph.bodies
                graph.become(copy)
            model.signatures = signatures
            if not edited:
                model.mark_loaded()
            raise

    def reach(self, form: str, reached_by: Callable[[Graph, Log], Any]) -> None:
        """Bring every graph into a form; a step of its own in the report where that takes edits."""
        with _named(f"step {form}"), self._step(form) as report:
            for graph in self.model.graphs:
                reached_by(graph, report.log)
            # Kernels with quantized weights round what they multiply by them.
            report.exact = all(e.action != "dequantized" for e in report.log.edits)
        if report.edits:
            self.report.passes.append(report)

    def do(self, one: Pass) -> None:
        """Run a pass on every graph."""
        context, model = self.context, self.model
        with self._step(one.name, one) as report:
            outputs = [len(graph.outputs) for graph in model.graphs]
            run_alone = entries(model)
            for graph in model.graphs:
                main = graph is model.graph
                key = model.signature_of(graph) if graph in run_alone and not main else None
                # Samples are inputs of what is run by itself: loops and branches see none.
                own = context if main else replace(context, samples=None)
                own = own if key is None else context.of_signature(key)
                rw = PassRewriter(graph, own, report.log, main=main, signature=key)
                one.run(graph, rw)
                if rw.ranges is not None:
                    report.ranges[key] = rw.ranges
                if rw.size is not None:
                    report.size, self.context = rw.size, rw.context
            # Names of outputs that are no more; the writer makes a signature of those there are.
            stale = {i for i, g in enumerate(model.graphs) if outputs[i] != len(g.outputs)}
            model.signatures = [one for one in model.signatures if one.subgraph not in stale]
        self.report.passes.append(report)

    def stand_in(self) -> None:
        """Decide on procedural images, where there are neither data nor statistics."""
        context, graph = self.context, self.model.graph
        if context.samples is None and not has_statistics(graph):
            self.context = replace(context, samples=context.imagine(graph))

    @contextmanager
    def _step(self, name: str, one: Pass | None = None) -> Iterator[PassReport]:
        """Time, verify and measure what is done to the graphs inside: by a pass, or before it."""
        exact = one is None or one.keeps_function
        measured = one is None or one.measured
        start, graph = time.perf_counter(), self.model.graph
        copies = self.copies()
        report = PassReport(str(one or name), exact, Log(where=name))
        yield report
        if self.verify != "off":
            verify_model(self.model)
            if one is None or one.keeps_interface:
                for old, now in zip(copies, self.model.graphs, strict=True):
                    _check_interface(now, old.interface)
            wanted = self.verify == "numeric" or (measured and not report.exact)
            shapes = [[shape for _, shape, _ in one.interface] for one in (copies[0], graph)]
            if report.edits and wanted and shapes[0] == shapes[1]:
                self._measure(report, copies[0])
        report.seconds = time.perf_counter() - start

    def _measure(self, report: PassReport, before: Graph) -> None:
        """Compare the outputs of `before` with those now.

        Without data an exact step can be proven on synthetic inputs, but what an inexact one costs
        on those says nothing about real ones: it is not measured.
        """
        context, after = self.context, self.model.graph
        made_up = context.samples is None or context.imagined
        if made_up and not report.exact:
            return
        if not report.exact:
            fidelity = compare(context.outputs(before), context.outputs(after))
        else:
            # Not as they would be written: that folds and merges what is to be proven.
            samples = _synthetic(before, context.seed) if made_up else context.judged_on
            old, new = (
                graph_outputs(graph, samples, threads=context.threads, as_it_is=True)
                for graph in (before, after)
            )
            fidelity = compare(old, new)
        if not made_up:
            report.fidelity, report.measured_on = fidelity, context.judged_on.description
        if report.exact and fidelity.sqnr_db < _EXACT_DB:
            raise VerifyError(
                f"is declared exact and changed the outputs: SQNR {fidelity.sqnr_db:.1f} dB, "
                f"needs {_EXACT_DB:.0f}",
                remedy="this is a defect of the pass; please report it",
            )


@contextmanager
def _named(what: str) -> Iterator[None]:
    """A VerifyError says what broke the graph."""
    try:
        yield
    except VerifyError as error:
        raise error.at(what) from error


_Interface: TypeAlias = Sequence[tuple[str, tuple[int, ...], str]]


def _check_interface(graph: Graph, before: _Interface) -> None:
    """Raise VerifyError where an input or output is not what it was."""
    for ends in zip_longest(graph.interface, before):
        if ends[0] != ends[1]:
            now, was = ("none" if t is None else f"'{t[0]}' {t[2]}{list(t[1])}" for t in ends)
            what = f"changes the interface of graph '{graph.name}': {now}, was {was}"
            remedy = "declare changes_interface if that is what the pass is for"
            raise VerifyError(what, remedy=remedy)


def _synthetic(graph: Graph, seed: int) -> Samples:
    from qfrewrite.data.source import synthetic
    from qfrewrite.runtime.session import input_specs

    return synthetic(input_specs(graph), samples=8, seed=seed)
