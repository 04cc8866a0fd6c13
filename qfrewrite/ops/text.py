"""The textual form of a graph: for people, for golden tests, and for graphs written by hand.

    graph tiny(%x: f32[1,4]) {
      %w: f32[2,4] = #7082d45a
      %b: f32[2] = [0.5, -1]
      %dense: f32[1,2] = FULLY_CONNECTED(%x, %w, %b)
      %y: f32[1,2] = LEAKY_RELU(%dense) {alpha=0.25}
      return %y
    }

A line per op in execution order, after the constants that it is the first to use. `-` is an empty
slot. Attributes with their default values are left out. `as %name` names an op that is not called
like its first output. A constant is one number where all its elements are equal, a list of up to 8,
or a digest. `?6` is a dimension that the file leaves open, at present 6.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np

from qfrewrite.errors import UsageError
from qfrewrite.ir import NUMPY_DTYPES, Array, Graph, Op, Quant, Tensor
from qfrewrite.ops.build import append_op
from qfrewrite.ops.spec import OPS

_SHORT = {
    "float32": "f32",
    "float16": "f16",
    "float64": "f64",
    "int8": "i8",
    "uint8": "u8",
    "int16": "i16",
    "uint16": "u16",
    "int32": "i32",
    "uint32": "u32",
    "int64": "i64",
    "uint64": "u64",
    "bool": "i1",
}
_LONG = {short: name for name, short in _SHORT.items()}
# The longest list of values that is written out, and the most elements that are read.
_LISTED = 8
_MOST = 1 << 26
# What a value in a text must be, by the kind of its numpy type.
_PYTHON: Mapping[str, tuple[type, ...]] = {
    "b": (bool,),
    "i": (int,),
    "u": (int,),
    "f": (int, float),
    "c": (int, float),
}
_BARE_NAME = re.compile(r'[^\s%"#,(){}\[\]<>:=]+(?::\d+)?')
_WORDS: Mapping[str, Any] = {
    "none": None,
    "true": True,
    "false": False,
    "inf": float("inf"),
    "nan": float("nan"),
}


# Writing -----------------------------------------------------------------------------------------


def graph_text(graph: Graph, *, exact: bool = False) -> str:
    """The same text for the same graph, on every machine.

    exact: write every value of every constant, and every digit. Otherwise numbers have six digits,
    so that a text does not depend on the last bit of a sum, and large constants are digests.
    """
    write = _Writer(exact)
    arguments = ", ".join(write.declared(t) for t in graph.inputs)
    lines = [f"graph {_quoted(graph.name)}({arguments}) {{"]
    seen: set[Tensor] = set()
    for op in graph.ops:
        lines += write.constants(op.inputs, seen)
        lines.append(f"  {write.op(op)}")
    lines += write.constants(graph.outputs, seen)
    returned = ", ".join(_reference(t) for t in graph.outputs)
    return "\n".join([*lines, f"  return {returned}".rstrip(), "}"]) + "\n"


class _Writer:
    """Texts of the parts of a graph; see `graph_text`."""

    def __init__(self, exact: bool) -> None:
        self._exact = exact

    def constants(self, tensors: Any, seen: set[Tensor]) -> Iterator[str]:
        """A line for each constant among `tensors` that has none yet."""
        for tensor in tensors:
            if tensor is not None and tensor.is_const and tensor not in seen:
                seen.add(tensor)
                yield f"  {self.declared(tensor)} = {self._values(tensor.value(), tensor.dtype)}"

    def op(self, op: Op) -> str:
        """`%y: f32[1,2] = RELU(%x)`, with attributes in braces."""
        inputs = ", ".join("-" if t is None else _reference(t) for t in op.inputs)
        text = f"{op.kind}({inputs})"
        if op.outputs:
            text = f"{', '.join(self.declared(t) for t in op.outputs)} = {text}"
        defaults = OPS[op.kind].attrs if op.kind in OPS else {}
        attrs = [
            f"{name}={self._attribute(value)}"
            for name, value in sorted(op.attrs.items())
            if name not in defaults or not _same(value, defaults[name])
        ]
        if attrs:
            text += f" {{{', '.join(attrs)}}}"
        named = op.outputs and op.name == op.output.name
        return text if named else f"{text} as %{_quoted(op.name)}"

    def declared(self, tensor: Tensor) -> str:
        """`%x: f32[1,128,128,3]`, with scales and zero points where it is quantized."""
        text = f"{_reference(tensor)}: {_SHORT.get(tensor.dtype, tensor.dtype)}[{_dims(tensor)}]"
        return text if tensor.quant is None else f"{text}<{self._quant(tensor.quant)}>"

    def _quant(self, quant: Quant) -> str:
        axis = f"{quant.scale.size} on {quant.axis}: " if quant.per_channel else ""
        return f"{axis}{self._values(quant.scale)}, {self._values(quant.zero_point)}"

    def _attribute(self, value: Any) -> str:
        if isinstance(value, np.ndarray):
            shape = ",".join(map(str, value.shape))
            return f"{_SHORT[value.dtype.name]}[{shape}] {self._values(value)}"
        if isinstance(value, bytes):
            return f'x"{value.hex()}"' if self._exact or len(value) <= 16 else f"x#{_digest(value)}"
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self._attribute, value))}]"
        if value is None or isinstance(value, bool | np.bool_):
            return str(value).lower()
        if isinstance(value, float | np.floating):
            text = self._number(float(value))
            return text if re.search(r"[.en]", text) else f"{text}.0"
        if isinstance(value, int | np.integer):
            return str(int(value))
        return _quoted(str(value))

    def _values(self, data: Array, dtype: str = "") -> str:
        """The values of an array, without its shape."""
        flat = data.reshape(-1)
        listed = dtype in ("", *_SHORT) and data.dtype.kind in "fiub"
        if listed and flat.size and all(_same(v, flat[0]) for v in flat[1:]):
            return self._number(flat[0])
        if listed and (self._exact or flat.size <= _LISTED):
            return f"[{', '.join(map(self._number, flat))}]"
        return f"#{_digest(data)}"

    def _number(self, value: Any) -> str:
        if isinstance(value, bool | np.bool_):
            return str(bool(value)).lower()
        if isinstance(value, int | np.integer):
            return str(int(value))
        return str(value) if self._exact else f"{float(value):.6g}"


def _dims(tensor: Tensor) -> str:
    dims = tensor.dims
    text = ",".join(f"?{n}" if d == -1 else str(n) for n, d in zip(tensor.shape, dims, strict=True))
    signature = tensor.shape_signature
    whole = signature is None or signature == dims or signature == tensor.shape
    return text if whole else f"{text} | {','.join(map(str, signature or ()))}"


def _reference(tensor: Tensor) -> str:
    return f"%{_quoted(tensor.name)}"


def _quoted(name: str) -> str:
    bare = _BARE_NAME.fullmatch(name) and name not in _WORDS and not re.match(r"[-+.\d]", name)
    return name if bare else json.dumps(name)


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal, NaN to itself, and of types that read alike."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return False
    alike = isinstance(a, bool | np.bool_) == isinstance(b, bool | np.bool_)
    return alike and (str(a) == str(b) if isinstance(a, float | np.floating) else bool(a == b))


def _digest(data: Array | bytes) -> str:
    if isinstance(data, np.ndarray):
        texts = data.dtype.kind == "f"
        flat = data.reshape(-1)
        data = " ".join(f"{v:.5e}" for v in flat).encode() if texts else flat.tobytes()
    return hashlib.sha256(data).hexdigest()[:8]


# Reading -----------------------------------------------------------------------------------------


def parse_graph(text: str, constants: Mapping[str, Array] | None = None) -> Graph:
    """The graph that a text in the form of `graph_text` stands for.

    constants: values of the constants that the text gives as a digest, or as `?`, by name; those of
    attributes as `op.attribute`. Types of results may be left out: they follow from the ops.
    Raises UsageError, with the line, where the text cannot be read, and VerifyError where an op
    does not fit its operands.
    """
    return _Parser(text, constants or {}).graph()


_TOKEN = re.compile(
    r"""\s*(?:
      %"(?P<quoted>(?:[^"\\]|\\.)*)" | %(?P<name>[^\s%"#,(){}\[\]<>:=]+(?::\d+)?)
    | x"(?P<hex>[0-9a-f]*)" | x?\#(?P<digest>[0-9a-f]{8}) | "(?P<string>(?:[^"\\]|\\.)*)"
    | (?P<number>[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+|inf))(?![\w/])
    | (?P<word>[^\s%"#,(){}\[\]<>:=?|-][^\s%"#,(){}\[\]<>:=?|]*)
    | (?P<mark>[(){}\[\]<>,:=?|-])
    )""",
    re.VERBOSE,
)


class _Parser:
    """Reads one text; see `parse_graph`."""

    def __init__(self, text: str, constants: Mapping[str, Array]) -> None:
        self._text, self._at = text, 0
        self._constants = constants
        self._by_name: dict[str, Tensor] = {}
        self._graph = Graph("main")

    def graph(self) -> Graph:
        """The whole text."""
        self._expect("word", "graph")
        self._graph = Graph(self._word())
        self._expect("mark", "(")
        inputs = []
        while not self._take("mark", ")"):
            name = self._name()
            self._expect("mark", ":")
            inputs.append(self._graph.add_tensor(self._define(self._typed(name))))
            self._take("mark", ",")
        self._graph.set_io(inputs)
        self._expect("mark", "{")
        while not self._take("word", "return"):
            self._line()
        outputs = []
        while not self._take("mark", "}"):
            outputs.append(self._known(self._name()))
            self._take("mark", ",")
        self._graph.set_io(outputs=outputs)
        if self._text[self._at :].strip():
            raise self._error("the end of the text")
        return self._graph

    def _line(self) -> None:
        """A constant, or an op with its results."""
        results: list[tuple[str, Tensor | None]] = []
        while (name := self._maybe_name()) is not None:
            results.append((name, self._typed(name) if self._take("mark", ":") else None))
            self._take("mark", ",")
        if results:
            self._expect("mark", "=")
        start, word = self._at, self._take("word")
        if word is not None and word not in _WORDS:
            self._op(word, results)
            return
        self._at = start
        typed = results[0][1] if len(results) == 1 else None
        if typed is None:
            raise self._error("an op, or a constant with its type")
        data = self._values(typed.shape, typed.dtype, typed.name)
        constant = Tensor(
            typed.name,
            typed.shape,
            typed.dtype,
            data,
            typed.quant,
            shape_signature=typed.shape_signature,
        )
        self._graph.add_tensor(self._define(constant))

    def _op(self, kind: str, results: list[tuple[str, Tensor | None]]) -> None:
        self._expect("mark", "(")
        inputs: list[Tensor | None] = []
        while not self._take("mark", ")"):
            inputs.append(None if self._take("mark", "-") else self._known(self._name()))
            self._take("mark", ",")
        place = results[0][0] if results else kind
        attrs = self._attributes(place) if self._take("mark", "{") else {}
        name = self._name() if self._take("word", "as") else place
        outputs = [typed for _, typed in results if typed is not None]
        if len(outputs) < len(results):
            op = append_op(self._graph, kind, inputs, name=name, attrs=attrs)
        else:
            defaults = OPS[kind].attrs if kind in OPS else {}
            op = self._graph.add_op(Op(kind, inputs, outputs, {**defaults, **attrs}, name=name))
        for tensor in op.outputs:
            self._define(tensor)

    def _attributes(self, place: str) -> dict[str, Any]:
        attrs: dict[str, Any] = {}
        while not self._take("mark", "}"):
            name = self._word()
            self._expect("mark", "=")
            attrs[name] = self._attribute(f"{place}.{name}")
            self._take("mark", ",")
        return attrs

    def _attribute(self, place: str) -> Any:
        if self._take("mark", "["):
            values = []
            while not self._take("mark", "]"):
                values.append(self._attribute(place))
                self._take("mark", ",")
            return tuple(values)
        if (text := self._take("hex")) is not None:
            return bytes.fromhex(text)
        if (text := self._take("string")) is not None:
            return self._unquoted(text)
        if self._peek("digest"):
            return self._given((), "", place)
        if (number := self._take("number")) is not None:
            return _number(number)
        word = self._word()
        if word in _WORDS:
            return _WORDS[word]
        if word in _LONG and self._take("mark", "["):
            shape, _ = self._shape()
            return self._values(shape, _LONG[word], place)
        return word

    def _typed(self, name: str) -> Tensor:
        """A tensor of the type that comes next."""
        short = self._word()
        dtype = _LONG.get(short, short)
        self._expect("mark", "[")
        shape, signature = self._shape()
        quant = None
        if self._take("mark", "<"):
            quant = self._quant(name)
        return Tensor(name, shape, dtype, quant=quant, shape_signature=signature)

    def _shape(self) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        shape: list[int] = []
        dims: list[int] = []
        signature: list[int] | None = None
        while not self._take("mark", "]"):
            if self._take("mark", "|"):
                signature = []
            open_size = bool(self._take("mark", "?"))
            size = self._whole(0 if signature is None else -1)
            if signature is not None:
                signature.append(size)
            else:
                shape.append(size)
                dims.append(-1 if open_size else size)
            self._take("mark", ",")
        if signature is None and -1 in dims:
            signature = dims
        return tuple(shape), None if signature is None else tuple(signature)

    def _quant(self, name: str) -> Quant:
        axis, count, start = 0, 1, self._at
        if self._take("number") is not None and self._take("word", "on"):
            self._at = start
            count = self._whole()
            self._expect("word", "on")
            axis = self._whole()
            self._expect("mark", ":")
        else:
            self._at = start
        scale = self._values((count,), "float32", f"{name}.scale")
        self._expect("mark", ",")
        zero_point = self._values((count,), "int64", f"{name}.zero_point")
        self._expect("mark", ">")
        return Quant(scale, zero_point, axis)

    def _values(self, shape: tuple[int, ...], dtype: str, place: str) -> Array:
        """An array of a known type: one number for all elements, a list, or a digest."""
        kind = NUMPY_DTYPES.get(dtype)
        if kind is None or self._peek("digest") or self._take("mark", "?"):
            return np.asarray(self._given(shape, dtype, place))
        count = prod(shape)
        if count > _MOST:
            raise self._error(f"{_MOST} elements of '{place}' at most, not {count}")
        values = []
        if not self._take("mark", "["):
            return np.full(shape, self._array([self._scalar()], kind, place)[0])
        while not self._take("mark", "]"):
            values.append(self._scalar())
            self._take("mark", ",")
        if len(values) != count:
            raise self._error(f"{count} values for '{place}', not {len(values)}")
        return self._array(values, kind, place).reshape(shape)

    def _array(self, values: list[Any], kind: np.dtype[Any], place: str) -> Array:
        """Values of one type; none is rounded or cut off to fit it."""
        wanted = _PYTHON[kind.kind]
        if all(isinstance(v, wanted) and isinstance(v, bool) == (bool in wanted) for v in values):
            with suppress(OverflowError):
                return np.array(values, kind)
        raise self._error(f"values of {kind.name} for '{place}'")

    def _scalar(self) -> Any:
        number = self._take("number")
        if number is not None:
            return _number(number)
        start, word = self._at, self._take("word")
        if word is None or word not in _WORDS:
            self._at = start
            raise self._error("a value")
        return _WORDS[word]

    def _whole(self, least: int = 0) -> int:
        """A whole number."""
        start = self._at
        value = _number(self._expect("number"))
        if isinstance(value, float) or value < least:
            self._at = start
            raise self._error(f"a whole number from {least} on")
        return value

    def _given(self, shape: tuple[int, ...], dtype: str, place: str) -> Any:
        """What the caller gives for a digest; it must have that digest."""
        digest = self._take("digest")
        data = self._constants.get(place)
        if data is None:
            raise UsageError(
                f"line {self._line_number()}: the text has no values of '{place}'",
                remedy=f"give them: parse_graph(text, {{'{place}': array}})",
            )
        if dtype in NUMPY_DTYPES:
            data = np.asarray(data, NUMPY_DTYPES[dtype])
            if data.size != prod(shape):
                raise self._error(f"{prod(shape)} values for '{place}', not {data.size}")
            data = data.reshape(shape)
        if digest is not None and _digest(data) != digest:
            raise UsageError(
                f"line {self._line_number()}: '{place}' has the digest #{_digest(data)}, "
                f"the text says #{digest}",
                remedy="give the values that the text was made from",
            )
        return data

    # Tokens ---------------------------------------------------------------------------------

    def _take(self, group: str, text: str | None = None) -> str | None:
        """The next token where it is of that kind, else None."""
        found = _TOKEN.match(self._text, self._at)
        if found is None or found[group] is None or text not in (None, found[group]):
            return None
        self._at = found.end()
        return found[group]

    def _peek(self, group: str) -> bool:
        found = _TOKEN.match(self._text, self._at)
        return found is not None and found[group] is not None

    def _expect(self, group: str, text: str | None = None) -> str:
        token = self._take(group, text)
        if token is None:
            raise self._error(f"'{text}'" if text else f"a {group}")
        return token

    def _word(self) -> str:
        quoted = self._take("string")
        return self._expect("word") if quoted is None else self._unquoted(quoted)

    def _maybe_name(self) -> str | None:
        quoted = self._take("quoted")
        return self._take("name") if quoted is None else self._unquoted(quoted)

    def _unquoted(self, text: str) -> str:
        """What stands in quotes, which are those of JSON."""
        try:
            return str(json.loads(f'"{text}"'))
        except ValueError:
            raise self._error(f"text in quotes as JSON has it, not '{text}',") from None

    def _name(self) -> str:
        name = self._maybe_name()
        if name is None:
            raise self._error("a %name")
        return name

    def _define(self, tensor: Tensor) -> Tensor:
        """Let what follows read `tensor` by its name."""
        if tensor.name in self._by_name:
            raise UsageError(f"line {self._line_number()}: '{tensor.name}' is defined twice")
        self._by_name[tensor.name] = tensor
        return tensor

    def _known(self, name: str) -> Tensor:
        if name not in self._by_name:
            raise UsageError(
                f"line {self._line_number()}: '%{name}' is read and nothing before it has the name"
            )
        return self._by_name[name]

    def _line_number(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _error(self, wanted: str) -> UsageError:
        rest = self._text[self._at :].split("\n")[0].strip() or "the end"
        return UsageError(f"line {self._line_number()}: expected {wanted} at '{rest[:40]}'")


def _number(text: str) -> int | float:
    return float(text) if re.search(r"[.en]", text) else int(text)
