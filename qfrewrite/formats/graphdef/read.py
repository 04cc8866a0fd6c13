"""Read a frozen GraphDef (`.pb`) into the IR."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qfrewrite.errors import Diagnostics, ModelFileError, QfError, UnsupportedError, UsageError
from qfrewrite.formats.graphdef.detect import parse_message, read_bytes
from qfrewrite.formats.graphdef.frames import structured
from qfrewrite.formats.graphdef.functions import Function, Library
from qfrewrite.formats.graphdef.importer import Importer, NodeContext, Program, unsupported
from qfrewrite.formats.graphdef.nodes import (
    Ref,
    ancestors,
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
    find_inputs,
    find_outputs,
    find_ref,
    input_shape,
    known_shape,
    parse_input,
)
from qfrewrite.formats.graphdef.tensor_proto import tensor_to_numpy
from qfrewrite.formats.graphdef.training import for_inference
from qfrewrite.formats.graphdef.values import Computed, Drawn, Unset, Value, identity_perm
from qfrewrite.ir import Graph, Model, Op, Tensor

_VARIABLES = frozenset(
    {"Variable", "VariableV2", "VarHandleOp", "ReadVariableOp", "AutoReloadVariable"}
)
_FREEZE = (
    "freeze the graph first (tf.compat.v1.graph_util.convert_variables_to_constants, or "
    "convert_variables_to_constants_v2 for TensorFlow 2)"
)


def read_graphdef(
    path: str | Path,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
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
    given = [_checked(nodes, parse_input(text)) for text in inputs] if inputs else None
    specs = find_inputs(nodes, ends, given)
    specs, settled = _settled(message, nodes, specs, ends, library)
    diagnostics.add(*settled)
    program = Program(library, _Run(), diagnostics=diagnostics)
    graph = _Reader(message, nodes, specs, ends, program).read()
    graphs = without_unreached([graph, *program.bodies])
    model = Model(graphs, path, "graphdef", diagnostics=program.diagnostics)
    model.meta["graphdef"] = message
    model.mark_loaded()
    return model


def _checked(nodes: dict[str, Any], spec: GivenInput) -> GivenInput:
    return GivenInput(find_ref(nodes, spec.ref, "input"), spec.shape)


def _refuse_variables(nodes: dict[str, Any]) -> None:
    for node in nodes.values():
        if node.op in _VARIABLES:
            raise UnsupportedError(
                "the graph is not frozen: it holds variables", where=place(node), remedy=_FREEZE
            )


def _settled(
    message: Any,
    nodes: dict[str, Any],
    specs: list[GivenInput],
    ends: list[Ref],
    library: Library,
) -> tuple[list[GivenInput], Diagnostics]:
    """The inputs with the sizes that the graph's layers imply."""
    producer = message.versions.producer
    known = {
        s.ref: known_shape(s, nodes[s.ref.node], producer, _default_shape(nodes, s)) for s in specs
    }

    def reads(shapes: Mapping[Ref, tuple[int, ...]]) -> bool:
        tried = [GivenInput(s.ref, shapes.get(s.ref, s.shape)) for s in specs]
        try:
            _Reader(message, nodes, tried, ends, Program(library, _Run())).read()
        except QfError:
            return False
        return True

    return settle_inputs(nodes, known, specs, ends, reads)


def _default_shape(nodes: dict[str, Any], spec: GivenInput) -> tuple[int, ...] | None:
    """The shape of the default of a PlaceholderWithDefault, where it is a constant."""
    node = nodes[spec.ref.node]
    source = nodes[data_refs(node)[0].node] if node.op == "PlaceholderWithDefault" else None
    if source is None or source.op != "Const":
        return None
    return tensor_to_numpy(source.attr["value"].tensor, place(source)).shape


class _Scope:
    """The nodes of one graph or function, and what they have computed so far."""

    def __init__(self, importer: Importer, nodes: Mapping[str, Any]) -> None:
        self.importer, self.nodes = importer, nodes
        self.values: dict[Ref, Value] = {}

    def read(self, ends: Iterable[Ref], stop: set[str]) -> None:
        """Convert what `ends` need, producers first, not looking behind `stop`."""
        wanted = ancestors(self.nodes, [ref.node for ref in ends], stop)
        for node in sort_nodes(self.nodes, wanted, stop):
            if node.name not in stop:
                self._convert(node)

    def _convert(self, node: Any) -> None:
        values = [self._value(ref, node) for ref in data_refs(node)]
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
            raise UnsupportedError(
                "reads a list of tensors of unknown shape",
                remedy="give the list the shape of its tensors",
            )
        return convert

    def _value(self, ref: Ref, reader: Any) -> Value:
        found = self.values.get(ref)
        if found is None:
            raise ModelFileError(
                f"reads '{ref}', which its node does not give", where=place(reader)
            )
        return found


class _Run:
    """Reads functions; what each of them looks like without frames is found once."""

    def __init__(self) -> None:
        self._structured: dict[Function, dict[str, Any]] = {}

    def __call__(
        self, importer: Importer, function: Function, args: Sequence[Value]
    ) -> list[Value]:
        """The results of `function`, read into the importer's graph."""
        if function not in self._structured:
            library = importer.program.library
            self._structured[function] = structured(
                dict(function.nodes),
                library,
                stop=function.stop,
                results={ref.node for ref in function.outputs},
            )
        scope = _Scope(importer, self._structured[function])
        for refs, value in zip(function.args, args, strict=True):
            scope.values.update(dict.fromkeys(refs, value))
        scope.read(function.outputs, function.stop)
        missing = [str(ref) for ref in function.outputs if ref not in scope.values]
        if missing:
            raise ModelFileError(f"function '{function.name}' does not give '{missing[0]}'")
        return [scope.values[ref] for ref in function.outputs]


class _Reader:
    """The main graph on its way from nodes to ops."""

    def __init__(
        self,
        message: Any,
        nodes: dict[str, Any],
        inputs: list[GivenInput],
        outputs: list[Ref],
        program: Program,
    ) -> None:
        self.message, self.nodes = message, nodes
        self.inputs, self.outputs = inputs, outputs
        self.importer = Importer(Graph("main"), program)
        self.scope = _Scope(self.importer, nodes)
        self.values = self.scope.values
        self.given: set[Tensor] = set()

    def read(self) -> Graph:
        """Convert what the outputs need, producers first."""
        graph = self.importer.graph
        graph.set_io([self._input(spec) for spec in self.inputs])
        self.scope.read(self.outputs, {spec.ref.node for spec in self.inputs})
        graph.set_io(outputs=[self._output(ref) for ref in self.outputs])
        graph.prune()
        return graph

    def _input(self, spec: GivenInput) -> Tensor:
        node = self.nodes[spec.ref.node]
        default = _default_shape(self.nodes, spec)
        producer = self.message.versions.producer
        shape, diagnostics = input_shape(spec, node, producer, default)
        self.importer.diagnostics.add(*diagnostics)
        tensor = Tensor(str(spec.ref), shape, self._dtype(node), meta={"node": node})
        self.values[spec.ref] = Computed(tensor, identity_perm(len(shape)), tensor.name)
        return tensor

    def _dtype(self, node: Any) -> str:
        for name in ("dtype", "T"):
            stated = attribute(node, name)
            if isinstance(stated, str):
                return element_type(stated)
        return "float32"

    def _output(self, ref: Ref) -> Tensor:
        """The output as a tensor of its own that bears the node's name."""
        value = self.values.get(ref)
        if value is None:
            raise UsageError("its node has no such output", where=f"output '{ref}'")
        tensor = self.importer.laid_out(value, identity_perm(len(value.shape)))
        graph, name = self.importer.graph, str(ref)
        if tensor.name != name:
            self._free(name)
            made = tensor.producer
            other = made is not None and Ref(made.name, 0) in self.outputs
            if made is None or other or tensor in self.given:
                twin = Tensor(name, tensor.shape, tensor.dtype)
                graph.add_op(Op("IDENTITY", [tensor], [twin]))
                tensor = twin
            else:
                graph.rename(tensor, name)
        self.given.add(tensor)
        return tensor

    def _free(self, name: str) -> None:
        """Let no tensor inside the graph bear an output's name: a value that is stored in
        another layout, or a constant."""
        graph = self.importer.graph
        for tensor in graph.tensors:
            if tensor.name == name and not tensor.is_input:
                graph.rename(tensor, graph.unique_name(f"{name}/inner"))
