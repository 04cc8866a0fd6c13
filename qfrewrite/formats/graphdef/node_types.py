"""Element types, scalar operands and counts of GraphDef nodes, as data.

A node states the element types of its operands in attributes, and TensorFlow refuses a node whose
statement is wrong, absent without a default, or about an attribute that the op does not have.
Source: the REGISTER_OP definitions in tensorflow/core/ops.
"""

from __future__ import annotations

from collections.abc import Mapping

Types = Mapping[str, int | None]
"""Attribute of a node -> the input slot whose element type it states."""
RESULT = -1
"""In place of a slot: the element type of the first result."""

# Node ops, and attribute -> the input slot whose element type it states, RESULT for that of the
# first result, None to leave it to its default.
_TYPED: tuple[tuple[str, Types], ...] = (
    ("All Any", {"Tidx": 1}),
    ("ArgMax ArgMin", {"T": 0, "Tidx": 1, "output_type": RESULT}),
    ("BatchToSpaceND", {"T": 0, "Tblock_shape": 1, "Tcrops": 2}),
    ("BroadcastTo Cumsum ReverseV2", {"T": 0, "Tidx": 1}),
    ("Cast", {"SrcT": 0, "DstT": RESULT}),
    ("ExpandDims", {"T": 0, "Tdim": 1}),
    ("Conv2DBackpropInput", {"T": 1}),
    ("Fill", {"T": 1, "index_type": 0}),
    ("FusedBatchNormV3", {"T": 0, "U": 0}),
    ("GatherNd", {"Tparams": 0, "Tindices": 1}),
    ("GatherV2", {"Tparams": 0, "Tindices": 1, "Taxis": 2}),
    ("LogicalAnd LogicalNot LogicalOr", {}),
    ("FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel", {}),
    ("Placeholder TFLite_Detection_PostProcess", {}),
    ("Mean Sum Max Min Prod", {"T": 0, "Tidx": 1}),
    ("OneHot", {"TI": 0, "T": 2}),
    ("Pad PadV2 MirrorPad", {"T": 0, "Tpaddings": 1}),
    ("Range", {"Tidx": 0}),
    ("Reshape", {"T": 0, "Tshape": 1}),
    ("ScatterNd", {"Tindices": 0, "T": 1}),
    ("Select SelectV2", {"T": 1}),
    ("Shape", {"T": 0, "out_type": RESULT}),
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
TYPES: Mapping[str, Types] = {
    node_op: types for node_ops, types in _TYPED for node_op in node_ops.split()
}
"""By node op: attribute -> slot, as above. Other nodes state T, the type of their first operand."""

SCALARS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("ArgMax", "ArgMin", "Cumsum", "ExpandDims", "Fill", "TopKV2"), (1,)),
    "OneHot": (1, 2, 3),
    "PadV2": (2,),
    "Range": (0, 1, 2),
    "Split": (0,),
    "SplitV": (2,),
}
"""Input slots that TensorFlow wants as scalars where TFLite also takes [1]."""
