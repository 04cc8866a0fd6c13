"""The data that a run of passes sees, opened for the inputs of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qfrewrite.data.cache import CachedSamples, FirstSamples, one_pass
from qfrewrite.data.preprocess import chosen_preprocess
from qfrewrite.data.source import open_data
from qfrewrite.ir import Graph, Model
from qfrewrite.ops.subgraphs import keeps_state
from qfrewrite.runtime.session import input_specs
from qfrewrite.solve.context import PassContext

# How many samples beyond the calibration samples outputs are compared on.
HELD_BACK = 50


def open_context(
    model: Model,
    data: Any,
    *,
    samples: int = 200,
    preprocess: Any = None,
    seed: int = 0,
    threads: int | None = None,
    once: bool = False,
    held_back: int = HELD_BACK,
) -> PassContext:
    """The data and settings that passes see; `data` may be a PassContext already.

    data: of the main graph; of a model with several signatures also a dict of their data by the
    signatures' names. A signature without data is calibrated on synthetic inputs. preprocess: of
    images; by default what the model's metadata say, else `mobilenet`. held_back: how many samples
    to keep from calibration, for measuring. once: whether the data are read in one pass only; then
    nothing is held back, and what comes from an iterable is not kept in memory.
    """
    if isinstance(data, PassContext):
        return data
    how = chosen_preprocess(model, preprocess)
    if data is None:
        return PassContext(threads=threads, seed=seed, preprocess=how)

    def opened(graph: Graph, own: Any, subgraph: int = 0) -> PassContext:
        aliases = {
            graph.inputs[place].name: name
            for s in model.signatures if s.subgraph == subgraph for name, place in s.inputs
        }  # fmt: skip
        inputs = [replace(spec, alias=aliases.get(spec.name)) for spec in input_specs(graph)]
        source = open_data(own, inputs, preprocess=how, seed=seed)
        in_order = keeps_state(graph)
        if once:
            passing = one_pass(source, samples, in_order=in_order)
            return PassContext(passing, threads=threads, seed=seed)
        calibration, others = source.split(samples, held_back, in_order=in_order)
        kept, any_left = CachedSamples(calibration), len(others) > 0
        measuring = CachedSamples(others) if any_left else FirstSamples(kept, held_back)
        return PassContext(kept, measuring, any_left, threads=threads, seed=seed, source=source)

    main, others = _by_signature(model, data)
    context = PassContext(threads=threads, seed=seed, preprocess=how)
    if main is not None:
        context = opened(model.graph, main)
        context.reopen = lambda graph: opened(graph, main)
    for key, (graph, own) in others.items():
        context.signatures[key] = opened(graph, own, model.graphs.index(graph))
    return context


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
