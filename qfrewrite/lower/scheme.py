"""Quantization schemes, as data: which element types activations, weights and biases take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from glob import escape
from types import MappingProxyType

from qfrewrite.errors import Diagnostics, UsageError
from qfrewrite.ir import Op
from qfrewrite.ir.names import closest


@dataclass(frozen=True)
class Scheme:
    """One way to quantize."""

    name: str
    activations: str | None
    """Their element type; None if they stay float."""
    weights: str | None
    """Their element type; None if they stay float32."""
    per_channel: bool = True
    """Whether kernels support weights with a scale per channel."""
    hybrid: bool = False
    """Whether float ops read integer weights by themselves; else a DEQUANTIZE precedes them."""


SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        scheme.name: scheme
        for scheme in (
            Scheme("int8", "int8", "int8"),
            Scheme("uint8", "uint8", "uint8", per_channel=False),
            Scheme("int16x8", "int16", "int8"),
            Scheme("dynamic", None, "int8", hybrid=True),
            Scheme("weight-only", None, "int8"),
            Scheme("float16", None, "float16"),
            Scheme("float32", None, None),
        )
    }
)
"""Every scheme by name."""

# Element type of activations -> of weights and biases computed with them.
WEIGHTS_OF: Mapping[str, str] = MappingProxyType(
    {"int8": "int8", "int16": "int8", "uint8": "uint8"}
)
BIASES_OF: Mapping[str, str] = MappingProxyType(
    {"int8": "int32", "int16": "int64", "uint8": "int32"}
)

IO_TYPES = ("int8", "uint8", "int16", "float32")
# What QUANTIZE converts between integer types -> to.
_CONVERTS = {
    "int8": ("int8", "uint8", "int16"),
    "uint8": ("int8", "uint8"),
    "int16": ("int8", "int16"),
}


@dataclass(frozen=True)
class QuantOptions:
    """How to quantize.

    Names of ops are whole, as tables print them, or patterns with `*` and `?`.
    """

    scheme: str = "int8"
    """One of `SCHEMES`."""
    per_channel: bool = True
    """Whether weights get a scale per output channel."""
    fc_per_channel: bool | None = None
    """The same for FULLY_CONNECTED; None: as the others."""
    io: str | None = None
    """Element type of the model's inputs and outputs; None: that of the activations."""
    keep_float: tuple[str, ...] = ()
    """Names of ops that stay float."""
    keep_int16: tuple[str, ...] = ()
    """Names of ops that compute with int16 activations."""
    slow: frozenset[str] = frozenset()
    """Kinds of ops whose quantized kernel is slower than the ops that can replace them."""

    def __post_init__(self) -> None:
        """Refuse what no scheme has."""
        if self.scheme not in SCHEMES:
            raise UsageError(f"no such scheme: '{self.scheme}'", remedy=_one_of(SCHEMES))
        if self.io is not None and self.io not in IO_TYPES:
            raise UsageError(f"no such input/output type: '{self.io}'", remedy=_one_of(IO_TYPES))
        inner = self.kind.activations
        allowed = ["float32", *(_CONVERTS[inner] if inner is not None else ())]
        if self.io is not None and self.io not in allowed:
            what = f"inputs and outputs are {' or '.join(allowed)}, not {self.io}"
            raise UsageError(what, where=f"scheme {self.scheme}", remedy="leave out io")
        for name in ("keep_float", "keep_int16"):
            unused = inner is None and (name == "keep_int16" or self.scheme == "float32")
            if getattr(self, name) and unused:
                what = f"{name} means nothing with float activations"
                raise UsageError(what, where=f"scheme {self.scheme}", remedy="use scheme int8")
        if self.keep_int16 and inner == "uint8":
            what = "uint8 and int16 do not mix"
            raise UsageError(what, where="keep_int16", remedy="use scheme int8")

    @property
    def kind(self) -> Scheme:
        """The scheme's data."""
        return SCHEMES[self.scheme]

    def per_channel_for(self, op: Op) -> bool:
        """Whether the weights of `op` get a scale per output channel."""
        wanted = self.per_channel
        if op.kind == "FULLY_CONNECTED" and self.fc_per_channel is not None:
            wanted = self.fc_per_channel
        return wanted and self.kind.per_channel


@dataclass
class QuantReport:
    """What became of the ops.

    counts: how many compute in which element type (or hold which weights); float_ops: name, kind
    and reason of those that stayed float.
    """

    counts: dict[str, int] = field(default_factory=dict)
    float_ops: list[tuple[str, str, str]] = field(default_factory=list)
    diagnostics: Diagnostics = field(default_factory=Diagnostics)

    def count(self, what: str, ops: int = 1) -> None:
        """So many ops more that compute in `what`."""
        self.counts[what] = self.counts.get(what, 0) + ops

    def add(self, other: QuantReport) -> None:
        """What became of the ops of another subgraph."""
        for what, ops in other.counts.items():
            self.count(what, ops)
        self.float_ops += other.float_ops
        self.diagnostics.add(*other.diagnostics)


def matches(op: Op, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern names `op`, or one of its outputs; also by the end of a path."""
    names = _names(op)
    return any(
        fnmatchcase(name, pattern) or fnmatchcase(name, f"*/{pattern}")
        for pattern in patterns
        for name in names
    )


def with_whole_names(options: QuantOptions, ops: Sequence[Op]) -> QuantOptions:
    """The options with names as tables print them replaced by the whole names among `ops`."""
    if not (options.keep_float or options.keep_int16):
        return options
    names = [name for op in ops for name in _names(op)]

    def whole(patterns: tuple[str, ...]) -> tuple[str, ...]:
        # What names nothing here may be a pattern, or name an op of another subgraph.
        found = ([escape(n) for n in closest(p, names)] or [p] for p in patterns)
        return tuple(pattern for each in found for pattern in each)

    return replace(
        options, keep_float=whole(options.keep_float), keep_int16=whole(options.keep_int16)
    )


def _names(op: Op) -> tuple[str, ...]:
    return tuple(dict.fromkeys((op.name, *(t.name for t in op.outputs))))


def check_patterns(ops: Sequence[Op], options: QuantOptions) -> None:
    """Raise UsageError where a pattern names none of `ops`, of all subgraphs."""
    for option, patterns in (
        ("keep_float", options.keep_float),
        ("keep_int16", options.keep_int16),
    ):
        names = [name for op in ops for name in _names(op)] if patterns else []
        for pattern in patterns:
            if not closest(pattern, names) and not any(matches(op, (pattern,)) for op in ops):
                what = f"'{pattern}' names no op"
                raise UsageError(what, where=option, remedy="qfrewrite inspect lists the names")


def _one_of(names: Iterable[str]) -> str:
    return f"use one of {', '.join(names)}"
