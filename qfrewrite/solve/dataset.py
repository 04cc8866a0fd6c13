"""The samples that a run of passes sees, opened for the inputs of a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from qfrewrite.data.cache import CachedSamples, FirstSamples, one_pass
from qfrewrite.data.preprocess import Preprocess
from qfrewrite.data.source import DataSource, open_data
from qfrewrite.errors import DataError, Diagnostic
from qfrewrite.ir import Array, Graph, Model
from qfrewrite.ops.subgraphs import keeps_state
from qfrewrite.runtime.metrics import Outputs, graph_outputs
from qfrewrite.runtime.session import input_specs

# How many samples beyond the calibration samples outputs are compared on.
HELD_OUT = 50


class Samples(Protocol):
    """Model inputs, one sample at a time, as often as asked."""

    @property
    def description(self) -> str:
        """What these are, for people: `200 images of calib/`."""

    def __iter__(self) -> Iterator[dict[str, Array]]: ...


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples for the inputs of one graph."""

    calibration: Samples
    """What statistics are taken of."""
    measuring: Samples | None = None
    """What outputs are compared on. None: the calibration samples."""
    held_out: bool = False
    """Whether the measuring samples were kept from calibration."""
    imagined: bool = False
    """Whether these are procedural images that stand in for data."""
    source: DataSource | None = None
    """What the samples were dealt from."""
    reopen: Callable[[Graph], Dataset | None] | None = None
    """Opens the same data for a graph whose inputs have other shapes."""
    _opened: dict[tuple[tuple[int, ...], ...], Dataset | None] = field(default_factory=dict)
    _outputs: dict[object, Outputs] = field(default_factory=dict)

    @property
    def judged_on(self) -> Samples:
        """The measuring samples; those of calibration where there are no others."""
        return self.measuring if self.measuring is not None else self.calibration

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """What is odd about the calibration samples; complete after the first whole pass."""
        return tuple(getattr(self.calibration, "diagnostics", ()))

    def for_graph(self, graph: Graph) -> Dataset | None:
        """The same data at the shapes that the inputs of `graph` have now; opened once for each.

        None where no images can be imagined for them. Raises DataError for samples that were made
        for other shapes.
        """
        shapes = tuple(t.shape for t in graph.inputs)
        if shapes not in self._opened:
            if self.reopen is None:
                what = "the data were made for another input size"
                remedy = "resize first, then open the data"
                raise DataError(what, where="resize_input", remedy=remedy)
            new = self.reopen(graph)
            self._opened[shapes] = new and replace(new, _opened=self._opened)
        return self._opened[shapes]

    def apart(self) -> Dataset:
        """The same samples for a trial, which keeps no outputs for this run."""
        return replace(self, _outputs={})

    def outputs(self, graph: Graph, *, threads: int | None) -> Outputs:
        """The float outputs of `graph` on the measuring samples; each state is run once."""
        key = graph.snapshot()
        if key not in self._outputs:
            self._outputs[key] = graph_outputs(graph, self.judged_on, threads=threads)
        return self._outputs[key]


def open_datasets(
    model: Model,
    data: Any,
    *,
    preprocess: Preprocess,
    samples: int = 200,
    seed: int = 0,
    once: bool = False,
    held_out: int = HELD_OUT,
) -> tuple[Dataset | None, dict[str, Dataset]]:
    """The data of the main graph, and those of other entry points by the names of signatures.

    data: of the main graph; of a model with several signatures also a dict of their data by the
    signatures' names. held_out: how many samples to keep from calibration, for measuring. once:
    whether the data are read in one pass only; then nothing is held out, and what comes from an
    iterable is not kept in memory.
    """

    def opened(graph: Graph, own: Any, subgraph: int = 0) -> Dataset:
        aliases = {
            graph.inputs[place].name: name
            for s in model.signatures
            if s.subgraph == subgraph
            for name, place in s.inputs
        }
        inputs = [replace(spec, alias=aliases.get(spec.name)) for spec in input_specs(graph)]
        source = open_data(own, inputs, preprocess=preprocess, seed=seed)
        in_order = keeps_state(graph)
        if once:
            return Dataset(one_pass(source, samples, in_order=in_order))
        calibration, others = source.split(samples, held_out, in_order=in_order)
        kept, any_left = CachedSamples(calibration), len(others) > 0
        measuring = CachedSamples(others) if any_left else FirstSamples(kept, held_out)
        return Dataset(kept, measuring, any_left, source=source)

    if data is None:
        return None, {}
    main, others = _by_signature(model, data)
    first = None
    if main is not None:

        def reopen(graph: Graph) -> Dataset:
            return replace(opened(graph, main), reopen=reopen)

        first = reopen(model.graph)
    return first, {
        key: opened(graph, own, model.graphs.index(graph)) for key, (graph, own) in others.items()
    }


def _by_signature(model: Model, data: Any) -> tuple[Any, dict[str, tuple[Graph, Any]]]:
    """The main graph's data, and graph and data of other signatures by the signature's name.

    A mapping whose keys are all names of signatures has data for each; else it is the main
    graph's.
    """
    graphs = {s.key: model.graphs[s.subgraph] for s in model.signatures}
    inputs = {t.name for t in model.graph.inputs} | {
        n for s in model.signatures for n, _ in s.inputs
    }
    named = isinstance(data, Mapping) and bool(data) and set(data) <= set(graphs) - inputs
    if not named:
        return data, {}
    main, others = None, {}
    for key, own in data.items():
        if graphs[key] is model.graph:
            main = own
        else:
            others[model.signature_of(graphs[key]) or key] = graphs[key], own
    return main, others
