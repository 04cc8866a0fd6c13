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
like its first output, `keep float` states the precision that it shall compute in. A constant is one
number where all its elements are equal, a list of up to 8, or a digest. `?6` is a dimension that
the file leaves open, at present 6. What is known of a value stands in braces behind its type:

    %y: f32[1,2] {channels.mean=f64[2] [0.5, -1], fused=true} = RELU(%x)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from math import inf, nan, prod
from typing import Any, TypeVar, cast, get_args

import numpy as np

from qfrewrite.errors import UsageError
from qfrewrite.ir import (
    NUMPY_DTYPES,
    Array,
    ChannelFacts,
    Graph,
    Normal,
    Op,
    Quant,
    Tensor,
    TrainedRange,
)
from qfrewrite.ir.nodes import Precision
from qfrewrite.ops.build import append_op
from qfrewrite.ops.spec import OPS, facets

_Item = TypeVar("_Item")

# f32 for float32, i8 for int8, u8 for uint8 ...
_SHORT = {name: re.sub("[a-z]+", name[0], name) for name in NUMPY_DTYPES if name[0] in "fiu"}
_SHORT["bool"] = "i1"
_LONG = {short: name for name, short in _SHORT.items()}
# The longest list of values that is written out, and the most elements that are read.
_LISTED = 8
_MOST = 1 << 26
# What a value in a text must be, by the kind of its numpy type; for other kinds an int.
_PYTHON = {"b": (bool,), "f": (int, float), "c": (int, float)}
_BARE_NAME = re.compile(r'[^\s%"#,(){}\[\]<>:=]+(?::\d+)?')
_WORDS: Mapping[str, Any] = {"none": None, "true": True, "false": False, "inf": inf, "nan": nan}
# What is known of a tensor, by its path from there: the kind of its numpy type, and the default.
_FACTS: Mapping[str, tuple[str, Any]] = {
    "fused": ("b", False),
    "channels.normal.mean": ("f", None),
    "channels.normal.std": ("f", None),
    "channels.mean": ("f", None),
    "channels.live": ("b", None),
    "trained.low": ("f", None),
    "trained.high": ("f", None),
    "trained.axis": ("i", None),
    "trained.num_bits": ("i", 8),
    "trained.narrow_range": ("b", False),
    "trained.name": ("U", ""),
}
_KNOWLEDGE = {"channels": ChannelFacts, "normal": Normal, "trained": TrainedRange}


# Writing -----------------------------------------------------------------------------------------


def graph_text(graph: Graph, *, exact: bool = False, facts: bool = True) -> str:
    """The same text for the same graph, on every machine.

    exact: write every value of every constant, and every digit. Otherwise numbers have six digits,
    so that a text does not depend on the last bit of a sum, and large constants are digests.
    facts: write what is known of values beside their types.
    """
    write = _Writer(exact, facts)
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

    def __init__(self, exact: bool, facts: bool) -> None:
        self._exact = exact
        self._facts = _FACTS if facts else {}

    def constants(self, tensors: Iterable[Tensor | None], seen: set[Tensor]) -> Iterator[str]:
        """A line for each constant among `tensors` that has none yet."""
        for tensor in tensors:
            if tensor is not None and tensor.is_const and tensor not in seen:
                seen.add(tensor)
                yield f"  {self.declared(tensor)} = {self._values(tensor.value(), tensor.dtype)}"

    def op(self, op: Op) -> str:
        """`%y: f32[1,2] = RELU(%x)`, with attributes in braces."""
        inputs = ", ".join("-" if t is None else _reference(t) for t in op.inputs)
        text = f"{op.kind}({inputs}){self._braces(op.attrs, facets(op).attrs)}"
        if op.outputs:
            text = f"{', '.join(self.declared(t) for t in op.outputs)} = {text}"
        text += f" keep {op.keep}" if op.keep is not None else ""
        named = op.outputs and op.name == op.output.name
        return text if named else f"{text} as %{_quoted(op.name)}"

    def declared(self, tensor: Tensor) -> str:
        """`%x: f32[1,128,128,3]`, with scales and zero points where it is quantized."""
        text = f"{_reference(tensor)}: {_SHORT.get(tensor.dtype, tensor.dtype)}[{_dims(tensor)}]"
        if tensor.quant is not None:
            text += f"<{self._quant(tensor.quant)}>"
        facts = {path: _at(tensor, path) for path in self._facts}
        known = {path: fact for path, fact in facts.items() if fact is not None}
        return text + self._braces(known, {path: default for path, (_, default) in _FACTS.items()})

    def _braces(self, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
        """` {alpha=0.25}`, of what differs from its default."""
        shown = [
            f"{name}={self._attribute(value)}"
            for name, value in sorted(values.items())
            if name not in defaults or str(value) != str(defaults[name])
        ]
        return f" {{{', '.join(shown)}}}" if shown else ""

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
        if value is None:
            return "none"
        if not isinstance(value, int | float | np.generic):
            return _quoted(str(value))
        text = self._number(value)
        real = isinstance(value, float | np.floating) and not re.search(r"[.en]", text)
        return f"{text}.0" if real else text

    def _values(self, data: Array, dtype: str = "") -> str:
        """The values of an array, without its shape."""
        flat = data.reshape(-1)
        if dtype in ("", *_SHORT) and data.dtype.kind in "fiub":
            if flat.size and flat[:1].tobytes() * flat.size == flat.tobytes():
                return self._number(flat[0])
            if self._exact or flat.size <= _LISTED:
                return f"[{', '.join(map(self._number, flat))}]"
        return f"#{_digest(data)}"

    def _number(self, value: Any) -> str:
        if isinstance(value, bool | np.bool_):
            return str(value).lower()
        if self._exact or isinstance(value, int | np.integer):
            return str(value)
        return f"{float(value):.6g}"


def _at(tensor: Tensor, path: str) -> Any:
    """What `path` leads to from a tensor; None where it ends before."""
    value: Any = tensor
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


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
    attributes as `op.attribute`, those of facts as `tensor.channels.mean`. Types of results may be
    left out: they follow from the ops.
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
_PER_CHANNEL = re.compile(r"\s*(\d{1,9})\s+on\s+(\d{1,9})\s*:")


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
        self._graph.set_io(self._until(")", self._argument))
        self._expect("mark", "{")
        while not self._take("word", "return"):
            self._line()
        self._graph.set_io(outputs=self._until("}", self._known))
        if self._text[self._at :].strip():
            raise self._error("the end of the text")
        return self._graph

    def _argument(self) -> Tensor:
        """An input of the graph."""
        name = self._name()
        self._expect("mark", ":")
        return self._define(self._typed(name))

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
        self._graph.add_tensor(self._define(replace(typed, data=data)))

    def _op(self, kind: str, results: list[tuple[str, Tensor | None]]) -> None:
        self._expect("mark", "(")
        inputs = self._until(")", lambda: None if self._take("mark", "-") else self._known())
        place = results[0][0] if results else kind
        attrs = self._attributes(place)
        keep = self._word() if self._take("word", "keep") else None
        if keep not in (None, *get_args(Precision)):
            raise self._refused(f"'{keep}' is none of {', '.join(get_args(Precision))}")
        name = self._name() if self._take("word", "as") else place
        outputs = [typed for _, typed in results if typed is not None]
        if len(outputs) < len(results):
            op = append_op(self._graph, kind, inputs, name=name, attrs=attrs)
        else:
            defaults = OPS[kind].attrs if kind in OPS else {}
            op = self._graph.add_op(Op(kind, inputs, outputs, {**defaults, **attrs}, name=name))
        self._graph.set_keep(op, cast("Precision | None", keep))
        for tensor in op.outputs:
            self._define(tensor)

    def _attributes(self, place: str) -> dict[str, Any]:
        """What stands in braces, if they come next, by name."""

        def attribute() -> tuple[str, Any]:
            name = self._word()
            self._expect("mark", "=")
            return name, self._attribute(f"{place}.{name}")

        return dict(self._until("}", attribute) if self._take("mark", "{") else [])

    def _attribute(self, place: str) -> Any:
        if self._take("mark", "["):
            return tuple(self._until("]", lambda: self._attribute(place)))
        if (text := self._take("hex")) is not None:
            return bytes.fromhex(text)
        if (text := self._take("string")) is not None:
            return self._unquoted(text)
        if self._peek("digest"):
            return self._given((), "", place)
        if (number := self._take("number")) is not None:
            return _number(number)
        word = self._word()
        if word in _LONG and self._take("mark", "["):
            shape, _ = self._shape()
            return self._values(shape, _LONG[word], place)
        return _WORDS.get(word, word)

    def _typed(self, name: str) -> Tensor:
        """A tensor of the type that comes next."""
        short = self._word()
        self._expect("mark", "[")
        shape, signature = self._shape()
        quant = self._quant(name) if self._take("mark", "<") else None
        tensor = Tensor(
            name, shape, _LONG.get(short, short), None, quant, shape_signature=signature
        )
        facts = self._facts(name)
        return replace(tensor, **facts) if facts else tensor

    def _facts(self, name: str) -> dict[str, Any]:
        """Fields of a tensor, by what stands in braces about it."""
        facts: dict[str, Any] = {}
        try:
            for path, value in self._attributes(name).items():
                fact, parent = _fact(path, value), facts
                *parents, field = path.split(".")
                for part in parents:
                    parent = parent.setdefault(part, {})
                parent[field] = fact
            return _assembled(facts)
        except (TypeError, ValueError) as error:
            raise self._refused(f"what is known of '{name}': {error}") from None

    def _shape(self) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        dims: list[tuple[int, int]] = []
        while not (closed := self._take("mark", "]")) and not self._take("mark", "|"):
            open_size = self._take("mark", "?")
            size = self._whole()
            dims.append((size, -1 if open_size else size))
            self._take("mark", ",")
        signature = tuple(d for _, d in dims)
        if not closed:
            signature = tuple(self._until("]", lambda: self._whole(-1)))
        elif -1 not in signature:
            return signature, None
        return tuple(size for size, _ in dims), signature

    def _quant(self, name: str) -> Quant:
        count, axis = 1, 0
        if per_channel := _PER_CHANNEL.match(self._text, self._at):
            count, axis = map(int, per_channel.groups())
            self._at = per_channel.end()
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
        if not self._take("mark", "["):
            return np.full(shape, self._array([self._scalar()], kind, place)[0])
        values = self._until("]", self._scalar)
        if len(values) != count:
            raise self._error(f"{count} values for '{place}', not {len(values)}")
        return self._array(values, kind, place).reshape(shape)

    def _array(self, values: list[Any], kind: np.dtype[Any], place: str) -> Array:
        """Values of one type; none is rounded or cut off to fit it."""
        wanted = _PYTHON.get(kind.kind, (int,))
        if all(isinstance(v, wanted) and isinstance(v, bool) == (bool in wanted) for v in values):
            with suppress(OverflowError):
                return np.array(values, kind)
        raise self._error(f"values of {kind.name} for '{place}'")

    def _scalar(self) -> Any:
        start, number = self._at, self._take("number")
        if number is not None:
            return _number(number)
        if (word := self._take("word")) in _WORDS:
            return _WORDS[str(word)]
        self._at = start
        raise self._error("a value")

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
            raise self._refused(
                f"the text has no values of '{place}'",
                f"give them: parse_graph(text, {{'{place}': array}})",
            )
        if dtype in NUMPY_DTYPES:
            data = np.asarray(data, NUMPY_DTYPES[dtype])
            if data.size != prod(shape):
                raise self._error(f"{prod(shape)} values for '{place}', not {data.size}")
            data = data.reshape(shape)
        if digest is not None and _digest(data) != digest:
            raise self._refused(
                f"'{place}' has the digest #{_digest(data)}, the text says #{digest}",
                "give the values that the text was made from",
            )
        return data

    # Tokens ---------------------------------------------------------------------------------

    def _take(self, group: str, text: str | None = None) -> str | None:
        """The next token where it is of that kind, else None."""
        token = _TOKEN.match(self._text, self._at)
        if token is None or token[group] is None or text not in (None, token[group]):
            return None
        self._at = token.end()
        return token[group]

    def _peek(self, group: str) -> bool:
        token = _TOKEN.match(self._text, self._at)
        return token is not None and token[group] is not None

    def _until(self, end: str, item: Callable[[], _Item]) -> list[_Item]:
        """Items with commas between them, up to a mark."""
        items = []
        while not self._take("mark", end):
            items.append(item())
            self._take("mark", ",")
        return items

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
            raise self._refused(f"'{tensor.name}' is defined twice")
        self._by_name[tensor.name] = tensor
        return tensor

    def _known(self) -> Tensor:
        """The tensor whose name comes next."""
        name = self._name()
        if name not in self._by_name:
            raise self._refused(f"'%{name}' is read and nothing before it has the name")
        return self._by_name[name]

    def _refused(self, why: str, remedy: str = "") -> UsageError:
        line = self._text.count("\n", 0, self._at) + 1
        return UsageError(f"line {line}: {why}", remedy=remedy)

    def _error(self, wanted: str) -> UsageError:
        rest = self._text[self._at :].split("\n")[0].strip() or "the end"
        return self._refused(f"expected {wanted} at '{rest[:40]}'")


def _number(text: str) -> int | float:
    return float(text) if re.search(r"[.en]", text) else int(text)


def _fact(path: str, value: Any) -> Any:
    """A value as the field of a fact holds it; raises ValueError where it cannot."""
    kind, default = _FACTS.get(path, ("", None))
    array = np.asarray(value)
    several = default is None and kind in ("b", "f")
    if array.dtype.kind != kind or (array.ndim and not several):
        raise ValueError(f"there is no such fact, or it has another type: {path}")
    return array if several else array.item()


def _assembled(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields by name, with objects for those that have fields themselves; raises TypeError."""
    return {
        name: _KNOWLEDGE[name](**_assembled(value)) if isinstance(value, dict) else value
        for name, value in fields.items()
    }
