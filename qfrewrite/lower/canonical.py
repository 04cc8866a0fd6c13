"""Canonical form: what every written model gets, whether or not a pass asked for it.

BatchNorm that is left is folded or becomes MUL and ADD, activations are fused, ops that do
nothing and ops nobody needs are dropped. The function of the graph stays.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from qfrewrite.ir import Graph, Op, Tensor
from qfrewrite.ops.check import verify_graph
from qfrewrite.ops.shapes import settle_shapes, unsettled
from qfrewrite.ops.spec import attr, facets, kinds_that
from qfrewrite.rewrite.dequantize import computes_quantized
from qfrewrite.rewrite.fold import bn_scale_offset, fold_batch_norm, fold_constants
from qfrewrite.rewrite.linear import linear_ports
from qfrewrite.rewrite.match import NoMatch, sole_user
from qfrewrite.rewrite.raising import raise_graph
from qfrewrite.rewrite.rewriter import Log, Rewriter, is_unread, may_bypass

_RESHAPES = kinds_that(lambda op: op.reshapes)


def canonicalise(graph: Graph, log: Log | None = None) -> None:
    """Bring `graph` into canonical form, in place; FAKE_QUANT stays where it is.

    log: receives every edit. A graph that is in canonical form is not edited.
    """
    settle_shapes(graph)
    rw = raise_graph(graph, log)
    for op in graph.ops_of("BATCH_NORM"):
        fold_batch_norm(rw, op)
    for op in graph.ops_of("BATCH_NORM"):
        _lower_batch_norm(rw, op)
    fold_constants(rw)
    _multiply_by_computed_weights(rw)
    _split_squared_differences(rw)
    drop_identities(rw)
    _drop_reshapes(rw)
    for op in graph.prune(keep=lambda op: facets(op).effects or not op.outputs):
        rw.edit("removed", op, f"{op.kind} that no output needs")
    _add_missing_bias(rw)


def settle(graph: Graph) -> None:
    """Verify `graph` and make it canonical in place; what computes in integers stays as it is."""
    verify_graph(graph)
    if not computes_quantized(graph):
        canonicalise(graph)


def spell_out(graph: Graph) -> None:
    """Change in place what kernels do not support, and no more.

    BATCH_NORM becomes MUL and ADD, IDENTITY becomes RESHAPE, a convolution without a bias gets one.
    """
    settle_shapes(graph)
    rw, unknown = Rewriter(graph), unsettled(graph)
    for op in graph.ops_of("BATCH_NORM"):
        _lower_batch_norm(rw, op)
    for op in graph.ops_of("IDENTITY"):
        _spell_identity(rw, op, unknown)
    _add_missing_bias(rw)


def _lower_batch_norm(rw: Rewriter, op: Op) -> None:
    """Given y = BATCH_NORM(x);  Result y = x * scale + offset."""
    scale, offset = (
        rw.constant(f"{op.name}/{name}", values)
        for name, values in zip(("scale", "offset"), bn_scale_offset(op), strict=True)
    )
    scaled = rw.put(op, "MUL", op.operand(0), scale, name=f"{op.name}/scaled")
    new = rw.put(op, "ADD", scaled, offset)
    rw.replace(op, new, action="lowered", detail="BATCH_NORM -> MUL, ADD")


def _multiply_by_computed_weights(rw: Rewriter) -> None:
    """Given  y = FULLY_CONNECTED(x, w, b), w computed;  Result  y = BATCH_MATMUL(x, w^T) + b.

    Kernels of FULLY_CONNECTED want constant weights in int8, those of BATCH_MATMUL do not.
    """
    unknown = unsettled(rw.graph)
    for op in rw.graph.ops_of("FULLY_CONNECTED"):
        x, w, b = op.operand(0), op.operand(1), op.input(2)
        fits = len(x.shape) == 2 and x.shape[1:] == w.shape[1:]
        fits = fits and not {x, w, op.output} & unknown
        if w.data is not None or not fits or {x.dtype, w.dtype} != {"float32"}:
            continue
        new = rw.put(op, "BATCH_MATMUL", x, w, attrs={"adj_y": True})
        new = new if b is None else rw.put(op, "ADD", new, b)
        rw.replace(op, new, detail="FULLY_CONNECTED of computed weights -> BATCH_MATMUL")


def _split_squared_differences(rw: Rewriter) -> None:
    """Given  y = SQUARED_DIFFERENCE(a, b);  Result  y = MUL(d, d), d = SUB(a, b).

    The int8 kernel is slow wherever there is one (`benchmarks/zoo.py`), and d wants a range.
    """
    for op in rw.graph.ops_of("SQUARED_DIFFERENCE"):
        if op.output.dtype == "float32":
            d = rw.put(op, "SUB", *op.inputs, name=f"{op.name}/difference")
            new = rw.put(op, "MUL", d, d)
            rw.replace(op, new, detail="SQUARED_DIFFERENCE -> SUB, MUL")


def drop_identities(rw: Rewriter) -> None:
    """Remove every IDENTITY; one that an output needs for its name becomes a RESHAPE."""
    unknown = unsettled(rw.graph)
    for op in rw.graph.ops_of("IDENTITY"):
        if may_bypass(op):
            rw.bypass(op)
        else:
            _spell_identity(rw, op, unknown)


def _spell_identity(rw: Rewriter, op: Op, unknown: Collection[Tensor]) -> None:
    if _sized_by_operands(op, unknown):
        shape = rw.put(op, "SHAPE", op.operand(0), name="shape")
        rw.graph.set_kind(op, "RESHAPE")
        rw.graph.set_inputs(op, [op.operand(0), shape.output])
        rw.edit("replaced", op, "IDENTITY -> RESHAPE to what it reads")
    else:
        _as_reshape(rw, op)


def _drop_reshapes(rw: Rewriter) -> None:
    """One RESHAPE for a chain of them, none where the shape stays."""
    graph, unknown = rw.graph, unsettled(rw.graph)
    for op in graph.ops_of(*_RESHAPES):
        if _sized_by_operands(op, unknown):
            continue
        before = op.operand(0).producer
        if before is not None and before.kind in _RESHAPES:
            graph.set_input(op, 0, before.operand(0))
            rw.edit("merged", op, f"with {before.kind} '{before.name}' before it")
            if is_unread(before):
                rw.remove(before, detail="merged with the next")
        if _keeps_shape(op, unknown) and may_bypass(op):
            rw.bypass(op)
        elif _flattened_by_user(op):
            rw.bypass(op, detail="its user flattens by itself")
        else:
            _as_reshape(rw, op)


def _sized_by_operands(op: Op, unknown: Collection[Tensor]) -> bool:
    """Whether no constant shape says the result's sizes, not even one with a -1 in it."""
    return op.output in unknown or op.output.dims.count(-1) > 1


def _keeps_shape(op: Op, unknown: Collection[Tensor]) -> bool:
    """Whether the operand and the result of a RESHAPE have the same shape, whatever the sizes."""
    x, y = op.operand(0), op.output
    if x in unknown or x.dims.count(-1) > 1 or x.shape != y.shape:
        return False
    return x.dims == y.dims or not (x.has_open_dims and y.has_open_dims)


def _flattened_by_user(op: Op) -> bool:
    """Whether only a FULLY_CONNECTED reads `op`, which takes the operand of `op` just as well."""
    user = sole_user(op.output)
    if isinstance(user, NoMatch) or user.kind != "FULLY_CONNECTED":
        return False
    weights = user.operand(1)
    takes = len(op.output.shape) == 2 and not attr(user, "keep_num_dims")
    return takes and op.operand(0).shape[-1:] == weights.shape[-1:]


def _as_reshape(rw: Rewriter, op: Op) -> None:
    """Every op that only changes the shape is written as RESHAPE: all targets take it."""
    graph, was, shape = rw.graph, op.kind, op.output.shape
    signature = op.output.shape_signature or ()
    if signature.count(-1) == 1:
        shape = signature  # one dimension may vary: RESHAPE finds it
    old = op.input(1)
    target = old.data if was == "RESHAPE" and old is not None else None
    if target is not None and tuple(target.reshape(-1).tolist()) == shape:
        return
    table = rw.constant(f"{op.name}/shape", np.array(shape, np.int32))
    graph.set_kind(op, "RESHAPE", {"new_shape": shape})
    graph.set_inputs(op, [op.operand(0), table])
    rw.edit("replaced", op, f"{was} -> RESHAPE to {list(shape)}")


def _add_missing_bias(rw: Rewriter) -> None:
    """Convolutions get a bias of zeros: several runtimes read it without asking."""
    for op in rw.graph.ops_of("CONV_2D", "DEPTHWISE_CONV_2D"):
        slot = linear_ports(op).bias
        if op.input(slot) is None and op.output.dtype == "float32":
            zeros = np.zeros(op.output.shape[-1], np.float32)
            rw.set_constant(op, slot, zeros, name=f"{op.name}/bias")
            rw.edit("added", op, "a bias of zeros")


def fuse_activations(graph: Graph) -> None:
    """Mark every activation that its producer can take as fused: the writer joins them.

    An activation is fused where the tensor before it has no other user, is no graph output
    and (in a quantized graph) no scale of its own.
    """
    for op in graph.ops:
        if facets(op).fusible:
            tensor, fuses = op.operand(0), isinstance(fuses_into(op), Op)
            if fuses != tensor.fused:
                graph.set_fused(tensor, fuses)


def is_fused(op: Op) -> bool:
    """Whether `op` is an activation that is marked as fused into what makes its operand."""
    source = op.input(0)
    return source is not None and source.fused


def with_fused(op: Op) -> tuple[Op, ...]:
    """`op`, and the activation that is fused into it."""
    fuses = len(op.outputs) == 1 and op.output.fused
    return (op, *(user.op for user in op.output.users)) if fuses else (op,)


def name_in_file(op: Op) -> str:
    """What a reader of the file calls `op`: with a fused activation, by its result."""
    if len(op.outputs) == 1 and op.output.fused:
        return written_as(op.output).name
    return op.name


def written_as(tensor: Tensor) -> Tensor:
    """What a kernel writes for `tensor`: a fused activation's result where there is one."""
    return tensor.users[0].op.output if tensor.fused else tensor


def fuses_into(op: Op) -> Op | NoMatch:
    """The op that takes the activation `op` as its fused activation, or why none does.

    Pooling takes none: in int8 its result must keep the operand's scale, an activation's need not.
    """
    # TANH is one by the schema alone: no kernel applies it.
    if not (facets(op).fusible and facets(op).clips):
        return NoMatch(f"is {op.kind}, needs an activation that kernels apply", at=op.name)
    source = op.operand(0)
    before, only = source.producer, sole_user(source)
    if before is None or not facets(before).clips_freely or source.dtype != op.output.dtype:
        return NoMatch("is not computed by an op that takes an activation", at=source.name)
    return only if isinstance(only, NoMatch) else before
