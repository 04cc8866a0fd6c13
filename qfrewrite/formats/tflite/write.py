"""Write a model of the IR as a `.tflite` file.

The model must be in deployable form: every op one of TFLite's. Activations are fused again where
reading a file took them apart. A model that nobody edited is written with all that its file held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qfrewrite.errors import QfError, UnsupportedError
from qfrewrite.formats.atomic import write_atomic
from qfrewrite.formats.tflite import metadata
from qfrewrite.formats.tflite import schema as names
from qfrewrite.formats.tflite.appended_zip import AppendedZip
from qfrewrite.formats.tflite.flatbuffer import Encoder, Values, as_bytes
from qfrewrite.formats.tflite.runtimes import min_runtime_version
from qfrewrite.ir import NUMPY_DTYPES, Array, Graph, Model, Op, Quant, Signature, Tensor
from qfrewrite.ops.spec import facets, least_version

DESCRIPTION = "qfrewrite"
_RUNTIME = "min_runtime_version"

# Offsets in a flatbuffer reach 2 GB; of larger models the data stand behind it.
_MOST_INLINE = 2**31 - 2**26
# Data this small stay inline all the same (TFLite takes sizes of 0 and 1 as "none" there).
_ALWAYS_INLINE = 64
_ALIGN = 16

_OPERATOR_EXTRAS = ("custom_options_format", "mutating_variable_inputs", "debug_metadata_index")


def write_tflite(model: Model, path: str | Path) -> int:
    """Write `model` to `path`, whole or not at all; returns how many bytes.

    Raises UnsupportedError for what TFLite cannot hold and OutputError where `path` cannot be
    written. Constants go from where they lie to the file, chunk by chunk.
    """
    return write_atomic(path, chunks(model))


def serialize(model: Model) -> bytes:
    """The bytes of `model` as a `.tflite` file. Raises UnsupportedError."""
    return b"".join(chunks(model))


def chunks(model: Model, *, most_inline: int = _MOST_INLINE) -> Iterator[Any]:
    """The file's bytes in order, as objects with the buffer protocol.

    Everything is checked before this returns. A model whose constants take more than
    `most_inline` bytes gets them behind the flatbuffer, where 64-bit offsets lead to them.
    """
    writer = _ModelWriter(model)
    places: dict[int, int] = {}
    if sum(data.nbytes for data in writer.data) > most_inline:
        behind = [i for i, data in enumerate(writer.data) if data.nbytes > _ALWAYS_INLINE]
        # Where data stand depends on the flatbuffer's size, which does not depend on where.
        at = writer.encode(dict.fromkeys(behind, _ALIGN)).size
        for i in behind:
            places[i] = at = at + -at % _ALIGN
            at += writer.data[i].nbytes
        writer = _ModelWriter(model)
    encoder = writer.encode(places)
    if encoder.size >= 2**31:
        raise UnsupportedError("takes more than 2 GB", where=f"model '{model.name}'")
    return _pieces(encoder, writer.data, places, model.meta.get("associated_files"))


def op_version(op: Op) -> int:
    """The op version to write: what its definition asks for, and no less than its file had."""
    return max(op.version or 1, least_version(op))


def _pieces(
    encoder: Encoder, data: list[Array], places: Mapping[int, int], files: AppendedZip | None
) -> Iterator[Any]:
    yield from encoder.chunks()
    at = encoder.size
    for i, place in places.items():
        yield bytes(place - at)
        yield as_bytes(data[i])
        at = place + data[i].nbytes
    if files is not None:
        padding, content = files.moved(at)
        yield bytes(padding)
        yield content


class _ModelWriter:
    """Writes everything but the buffers, whose contents gather in `data` (from number 1 on)."""

    def __init__(self, model: Model) -> None:
        self.model = model
        # A model as it was read is written as it was read, without additions.
        self.as_read = model.source == "tflite" and not model.edited
        self.encoder = Encoder(names.SCHEMA)
        self.data: list[Array] = []
        self._codes: dict[tuple[int, str | None, int], int] = {}
        self._shared: dict[tuple[Any, ...], int] = {}
        self._values = self._all_but_buffers()

    def table(self, name: str, values: Values) -> int:
        """Write a table; returns its position."""
        return self.encoder.table(names.SCHEMA.table(name), values)

    def encode(self, places: Mapping[int, int]) -> Encoder:
        """The finished flatbuffer. `places`: index in `data` -> offset of what stands behind it."""
        buffers: list[Values] = [{}]  # number 0 is the one without data
        for i, data in enumerate(self.data):
            behind = {"offset": places.get(i), "size": data.nbytes}
            buffers.append(behind if i in places else {"data": data})
        self.encoder.finish(
            self.table("Model", {**self._values, "buffers": buffers}), names.IDENTIFIER
        )
        return self.encoder

    def _all_but_buffers(self) -> Values:
        model = self.model
        _refuse_unknown(model.meta, f"model '{model.name}'")
        writers = [_GraphWriter(self, graph) for graph in model.graphs]
        values: Values = {
            "version": model.meta.get("schema_version", names.SCHEMA_VERSION),
            "subgraphs": [self.table("SubGraph", writer.values()) for writer in writers],
            "operator_codes": [_code(*key) for key in self._codes],
            "description": self._description(),
            "metadata": [{"name": name, "buffer": self._bytes(v)} for name, v in self._metadata()]
            or None,
            "signature_defs": [_signature(s, writers) for s in self._signatures()] or None,
        }
        if (old := model.meta.get("metadata_buffer")) is not None:
            values["metadata_buffer"] = [self._bytes(value) for value in old]
        return values

    def _bytes(self, value: bytes) -> int:
        return self.buffer(np.frombuffer(value, np.uint8))

    def buffer(self, data: Array) -> int:
        """The number of the buffer that holds `data`; the same bytes in memory share one."""
        layout = () if data.flags.c_contiguous else (data.shape, data.strides, data.itemsize)
        key = (data.__array_interface__["data"][0], data.nbytes, layout)
        if key not in self._shared or not data.nbytes:
            self.data.append(data)
            self._shared[key] = len(self.data)
        return self._shared[key]

    def code(self, op: Op) -> int:
        """The number of the op code for `op`."""
        if op.kind.startswith("UNKNOWN_"):
            number = int(op.kind.removeprefix("UNKNOWN_"))
        elif op.kind in names.CODES:
            number = names.CODES[op.kind]
        else:
            raise UnsupportedError("is no op of TFLite", remedy="lower the graph first")
        custom = op.attrs["custom_code"] if op.kind == "CUSTOM" else op.meta.get("custom_code")
        version = op.version if self.as_read and op.version is not None else op_version(op)
        return self._codes.setdefault((number, custom, version), len(self._codes))

    def _description(self) -> str | None:
        text = self.model.description
        return text if text is not None or self.as_read else DESCRIPTION

    def _metadata(self) -> list[tuple[str, bytes]]:
        entries = list(self.model.metadata)
        if self.as_read:
            return entries
        kinds = {number: kind for kind, number in names.CODES.items()}
        codes = [(kinds.get(number, ""), version) for number, _, version in self._codes]
        stated = dict(reversed(entries)).get(_RUNTIME)
        runtime = _RUNTIME, min_runtime_version(codes, stated)
        if stated is None:
            entries.append(runtime)
        else:
            entries[[name for name, _ in entries].index(_RUNTIME)] = runtime
        if (before := self.model.meta.get("described_io")) is not None:
            after = metadata.interface(self.model.graph)
            entries = [
                (
                    name,
                    metadata.with_converted_stats(value, before, after)
                    if name == metadata.ENTRY
                    else value,
                )
                for name, value in entries
            ]
        return entries

    def _signatures(self) -> list[Signature]:
        if self.model.signatures or self.as_read:
            return self.model.signatures
        graph = self.model.graph
        return [Signature("serving_default", 0, _named(graph.inputs), _named(graph.outputs))]


class _GraphWriter:
    """One subgraph."""

    def __init__(self, model: _ModelWriter, graph: Graph) -> None:
        self.model = model
        self.graph = graph
        self.fused = _fusions(graph)
        activations = set(self.fused.values())
        gone = {op.output for op in self.fused}
        self.ops = [op for op in graph.ops if op not in activations]
        self.index = {t: i for i, t in enumerate(t for t in graph.tensors if t not in gone)}
        self.inputs = [self.index[t] for t in graph.inputs]
        self.outputs = [self.index[t] for t in graph.outputs]

    def values(self) -> Values:
        """The values of the SubGraph table."""
        graph = self.graph
        _refuse_unknown(graph.meta, f"graph '{graph.name}'")
        return {
            "tensors": [self._tensor(t) for t in self.index],
            "inputs": self.inputs,
            "outputs": self.outputs,
            "operators": [self._operator(op) for op in self.ops],
            "name": None if graph.meta.get("unnamed") else graph.name,
            "debug_metadata_index": graph.meta.get("debug_metadata_index", -1),
        }

    def _tensor(self, tensor: Tensor) -> int:
        values: Values = {
            "is_variable": tensor.is_variable,
            "sparsity": tensor.sparsity,
            "variant_tensors": tensor.meta.get("variant_tensors"),
            "has_rank": tensor.has_rank or self.model.model.source != "tflite",
        }
        try:
            _refuse_unknown(tensor.meta)
            values |= {
                "shape": tensor.shape,
                "type": _type(tensor.dtype),
                "buffer": 0 if tensor.data is None else self.model.buffer(_checked(tensor)),
                "name": tensor.name,
                "quantization": _quantization(tensor),
                "shape_signature": tensor.shape_signature,
            }
            return self.model.table("Tensor", values)
        except QfError as error:
            raise error.at(f"tensor '{tensor.name}'") from None

    def _operator(self, op: Op) -> int:
        values: Values = {k: op.meta[k] for k in _OPERATOR_EXTRAS if k in op.meta}
        outputs, attrs = op.outputs, dict(op.attrs)
        if op in self.fused:
            activation = self.fused[op]
            outputs, attrs["fused_activation_function"] = activation.outputs, activation.kind
        try:
            _refuse_unknown(op.meta)
            for table, options in _options(op, attrs).items():
                field = "builtin_options" if table in _FIRST_UNION else "builtin_options2"
                values |= {f"{field}_type": table, field: options}
            values |= {
                "opcode_index": self.model.code(op),
                "inputs": [-1 if t is None else self.index[t] for t in op.inputs],
                "outputs": [self.index[t] for t in outputs],
                "custom_options": {**op.meta, **op.attrs}.get("custom_options"),
                "intermediates": [self.index[t] for t in op.intermediates] or None,
            }
            return self.model.table("Operator", values)
        except QfError as error:
            raise error.at(op.place) from None


_FIRST_UNION = frozenset(names.SCHEMA.enum("BuiltinOptions").values())


def _fusions(graph: Graph) -> dict[Op, Op]:
    """Op -> the activation to fuse into it: only where reading a file made two of one."""
    fusions = {}
    for op in graph.ops:
        if not facets(op).unfuses or len(op.outputs) != 1:
            continue
        between, users = op.output, op.output.users
        fusible = len(users) == 1 and facets(users[0].op).fusible and not between.is_output
        free = op.attrs.get("fused_activation_function", "NONE") == "NONE"
        if between.fused and fusible and free:
            fusions[op] = users[0].op
    return fusions


def _options(op: Op, attrs: dict[str, Any]) -> dict[str, Values]:
    """The option tables of an op: its attributes, and what its file held besides."""
    as_read = op.version is not None
    tables: dict[str, Values] = dict(op.meta.get("other_options", {})) if as_read else {}
    if op.kind == "FAKE_QUANT":
        attrs = _fake_quant(attrs)
    if op.kind == "CUSTOM":
        # Its code and its bytes are fields of the operator.
        attrs = {k: v for k, v in attrs.items() if k not in ("custom_code", "custom_options")}
    usual = names.options_table(op.kind)
    if usual is None:
        if attrs:
            raise UnsupportedError(f"takes no attribute '{next(iter(attrs))}' in TFLite")
        return tables
    if as_read and op.meta.get("no_options") and attrs == names.default_attrs(op.kind):
        return tables
    return {usual: attrs, **tables}


def _fake_quant(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """FAKE_QUANT's attributes as TFLite has them: one range for the whole tensor."""
    low, high = np.asarray(attrs["min"]), np.asarray(attrs["max"])
    if attrs.get("axis") is not None or low.size != 1 or high.size != 1:
        raise UnsupportedError("TFLite's FAKE_QUANT has one range, not one per channel")
    rest = {k: v for k, v in attrs.items() if k != "axis"}
    return {**rest, "min": float(low.item()), "max": float(high.item())}


def _type(dtype: str) -> str | int:
    if dtype.startswith("unknown_"):
        return int(dtype.removeprefix("unknown_"))
    if dtype not in names.DTYPES.values():
        raise UnsupportedError(f"TFLite has no element type {dtype}")
    return dtype.upper()


def _checked(tensor: Tensor) -> Array:
    """The tensor's value, in the element type and of the size that the tensor says."""
    data = tensor.value()
    if tensor.sparsity is not None or tensor.dtype not in NUMPY_DTYPES:
        return _checked_bytes(tensor, data)
    dtype = NUMPY_DTYPES[tensor.dtype]
    if data.shape != tensor.shape or data.dtype.newbyteorder("=") != dtype.newbyteorder("="):
        have, want = f"{data.dtype}{list(data.shape)}", f"{tensor.dtype}{list(tensor.shape)}"
        raise UnsupportedError(f"holds {have} where it says {want}")
    return data.astype(dtype, copy=False)


def _checked_bytes(tensor: Tensor, data: Array) -> Array:
    """Data that numpy cannot shape: the bytes, of which there must be as many as the type takes."""
    bits = 0 if tensor.sparsity is not None else names.BITS.get(tensor.dtype, 0)
    expected = (tensor.size * bits + 7) // 8 if bits else data.nbytes
    if data.dtype != np.uint8 or data.nbytes != expected:
        have, want = f"{data.nbytes} bytes as {data.dtype}", f"{expected} as uint8"
        raise UnsupportedError(f"holds {have}; {tensor.dtype} takes {want}")
    return data


def _quantization(tensor: Tensor) -> Values | None:
    quant: Quant | None = tensor.quant
    if quant is None:
        return tensor.meta.get("quantization")
    return {
        **quant.extra,
        "scale": quant.scale,
        "zero_point": np.broadcast_to(quant.zero_point, quant.scale.shape),
        "quantized_dimension": quant.axis,
    }


def _code(number: int, custom: str | None, version: int) -> Values:
    return {
        # Readers from before 2021 know the first field only; it cannot hold more than 127.
        "deprecated_builtin_code": min(number, names.PLACEHOLDER_CODE),
        "custom_code": custom,
        "version": version,
        "builtin_code": number,
    }


def _signature(signature: Signature, writers: list[_GraphWriter]) -> Values:
    if not 0 <= signature.subgraph < len(writers):
        what = f"names subgraph {signature.subgraph} of {len(writers)}"
        raise UnsupportedError(what, where=f"signature '{signature.key}'")
    writer = writers[signature.subgraph]
    sides: Values = {}
    for side, tensors in (("inputs", writer.inputs), ("outputs", writer.outputs)):
        pairs = getattr(signature, side)
        for name, i in pairs:
            if not 0 <= i < len(tensors):
                what = f"'{name}' is number {i} of {len(tensors)} {side}"
                raise UnsupportedError(what, where=f"signature '{signature.key}'")
        sides[side] = [{"name": name, "tensor_index": tensors[i]} for name, i in pairs]
    return {"signature_key": signature.key, "subgraph_index": signature.subgraph, **sides}


def _named(tensors: tuple[Tensor, ...]) -> tuple[tuple[str, int], ...]:
    """Each tensor's name with its position; a name that stands twice is kept once."""
    firsts: dict[str, int] = {}
    for i, tensor in enumerate(tensors):
        firsts.setdefault(tensor.name, i)
    return tuple(firsts.items())


def _refuse_unknown(meta: Mapping[str, Any], where: str | None = None) -> None:
    if unknown := meta.get("unknown"):
        what = f"holds what this version cannot write: {', '.join(unknown)}"
        raise UnsupportedError(what, where=where, remedy="update the 'tflite' package")
