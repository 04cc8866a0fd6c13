"""The verifier's rules that come from the op table: operands, shapes, element types."""

from __future__ import annotations

from qfrewrite.errors import UnsupportedError, VerifyError
from qfrewrite.ir import Graph, Model, Op
from qfrewrite.ir.verify import verify_signatures, verify_structure
from qfrewrite.ops.spec import spec_of
from qfrewrite.ops.subgraphs import verify_subgraphs


def verify_graph(graph: Graph) -> None:
    """Raise VerifyError where `graph` is not well formed or an op contradicts its row."""
    verify_structure(graph)
    for op in graph.ops:
        verify_op(op)


def verify_model(model: Model) -> None:
    """`verify_graph` for every subgraph, what they share, and the signatures."""
    for graph in model.graphs:
        verify_graph(graph)
    verify_subgraphs(model.graphs)
    verify_signatures(model)


def verify_op(op: Op) -> None:
    """Raise VerifyError where `op` contradicts its row; ops without a row are taken as they are."""
    spec = spec_of(op)
    if spec is None:
        return
    place = f"op '{op.name}' ({op.kind})"
    for slot, port in enumerate(spec.inputs):
        if op.input(slot) is None and not (port.optional or port.variadic):
            raise VerifyError(f"input {slot} ({port.name}) is missing", where=place)
    if len(op.inputs) > len(spec.inputs) and spec.input_port(len(op.inputs) - 1) is None:
        raise VerifyError(
            f"has {len(op.inputs)} inputs, takes at most {len(spec.inputs)}", where=place
        )
    _check_shapes(op, place)


def _check_shapes(op: Op, place: str) -> None:
    spec = spec_of(op)
    assert spec is not None
    try:
        shapes = spec.infer(op)
    except UnsupportedError:
        return  # The shape depends on data: nothing to hold it against.
    if len(shapes) != len(op.outputs):
        raise VerifyError(f"has {len(op.outputs)} outputs, makes {len(shapes)}", where=place)
    for out, shape in zip(op.outputs, shapes, strict=True):
        # A tensor of unknown rank in a file reads as shape [].
        unknown = out.meta.get("has_rank") is False or -1 in (out.shape_signature or ())
        if out.shape != shape and not unknown:
            raise VerifyError(
                f"output '{out.name}' says {list(out.shape)}, is {list(shape)}", where=place
            )
