"""The op table: one row per op, in one module per family."""

from qfrewrite.ops import elementwise, linear, normalization, pooling, quantization, shaping
from qfrewrite.ops.spec import OPS, OpSpec, Port, require_spec, spec_of

__all__ = ["OPS", "OpSpec", "Port", "require_spec", "spec_of"]

_FAMILIES = (elementwise, linear, normalization, pooling, quantization, shaping)
