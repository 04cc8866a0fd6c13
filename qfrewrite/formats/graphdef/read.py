"""Read a frozen GraphDef (`.pb`) into the IR."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qfrewrite.errors import Diagnostics, ModelFileError, QfError, UnsupportedError, UsageError
from qfrewrite.formats.graphdef.detect import FREEZE, parse_message, read_bytes
from qfrewrite.formats.graphdef.frames import structured
from qfrewrite.formats.graphdef.functions import Function, Library
from qfrewrite.formats.graphdef.importer import Importer, NodeContext, Program, unsupported
from qfrewrite.formats.graphdef.nodes import (
    Nodes,
    Ref,
    attribute,
    data_refs,
    index_nodes,
    parse_ref,
    place,
    sort_nodes,
)
from qfrewrite.formats.graphdef.open_inputs import settle_inputs
from qfrewrite.formats.graphdef.rules.arith import element_type
from qfrewrite.formats.graphdef.rules.control import TAKE_UNSET, call, without_unreached
from qfrewrite.formats.graphdef.rules.random import on_drawn
from qfrewrite.formats.graphdef.rules.table import CONVERTERS, Converter
from qfrewrite.formats.graphdef.select import (
    GivenInput,
    Shapes,
    find_inputs,
    find_outputs,
    find_ref,
    known_shape,
    parse_input,
    static_shape,
)
from qfrewrite.formats.graphdef.training import for_inference
from qfrewrite.formats.graphdef.values import Computed, Drawn, Unset, Value
from qfrewrite.ir import Graph, Model, Op, Tensor

_VARIABLES = frozenset(
    {"Variable", "VariableV2", "VarHandleOp", "ReadVariableOp", "AutoReloadVariable"}
)


def read_graphdef(
    path: str | Path, *, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None
) -> Model:
    """The frozen graph in the file `path`. See `parse_graphdef`."""
    path = Path(path)
    return parse_graphdef(read_bytes(path), path, inputs=inputs, outputs=outputs)


def parse_graphdef(
    data: bytes,
    path: Path | None = None,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> Model:
    """The frozen graph in `data`.

    inputs: `name[:shape]` of each input, outputs: names; found by themselves where not given.
    Only what the outputs need is read. Raises ModelFileError, UnsupportedError, UsageError.
    """
    where = str(path) if path else "model"
    try:
        return _read(parse_message(data, path), path, inputs or None, outputs or None)
    except QfError as error:
        raise error.at(where) from None


def _read(
    message: Any, path: Path | None, inputs: Sequence[str] | None, outputs: Sequence[str] | None
) -> Model:
    library, diagnostics = Library.of(message), Diagnostics()
    nodes = index_nodes(message)
    _refuse_variables(nodes)
    fed = {parse_input(text).ref.node for text in inputs or ()}
    named = {parse_ref(text).node for text in outputs or ()}
    nodes = for_inference(nodes, fed, diagnostics)
    nodes = structured(nodes, library, results=named | fed)
    ends = (
        [find_ref(nodes, parse_ref(text), "output") for text in outputs]
        if outputs
        else find_outputs(nodes)
    )
    given = None
    if inputs:
        specs = [parse_input(text) for text in inputs]
        given = [GivenInput(find_ref(nodes, s.ref, "input"), s.shape) for s in specs]
    producer = message.versions.producer
    shapes = {s.ref: known_shape(nodes, s, producer) for s in find_inputs(nodes, ends, given)}

    def reads(tried: Shapes) -> bool:
        try:
            _read_graph(nodes, tried, ends, Program(library, _run))
        except QfError:
            return False
        return True

    settled, notices = settle_inputs(nodes, shapes, ends, reads)
    diagnostics.add(*notices)
    program = Program(library, _run, diagnostics=diagnostics)
    graph = _read_graph(nodes, settled, ends, program)
    graphs = without_unreached([graph, *program.bodies])
    model = Model(graphs, path, "graphdef", diagnostics=program.diagnostics)
    model.meta["graphdef"] = message
    model.mark_loaded()
    return model


def _refuse_variables(nodes: Nodes) -> None:
    for node in nodes.values():
        if node.op in _VARIABLES:
            what = "the graph is not frozen: it holds variables"
            raise UnsupportedError(what, where=place(node), remedy=FREEZE)


class _Scope:
    """The nodes of one graph or function, and what they have computed so far."""

    def __init__(self, importer: Importer, nodes: Nodes) -> None:
        self.importer, self.nodes = importer, nodes
        self.values: dict[Ref, Value] = {}

    def read(self, ends: Iterable[Ref], stop: set[str]) -> None:
        """Convert what `ends` need, producers first, not looking behind `stop`."""
        for node in sort_nodes(self.nodes, ends, stop):
            self._convert(node)

    def _convert(self, node: Any) -> None:
        for ref in data_refs(node):
            if ref not in self.values:
                what = f"reads '{ref}', which its node does not give"
                raise ModelFileError(what, where=place(node))
        values = [self.values[ref] for ref in data_refs(node)]
        try:
            convert = self._converter(node, values)
            results = convert(NodeContext(self.importer, node, values))
        except QfError as error:
            raise (error if error.where else error.at(place(node))) from None
        except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
            raise ModelFileError(f"does not make sense: {error}", where=place(node)) from None
        for port, value in enumerate(results):
            self.values[Ref(node.name, port)] = value

    def _converter(self, node: Any, values: Sequence[Value]) -> Converter:
        convert = CONVERTERS.get(node.op)
        if convert is None and node.op in self.importer.program.library:
            convert = call
        if any(isinstance(value, Drawn) for value in values):
            convert = on_drawn(node.op, convert)
        if convert is None:
            raise unsupported(node)
        if node.op not in TAKE_UNSET and any(isinstance(value, Unset) for value in values):
            what = "reads a list of tensors of unknown shape"
            raise UnsupportedError(what, remedy="give the list the shape of its tensors")
        return convert


def _run(importer: Importer, function: Function, args: Sequence[Value]) -> list[Value]:
    """The results of `function`, read into the importer's graph."""
    program = importer.program
    if function not in program.structured:
        # What a function looks like without frames is found once.
        program.structured[function] = structured(
            dict(function.nodes),
            program.library,
            stop=function.stop,
            results={ref.node for ref in function.outputs},
        )
    scope = _Scope(importer, program.structured[function])
    for refs, value in zip(function.args, args, strict=True):
        scope.values.update(dict.fromkeys(refs, value))
    scope.read(function.outputs, function.stop)
    missing = [str(ref) for ref in function.outputs if ref not in scope.values]
    if missing:
        raise ModelFileError(f"function '{function.name}' does not give '{missing[0]}'")
    return [scope.values[ref] for ref in function.outputs]


def _read_graph(nodes: Nodes, inputs: Shapes, outputs: Sequence[Ref], program: Program) -> Graph:
    """The main graph: what the outputs need, producers first."""
    graph = Graph("main")
    scope = _Scope(Importer(graph, program), nodes)
    placeholders = []
    for ref, known in inputs.items():
        node = nodes[ref.node]
        shape, diagnostics = static_shape(ref, known)
        program.diagnostics.add(*diagnostics)
        placeholders.append(Tensor(str(ref), shape, _element_type(node), meta={"node": node}))
        scope.values[ref] = Computed.plain(placeholders[-1])
    graph.set_io(placeholders)
    scope.read(outputs, {ref.node for ref in inputs})
    results: list[Tensor] = []
    for ref in outputs:
        if ref not in scope.values:
            raise UsageError("its node has no such output", where=f"output '{ref}'")
        results.append(
            _named(graph, scope.importer.plain(scope.values[ref]), ref, outputs, results)
        )
    graph.set_io(outputs=results)
    graph.prune()
    return graph


def _element_type(node: Any) -> str:
    for name in ("dtype", "T"):
        stated = attribute(node, name)
        if isinstance(stated, str):
            return element_type(stated)
    return "float32"


def _named(
    graph: Graph, tensor: Tensor, ref: Ref, outputs: Sequence[Ref], others: Sequence[Tensor]
) -> Tensor:
    """The output `tensor` as a tensor of its own that bears the name of `ref`.

    others: the outputs before it.
    """
    name = str(ref)
    if tensor.name == name:
        return tensor
    # A value that is stored in another layout, or a constant, may have the output's name.
    for other in graph.tensors:
        if other.name == name and not other.is_input:
            graph.rename(other, graph.unique_name(f"{name}/inner"))
    op = tensor.producer
    if op is not None and Ref(op.name, 0) not in outputs and tensor not in others:
        graph.rename(tensor, name)
        return tensor
    twin = Tensor(name, tensor.shape, tensor.dtype)
    graph.add_op(Op("IDENTITY", [tensor], [twin]))
    return twin
