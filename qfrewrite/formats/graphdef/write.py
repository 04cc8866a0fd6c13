"""Write the IR as a frozen GraphDef (`.pb`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qfrewrite.errors import Diagnostics, QfError, UnsupportedError
from qfrewrite.formats.graphdef.compose import COMPOSED, pooling
from qfrewrite.formats.graphdef.emit import Emitter, kind_of
from qfrewrite.formats.graphdef.node_types import INDEX, SCALARS, stated
from qfrewrite.formats.graphdef.nodes import parse_ref
from qfrewrite.formats.graphdef.schema import AttrValue
from qfrewrite.formats.graphdef.write_linear import LINEAR, fake_quant_node
from qfrewrite.ir import Model, Op, Tensor
from qfrewrite.ops import spec_of
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
        raise UnsupportedError(
            f"a GraphDef holds one graph, this model has {len(model.graphs)}",
            remedy="write a .tflite instead",
        )
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
    e.bind(tensor, e.node("Placeholder", name, [], attrs, like=like))


def _write_op(e: Emitter, op: Op) -> None:
    spec = spec_of(op)
    write = _WRITERS.get(op.kind)
    if write is None and spec is not None and spec.graphdef:
        write = _as_node(spec.graphdef)
    if write is None:
        raise UnsupportedError(
            "has no form in a GraphDef",
            where=op.place,
            remedy="write a .tflite instead",
        )
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
            e.node("Identity", name, [ref], {"T": kind_of(tensor)})


# -- families ------------------------------------------------------------------------------


def _as_node(kind: str, **renamed: str) -> Writer:
    """The writer of an op that corresponds one to one to a node.

    renamed: attributes of the node by ours, beside those that the op's row pairs.
    """

    def write(e: Emitter, op: Op) -> None:
        spec = spec_of(op)
        pairs = {**(spec.graphdef_attrs if spec is not None else {}), **renamed}
        attrs: dict[str, Any] = {theirs: attr(op, ours) for ours, theirs in pairs.items()}
        scalars = SCALARS.get(kind, ())
        inputs = [
            _scalar(e, op, slot) if slot in scalars else e.ref(tensor)
            for slot, tensor in enumerate(op.inputs)
            if tensor is not None
        ]
        e.finish(op, kind, inputs, attrs | stated(kind, op))

    return write


def _scalar(e: Emitter, op: Op, slot: int) -> str:
    """The operand in `slot` without dimensions: TFLite also takes [1]."""
    tensor = op.operand(slot)
    if not tensor.shape:
        return e.ref(tensor)
    if tensor.data is not None:
        return e.const(tensor.data.reshape(-1)[0], tensor.name)
    shape = e.const(np.zeros(0, np.int32), f"{e.main_name(op)}/shape")
    return e.inner(op, "Reshape", [e.ref(tensor), shape], {"T": kind_of(tensor), "Tshape": INDEX})


def _divide(e: Emitter, op: Op) -> None:
    """TFLite has one division, TensorFlow one for floats and one for integers."""
    kind = "RealDiv" if op.output.dtype.startswith("float") else "TruncateDiv"
    _as_node(kind)(e, op)


def _pool(kind: str) -> Writer:
    def write(e: Emitter, op: Op) -> None:
        attrs = {"T": kind_of(op.operand(0)), **pooling(op)}
        e.finish(op, kind, [e.ref(op.operand(0))], attrs)

    return write


def _fake_quant(e: Emitter, op: Op) -> None:
    source, axis = op.operand(0), attr(op, "axis")
    readers = op.output.users
    # Linear ops write fake quantized weights themselves, in TensorFlow's layout.
    as_weights = all(r.slot == 1 and facets(r.op).linear for r in readers)
    if source.is_const and as_weights and not op.output.is_output:
        return  # Written with the op that reads it, in that op's layout.
    if axis is not None and axis != len(source.shape) - 1:
        raise UnsupportedError("quantizes per index of an axis that is not the last")
    e.bind(op.output, fake_quant_node(e, op, e.ref(source), e.main_name(op)))


def _concatenation(e: Emitter, op: Op) -> None:
    axis = e.const(np.int32(attr(op, "axis")), f"{op.name}/axis")
    inputs = [e.ref(t) for t in op.inputs if t is not None]
    attrs = {"T": kind_of(op.output), "N": len(inputs), "Tidx": INDEX}
    e.finish(op, "ConcatV2", [*inputs, axis], attrs)


def _reshape(e: Emitter, op: Op) -> None:
    shape = e.const(np.array(op.output.shape, np.int32), f"{op.name}/shape")
    attrs = {"T": kind_of(op.operand(0)), "Tshape": INDEX}
    e.finish(op, "Reshape", [e.ref(op.operand(0)), shape], attrs)


def _custom(e: Emitter, op: Op) -> None:
    node, inputs = op.meta.get("node"), [e.ref(t) for t in op.inputs if t is not None]
    if is_detection(op):
        e.finish(op, CODE, inputs, decode_options(op))
    elif node is None:
        raise UnsupportedError(f"custom op {attr(op, 'custom_code')} has no form in a GraphDef")
    else:
        e.finish(op, node.op, inputs, {})


_WRITERS: Mapping[str, Writer] = {
    **COMPOSED,
    **LINEAR,
    "ADD_N": _as_node("AddN"),
    "ARG_MAX": _as_node("ArgMax"),
    "ARG_MIN": _as_node("ArgMin"),
    "AVERAGE_POOL_2D": _pool("AvgPool"),
    "CAST": _as_node("Cast"),
    "CONCATENATION": _concatenation,
    "CUSTOM": _custom,
    "DIV": _divide,
    "FAKE_QUANT": _fake_quant,
    "FILL": _as_node("Fill"),
    "MAX_POOL_2D": _pool("MaxPool"),
    "ONE_HOT": _as_node("OneHot", axis="axis"),
    "PACK": _as_node("Pack", axis="axis"),
    "RANGE": _as_node("Range"),
    "RESHAPE": _reshape,
    "SHAPE": _as_node("Shape"),
    "SQUEEZE": _reshape,
    "WHERE": _as_node("Where"),
}
