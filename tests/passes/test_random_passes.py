"""Every pass on random graphs: what `check_pass` asks of it holds on all that a file may hold."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_graphs import Recipe, grow, is_tame, recipes

from qfrewrite.ir import Graph
from qfrewrite.passes import all_passes
from qfrewrite.testing import check_pass, outputs_of

# The parameters that a pass needs, or with which it does something.
GIVEN = {"svd_factorize": "(rank=1)", "set_nms": "(iou=0.5)", "auto": "(max_drop=100)"}
# resize_input wants one image input; reconstruct solves every layer several times over.
ELSEWHERE = {"resize_input", "reconstruct"}
# How far float outputs may move: exact passes by rounding; what hybrid kernels give is rounded to
# 8 bits anyway; others are not bounded on random weights.
EXACT, HYBRID, ANY = 2e-5, 0.02, 1e3


def is_hybrid(graph: Graph) -> bool:
    return any(t.is_const and t.quant is not None for t in graph.tensors)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(all_passes()) - ELSEWHERE))
@settings(max_examples=5)
@given(recipe=recipes(), data=st.booleans())
def test_a_pass_keeps_random_graphs(name: str, recipe: Recipe, data: bool) -> None:
    """Fails where a pass crashes, breaks the structure, renames an output, changes what it calls
    exact, edits outside its log, or does not settle."""
    graph = grow(recipe)
    assume(is_tame(outputs_of(graph)))
    tolerance = HYBRID if is_hybrid(graph) else EXACT
    check_pass(
        graph, name + GIVEN.get(name, ""), data=data or name == "auto",
        tolerance=tolerance if all_passes()[name].exact else ANY,
    )  # fmt: skip
