"""The verifier's rules that come from the op table: operands, shapes, element types."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from qfrewrite.errors import UnsupportedError, VerifyError
from qfrewrite.ir import Graph, Model, Op, Tensor
from qfrewrite.ir.verify import verify_signatures, verify_structure
from qfrewrite.ops.shapes import unsettled
from qfrewrite.ops.spec import OpSpec, inferred, spec_of
from qfrewrite.ops.subgraphs import RUNS, verify_subgraphs

# Attributes that kernels divide by.
_POSITIVE = {"stride_w", "stride_h", "dilation_w_factor", "dilation_h_factor"}
_POSITIVE |= {"filter_width", "filter_height", "block_size", "num_splits"}
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
    for what in _violations(op, spec, unknown) if spec is not None else ():
        raise VerifyError(what, where=op.place)


def _violations(op: Op, spec: OpSpec, unknown: Collection[Tensor]) -> Iterator[str]:
    for slot, port in enumerate(spec.inputs):
        tensor, name = op.input(slot), f"input {slot} ({port.name})"
        if tensor is None:
            if not (port.optional or port.variadic):
                yield f"{name} is missing"
            continue
        if port.rank not in (None, len(tensor.shape)):
            yield f"{name} is {list(tensor.shape)}, needs rank {port.rank}"
        if port.role in ("weight", "bias") and tensor.dtype in _NO_NUMBERS:
            yield f"{name} is {tensor.dtype}"
        if port.role == "bias" and tensor not in unknown:
            yield from _bias_violations(op, spec, tensor)
    if len(op.inputs) > len(spec.inputs) and spec.input_port(len(op.inputs) - 1) is None:
        yield f"has {len(op.inputs)} inputs, takes at most {len(spec.inputs)}"
    least = sum(not port.variadic for port in spec.outputs)
    if len(op.outputs) < least:
        yield f"has {len(op.outputs)} outputs, needs {least}"
    for name in sorted(_POSITIVE & set(op.attrs)):
        if op.attrs[name] < 1:
            yield f"has {name} {op.attrs[name]}, needs 1 or more"
    yield from _type_violations(op, spec)
    if not any(t in unknown for t in (*op.inputs, *op.outputs) if t is not None):
        yield from _shape_violations(op)


def _bias_violations(op: Op, spec: OpSpec, bias: Tensor) -> Iterator[str]:
    """Kernels read one value of the bias per output channel, and do not look at its size."""
    slot = spec.slot("weight")
    weights = None if slot is None else op.input(slot)
    axis = None if slot is None else spec.inputs[slot].axis
    if weights is None or axis is None or axis >= len(weights.shape):
        return
    if bias.size != weights.shape[axis]:
        yield f"the bias is {list(bias.shape)}, the weights have {weights.shape[axis]} channels"


def _type_violations(op: Op, spec: OpSpec) -> Iterator[str]:
    """Several kernels write what they compute without a look at the type of their output.

    Types of integers are left to them: which ones go together depends on the kernel.
    """
    acts = (op.inputs[slot] for slot in spec.slots(len(op.inputs), "act"))
    types = {t.dtype for t in acts if t is not None}
    if not types or op.kind in RUNS:
        return
    for slot, out in enumerate(op.outputs):
        port = spec.output_port(slot)
        if port is None or port.role != "act" or port.dtype is not None or out.dtype in types:
            continue
        converts = spec.converts and not types & _BYTES
        if not converts and ("float32" in types or types & _BYTES or out.dtype in _NO_NUMBERS):
            yield f"output '{out.name}' is {out.dtype}, computed from {', '.join(sorted(types))}"


def _shape_violations(op: Op) -> Iterator[str]:
    try:
        shapes = inferred(op)
    except UnsupportedError:
        return  # The shape depends on data: nothing to check it against.
    if len(shapes) != len(op.outputs):
        yield f"has {len(op.outputs)} outputs, makes {len(shapes)}"
    for out, shape in zip(op.outputs, shapes, strict=False):
        if out.shape != shape and not out.has_open_dims:
            yield f"output '{out.name}' is stated as {list(out.shape)}, and is {list(shape)}"
