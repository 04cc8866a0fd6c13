"""The op table: one row per op, in one module per family."""

from qfrewrite.ops import (
    carried,
    elementwise,
    indexing,
    linear,
    logic,
    normalization,
    pooling,
    quantization,
    shaping,
    sparsity,
    state,
)
from qfrewrite.ops.spec import OPS, OpSpec, Port, require_spec, spec_of

__all__ = ["OPS", "OpSpec", "Port", "require_spec", "spec_of"]

_FAMILIES = (
    carried, elementwise, indexing, linear, logic, normalization, pooling, quantization, shaping,
    sparsity, state,
)  # fmt: skip
