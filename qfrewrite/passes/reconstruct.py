"""`reconstruct`: fit and round every layer to inputs from the layers quantized before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

from qfrewrite.calibration.observers import Detail
from qfrewrite.ir import Graph, Tensor, TrainedRange
from qfrewrite.lower.fake_quant_ranges import Range
from qfrewrite.lower.groups import Groups, find_groups
from qfrewrite.lower.substitute import substitute
from qfrewrite.ops.subgraphs import keeps_state
from qfrewrite.passes._registry import Pass, register
from qfrewrite.passes.calibrate import insert_range, observable
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.runtime.metrics import Fidelity
from qfrewrite.runtime.units import units
from qfrewrite.solve.context import PassContext, PassRewriter
from qfrewrite.solve.measure import headroom, measure, row_names
from qfrewrite.solve.parameters import Within
from qfrewrite.solve.sensitivity import fidelity_of
from qfrewrite.solve.sequential import FittedLayer, Sequential, Settings, Solution

# Levels of weights on each side of 0.
_LEVELS = {4: 7, 8: 127}
# A result that is worse than plain calibration by more than this is not taken.
_MOST_LOSS_DB = 0.2


@register
@dataclass(frozen=True)
class Reconstruct(Pass):
    """Refit and round weights layer by layer, and choose ranges with the layers before quantized.

    Given:  y = f(x; w, b)
    Result: y' = FAKE_QUANT(f(x'; w', b')), w' on its integer grid, x' from the quantized layers
    In order, every linear layer is refitted to reproduce the float network's outputs from the
    inputs that it will really get (ridge regression; its strength is chosen on samples no layer is
    fitted on), its weights are rounded against the inputs' second moments (rounding: `gptq`,
    `descent`, `nearest`), and its bias takes up what is left of the mean. samples: at most so many.
    refit=false keeps the weights and rounds them only; auto tries that too where a refit does not
    beat plain calibration. scale=search also tries narrower ranges of weights. weights: `per-
    channel` or `per-tensor`; auto: as the result will be written. bits=4 leaves weights 15 levels,
    which lie on the grid of 8 bits. What comes out is compared with plain calibration and dropped
    where that is better. Needs data without labels. (Frantar et al. 2022, arXiv:2210.17323; Nagel
    et al. 2020, arXiv:2004.10568.)
    """

    requires = "canonical"
    measured = False
    gives_ranges = True

    refit: Literal["auto", "true", "false"] = "auto"
    rounding: Literal["gptq", "descent", "nearest"] = "gptq"
    samples: Annotated[int, Within(8)] = 500
    scale: Literal["minmax", "search"] = "minmax"
    weights: Literal["auto", "per-channel", "per-tensor"] = "auto"
    bits: Literal[4, 8] = 8

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """Solve on the side, compare with plain calibration, take the better one."""
        # Only the main graph is fitted.
        solution = self._solution(graph, rw) if rw.main else None
        if solution is None:
            rw.run_nested("calibrate")
            return
        _apply(rw, solution)
        for op, layer in solution.layers.items():
            rw.layer(op, **layer.figures)

    def _solution(self, graph: Graph, rw: PassRewriter) -> Solution | None:
        """What comes closest to float; None where that is plain calibration."""
        if rw.samples is None:
            # Where BatchNorm statistics are known, ranges from them are better than fits to images.
            rw.warn("no-data", "no data: nothing can be fitted; ranges come from calibrate")
            return None
        if keeps_state(graph):
            rw.warn(
                "keeps-state",
                "an inference depends on those before it, so layers cannot be fitted one by one; "
                "ranges come from calibrate",
            )
            return None
        if rw.context.imagined:
            images = rw.samples.calibration.description
            rw.warn("no-data", f"no data: layers are fitted to {images}")
        inner = rw.context.quant.kind.activations
        if inner is not None:
            # Both paths must compute what will be written.
            substitute(rw, rw.context.quant, lambda op: inner)
        tensors = observable(graph)
        if tensors:
            return self._best(graph, rw, tensors)
        rw.note("nothing-to-do", "no float activations to fit")
        return Solution({}, {})

    def _best(self, graph: Graph, rw: PassRewriter, tensors: list[Tensor]) -> Solution | None:
        """The best of several ways; None where plain calibration is better.

        Small networks may be better off without a refit, or with codes rounded one by one: those
        are tried where the first way does not beat plain calibration.
        """
        plain = _fidelity(graph, rw, lambda g, r: r.run_nested("calibrate", g, r.context))
        rw.note("tried", f"plain calibration: {plain}")
        groups = find_groups(graph, self._float_ranges(graph, rw, tensors))
        best: tuple[Solution, Fidelity] | None = None
        ways: tuple[Reconstruct, ...] = (self,)
        if self.refit == "auto":
            rounded = replace(self, refit="false")
            ways = (self, rounded, replace(rounded, rounding="nearest"))
        for way in dict.fromkeys(ways):
            solution = way._solved(graph, rw, groups)
            found = _fidelity(graph, rw, partial(_apply_moved, graph, solution))
            rw.note("tried", f"{way}: {found}")
            if best is None or found.sqnr_db > best[1].sqnr_db:
                best = solution, found
            if found.sqnr_db > plain.sqnr_db:
                break
        assert best is not None
        if self.bits == 8 and best[1].sqnr_db < plain.sqnr_db - _MOST_LOSS_DB:
            rw.warn(
                "plain-is-better",
                "plain calibration comes closer to float: weights stay as they were",
            )
            return None
        return best[0]

    def per_channel(self, context: PassContext) -> bool:
        """Whether weights get a scale per output channel."""
        auto = self.weights == "auto"
        return context.quant.per_channel if auto else self.weights == "per-channel"

    def _float_ranges(
        self, graph: Graph, rw: PassRewriter, tensors: list[Tensor]
    ) -> dict[Tensor, Range]:
        """What the float network spans, for tensors that share a scale with others."""
        details = {t: Detail() for t in tensors}
        label, most = "measuring float ranges", self.samples
        table = measure(graph, details, rw.context, samples=most, label=label)
        rw.ranges = table
        rows = zip(tensors, map(table.rows.__getitem__, row_names(tensors)), strict=True)
        return {tensor: row.range for tensor, row in rows if row.has_range}

    def _solved(self, graph: Graph, rw: PassRewriter, groups: Groups) -> Solution:
        context = rw.context
        per_channel = self.per_channel(context)
        dtype = context.quant.kind.activations or "int8"
        settings = Settings(
            lambda op: per_channel and context.quant.per_channel_for(op),
            self.refit != "false",
            self.rounding,
            self.scale == "search",
            dtype,
            context.seed,
            context.threads,
            _LEVELS[self.bits],
            partial(headroom, graph) if context.imagined else None,
        )
        assert rw.samples is not None
        solver = Sequential(graph, groups, rw.samples.calibration, self.samples, settings)
        solution = solver.solve(context.progress("fitting layers", len(list(units(graph)))))
        rw.note("fitted", f"{len(solution.layers)} layers fitted to {solver.count} samples")
        return solution


def _fidelity(
    graph: Graph, rw: PassRewriter, edit: Callable[[Graph, PassRewriter], object]
) -> Fidelity:
    """How close a copy of `graph` comes to float once `edit` is done and it is quantized."""
    copy, context = graph.clone()[0], rw.context
    edit(copy, PassRewriter(copy, context.aside()))
    reference = context.outputs(graph)
    return fidelity_of(copy, reference, context.judged_on, context.quant, context.threads)


def _apply_moved(graph: Graph, solution: Solution, copy: Graph, rw: PassRewriter) -> None:
    """Apply to a clone of `graph` what was found for `graph`."""
    ops = dict(zip(graph.ops, copy.ops, strict=True))
    tensors = dict(zip(graph.tensors, copy.tensors, strict=True))
    layers = {ops[op]: layer for op, layer in solution.layers.items()}
    _apply(rw, Solution(layers, {tensors[t]: quant for t, quant in solution.quants.items()}))


def _apply(rw: PassRewriter, solution: Solution) -> None:
    """Put fitted weights and chosen ranges into `graph`."""
    for op, layer in solution.layers.items():
        view = LinearView.of(op)
        if isinstance(view, LinearView):
            _put_layer(rw, view, layer)
    for tensor, quant in solution.quants.items():
        if tensor.producer is not None or tensor.is_input:
            insert_range(rw, tensor, quant, rw.context.quant.kind.activations or "int8")


def _put_layer(rw: PassRewriter, view: LinearView, layer: FittedLayer) -> None:
    axis = view.ports.axis if layer.bounds.size > 1 else None
    name = f"{view.op.name}/weights_fake_quant"
    trained = TrainedRange(-layer.bounds, layer.bounds, axis, narrow_range=True, name=name)
    rw.set_linear(replace(view.with_weights(layer.weights, layer.bias), trained=trained))
    rw.edit("fitted", view.op, f"weights on {layer.bounds.size} grids of their own, and the bias")
