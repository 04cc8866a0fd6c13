"""The op table: one definition per op, in one module per family."""

from qfrewrite.ops import (  # noqa: F401  (they register their definitions)
    elementwise,
    indexing,
    linear,
    logic,
    normalization,
    opaque,
    pooling,
    quantization,
    shaping,
    sparsity,
    state,
)
from qfrewrite.ops.spec import OPS, OpSpec, Port, require_spec, spec_of

__all__ = ["OPS", "OpSpec", "Port", "require_spec", "spec_of"]
