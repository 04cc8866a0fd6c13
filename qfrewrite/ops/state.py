"""Resource variables: values that stay from one inference to the next.

The kernels copy bytes, whatever their type is. So an int8 variable is possible, if all that read
and write it, in all subgraphs, have one type and one scale.
"""

from __future__ import annotations

from qfrewrite.ops.spec import FLOAT_ONLY, OpSpec, X, define, param, unknown_shape

_HANDLE = param("handle", dtype="resource")

define(
    OpSpec("VAR_HANDLE", (), unknown_shape, outputs=(_HANDLE,))
    .attributes(container="", shared_name="")
    .facets("effects", kernels=FLOAT_ONLY),
    OpSpec("READ_VARIABLE", (_HANDLE,), unknown_shape),
    OpSpec("ASSIGN_VARIABLE", (_HANDLE, X), lambda op: [], outputs=(), effects=True),
)
