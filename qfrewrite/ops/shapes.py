"""Shapes of graphs in which a file leaves dimensions open.

A `.tflite` marks an unknown dimension by -1 in `shape_signature` and puts 1 in its place in
`shape`. For the dimensions of graph inputs that 1 is a size like any other. Behind them it is not:
the sizes there follow from those of the inputs, by the shape rules and by values that are
themselves computed from shapes, or from the data alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from qfrewrite.errors import QfError
from qfrewrite.ir import NUMPY_DTYPES, Graph, Op, Tensor
from qfrewrite.ops.spec import Shape, computed, facets, inferred

# Shapes are computed from small tensors of integers.
_MOST_ELEMENTS = 1024
_EXACT = "iub"


def open_axes(dims: Sequence[int]) -> tuple[int, ...]:
    """The axes of an input that samples may size as they like.

    dims: with -1 where the file leaves a size open; the first of several axes is the batch.
    """
    return tuple(i for i, d in enumerate(dims) if d == -1 and (i > 0 or len(dims) == 1))


def has_open_sizes(graph: Graph) -> bool:
    """Whether an input of `graph` may have several sizes, apart from its batch."""
    return any(open_axes(t.dims) for t in graph.inputs)


def take_sizes(graph: Graph, shapes: Mapping[str, Shape]) -> None:
    """Give inputs with open sizes these shapes, and the rest of `graph` what follows from them."""
    for tensor in graph.inputs:
        if open_axes(tensor.dims) and shapes.get(tensor.name, tensor.shape) != tensor.shape:
            graph.set_shape(tensor, shapes[tensor.name])
    settle_shapes(graph)


def settle_shapes(graph: Graph) -> None:
    """Set `shape` of every tensor whose open dimensions follow from the sizes of the inputs."""
    for tensor, shape in _follow(graph):
        if shape is not None and shape != tensor.shape:
            graph.set_shape(tensor, shape)


def unsettled(graph: Graph) -> frozenset[Tensor]:
    """Computed tensors whose shape is not known: it depends on the data, or on a loop."""
    return frozenset(tensor for tensor, shape in _follow(graph) if shape is None)


def _follow(graph: Graph) -> Iterator[tuple[Tensor, Shape | None]]:
    """Each computed tensor that is open in the file, with the shape that follows, if one does."""
    unranked = _unranked(graph)
    marked = {t for t in graph.tensors if not t.is_const and (t.has_open_dims or t in unranked)}
    if not marked:
        return
    walk = _Walk(graph)
    for op in graph.ops:
        shapes: Sequence[Shape | None] | None = walk.through(op)
        for out, shape in zip(op.outputs, shapes or [None] * len(op.outputs), strict=True):
            if out in marked:
                yield out, shape
            walk.settle(out, shape if out in marked else out.shape)


def _unranked(graph: Graph) -> frozenset[Tensor]:
    """Tensors of unknown rank: they read as scalars in a file that marks real scalars."""
    if not any(t.has_rank for t in graph.tensors):
        return frozenset()
    return frozenset(
        out for op in graph.ops for out in op.outputs if not out.shape and not out.has_rank
    )


class _Walk:
    """Shapes and small values of a graph, op by op."""

    def __init__(self, graph: Graph) -> None:
        self._known: dict[Tensor, Tensor] = {t: t for t in graph.tensors if t.producer is None}

    def settle(self, tensor: Tensor, shape: Shape | None) -> None:
        """Note the shape of an op's output, unless its value is noted already."""
        if shape is not None and tensor not in self._known:
            self._known[tensor] = Tensor(tensor.name, shape, tensor.dtype)

    def through(self, op: Op) -> list[Shape] | None:
        """The shapes of the outputs of `op`, or None where they do not follow."""
        if any(t is not None and t not in self._known for t in op.inputs):
            return None
        inputs = [None if t is None else self._known[t] for t in op.inputs]
        try:
            shapes = inferred(Op(op.kind, inputs, op.outputs, op.attrs, name=op.name))
        except QfError:
            return None
        if len(shapes) != len(op.outputs):
            return None
        outputs = [Tensor(t.name, s, t.dtype) for t, s in zip(op.outputs, shapes, strict=True)]
        for out, value in zip(op.outputs, self._values(op, inputs, outputs), strict=False):
            if value.data is not None and value.data.shape == value.shape:
                self._known[out] = value
        return shapes

    def _values(
        self, op: Op, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]
    ) -> list[Tensor]:
        """The outputs with values, where these are few, exact, and follow from what is known."""
        spec = facets(op)
        sizes = (np.prod(t.shape, dtype=np.float64) for t in outputs)
        kinds = (getattr(NUMPY_DTYPES.get(t.dtype), "kind", "") for t in outputs)
        unread = spec.slots(len(inputs), "any")
        known = (t is None or t.is_const or i in unread for i, t in enumerate(inputs))
        if spec.reference is None or not inputs or max(sizes, default=0) > _MOST_ELEMENTS:
            return []
        if not (all(kind and kind in _EXACT for kind in kinds) and all(known)):
            return []
        twin = Op(op.kind, inputs, outputs, op.attrs, name=op.name)
        with suppress(QfError):
            results = computed(twin, [None if t is None else t.data for t in inputs])
            return [replace(t, data=data) for t, data in zip(outputs, results, strict=True)]
        return []
