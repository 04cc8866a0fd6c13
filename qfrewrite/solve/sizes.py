"""Image sizes: as text, and which feature maps of a graph are no multiples."""

from __future__ import annotations

import re

from qfrewrite.errors import QfError, UsageError
from qfrewrite.ir import Graph, Op
from qfrewrite.lower.cost import macs
from qfrewrite.rewrite.match import NoMatch
from qfrewrite.rewrite.resize import Resizing, images_of

MOST = 1 << 14


def parse_size(text: str) -> tuple[int, int]:
    """`236` or `320x240` (width by height) as height and width; raises UsageError."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", str(text).strip())
    sizes = [int(s) for s in match.groups() if s is not None] if match else []
    if not sizes or not all(0 < s <= MOST for s in sizes):
        raise UsageError(f"size={text}", remedy="give 236 or WIDTHxHEIGHT")
    return sizes[-1], sizes[0]


def has_unaligned_map(shape: tuple[int, ...], multiple: int = 8) -> bool:
    """Whether this is a feature map whose height or width, if over 1, is no multiple."""
    return len(shape) == 4 and any(d % multiple for d in shape[1:3] if d > 1)


def unaligned_maps(graph: Graph, multiple: int = 8) -> list[Op]:
    """Layers whose feature map has a height or width over 1 that is no multiple."""
    return [op for op in graph.ops if macs(op) and has_unaligned_map(op.output.shape, multiple)]


def next_even_size(graph: Graph, multiple: int) -> tuple[int, int] | NoMatch:
    """The least input size, not below the one it has, with no unaligned maps; or why there is none.

    Height and width are looked for one after the other, up to twice what they are.
    """
    now = images_of(graph).shape[1:3]
    size_now = list(now)
    for axis in (0, 1):
        first = -(-now[axis] // multiple) * multiple
        for size in range(first, 2 * now[axis] + multiple, multiple):
            size_now[axis] = size
            copy = graph.clone()[0]
            try:
                Resizing(copy, (size_now[0], size_now[1])).run()
            except QfError as error:
                return NoMatch(str(error))
            if all(
                op.output.shape[1 + axis] % multiple == 0 or op.output.shape[1 + axis] == 1
                for op in unaligned_maps(copy, multiple)
            ):
                break
        else:
            return NoMatch(f"none up to twice as large has only maps of multiples of {multiple}")
    return size_now[0], size_now[1]


def wasted_padding(graph: Graph) -> float:
    """The share of multiply-accumulates wasted if kernels round maps up to eights, 0..1."""
    useful = spent = 0
    for op in graph.ops:
        work, shape = macs(op), op.output.shape
        if not work or len(shape) != 4:
            continue
        positions = shape[1] * shape[2]
        rounded = [d if d == 1 else -(-d // 8) * 8 for d in shape[1:3]]
        useful += work
        spent += work * rounded[0] * rounded[1] // max(positions, 1)
    return 1 - useful / spent if spent else 0.0
