"""Random small graphs: each is written in every scheme, and computes what it did."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import Phase, assume, example, given, settings
from quantizing import quantized
from random_graphs import KINDS, Recipe, grow, is_tame, recipes

from qfrewrite.data.source import synthetic
from qfrewrite.formats.tflite.read import parse_tflite
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Model
from qfrewrite.lower.model import lower_model
from qfrewrite.runtime.session import Runner, input_specs
from qfrewrite.testing import largest_difference, outputs_of

# The least SQNR in dB on random weights: a few ops in a row on values of very different size.
LEAST_DB = {
    "int8": 8, "uint8": 8, "int16x8": 25, "dynamic": 15, "weight-only": 15, "float16": 30,
}  # fmt: skip


def plain(*kinds: str, outputs: tuple[int, ...] = (0,), channels: int = 3) -> Recipe:
    """A recipe of these ops, each placed by zeros."""
    return Recipe(tuple((kind, (0,) * 5) for kind in kinds), outputs, channels, True)


@settings(max_examples=40)
@given(recipe=recipes())
@example(plain("MEAN", "MUL constant", "ADD constant", outputs=(0, 0)))
@example(plain("IDENTITY", outputs=(0, 1, 2)))
@example(plain("ADD", outputs=(1, 1, 2), channels=1))
def test_random_graphs_are_written_in_float_as_they_compute(recipe: Recipe) -> None:
    """What is written is raised, folded, merged and fused; what it is compared with is not.

    No error is a refusal here: every op has a float form. Fails where canonical form changes a
    value or the name, place or number of an output.
    """
    graph = grow(recipe)
    before = outputs_of(graph)
    assume(is_tame(before))
    lowered, _ = lower_model(Model([graph.clone()[0]], source="graphdef"))
    content = serialize(lowered)
    runner = Runner(content, threads=1)
    samples = synthetic(input_specs(graph), 3)
    after = [[v.copy() for v in runner.run(list(sample.values()))] for sample in samples]
    # Kernels with 8-bit weights round what they multiply by them; written are float weights.
    hybrid = any(t.is_const and t.quant is not None for t in graph.tensors)
    assert largest_difference(before, after) <= (0.02 if hybrid else 2e-5)
    back = parse_tflite(content).graph
    assert [t.name for t in back.outputs] == [t.name for t in graph.outputs]
    assert [t.dims for t in back.inputs] == [t.dims for t in graph.inputs]


@pytest.mark.parametrize("scheme", LEAST_DB)
@settings(max_examples=6)
@given(recipe=recipes())
def test_random_graphs_convert_and_run(scheme: str, recipe: Recipe) -> None:
    """Whatever is written obeys the specification, loads in LiteRT and comes close to float."""
    graph = grow(recipe)
    assume(is_tame(outputs_of(graph)))
    passes = "calibrate" if "int" in scheme else ""
    back, _, fidelity = quantized(graph, scheme=scheme, passes=passes)
    assert [t.name for t in back.outputs] == [t.name for t in graph.outputs]
    assert fidelity.sqnr_db > LEAST_DB[scheme]


def features(recipe: Recipe) -> set[str]:
    """What a recipe's graph holds of all that a file may hold."""
    graph = grow(recipe)
    layers = graph.ops_of("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    weights = [op.operand(1) for op in layers]
    found = {f"{w.dtype if w.is_const else 'computed'} weights" for w in weights}
    outputs = graph.outputs
    holds = {
        "an output that is an input": any(t.is_input for t in outputs),
        "an output twice": len(set(outputs)) < len(outputs),
        "an output of rank 0": any(not t.shape for t in outputs),
        "an open output": any(t.dims[:1] == (-1,) for t in outputs),
        "a constant of rank 0": any(t.is_const and not t.shape for t in graph.tensors),
        "an output of integers": any(t.dtype == "int64" for t in outputs),
        "one channel": any(t.shape[-1:] == (1,) for t in (*graph.inputs, *outputs)),
    }
    return found | {what for what, there in holds.items() if there}


def test_recipes_hold_what_files_hold() -> None:
    """The generator is not to lose what it is there for."""
    seen: Counter[str] = Counter()

    @settings(max_examples=250, derandomize=True, database=None, phases=[Phase.generate])
    @given(recipe=recipes())
    def look(recipe: Recipe) -> None:
        seen.update(features(recipe))

    look()
    weights = {f"{what} weights" for what in ("float32", "int8", "uint8", "computed")}
    assert seen.keys() == weights | {
        "an output that is an input", "an output twice", "an output of rank 0", "an open output",
        "a constant of rank 0", "an output of integers", "one channel",
    }  # fmt: skip
    assert len(set(KINDS)) >= 50
