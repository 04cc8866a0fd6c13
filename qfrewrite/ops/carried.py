"""Ops that are carried along as they are: control flow, state, and what others define.

Their operands and results stay float; shapes are those that the file says.
"""

from __future__ import annotations

from qfrewrite.ops.spec import FLOAT_ONLY, OpSpec, act, rows, unknown_shape

_CARRIED = (
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

rows(
    *(
        OpSpec(
            kind,
            (act("x", variadic=True, optional=True),),
            (act("y", variadic=True),),
            unknown_shape,
            kernels=FLOAT_ONLY,
            effects=kind in _EFFECTS,
        )
        for kind in _CARRIED
    )
)
