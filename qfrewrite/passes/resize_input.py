"""`resize_input`: the same network at another resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from qfrewrite.ir import Graph
from qfrewrite.passes._registry import Pass, register
from qfrewrite.rewrite.resize import Resizing, images_of
from qfrewrite.solve.context import PassRewriter
from qfrewrite.solve.parameters import Reads
from qfrewrite.solve.sizes import parse_size, unaligned_maps

_LISTED = 5


@register
@dataclass(frozen=True)
class ResizeInput(Pass):
    """Another input size; weights stay, and every shape is inferred anew.

    Given:  y = f(x), x [N, H, W, C]        Result:  y = f(x'), x' [N, size, size, C]
    Pooling windows over a whole map, reshapes, slices and upsampling follow where they follow
    from the size; where something does not (weights over a flattened map, constants per position,
    anchors), an error names it and nothing changes. size: `236`, or `WIDTHxHEIGHT`. Latency
    falls with the area, accuracy by little: the first thing the winners of the Low-Power Image
    Recognition Challenge turned (Feng et al. 2018). Put it first in a list: data are read at
    the size the model then has.
    """

    changes_interface = True
    sets_size = True

    size: Annotated[str, Reads(parse_size, "236 or WIDTHxHEIGHT")]

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """Only the main graph has images."""
        if rw.main:
            resize(rw, parse_size(self.size))


def resize(rw: PassRewriter, size: tuple[int, int]) -> None:
    """Give the graph's image input another size, and report what follows."""
    graph = rw.graph
    before = images_of(graph).shape
    resizing = Resizing(graph, size)
    resizing.run()
    after = images_of(graph).shape
    if before == after:
        return
    first = images_of(graph).users[0].op
    rw.edit("resized", first, f"input {before[1]}x{before[2]} -> {after[1]}x{after[2]}")
    for op, text in resizing.replaced:
        rw.note("replaced", f"replaced {op.kind} '{op.name}': {text}")
    changed = [t.name for t in graph.outputs if resizing.changed(t)]
    if changed:
        rw.note("output-shapes", f"outputs have another shape: {', '.join(changed)}")
    unaligned = unaligned_maps(graph)
    if unaligned:
        maps = list(dict.fromkeys(f"{op.output.shape[1]}x{op.output.shape[2]}" for op in unaligned))
        more = ", ..." if len(maps) > _LISTED else ""
        rw.note(
            "unaligned",
            f"{len(unaligned)} layers have feature maps that are no multiples of 8: "
            f"{', '.join(maps[:_LISTED])}{more}",
        )
    rw.resized(size)
