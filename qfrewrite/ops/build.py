"""Build graphs by hand, for tests, examples and passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qfrewrite.errors import QfError
from qfrewrite.ir import Graph, Op, Tensor, constant
from qfrewrite.ops.spec import Shape, inferred, output_types, require_spec


class GraphBuilder:
    """Adds ops one after another; shapes and element types follow from the op table.

    >>> b = GraphBuilder("tiny")
    >>> x = b.input("x", (1, 4))
    >>> y = b.op("RELU", x, name="y")
    >>> graph = b.finish(y)
    """

    def __init__(self, name: str = "main") -> None:
        self.graph = Graph(name)

    def input(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> Tensor:
        """A graph input."""
        tensor = self.graph.add_tensor(Tensor(name, shape, dtype))
        self.graph.set_io([*self.graph.inputs, tensor])
        return tensor

    def const(self, name: str, data: npt.ArrayLike, dtype: str | None = None) -> Tensor:
        """A constant; floats become float32 unless `dtype` says otherwise."""
        array = np.asarray(data)
        if dtype is None and array.dtype == np.float64:
            dtype = "float32"
        return self.graph.add_tensor(constant(self.graph.unique_name(name), array, dtype))

    def op(
        self,
        kind: str,
        *inputs: Tensor | None,
        name: str | None = None,
        attrs: Mapping[str, Any] | None = None,
        dtype: str | None = None,
    ) -> Tensor:
        """Append an op and return its first output."""
        return append_op(self.graph, kind, inputs, name=name, attrs=attrs, dtype=dtype).output

    def finish(self, *outputs: Tensor) -> Graph:
        """The graph, with these outputs."""
        self.graph.set_io(outputs=outputs)
        return self.graph


def append_op(
    graph: Graph,
    kind: str,
    inputs: Iterable[Tensor | None],
    *,
    name: str | None = None,
    attrs: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    anchor: Op | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Op:
    """Put an op into `graph`; its outputs follow from its definition.

    Outputs are called `name`, `name:1`, ...; their element type is that of the first activation
    operand unless `dtype` says otherwise.
    """
    name, inputs = graph.unique_name(name or kind.lower()), tuple(inputs)
    spec = require_spec(Op(kind, inputs, (), name=name))
    draft = Op(kind, inputs, [Tensor(name, ())], {**spec.attrs, **(attrs or {})}, name=name)
    if dtype is None:
        acts = (inputs[slot] for slot in spec.slots(len(inputs), "act"))
        dtype = next((t.dtype for t in acts if t is not None), "float32")
    shapes = inferred(draft)
    types, signatures = output_types(draft, dtype, len(shapes)), _signatures(draft, shapes)
    outputs = [
        Tensor(f"{name}:{i}" if i else name, shape, made, shape_signature=signature)
        for i, (shape, made, signature) in enumerate(zip(shapes, types, signatures, strict=True))
    ]
    op = Op(kind, inputs, outputs, draft.attrs, name=name, meta=meta)
    return graph.add_op(op, anchor=anchor)


def _signatures(op: Op, shapes: list[Shape]) -> list[Shape | None]:
    """Which dimensions of the results are open: those that change where open ones double."""
    closed: list[Shape | None] = [None] * len(shapes)
    if not any(t is not None and t.has_open_dims for t in op.inputs):
        return closed
    doubled = [t and replace(t, shape=tuple(_doubled(t))) for t in op.inputs]
    try:
        others = inferred(Op(op.kind, doubled, op.outputs, op.attrs, name=op.name))
    except QfError:
        return closed
    return [_opened(one, other) for one, other in zip(shapes, others, strict=True)]


def _opened(one: Shape, other: Shape) -> Shape | None:
    opened = tuple(-1 if n != m else n for n, m in zip(one, other, strict=True))
    return opened if opened != one else None


def _doubled(tensor: Tensor) -> Iterator[int]:
    for size, dim in zip(tensor.shape, tensor.dims, strict=True):
        yield 2 * size if dim == -1 else size
