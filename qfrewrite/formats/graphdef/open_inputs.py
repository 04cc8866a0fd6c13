"""Inputs whose shape the file leaves open: the size that the layers imply, or one that works."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qfrewrite.errors import Diagnostics
from qfrewrite.formats.graphdef.nodes import Nodes, Ref, attribute, behind_identities, data_refs
from qfrewrite.formats.graphdef.select import Shape, Shapes, shape_text, unknown_shape
from qfrewrite.formats.graphdef.sizes import Sizes, fitting_sizes

# The largest sizes that are tried: of square images and sequences, and of oblong images.
_MOST, _MOST_OBLONG = 2048, 128
# Ranks that are tried where even that is unknown.
_RANKS = (4, 2, 3)
# How many sizes the graph is read with, to find one that a message names.
_TRIALS = 4
# Numbers of channels that are tried.
_CHANNELS = 8
_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")


@dataclass(frozen=True)
class _Fitting:
    """Shapes of all open inputs for every candidate of one form that fits, [candidates]."""

    shapes: Mapping[Ref, Sizes]
    """By input: its dimensions [rank, candidates]."""
    sizes: Sizes
    """The size that varies: that of the height."""
    square: bool
    """Whether the candidates are square images."""

    def at(self, index: int) -> dict[Ref, tuple[int, ...]]:
        """The shapes of one candidate."""
        return {ref: tuple(map(int, dims[:, index])) for ref, dims in self.shapes.items()}


def settle_inputs(
    nodes: Nodes, shapes: Shapes, ends: Sequence[Ref], reads: Callable[[Shapes], bool]
) -> tuple[Shapes, Diagnostics]:
    """The shapes of the inputs with the sizes that the layers leave no choice about, and notices.

    shapes: those that the file or the user states. reads: whether the graph can be read with
    given shapes. Raises UsageError, which names shapes that work, where several do.
    """
    diagnostics = Diagnostics()
    opened = [ref for ref, shape in shapes.items() if _is_open(shape)]
    if not opened:
        return shapes, diagnostics
    fitting = _fitting(nodes, shapes, ends)
    if sum(one.sizes.size for one in fitting) != 1:
        raise _ambiguous(opened, shapes, fitting, reads)
    settled = fitting[0].at(0)
    for ref in opened:
        diagnostics.notice(
            "input-size",
            f"its size is not stated; taken as {shape_text(settled[ref])}, the only "
            f"{'square ' if fitting[0].square else ''}one its layers take",
            where=f"input '{ref}'",
        )
    return {**shapes, **{ref: settled[ref] for ref in opened}}, diagnostics


def _is_open(shape: Shape | None) -> bool:
    return shape is None or None in shape[1:]


def _fitting(nodes: Nodes, shapes: Shapes, ends: Sequence[Ref]) -> list[_Fitting]:
    """The forms of the open inputs, each with the sizes that no layer refuses."""
    line, side = np.arange(1, _MOST + 1), np.arange(1, _MOST_OBLONG + 1)
    fitting = []
    for oblong, strict in ((False, True), (True, True), (False, False), (True, False)):
        height = np.repeat(side, side.size) if oblong else line
        width = np.tile(side, side.size) if oblong else line
        for form in _forms(nodes, shapes):
            image = any(_is_image(s) for s in form.values())
            if oblong and not image:
                continue
            sizes = {ref: _filled(shape, height, width) for ref, shape in form.items()}
            fits = fitting_sizes(nodes, sizes, ends, height.size, strict=strict)
            if fits.any():
                kept = {ref: dims[:, fits] for ref, dims in sizes.items()}
                fitting.append(_Fitting(kept, height[fits], image and not oblong))
        if fitting:
            break
    return fitting


def _forms(nodes: Nodes, shapes: Shapes) -> Iterator[dict[Ref, Shape]]:
    """The shapes with every rank and every number of channels that may be; sizes stay open."""
    channels = sorted(_kernel_channels(nodes)) or [1, 3]
    for rank in _RANKS if None in shapes.values() else (0,):
        ranked = {ref: _of_rank(shape, rank) for ref, shape in shapes.items()}
        axes = {ref: _open_channels(nodes, shape) for ref, shape in ranked.items()}
        if all(axis is None for axis in axes.values()):
            yield ranked
            continue
        for count in channels:
            yield {
                ref: tuple(count if i == axes[ref] else d for i, d in enumerate(shape))
                for ref, shape in ranked.items()
            }


def _of_rank(shape: Shape | None, rank: int) -> Shape:
    """`shape` for a batch of 1 where that is open; an unknown one with `rank` axes."""
    shape = (None,) * rank if shape is None else shape
    return (1, *shape[1:]) if shape[:1] == (None,) else shape


def _open_channels(nodes: Nodes, shape: Shape) -> int | None:
    """The axis of channels, where it is open beside others."""
    if len(shape) < 3 or shape.count(None) < 2:
        return None
    axis = 1 if len(shape) == 4 and _is_nchw(nodes) else len(shape) - 1
    return axis if shape[axis] is None else None


def _is_nchw(nodes: Nodes) -> bool:
    return any(
        attribute(n, "data_format") == "NCHW" for n in nodes.values() if n.op in _CONVOLUTIONS
    )


def _kernel_channels(nodes: Nodes) -> set[int]:
    """The numbers of channels that the first convolutions read."""
    counts: set[int] = set()
    for node in nodes.values():
        if node.op in _CONVOLUTIONS and len(data_refs(node)) > 1 and len(counts) < _CHANNELS:
            kernel = nodes[behind_identities(nodes, data_refs(node)[1]).node]
            if kernel.op == "Const":
                dims = kernel.attr["value"].tensor.tensor_shape.dim
                counts |= {int(dims[2].size)} if len(dims) == 4 else set()
    return {c for c in counts if 0 < c < _MOST}


def _is_image(shape: Shape) -> bool:
    return len(shape) == 4 and shape.count(None) == 2


def _filled(shape: Shape, height: Sizes, width: Sizes) -> Sizes:
    """The dimensions [rank, candidates]: the first open one is the height, others are the width."""
    dims = np.empty((len(shape), height.size), np.int64)
    for i, size in enumerate(shape):
        open_size = height if None not in shape[:i] else width
        dims[i] = open_size if size is None else size
    return dims


def _ambiguous(
    opened: Sequence[Ref],
    shapes: Shapes,
    fitting: Sequence[_Fitting],
    reads: Callable[[Shapes], bool],
) -> Exception:
    """The error that names shapes that work, as far as one is found."""
    first = opened[0]
    for candidates in fitting[:_TRIALS]:
        sizes = candidates.sizes
        # The most divisible by two, as networks halve; then the first of 64 or more.
        halvings = np.minimum(np.log2(sizes & -sizes), 5)
        order = np.lexsort((sizes, sizes < 64, -halvings))
        for index in order[:_TRIALS]:
            tried = candidates.at(int(index))
            if reads({**shapes, **tried}):
                texts = {ref: shape_text(tried[ref]) for ref in opened}
                more = "".join(f" --input {ref}:{texts[ref]}" for ref in opened[1:])
                return unknown_shape(first, shapes[first], texts[first] + more, _range(sizes))
    return unknown_shape(first, shapes[first])


def _range(sizes: Sizes) -> str:
    """What the layers say about sizes, where they say something simple."""
    low, high = int(sizes.min()), int(sizes.max())
    if sizes.size != high - low + 1:
        return ""
    if high < _MOST:
        return f"and its layers take sizes {low} to {high}"
    return f"and its layers take any size from {low}" if low > 1 else "and its layers take any size"
