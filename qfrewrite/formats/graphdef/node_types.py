"""Element types, scalar operands and counts of GraphDef nodes, as data.

A node states the element types of its operands in attributes, and TensorFlow refuses a node whose
statement is wrong, absent without a default, or about an attribute that the op does not have.
Source: the REGISTER_OP definitions in tensorflow/core/ops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qfrewrite.errors import UnsupportedError
from qfrewrite.formats.graphdef.emit import Kind, kind_of
from qfrewrite.ir import Op
from qfrewrite.ops import require_spec

INDEX = Kind("DT_INT32")
"""The element type of the integer operands that the writer makes."""
_OUTPUT = -1

# Node ops, and attribute -> the input slot whose element type it states, _OUTPUT for the first
# output's, None to leave it to its default. Other nodes state T, the type of the first activation.
_TYPED: tuple[tuple[str, Mapping[str, int | None]], ...] = (
    ("All Any", {"Tidx": 1}),
    ("ArgMax ArgMin", {"T": 0, "Tidx": 1, "output_type": _OUTPUT}),
    ("BatchToSpaceND", {"T": 0, "Tblock_shape": 1, "Tcrops": 2}),
    ("BroadcastTo Cumsum ReverseV2", {"T": 0, "Tidx": 1}),
    ("Cast", {"SrcT": 0, "DstT": _OUTPUT}),
    ("ExpandDims", {"T": 0, "Tdim": 1}),
    ("Fill", {"T": 1, "index_type": 0}),
    ("GatherNd", {"Tparams": 0, "Tindices": 1}),
    ("LogicalAnd LogicalNot LogicalOr", {}),
    ("Mean Sum Max Min Prod", {"T": 0, "Tidx": 1}),
    ("OneHot", {"TI": 0, "T": 2}),
    ("Pad PadV2 MirrorPad", {"T": 0, "Tpaddings": 1}),
    ("Range", {"Tidx": 0}),
    ("ScatterNd", {"Tindices": 0, "T": 1}),
    ("Select SelectV2", {"T": 1}),
    ("Shape", {"T": 0, "out_type": _OUTPUT}),
    ("Slice StridedSlice", {"T": 0, "Index": 1}),
    ("SpaceToBatchND", {"T": 0, "Tblock_shape": 1, "Tpaddings": 2}),
    ("Split", {"T": 1}),
    ("SplitV", {"T": 0, "Tlen": 1}),
    ("ReverseSequence", {"T": 0, "Tlen": 1}),
    ("Tile", {"T": 0, "Tmultiples": 1}),
    ("TopKV2", {"T": 0, "Tk": None, "index_type": None}),
    ("Transpose", {"T": 0, "Tperm": 1}),
    ("Where", {"T": 0}),
)
_TYPES = {node_op: types for node_ops, types in _TYPED for node_op in node_ops.split()}

SCALARS: Mapping[str, tuple[int, ...]] = {
    "ArgMax": (1,), "ArgMin": (1,), "Cumsum": (1,), "ExpandDims": (1,), "Fill": (1,),
    "OneHot": (1, 2, 3), "PadV2": (2,), "Range": (0, 1, 2), "Split": (0,), "SplitV": (2,),
    "TopKV2": (1,),
}  # fmt: skip
"""Input slots that TensorFlow wants as scalars where TFLite also takes [1]."""

_COUNTS: Mapping[str, Callable[[Op], Mapping[str, Any]]] = {
    **dict.fromkeys(("AddN", "Pack"), lambda op: {"N": len(op.inputs)}),
    **dict.fromkeys(("Split", "SplitV"), lambda op: {"num_split": len(op.outputs)}),
    **dict.fromkeys(("SpaceToDepth", "DepthToSpace"), lambda op: {"data_format": "NHWC"}),
    "Unpack": lambda op: {"num": len(op.outputs)},
}


def stated(node_op: str, op: Op) -> dict[str, Any]:
    """The attributes of a `node_op` that follow from the operands of `op`."""
    types = _TYPES.get(node_op)
    if types is None:
        types = {"T": _first_activation(op)}
    attrs: dict[str, Any] = {
        name: None if slot is None else kind_of(op.output if slot == _OUTPUT else op.operand(slot))
        for name, slot in types.items()
    }
    return attrs | dict(_COUNTS[node_op](op) if node_op in _COUNTS else {})


def _first_activation(op: Op) -> int:
    ports = (require_spec(op).input_port(slot) for slot in range(len(op.inputs)))
    for slot, port in enumerate(ports):
        if port is not None and port.role in ("act", "any") and op.input(slot) is not None:
            return slot
    raise UnsupportedError("reads no value: no form in a GraphDef")
