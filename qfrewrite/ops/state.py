"""Resource variables: values that stay from one inference to the next.

The kernels copy bytes, whatever their type is. So an int8 variable is possible, if all that read
and write it, in all subgraphs, have one type and one scale.
"""

from __future__ import annotations

from qfrewrite.ops.spec import FLOAT_ONLY, OpSpec, act, param, rows, unknown_shape

_HANDLE = param("handle", dtype="resource")

rows(
    OpSpec("VAR_HANDLE", (), (_HANDLE,), unknown_shape, None, "VarHandleOptions",
           {"container": "", "shared_name": ""}, kernels=FLOAT_ONLY, effects=True),
    OpSpec("READ_VARIABLE", (_HANDLE,), (act("y"),), unknown_shape, None, "ReadVariableOptions"),
    OpSpec("ASSIGN_VARIABLE", (_HANDLE, act("x")), (), lambda op: [], None,
           "AssignVariableOptions", effects=True),
)  # fmt: skip
