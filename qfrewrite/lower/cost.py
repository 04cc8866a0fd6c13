"""What a layer costs: parameters and multiply-accumulates."""

from __future__ import annotations

from qfrewrite.ir import NUMPY_DTYPES, Graph, Op, Tensor
from qfrewrite.ops.spec import facets


def parameters(op: Op) -> int:
    """How many numbers the op's constant weights and biases (and tables) hold."""
    return sum(tensor.size for tensor, role in _constants(op) if role != "param")


def _constants(op: Op) -> list[tuple[Tensor, str]]:
    """The constants that `op` reads, each with the role of its slot."""
    slots = enumerate(op.inputs)
    return [(t, facets(op).role(slot)) for slot, t in slots if t is not None and t.is_const]


def macs(op: Op) -> int:
    """Multiply-accumulates of one inference; 0 for ops that do not multiply by weights."""
    rule = facets(op).macs
    return 0 if rule is None else rule(op)


def total_macs(graph: Graph) -> int:
    """Multiply-accumulates of one inference of the whole graph."""
    return sum(macs(op) for op in graph.ops)


def weight_bytes(op: Op, *, eight: bool) -> int:
    """Bytes of an op's constants: as they are, or with 8-bit weights; biases keep 32 bits."""
    return sum(
        tensor_bytes(tensor, eight=eight and role in ("weight", "act"))
        for tensor, role in _constants(op)
    )


def tensor_bytes(tensor: Tensor, *, eight: bool) -> int:
    """Bytes of a tensor: as it is, or with a byte for every float."""
    size = NUMPY_DTYPES[tensor.dtype].itemsize if tensor.dtype in NUMPY_DTYPES else 1
    return tensor.size * (1 if eight and tensor.dtype == "float32" else size)
