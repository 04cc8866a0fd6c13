"""`calibrate`: measure activations, choose ranges, insert FAKE_QUANT."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from qfrewrite.calibration.histogram import BIN_LIMITS, DEFAULT_BINS
from qfrewrite.calibration.observers import Detail
from qfrewrite.calibration.range_table import RangeTable
from qfrewrite.calibration.search import Method, MethodChoice
from qfrewrite.errors import DataError
from qfrewrite.ir import Graph, Quant, Tensor
from qfrewrite.ir.quant import ACTIVATION_CODES
from qfrewrite.lower.canonical import fuses_into
from qfrewrite.lower.fake_quant_ranges import Range
from qfrewrite.lower.groups import find_groups
from qfrewrite.passes._registry import Pass, register
from qfrewrite.rewrite.match import LINEAR, NoMatch
from qfrewrite.solve.context import PassRewriter
from qfrewrite.solve.guess import guess_ranges, taken_sizes
from qfrewrite.solve.measure import measure, row_names
from qfrewrite.solve.parameters import Reads, Within


def _overrides(text: str) -> MethodChoice:
    return MethodChoice.parse("minmax", text)


@register
@dataclass(frozen=True)
class Calibrate(Pass):
    """Insert FAKE_QUANT with a range behind every float activation.

    Given:  y = f(x)        Result:  y' = FAKE_QUANT(y), read by all that read y
    Ranges are chosen by `method` from what is observed over the data: `minmax`, `greedy` (the
    papers' search over step size and offset), `mse`, `percentile(99.99)`, `entropy` or
    `ema(0.95)`; `per_layer` names others for tensors by pattern: `*/Logits*:minmax;conv1*:mse`.
    samples: at most so many of the data's; bins: of the histograms. ranges: a file to take the
    ranges from instead (with `method`: the statistics). Without data they follow from BatchNorm
    statistics where the graph has them, else from synthetic inputs. They hold zero exactly, are
    shared where int8 kernels need one scale, and are the prescribed ones behind SOFTMAX,
    LOGISTIC, TANH and the like. Ranges the model brings (FAKE_QUANT) stay. With `bias` the mean
    of every linear layer's input is noted too: the int8 writer corrects biases by it for the
    mean error of rounding the weights (Nagel et al. 2019, arXiv:1906.04721, section 4.2).
    """

    requires = "canonical"
    # What quantization costs is measured on the int8 model itself.
    measured = False
    gives_ranges = True

    method: Annotated[str, Reads(Method.parse, "greedy, percentile(99.99), ...")] | None = None
    samples: Annotated[int, Within(1)] | None = None
    per_layer: Annotated[str, Reads(_overrides, "PATTERN:METHOD;...")] = ""
    ranges: str | None = None
    bins: Annotated[int, Within(*BIN_LIMITS)] = DEFAULT_BINS
    bias: bool = True

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """Housekeeping first: ranges belong to the tensors that will be written."""
        tensors = observable(graph)
        if not rw.entry:
            if tensors:
                text = f"subgraph '{graph.name}' stays float: it is run by another graph"
                rw.note("subgraph", text)
            return
        if not tensors:
            rw.note("nothing-to-do", "no float activations to calibrate")
            return
        brought = sum(not op.operand(0).is_const for op in graph.ops_of("FAKE_QUANT"))
        if brought:
            names = ", ".join([f"'{t.name}'" for t in tensors[:3]] + ["..."] * (len(tensors) > 3))
            text = f"{brought} ranges are the model's own; {len(tensors)} found: {names}"
            rw.note("own-ranges", text)
        table = rw.ranges = self._table(rw, tensors)
        for one in table.diagnostics:
            rw.say(one)
        rows = dict(zip(tensors, map(table.rows.get, row_names(tensors)), strict=True))
        for tensor, row in rows.items() if self.bias else ():
            if row is not None and row.channel_mean is not None and _feeds_linear(tensor):
                mean = tensor.channels.spread(row.channel_mean)
                # A file may have been made by hand.
                if (mean.size,) == tensor.shape[-1:]:
                    graph.set_channels(tensor, replace(tensor.channels, mean=mean))
        _insert(rw, tensors, {t: r.range for t, r in rows.items() if r is not None and r.has_range})

    def _table(self, rw: PassRewriter, tensors: list[Tensor]) -> RangeTable:
        choice = MethodChoice.parse(self.method or "minmax", self.per_layer)
        if self.ranges is not None:
            return self._replayed(rw, tensors, RangeTable.load(self.ranges), choice)
        table = self._found(rw, tensors, choice)
        if rw.samples is None:
            return table
        how = "" if self.method in (None, "minmax") else f", chosen by {self.method}"
        if rw.context.imagined:
            rw.notice(
                "no-data",
                f"no data: ranges from {table.data}{how}{taken_sizes(rw.graph)}",
                remedy="give --data for ranges that fit your inputs",
            )
        else:
            rw.note("ranges", f"ranges from {table.data}{how}")
        return table

    def _replayed(
        self, rw: PassRewriter, tensors: list[Tensor], table: RangeTable, choice: MethodChoice
    ) -> RangeTable:
        """The ranges of a file; tensors it does not name are measured or guessed."""
        assert self.ranges is not None
        if rw.signature is not None:
            table = table.of_signature(rw.signature)
        missing = [t for t, n in zip(tensors, row_names(tensors), strict=True) if n not in table]
        if len(missing) == len(tensors):
            what = f"names none of the {len(tensors)} tensors, e.g. '{tensors[0].name}'"
            remedy = "give the ranges of this model after the same passes"
            raise DataError(what, where=self.ranges, remedy=remedy)
        if self.method is not None or self.per_layer:
            table = table.choose(choice)
        rw.note("ranges", f"ranges from {self.ranges}" + (f" ({table.data})" if table.data else ""))
        if missing:
            rw.warn(
                "ranges-missing",
                f"{len(missing)} tensors are not in {self.ranges}, e.g. '{missing[0].name}': "
                "their ranges are found anew",
            )
            rest = self._found(rw, missing, choice)
            table = replace(table, rows={**table.rows, **rest.rows})
        return table

    def _found(self, rw: PassRewriter, tensors: list[Tensor], choice: MethodChoice) -> RangeTable:
        """Ranges from the data, or guessed without."""
        details = {}
        for tensor, name in zip(tensors, row_names(tensors), strict=True):
            full = rw.context.full_statistics or choice.of(name).needs_histogram
            mean = full or (self.bias and _feeds_linear(tensor))
            details[tensor] = Detail(mean, full, self.bins)
        if rw.samples is None:
            return guess_ranges(rw, tensors, choice, details)
        return measure(rw.graph, details, rw.context, choice, samples=self.samples)


def observable(graph: Graph) -> list[Tensor]:
    """Float tensors that an int8 model holds: all but those fused away, and without a range."""
    computed = (out for op in graph.ops for out in op.outputs)
    return [t for t in (*graph.inputs, *computed) if _is_held(t)]


def _is_held(tensor: Tensor) -> bool:
    if tensor.dtype != "float32" or tensor.is_const or not tensor.size:
        return False
    users, producer = [user.op for user in tensor.users], tensor.producer
    if producer is None and not users:  # an input that nothing computes with
        return False
    if any(op.kind == "FAKE_QUANT" for op in (producer, *users) if op is not None):
        return False
    sources = () if producer is None else producer.inputs
    known = bool(sources) and all(t is None or t.is_const for t in sources)
    return not known and all(isinstance(fuses_into(op), NoMatch) for op in users)


def _feeds_linear(tensor: Tensor) -> bool:
    return bool(tensor.shape) and any(r.op.kind in LINEAR for r in tensor.users)


def insert_range(rw: PassRewriter, tensor: Tensor, quant: Quant, dtype: str) -> None:
    """Put a FAKE_QUANT behind `tensor` with the range that codes of `dtype` hold at this scale."""
    lowest, highest = ACTIVATION_CODES[dtype]
    scale, zero = float(quant.scale[0]), int(quant.zero_point[0])
    low, high = (lowest - zero) * scale, (highest - zero) * scale
    bits = 16 if dtype == "int16" else 8
    attrs, detail = {"min": low, "max": high, "num_bits": bits}, f"range {low:.4g}..{high:.4g}"
    rw.insert_after(tensor, "FAKE_QUANT", attrs, suffix="fake_quant", detail=detail)


def _insert(rw: PassRewriter, tensors: list[Tensor], ranges: dict[Tensor, Range]) -> None:
    groups = find_groups(rw.graph, ranges)
    for tensor in tensors:
        quant, producer = groups.quant(tensor, "int8"), tensor.producer
        if quant is not None:
            insert_range(rw, tensor, quant, "int8")
        elif producer is not None:
            rw.skip(producer, f"nothing was observed at '{tensor.name}'")
    for one in groups.diagnostics:
        rw.say(one)
