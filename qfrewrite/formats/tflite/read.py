"""Read a `.tflite` file into the IR.

What the IR has no place for is kept in `meta` under the schema's own field names, and the writer
puts it back. Fused activations become ops of their own. Constants are views over the file.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qfrewrite.errors import ModelFileError, QfError, VerifyError
from qfrewrite.formats.tflite import schema as names
from qfrewrite.formats.tflite.appended_zip import find_zip
from qfrewrite.formats.tflite.flatbuffer import UNKNOWN, Decoder, Values
from qfrewrite.formats.tflite.metadata import interface
from qfrewrite.ir import NUMPY_DTYPES, Array, Graph, Model, Op, Quant, Signature, Tensor
from qfrewrite.ops.sparsity import checked_places, is_sparse
from qfrewrite.ops.spec import kinds_that

_UNFUSED = frozenset(kinds_that(lambda op: op.unfuses))
_FUSIBLE = frozenset(kinds_that(lambda op: op.fusible))
_REMEDY = "the file is damaged or cut short"
_MOST_DIMENSIONS = 32  # of a numpy array

# What a table may hold besides what the IR holds -> its value when it does not.
_OPERATOR_EXTRAS = {
    "custom_options_format": "FLEXBUFFERS",
    "debug_metadata_index": -1,
    "mutating_variable_inputs": None,
}
_GRAPH_EXTRAS = {"debug_metadata_index": -1}
_TENSOR_EXTRAS = {"variant_tensors": None}


def read_tflite(path: str | Path) -> Model:
    """The model in the file `path`, which is mapped into memory, not read.

    Raises ModelFileError where there is no such file or it is not a sound model.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise ModelFileError("is empty", where=str(path))
            buf = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        what = f"cannot be read ({error.strerror or error})"
        raise ModelFileError(what, where=str(path)) from None
    return parse_tflite(buf, path)


def parse_tflite(buf: bytes | mmap.mmap | memoryview, path: Path | None = None) -> Model:
    """The model in `buf`; its constants stay views over it. Raises ModelFileError."""
    where = str(path) if path else "model"
    view = memoryview(buf).toreadonly().cast("B")
    if len(view) < 8 or view[4:8] != names.IDENTIFIER:
        raise ModelFileError("is not a .tflite model (no TFL3 mark at byte 4)", where=where)
    try:
        return _ModelReader(Decoder(names.SCHEMA, view)).model(path)
    except VerifyError as error:
        raise ModelFileError(error.what, where=error.where, remedy=_REMEDY).at(where) from None
    except QfError as error:
        raise error.at(where) from None


class _ModelReader:
    """One file: its decoder, its op codes and its buffers."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.file = decoder.root("Model")
        self.codes: list[Values] = self.file["operator_codes"] or []
        self.buffers: list[Values] = self.file["buffers"] or []
        self._data: dict[tuple[int, str, tuple[int, ...]], Array | None] = {}

    def model(self, path: Path | None) -> Model:
        """Everything."""
        file = self.file
        subgraphs = file["subgraphs"] or []
        if not subgraphs:
            raise ModelFileError("holds no graph", remedy=_REMEDY)
        readers = [_GraphReader(self, i, values) for i, values in enumerate(subgraphs)]
        model = Model(
            [reader.read() for reader in readers], path, "tflite", description=file["description"]
        )
        for signature in file["signature_defs"] or []:
            self._signature(model, readers, signature)
        for entry in file["metadata"] or []:
            model.metadata.append((entry["name"] or "", self._bytes(entry["buffer"], "metadata")))
        model.meta["schema_version"] = file["version"]
        if (files := find_zip(self.decoder.buf)) is not None:
            model.meta["associated_files"] = files
        # Metadata describe inputs and outputs in these types.
        model.meta["described_io"] = interface(model.graph)
        if file["metadata_buffer"] is not None:
            ids = _ints(file["metadata_buffer"])
            model.meta["metadata_buffer"] = tuple(self._bytes(i, "metadata_buffer") for i in ids)
        model.meta |= _unknown(*self._tables_outside_graphs())
        model.diagnostics.add(*self.decoder.diagnostics)
        model.mark_loaded()
        return model

    def raw(self, index: int, what: str) -> Array | None:
        """The bytes of buffer `index`, or None where it holds none."""
        if not 0 <= index < len(self.buffers):
            raise ModelFileError(f"{what} has no buffer {index}", remedy=_REMEDY)
        buffer = self.buffers[index]
        if buffer["data"] is not None:
            data: Array = buffer["data"]
            return data
        # Models beyond 2 GB keep data behind the flatbuffer. 1 is TFLite's mark for "not yet".
        return self.beyond(buffer["offset"], buffer["size"], f"buffer {index}")

    def beyond(self, offset: int, size: int, what: str) -> Array | None:
        """`size` bytes at `offset` of the file, where both are set."""
        if offset <= 1 or size <= 1:
            return None
        view: Array = self.decoder.view(np.dtype("u1"), size, offset, what)
        return view

    def constant(self, tensor: Values, dtype: str, shape: tuple[int, ...]) -> Array | None:
        """The value of a tensor, shaped; raw bytes [n] where numpy lacks the type or it is sparse.

        Tensors that share a buffer share the array.
        """
        index = tensor["buffer"]
        key = (index, "sparse" if tensor["sparsity"] else dtype, shape)
        if index == 0:
            return None
        if key not in self._data:
            raw = self.raw(index, f"tensor '{tensor['name']}'")
            if raw is not None and not raw.size and all(shape):
                raw = None
            self._data[key] = raw if raw is None or key[1] == "sparse" else _shaped(raw, *key[1:])
        return self._data[key]

    def _tables_outside_graphs(self) -> Iterator[Values]:
        yield self.file
        for field in ("buffers", "metadata", "signature_defs"):
            yield from self.file[field] or []
        for signature in self.file["signature_defs"] or []:
            yield from (*(signature["inputs"] or []), *(signature["outputs"] or []))

    def _bytes(self, index: int, what: str) -> bytes:
        data = self.raw(index, what)
        return b"" if data is None else self.decoder.copy(data)

    def _signature(self, model: Model, readers: list[_GraphReader], values: Values) -> None:
        key, index = values["signature_key"] or "", values["subgraph_index"]
        if not index < len(readers):
            raise ModelFileError(f"signature '{key}' has no subgraph {index}", remedy=_REMEDY)
        sides = []
        for side, places in readers[index].places().items():
            named = [(pair["name"] or "", pair["tensor_index"]) for pair in values[side] or []]
            sides.append(tuple((name, places[i]) for name, i in named if i in places))
            for name, i in named:
                if i not in places:
                    model.diagnostics.notice(
                        "signature-tensor",
                        f"'{name}' is left out: tensor {i} is not among the {side} of "
                        f"subgraph {index}",
                        where=f"signature '{key}'",
                    )
        model.signatures.append(Signature(key, index, *sides))


class _GraphReader:
    """One subgraph."""

    def __init__(self, model: _ModelReader, index: int, values: Values) -> None:
        self.model = model
        self.values = values
        self.graph = Graph(values["name"] or ("main" if index == 0 else f"subgraph_{index}"))
        self.tensors: list[Tensor] = []
        self._read: set[Tensor] = set()

    def read(self) -> Graph:
        """The graph: its tensors in the file's order, then its operators."""
        values, graph = self.values, self.graph
        if not values["name"]:
            graph.meta["unnamed"] = True
        graph.meta |= {**_extras(values, _GRAPH_EXTRAS), **_unknown(values)}
        self.tensors = [self._tensor(t, i) for i, t in enumerate(values["tensors"] or [])]
        for tensor in self.tensors:
            graph.add_tensor(tensor)
        inputs = [self._pick(i, "graph inputs") for i in _ints(values["inputs"])]
        outputs = [self._pick(i, "graph outputs") for i in _ints(values["outputs"])]
        self._read.update(inputs)
        for i, operator in enumerate(values["operators"] or []):
            self._operator(operator, i)
        graph.set_io(inputs, outputs)
        return graph

    def places(self) -> dict[str, dict[int, int]]:
        """For `inputs` and `outputs`: tensor number -> first position in that list."""
        places: dict[str, dict[int, int]] = {"inputs": {}, "outputs": {}}
        for side, firsts in places.items():
            for i, tensor in enumerate(_ints(self.values[side])):
                firsts.setdefault(tensor, i)
        return places

    # -- tensors ---------------------------------------------------------------------------

    def _tensor(self, values: Values, index: int) -> Tensor:
        name = values["name"] or ""
        where = f"tensor '{name}'" if name else f"tensor {index}"
        number = values["type"]
        dtype = f"unknown_{number}" if isinstance(number, int) else number.lower()
        shape = _ints(values["shape"])
        if len(shape) > _MOST_DIMENSIONS or min(shape, default=0) < 0:
            raise ModelFileError(f"has the shape {list(shape[:8])}", where=where, remedy=_REMEDY)
        meta = {**_extras(values, _TENSOR_EXTRAS), **_unknown(values, values["quantization"])}
        signature = values["shape_signature"]
        try:
            data = self.model.constant(values, dtype, shape)
            quant = _quantization(values["quantization"], shape, meta)
        except QfError as error:
            raise error.at(where) from None
        tensor = Tensor(
            name,
            shape,
            dtype,
            data,
            quant,
            shape_signature=None if signature is None else _ints(signature),
            has_rank=values["has_rank"],
            is_variable=values["is_variable"],
            sparsity=values["sparsity"],
            meta=meta,
        )
        if is_sparse(tensor) and dtype in NUMPY_DTYPES:
            checked_places(tensor)
        return tensor

    def _pick(self, index: int, what: str) -> Tensor:
        if not 0 <= index < len(self.tensors):
            raise ModelFileError(f"{what}: there is no tensor {index}", remedy=_REMEDY)
        return self.tensors[index]

    # -- operators -------------------------------------------------------------------------

    def _operator(self, values: Values, index: int) -> None:
        codes = self.model.codes
        if not values["opcode_index"] < len(codes):
            raise ModelFileError(f"op {index} has no op code", remedy=_REMEDY)
        code = codes[values["opcode_index"]]
        number = max(code["builtin_code"], code["deprecated_builtin_code"])
        kind = names.KINDS.get(number, f"UNKNOWN_{number}")
        where = f"op {index} ({kind})"
        inputs = [None if i == -1 else self._pick(i, where) for i in _ints(values["inputs"])]
        outputs = [self._pick(i, where) for i in _ints(values["outputs"])]
        between = [self._pick(i, where) for i in _ints(values["intermediates"])]
        self._check_order(where, inputs, outputs)
        attrs, meta = self._attributes(values, code, kind)
        fused: str = attrs.get("fused_activation_function", "NONE")
        unfuses = kind in _UNFUSED and fused in _FUSIBLE and len(outputs) == 1
        written = [self._before(outputs[0], fused)] if unfuses else outputs
        if unfuses:
            attrs["fused_activation_function"] = "NONE"
        op = Op(
            kind,
            inputs,
            written,
            attrs,
            intermediates=tuple(between),
            version=code["version"],
            meta=meta,
        )
        self.graph.add_op(op)
        if unfuses:
            self.graph.add_op(Op(fused, written, outputs))

    def _before(self, out: Tensor, activation: str) -> Tensor:
        """The tensor between an op and its activation, which the file does not have."""
        name = self.graph.unique_name(f"{out.name}/pre_{activation.lower()}")
        signature = out.shape_signature
        return Tensor(
            name, out.shape, out.dtype, quant=out.quant, shape_signature=signature, fused=True
        )

    def _check_order(self, where: str, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
        """Ops run in the file's order: none may write what was read before."""
        self._read.update(t for t in inputs if t is not None)
        for out in outputs:
            if out in self._read:
                what = f"writes '{out.name}', which is a graph input or was read before"
                raise ModelFileError(what, where=where, remedy=_REMEDY)

    def _attributes(
        self, values: Values, code: Values, kind: str
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """An operator's attributes, and what the writer needs besides them."""
        attrs, meta = self._options(values, kind)
        extra = {"custom_code": code["custom_code"], "custom_options": self._custom_options(values)}
        extra = {k: v for k, v in extra.items() if v is not None}
        if kind == "CUSTOM":
            attrs |= {"custom_code": "", "custom_options": b"", **extra}
        else:
            meta |= extra
        tables = (values, code, values["builtin_options"], values["builtin_options2"])
        return attrs, {**meta, **_extras(values, _OPERATOR_EXTRAS), **_unknown(*tables)}

    def _options(self, values: Values, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The attributes, and where the table is not the kind's own, what tables there are."""
        usual, meta = names.options_table(kind), dict[str, Any]()
        tables = {
            values[f"{field}_type"]: {
                k: _plain(v) for k, v in values[field].items() if k != UNKNOWN
            }
            for field in ("builtin_options", "builtin_options2")
            if values[field] is not None
        }
        options = tables.pop(usual, None)
        if usual and options is None:
            meta["no_options"] = True
        if tables:
            meta["other_options"] = tables
        given = {k: v for k, v in (options or {}).items() if v is not None}
        # FAKE_QUANT of the IR can have a range per index of an axis, which TFLite's cannot.
        more = {"axis": None} if kind == "FAKE_QUANT" else {}
        return {**names.default_attrs(kind), **given, **more}, meta

    def _custom_options(self, values: Values) -> bytes | None:
        data = values["custom_options"]
        if data is None:
            offset, size = (values[f"large_custom_options_{k}"] for k in ("offset", "size"))
            data = self.model.beyond(offset, size, "custom options")
        return None if data is None else self.model.decoder.copy(data)


# -- values --------------------------------------------------------------------------------


def _ints(vector: Any) -> tuple[int, ...]:
    return () if vector is None else tuple(vector.tolist())


def _extras(values: Values, absent: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the fields named in `absent` that have another value than there."""
    plain = {name: _plain(values[name]) for name in absent}
    return {name: value for name, value in plain.items() if value != absent[name]}


def _unknown(*tables: Values | None) -> dict[str, Any]:
    """What the schema does not know in `tables`, as an entry of `meta` where there is any."""
    unknown = tuple(what for table in tables for what in (table or {}).get(UNKNOWN, ()))
    return {"unknown": unknown} if unknown else {}


def _plain(value: Any) -> Any:
    """Decoded values without arrays: vectors as tuples, vectors of bytes as bytes."""
    if isinstance(value, np.ndarray):
        return value.tobytes() if value.dtype == np.uint8 else tuple(value.tolist())
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list) else value


def _shaped(raw: Array, dtype: str, shape: tuple[int, ...]) -> Array:
    """The bytes of a buffer as a tensor's value; raises ModelFileError where they do not fit."""
    count = math.prod(shape)
    if dtype in names.BITS:
        expected = (count * names.BITS[dtype] + 7) // 8
        if raw.size != expected:
            what = f"holds {raw.size} bytes where {dtype}{list(shape)} takes {expected}"
            raise ModelFileError(what, remedy=_REMEDY)
    if dtype not in NUMPY_DTYPES:
        return raw
    return raw.view(NUMPY_DTYPES[dtype]).reshape(shape)


def _quantization(
    values: Values | None, shape: tuple[int, ...], meta: dict[str, Any]
) -> Quant | None:
    """Scale and zero point; recorded ranges alone stay in `meta["quantization"]`."""
    if values is None:
        return None
    scale, zero, axis = values["scale"], values["zero_point"], values["quantized_dimension"]
    extra = {k: values[k] for k in ("min", "max") if values[k] is not None}
    if values["details"] is not None:
        extra |= {k: _plain(values[k]) for k in ("details_type", "details")}
    if scale is None or not scale.size:
        extra |= {"zero_point": zero} if zero is not None and zero.size else {}
        extra |= {"quantized_dimension": axis} if axis else {}
        meta |= {"quantization": extra} if extra else {}
        return None
    zero = np.zeros(1, np.int64) if zero is None or not zero.size else zero
    if zero.size not in (1, scale.size):
        what = f"has {scale.size} scales but {zero.size} zero points"
        raise ModelFileError(what, remedy=_REMEDY)
    if scale.size > 1 and not (0 <= axis < len(shape) and shape[axis] == scale.size):
        what = f"has {scale.size} scales along dimension {axis} of {list(shape)}"
        raise ModelFileError(what, remedy=_REMEDY)
    return Quant(scale, zero, axis, extra)
