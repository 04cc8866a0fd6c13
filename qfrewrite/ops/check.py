"""The verifier's rules that come from the op table: operands, shapes, element types."""

from __future__ import annotations

from collections.abc import Collection
from math import prod

from qfrewrite.errors import UnsupportedError, VerifyError
from qfrewrite.ir import Graph, Model, Op, Tensor
from qfrewrite.ir.verify import verify_signatures, verify_structure
from qfrewrite.ops.shapes import unsettled
from qfrewrite.ops.spec import OpSpec, inferred, spec_of
from qfrewrite.ops.subgraphs import RUNS, verify_subgraphs

# Attributes that kernels divide by.
_POSITIVE = frozenset({
    "stride_w", "stride_h", "dilation_w_factor", "dilation_h_factor", "filter_width",
    "filter_height", "block_size", "num_splits",
})  # fmt: skip
# Element types that are no numbers to multiply with.
_NO_NUMBERS = frozenset({"string", "resource", "variant", "bool", "complex64", "complex128"})
_BYTES = frozenset({"string", "resource", "variant"})


def verify_graph(graph: Graph) -> None:
    """Raise VerifyError where `graph` is not well formed or an op contradicts its definition."""
    verify_structure(graph)
    unknown = unsettled(graph)
    for op in graph.ops:
        verify_op(op, unknown)


def verify_model(model: Model) -> None:
    """`verify_graph` for every subgraph, what they share, and the signatures."""
    for graph in model.graphs:
        verify_graph(graph)
    verify_subgraphs(model.graphs)
    verify_signatures(model)


def verify_op(op: Op, unknown: Collection[Tensor] = ()) -> None:
    """Raise VerifyError where `op` contradicts its definition; opaque ops are not checked.

    unknown: tensors whose shape depends on the data, so that it says nothing.
    """
    spec = spec_of(op)
    if spec is None:
        return
    place = op.place
    for slot, port in enumerate(spec.inputs):
        tensor = op.input(slot)
        if tensor is not None and port.rank not in (None, len(tensor.shape)):
            raise VerifyError(
                f"input {slot} ({port.name}) is {list(tensor.shape)}, needs rank {port.rank}",
                where=place,
            )
        if tensor is not None and port.role in ("weight", "bias") and tensor.dtype in _NO_NUMBERS:
            raise VerifyError(f"input {slot} ({port.name}) is {tensor.dtype}", where=place)
        if tensor is not None and port.role == "bias" and tensor not in unknown:
            _check_bias(op, spec, tensor, place)
        if tensor is None and not (port.optional or port.variadic):
            raise VerifyError(f"input {slot} ({port.name}) is missing", where=place)
    if len(op.inputs) > len(spec.inputs) and spec.input_port(len(op.inputs) - 1) is None:
        raise VerifyError(
            f"has {len(op.inputs)} inputs, takes at most {len(spec.inputs)}", where=place
        )
    least = sum(not port.variadic for port in spec.outputs)
    if len(op.outputs) < least:
        raise VerifyError(f"has {len(op.outputs)} outputs, needs {least}", where=place)
    for name in _POSITIVE & set(op.attrs):
        if op.attrs[name] < 1:
            raise VerifyError(f"has {name} {op.attrs[name]}, needs 1 or more", where=place)
    _check_types(op, spec, place)
    if not any(t in unknown for t in (*op.inputs, *op.outputs) if t is not None):
        _check_shapes(op, place)


def _check_bias(op: Op, spec: OpSpec, bias: Tensor, place: str) -> None:
    """Kernels read one value of the bias per output channel, and do not look at its size."""
    slot = spec.slot("weight")
    weights = op.input(slot) if slot is not None else None
    axis = spec.inputs[slot].axis if slot is not None else None
    if weights is None or axis is None or axis >= len(weights.shape):
        return
    if prod(bias.shape) != weights.shape[axis]:
        raise VerifyError(
            f"the bias is {list(bias.shape)}, the weights have {weights.shape[axis]} channels",
            where=place,
        )


def _check_types(op: Op, spec: OpSpec, place: str) -> None:
    """Several kernels write what they compute without a look at the type of their output.

    Types of integers are left to them: which ones go together depends on the kernel.
    """
    operands = [
        t
        for slot, t in enumerate(op.inputs)
        if t is not None and (port := spec.input_port(slot)) is not None and port.role == "act"
    ]
    if not operands or op.kind in RUNS:
        return
    types = {t.dtype for t in operands}
    for slot, out in enumerate(op.outputs):
        port = spec.output_port(slot)
        if port is None or port.role != "act" or port.dtype is not None or out.dtype in types:
            continue
        converts = spec.converts and not types & _BYTES
        if not converts and ("float32" in types or types & _BYTES or out.dtype in _NO_NUMBERS):
            raise VerifyError(
                f"output '{out.name}' is {out.dtype}, computed from {', '.join(sorted(types))}",
                where=place,
            )


def _check_shapes(op: Op, place: str) -> None:
    try:
        shapes = inferred(op)
    except UnsupportedError:
        return  # The shape depends on data: nothing to check it against.
    if len(shapes) != len(op.outputs):
        raise VerifyError(f"has {len(op.outputs)} outputs, makes {len(shapes)}", where=place)
    for out, shape in zip(op.outputs, shapes, strict=True):
        if out.shape != shape and not out.has_open_dims:
            raise VerifyError(
                f"output '{out.name}' says {list(out.shape)}, is {list(shape)}", where=place
            )
