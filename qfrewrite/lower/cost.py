"""What a layer costs: parameters and multiply-accumulates."""

from __future__ import annotations

from qfrewrite.ir import NUMPY_DTYPES, Graph, Op, Tensor
from qfrewrite.ops import spec_of
from qfrewrite.ops.spec import facets


def parameters(op: Op) -> int:
    """How many numbers the op's constant weights and biases (and tables) hold."""
    spec = spec_of(op)
    count = 0
    for slot, tensor in enumerate(op.inputs):
        port = spec.input_port(slot) if spec is not None else None
        steers = port is not None and port.role == "param"
        if tensor is not None and tensor.is_const and not steers:
            count += tensor.size
    return count


def macs(op: Op) -> int:
    """Multiply-accumulates of one inference; 0 for ops that do not multiply by weights."""
    rule = facets(op).macs
    return 0 if rule is None else rule(op)


def total_macs(graph: Graph) -> int:
    """Multiply-accumulates of one inference of the whole graph."""
    return sum(macs(op) for op in graph.ops)


def weight_bytes(op: Op, *, eight: bool) -> int:
    """Bytes of an op's constants: as they are, or with 8-bit weights; biases keep 32 bits."""
    spec = spec_of(op)
    total = 0
    for slot, tensor in enumerate(op.inputs):
        port = spec.input_port(slot) if spec is not None else None
        if tensor is not None and tensor.is_const:
            role = port.role if port is not None else "any"
            total += tensor_bytes(tensor, eight=eight and role in ("weight", "act"))
    return total


def tensor_bytes(tensor: Tensor, *, eight: bool) -> int:
    """Bytes of a tensor: as it is, or with a byte for every float."""
    size = NUMPY_DTYPES[tensor.dtype].itemsize if tensor.dtype in NUMPY_DTYPES else 1
    return tensor.size * (1 if eight and tensor.dtype == "float32" else size)
