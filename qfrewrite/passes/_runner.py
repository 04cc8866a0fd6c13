"""Run passes in order: verify around each, measure what inexact ones cost, report the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qfrewrite.errors import UsageError, VerifyError
from qfrewrite.ir import Graph, Model
from qfrewrite.ops.check import verify_model
from qfrewrite.ops.shapes import has_open_sizes, settle_shapes, take_sizes
from qfrewrite.passes._base import Pass, make_passes
from qfrewrite.passes._context import PassContext, PassRewriter, Samples, sample_count
from qfrewrite.rewrite.raising import raise_graph
from qfrewrite.rewrite.rewriter import Log
from qfrewrite.runtime.metrics import Fidelity, compare

VERIFY_LEVELS = ("off", "structure", "numeric")
# An exact rewrite differs from its source by float32 rounding only.
_EXACT_DB = 60.0


@dataclass
class PassReport:
    """What one pass did: its log, how long it took, and what it cost.

    fidelity: how close outputs stayed, on the samples that measured_on names; None where it was
    not measured, as without data.
    """

    name: str
    exact: bool
    log: Log
    seconds: float = 0.0
    fidelity: Fidelity | None = None
    measured_on: str | None = None

    @property
    def edits(self) -> int:
        """How many edits the pass made."""
        return len(self.log.edits)

    @property
    def skips(self) -> int:
        """How many places the pass left, each with a reason."""
        return len(self.log.skips)


@dataclass
class RunReport:
    """The reports of all passes of a run, in order."""

    passes: list[PassReport] = field(default_factory=list)

    def __getitem__(self, name: str) -> PassReport:
        """The last report of the pass called `name`."""
        return next(r for r in reversed(self.passes) if r.name.partition("(")[0] == name)

    @property
    def names(self) -> list[str]:
        """What was run, without parameters."""
        return [r.name.partition("(")[0] for r in self.passes]


def run_passes(
    model: Model,
    passes: str | Sequence[Pass],
    context: PassContext | None = None,
    *,
    verify: str = "structure",
    after: Callable[[Pass, Model], Any] | None = None,
) -> RunReport:
    """Run `passes` on every subgraph of `model`, in place.

    verify: `off`, `structure` (before the first and after every pass) or `numeric` (also proves
    exact passes on the runtime). `after` is called after each pass. A pass that fails leaves the
    model as it was before that pass.
    """
    if verify not in VERIFY_LEVELS:
        raise UsageError(f"no such verify level: '{verify}'", remedy=f"one of {VERIFY_LEVELS}")
    todo = make_passes(passes) if isinstance(passes, str) else list(passes)
    context = context or PassContext()
    _settle_shapes(model, context, todo)
    if verify != "off":
        verify_model(model)
    for graph in model.graphs:
        raise_graph(graph)
    report = RunReport()
    for one in todo:
        report.passes.append(_run_one(model, one, context, verify))
        if after is not None:
            after(one, model)
    return report


def _settle_shapes(model: Model, context: PassContext, todo: Sequence[Pass]) -> None:
    """Fill in the sizes that follow from those of the inputs: of the data, where they are open."""
    resized = bool(todo) and todo[0].sets_size
    # Of data that can be read once only, nothing is taken ahead.
    known = context.data is not None and sample_count(context.data) is not None
    if context.data is not None and known and has_open_sizes(model.graph) and not resized:
        first = next(iter(context.data), {})
        take_sizes(model.graph, {name: value.shape for name, value in first.items()})
    for graph in model.graphs:
        settle_shapes(graph)


def _run_one(model: Model, one: Pass, context: PassContext, verify: str) -> PassReport:
    start = time.perf_counter()
    before = [g.clone()[0] for g in model.graphs]
    state = (model.graph, model.graph.version)
    report = PassReport(str(one), one.keeps_function, Log())
    try:
        for graph in model.graphs:
            main = graph is model.graph
            # Samples are inputs of the main graph: subgraphs see none.
            own = context if main else replace(context, data=None, measuring=None)
            one.run(graph, PassRewriter(graph, own, report.log, main=main))
        _drop_stale_signatures(model, before)
        if verify != "off":
            verify_model(model)
        if report.edits:
            _measure(report, one, (before[0], state), model.graph, context, verify)
    except BaseException as error:
        model.graphs[:] = before
        if isinstance(error, VerifyError):
            raise error.at(f"pass {one.name}") from error
        raise
    report.seconds = time.perf_counter() - start
    return report


def _drop_stale_signatures(model: Model, before: Sequence[Graph]) -> None:
    """Names of outputs that are no more; the writer makes a signature of those there are."""
    changed = {i for i, (old, new) in enumerate(zip(before, model.graphs, strict=True))
               if len(old.outputs) != len(new.outputs)}  # fmt: skip
    model.signatures = [s for s in model.signatures if s.subgraph not in changed]


def _measure(
    report: PassReport,
    one: Pass,
    before: tuple[Graph, tuple[Graph, int]],
    after: Graph,
    context: PassContext,
    verify: str,
) -> None:
    """Compare outputs before and after, where the pass or the user asks for it.

    Without data an exact pass can be proven on synthetic inputs, but what an inexact one costs on
    those says nothing about real ones: it is not measured.

    before: a copy of the graph, and the graph and version it is a copy of.
    """
    proof = verify == "numeric" and one.keeps_function
    made_up = context.measuring is None and context.data is None
    wanted = verify == "numeric" or (not one.keeps_function and one.measured)
    same = all(
        [t.shape for t in old] == [t.shape for t in new]
        for old, new in ((before[0].inputs, after.inputs), (before[0].outputs, after.outputs))
    )
    if not wanted or verify == "off" or not same or (made_up and not proof):
        return
    if made_up:
        context = replace(context, data=_synthetic(before[0], context.seed))
    fidelity = compare(context.outputs(before[0], of=before[1]), context.outputs(after))
    if not made_up:
        report.fidelity, report.measured_on = fidelity, context.judged_on.description
    if one.keeps_function and fidelity.sqnr_db < _EXACT_DB:
        raise VerifyError(
            f"is declared exact and changed the outputs: SQNR {fidelity.sqnr_db:.1f} dB, "
            f"needs {_EXACT_DB:.0f}",
            remedy="this is a defect of the pass; please report it",
        )


def _synthetic(graph: Graph, seed: int) -> Samples:
    from qfrewrite.calibration.data import synthetic
    from qfrewrite.runtime.session import input_specs

    return synthetic(input_specs(graph), samples=8, seed=seed)
