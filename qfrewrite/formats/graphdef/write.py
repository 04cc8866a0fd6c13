"""Write the IR as a frozen GraphDef (`.pb`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from qfrewrite.errors import Diagnostics, QfError, UnsupportedError
from qfrewrite.formats.graphdef.compose import COMPOSED, pooling
from qfrewrite.formats.graphdef.emit import Emitter, kind_of
from qfrewrite.formats.graphdef.node_types import SCALARS
from qfrewrite.formats.graphdef.nodes import parse_ref
from qfrewrite.formats.graphdef.schema import AttrValue
from qfrewrite.formats.graphdef.write_linear import LINEAR, fake_quant_node
from qfrewrite.ir import Model, Op, Tensor
from qfrewrite.ops.detection import CODE, decode_options, is_detection
from qfrewrite.ops.spec import attr, facets

Writer = Callable[[Emitter, Op], None]


def graphdef_bytes(model: Model, diagnostics: Diagnostics | None = None) -> bytes:
    """`model` as a serialised GraphDef.

    An unedited GraphDef comes back as it was read; otherwise nodes are made from the IR, each
    from the node it was read from where the op is still the same, so that devices and attributes
    we do not know survive. diagnostics: gets a note per input or output that TensorFlow
    makes us rename. Raises UnsupportedError for an op or tensor without such a form.
    """
    source = model.meta.get("graphdef")
    if source is not None and not model.edited:
        return bytes(source.SerializeToString(deterministic=True))
    if len(model.graphs) != 1:
        what = f"a GraphDef holds one graph, this model has {len(model.graphs)}"
        raise UnsupportedError(what, remedy="write a .tflite instead")
    graph = model.graph
    emitter = Emitter(graph, source)
    for tensor in graph.inputs:
        _placeholder(emitter, tensor)
    for op in graph.ops:
        _write_op(emitter, op)
    _name_outputs(emitter, graph.outputs)
    for old, new in emitter.renamed.items():
        text = f"'{old}' is called '{new}': TensorFlow takes letters, digits and . _ / - in a name"
        if diagnostics is not None:
            diagnostics.note("renamed", text)
    return bytes(emitter.message.SerializeToString(deterministic=True))


def _placeholder(e: Emitter, tensor: Tensor) -> None:
    shape = AttrValue()
    shape.shape.SetInParent()
    for size in tensor.shape:
        shape.shape.dim.add().size = size
    attrs = {"dtype": kind_of(tensor), "shape": shape}
    name, like = e.public_name(tensor), tensor.meta.get("node")
    e.node("Placeholder", name, [], attrs, like=like, gives=kind_of(tensor))
    e.bind(tensor, name)


def _write_op(e: Emitter, op: Op) -> None:
    write, node_op = _WRITERS.get(op.kind), facets(op).graphdef
    if write is None and node_op:
        write = _as_node(node_op)
    if write is None:
        what = "has no form in a GraphDef"
        raise UnsupportedError(what, where=op.place, remedy="write a .tflite instead")
    try:
        for tensor in (*op.inputs, *op.outputs):
            if tensor is not None:
                kind_of(tensor)
        write(e, op)
    except QfError as error:
        raise (error if error.where else error.at(op.place)) from None


def _name_outputs(e: Emitter, outputs: tuple[Tensor, ...]) -> None:
    """An output that no node of its name gives gets a node that bears its name."""
    for tensor in dict.fromkeys(outputs):
        ref, name = e.ref(tensor), e.public_name(tensor)
        if parse_ref(ref) != parse_ref(name):
            e.node("Identity", name, [ref], {})


# -- families ------------------------------------------------------------------------------


def _as_node(kind: str, **renamed: str) -> Writer:
    """The writer of an op that corresponds one to one to a node.

    renamed: attributes of the node by ours, beside those that the op's definition pairs.
    """

    def write(e: Emitter, op: Op) -> None:
        pairs = {**facets(op).graphdef_attrs, **renamed}
        attrs: dict[str, Any] = {theirs: attr(op, ours) for ours, theirs in pairs.items()}
        if kind in _COUNTS:
            attrs |= _COUNTS[kind](op)
        scalars = SCALARS.get(kind, ())
        inputs = [
            _scalar(e, op, slot) if slot in scalars else e.ref(tensor)
            for slot, tensor in enumerate(op.inputs)
            if tensor is not None
        ]
        if not inputs:
            raise UnsupportedError("reads no value: no form in a GraphDef")
        e.finish(op, kind, inputs, attrs)

    return write


# Attributes that follow from how many operands or results there are.
_COUNTS: Mapping[str, Callable[[Op], Mapping[str, Any]]] = {
    **dict.fromkeys(("AddN", "Pack"), lambda op: {"N": len(op.inputs)}),
    **dict.fromkeys(("Split", "SplitV"), lambda op: {"num_split": len(op.outputs)}),
    **dict.fromkeys(("SpaceToDepth", "DepthToSpace"), lambda op: {"data_format": "NHWC"}),
    "Unpack": lambda op: {"num": len(op.outputs)},
}


def _scalar(e: Emitter, op: Op, slot: int) -> str:
    """The operand in `slot` without dimensions: TFLite also takes [1]."""
    tensor = op.operand(slot)
    if not tensor.shape:
        return e.ref(tensor)
    if tensor.data is not None:
        return e.const(tensor.data.reshape(-1)[0], tensor.name)
    return e.inner(op, "Reshape", [e.ref(tensor), e.ints(op, [], "shape")], {})


def _divide(e: Emitter, op: Op) -> None:
    """TFLite has one division, TensorFlow one for floats and one for integers."""
    kind = "RealDiv" if op.output.dtype.startswith("float") else "TruncateDiv"
    _as_node(kind)(e, op)


def _pool(kind: str, e: Emitter, op: Op) -> None:
    e.finish(op, kind, [e.ref(op.operand(0))], pooling(op))


def _fake_quant(e: Emitter, op: Op) -> None:
    source, axis = op.operand(0), attr(op, "axis")
    users = op.output.users
    # Linear ops write fake quantized weights themselves, in TensorFlow's layout.
    as_weights = all(user.slot == 1 and facets(user.op).linear for user in users)
    if source.is_const and as_weights and not op.output.is_output:
        return  # Written with the op that uses it, in that op's layout.
    if axis is not None and axis != len(source.shape) - 1:
        raise UnsupportedError("quantizes per index of an axis that is not the last")
    e.bind(op.output, fake_quant_node(e, op, e.ref(source), e.main_name(op)))


def _concatenation(e: Emitter, op: Op) -> None:
    axis = e.const(np.int32(attr(op, "axis")), f"{op.name}/axis")
    inputs = [e.ref(t) for t in op.inputs if t is not None]
    types = {"T": 0, "Tidx": len(inputs)}
    e.finish(op, "ConcatV2", [*inputs, axis], {"N": len(inputs)}, types)


def _reshape(e: Emitter, op: Op) -> None:
    shape = e.const(np.array(op.output.shape, np.int32), f"{op.name}/shape")
    e.finish(op, "Reshape", [e.ref(op.operand(0)), shape], {})


def _custom(e: Emitter, op: Op) -> None:
    node, inputs = op.meta.get("node"), [e.ref(t) for t in op.inputs if t is not None]
    if is_detection(op):
        e.finish(op, CODE, inputs, decode_options(op))
    elif node is None:
        raise UnsupportedError(f"custom op {attr(op, 'custom_code')} has no form in a GraphDef")
    else:
        e.finish(op, node.op, inputs, {}, types={})


_WRITERS: Mapping[str, Writer] = {
    **COMPOSED,
    **LINEAR,
    "ADD_N": _as_node("AddN"),
    "ARG_MAX": _as_node("ArgMax"),
    "ARG_MIN": _as_node("ArgMin"),
    "AVERAGE_POOL_2D": partial(_pool, "AvgPool"),
    "CAST": _as_node("Cast"),
    "CONCATENATION": _concatenation,
    "CUSTOM": _custom,
    "DIV": _divide,
    "FAKE_QUANT": _fake_quant,
    "FILL": _as_node("Fill"),
    "MAX_POOL_2D": partial(_pool, "MaxPool"),
    "ONE_HOT": _as_node("OneHot", axis="axis"),
    "PACK": _as_node("Pack", axis="axis"),
    "RANGE": _as_node("Range"),
    "RESHAPE": _reshape,
    "SHAPE": _as_node("Shape"),
    "SQUEEZE": _reshape,
    "WHERE": _as_node("Where"),
}
