"""Opaque ops, which are kept as they are: control flow, and what others define.

Their operands and results stay float; shapes are those that the file says.
"""

from __future__ import annotations

from qfrewrite.ops.spec import FLOAT_ONLY, OpSpec, act, define, unknown_shape

_KINDS = (
    "WHILE",
    "IF",
    "CALL_ONCE",
    "CUSTOM",
    "STABLEHLO_COMPOSITE",
    "UNIDIRECTIONAL_SEQUENCE_LSTM",
    "BIDIRECTIONAL_SEQUENCE_LSTM",
    "LSTM",
    "SVDF",
)
# Control flow may set variables, and what others define may do anything.
_EFFECTS = ("WHILE", "IF", "CALL_ONCE", "CUSTOM")
_ANY = OpSpec(
    "", (act("x", variadic=True, optional=True),), unknown_shape, outputs=(act("y", variadic=True),)
)

define(*(_ANY.facets(kind=k, kernels=FLOAT_ONLY, effects=k in _EFFECTS) for k in _KINDS))
