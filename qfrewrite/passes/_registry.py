"""What a pass is, how it becomes known by name, and lists of passes as text."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import re
import sys
import traceback
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

from qfrewrite.errors import PassError, QfError, UsageError
from qfrewrite.ir import Graph, Op, Tensor
from qfrewrite.lower.canonical import canonicalise
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.rewrite.match import NoMatch
from qfrewrite.rewrite.pattern import Match, Pattern, Patterns
from qfrewrite.rewrite.rewriter import Log
from qfrewrite.solve.context import PassRewriter
from qfrewrite.solve.dataset import HELD_OUT
from qfrewrite.solve.parameters import parameters, shown


@dataclass(frozen=True)
class Pass(ABC):
    """One named rewrite. Subclasses are frozen dataclasses whose fields are the parameters."""

    name: ClassVar[str]
    """What the pass is called in lists; by default the name of the class, in snake case."""
    exact: ClassVar[bool] = False
    """Whether it keeps what the graph computes (the runner can prove it) or changes it (the report
    says by how much)."""
    requires: ClassVar[str | None] = None
    """The form, of `FORMS`, that the graph must have. The runner establishes it first, as a step of
    its own."""
    measured: ClassVar[bool] = True
    """Whether the runner compares outputs before and after an inexact pass."""
    judges_on: ClassVar[int] = HELD_OUT
    """How many samples are held out from calibration for that, and for its own judgement."""
    gives_ranges: ClassVar[bool] = False
    """Whether the graph can be written in integers afterwards; running the pass asks for that."""
    changes_interface: ClassVar[bool] = False
    """Whether names, shapes or types of inputs and outputs may change. The runner checks that they
    stay for all other passes."""
    sets_size: ClassVar[bool] = False
    """Whether it gives the inputs another size."""
    one_of: ClassVar[tuple[str, ...]] = ()
    """Parameters of which only one may be given."""

    def __init_subclass__(cls) -> None:
        """Name the pass."""
        super().__init_subclass__()
        if "name" not in vars(cls):
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def __post_init__(self) -> None:
        """Check the parameters by their types; raises UsageError."""
        for one in parameters(type(self)):
            one.check(getattr(self, one.name), self.name)
        if sum(getattr(self, name) is not None for name in self.one_of) > 1:
            what = f"takes one of {', '.join(self.one_of)}"
            raise UsageError(what, where=self.name, remedy="leave out the others")

    @abstractmethod
    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """Edit `graph` through `rw`; say through `rw.skip` what was left, and why."""

    @property
    def keeps_function(self) -> bool:
        """Whether the pass is exact with the parameters it has."""
        return self.exact

    @property
    def keeps_interface(self) -> bool:
        """Whether names, shapes and types of inputs and outputs stay, with its parameters."""
        return not self.changes_interface

    def __str__(self) -> str:
        given = [
            f"{f.name}={quote(shown(getattr(self, f.name)))}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        ]
        return self.name + (f"({', '.join(given)})" if given else "")


class Rule(Pass):
    """A pass that is one pattern and what takes its place, everywhere in the graph."""

    exact: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        """Make the rule known by its name, as `register` makes other passes known."""
        super().__init_subclass__()
        register(cls)

    @abstractmethod
    def pattern(self, p: Patterns) -> Pattern:
        """The value that is looked for."""

    @abstractmethod
    def rewrite(self, m: Match) -> Op | Tensor | LinearView | NoMatch:
        """What takes its place, of the same shape and type, or why this one stays."""

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """Rewrite until nothing fits any more."""
        pattern = self.pattern(Patterns())
        if not pattern.kinds:
            what = "the pattern is no op"
            raise PassError(what, where=self.name, remedy="begin with p.KIND(...)")
        for _ in range(_MOST_SWEEPS):
            skips = len(rw.log.skips)
            if not rw.rewrite_all(pattern, self.rewrite):
                return
            # What still does not fit says so again.
            del rw.log.skips[skips:]
        raise PassError("fits its own results without end", where=self.name)


RuleParts: TypeAlias = "tuple[Pattern, Callable[[Match], Any]]"


def rule(*, exact: bool) -> Callable[[Callable[[Patterns], RuleParts]], type[Rule]]:
    """Make a rule of a function that gives a pattern, and what makes the new value of a match.

    The rule has the name and the docstring of the function.
    """

    def made(function: Callable[[Patterns], RuleParts]) -> type[Rule]:
        return type(
            function.__name__,
            (Rule,),
            {
                "name": function.__name__,
                "exact": exact,
                "pattern": lambda self, p: function(p)[0],
                "rewrite": lambda self, m: function(Patterns())[1](m),
                "__doc__": function.__doc__,
                "__module__": function.__module__,
            },
        )

    return made


FORMS: Mapping[str, Callable[[Graph, Log], None]] = types.MappingProxyType(
    {"canonical": canonicalise}
)
"""What a pass may require of the graph, by name, and what brings a graph there."""

ENTRY_POINTS = "qfrewrite.passes"
"""The group of entry points by which installed packages name modules with passes."""
# A rule that still finds something after so many sweeps never ends.
_MOST_SWEEPS = 100

P = TypeVar("P", bound=type[Pass])
_REGISTRY: dict[str, type[Pass]] = {}


def register(cls: P) -> P:
    """Class decorator: make a pass known by its name."""
    known = _REGISTRY.setdefault(cls.name, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise PassError(f"'{cls.name}' is the name of another pass", where=cls.__qualname__)
    _REGISTRY[cls.name] = cls
    return cls


@cache
def _load_all() -> None:
    """Import every module of this package, and those that other packages name as entry points."""
    package = importlib.import_module("qfrewrite.passes")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"qfrewrite.passes.{module.name}")
    for point in entry_points(group=ENTRY_POINTS):
        with _plugin(f"entry point '{point.name}' ({point.value})"):
            point.load()


def load_plugin(path: str | Path) -> None:
    """Run a Python file that registers passes; raises PassError that names file and line."""
    file = Path(path)
    if not file.is_file():
        raise PassError("no such file", where=str(path), remedy="give a Python file with a pass")
    name = f"qfrewrite_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PassError("is no Python file", where=str(path), remedy="its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    with _plugin(str(path)):
        sys.modules[name] = module
        spec.loader.exec_module(module)
    if not any(cls.__module__ == name for cls in _REGISTRY.values()):
        raise PassError("registers no pass", where=str(path), remedy="see docs/writing-a-pass.md")


@contextmanager
def _plugin(where: str) -> Iterator[None]:
    """Turn whatever goes wrong in the code of others into an error of one line."""
    try:
        yield
    except QfError as error:
        raise error.at(where) from None
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if not f.filename.startswith("<frozen") and f.name != "_plugin"]
        line = error.lineno if isinstance(error, SyntaxError) else own[-1].lineno if own else None
        place = where if line is None else f"{where}, line {line}"
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise PassError(what, where=place, remedy="correct the plugin") from None


def all_passes() -> Mapping[str, type[Pass]]:
    """Every known pass by name, alphabetically."""
    _load_all()
    return types.MappingProxyType(dict(sorted(_REGISTRY.items())))


class Pipeline(NamedTuple):
    """A pass list as text, and what it is for."""

    passes: str
    what: str


_FAST = Pipeline("absorb_dead_channels,calibrate", "dead channels and bias correction; seconds")
_AUTO = Pipeline("auto", "tries the others, from the cheapest on, until max_drop is met")
_PER_CHANNEL = Pipeline(
    "absorb_dead_channels,reconstruct(weights=per-channel)",
    "the best that weights with a scale per channel give",
)
_PER_TENSOR = Pipeline(
    "absorb_dead_channels,equalize,reconstruct(weights=per-tensor,scale=search)",
    "for chips that compute with one scale per weight tensor",
)
PIPELINES: Mapping[str, Pipeline] = types.MappingProxyType(
    {"@fast": _FAST, "@auto": _AUTO, "@per-channel": _PER_CHANNEL, "@per-tensor": _PER_TENSOR}
)
"""By name."""


def make_passes(text: str) -> list[Pass]:
    """The passes that a list like `fold_bn,calibrate(samples=100)` names; raises PassError.

    A name like `@per-tensor` stands for the passes of that pipeline; parameters given to it go to
    those of its passes that have them.
    """
    return [one for item in parse_list(text) for one in _expanded(item)]


def _expanded(item: PassText) -> list[Pass]:
    if not item.name.startswith("@"):
        return [_make(item)]
    if item.name not in PIPELINES:
        remedy = _nearest(item.name, list(PIPELINES))
        raise PassError(f"no such pipeline: '{item.name}'", remedy=remedy)
    parts = parse_list(PIPELINES[item.name].passes)
    names = [{f.name for f in fields(all_passes()[part.name])} for part in parts]
    for key, _ in item.params:
        if not any(key in own for own in names):
            remedy = "its passes have none of that name"
            raise PassError(f"no such parameter: '{key}'", where=item.name, remedy=remedy)
    made = []
    for part, own in zip(parts, names, strict=True):
        given = {**dict(part.params), **{k: v for k, v in item.params if k in own}}
        made.append(_make(PassText(part.name, tuple(given.items()))))
    return made


def judged_on(passes: Sequence[Pass]) -> int:
    """How many samples these passes want held out from calibration."""
    return max((one.judges_on for one in passes), default=Pass.judges_on)


def _make(item: PassText) -> Pass:
    known = all_passes()
    cls = known.get(item.name)
    if cls is None:
        raise PassError(f"no such pass: '{item.name}'", remedy=_nearest(item.name, list(known)))
    wanted = {one.name: one for one in parameters(cls)}
    values: dict[str, Any] = {}
    try:
        for key, text in item.params:
            if key not in wanted:
                hint = _nearest(key, list(wanted)) if wanted else "it takes no parameters"
                raise PassError(f"no such parameter: '{key}'", where=item.name, remedy=hint)
            plain = unquoted(text)
            values[key] = wanted[key].read(plain, quoted=plain != text, where=item.name)
        missing = [n for n, f in wanted.items() if f.default is MISSING and n not in values]
        if missing:
            raise PassError(f"needs {', '.join(missing)}", where=item.name)
        return cls(**values)
    except UsageError as error:
        raise PassError(error.what, where=item.name, remedy=error.remedy) from None


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


# Lists of passes as text: `name(key=value, ...)`, separated by commas -----------------------------

_NAME = re.compile(r"\s*(@[A-Za-z][A-Za-z0-9_-]*|[A-Za-z_][A-Za-z0-9_]*)\s*")
_PAIRS = {"(": ")", "[": "]"}


@dataclass(frozen=True)
class PassText:
    """One pass of a list: its name and its parameters as written, with their quotes."""

    name: str
    params: tuple[tuple[str, str], ...] = ()


def parse_list(text: str) -> list[PassText]:
    """Split `a,b(k=v),c(k="x,y")` into passes; raises PassError naming what is wrong.

    Values run to the next comma outside quotes and brackets.
    """
    items = _split(text)
    if not any(item.strip() for item in items):
        raise PassError("the pass list is empty", remedy="`qfrewrite passes` lists them")
    return [_parse_one(item) for item in items]


def quote(value: str) -> str:
    """`value` as it stands in a list: quoted where it holds a separator, or reads as nothing."""
    special = re.search(r"[,()=\s\[\]]", value) or value.lower() in ("", "none")
    return f'"{value}"' if special else value


def unquoted(text: str) -> str:
    """A value without the quotes around it."""
    return text.strip("\"'")


def _split(text: str) -> list[str]:
    """Parts between commas that are outside quotes and brackets."""
    parts, start, quoted = [], 0, ""
    stack: list[str] = []
    for i, char in enumerate(text):
        if quoted:
            quoted = "" if char == quoted else quoted
        elif char in "\"'":
            quoted = char
        elif char in _PAIRS:
            stack.append(_PAIRS[char])
        elif char in _PAIRS.values():
            if not stack or stack.pop() != char:
                raise PassError(f"'{char}' closes nothing", where=f"pass list '{text}'")
        elif char == "," and not stack:
            parts.append(text[start:i])
            start = i + 1
    if stack or quoted:
        what = f"'{stack[-1] if stack else quoted}' is missing"
        raise PassError(what, where=f"pass list '{text}'")
    return [*parts, text[start:]]


def _parse_one(item: str) -> PassText:
    match = _NAME.match(item)
    if match is None:
        where = f"pass list at '{item.strip()}'"
        raise PassError("expected a pass name", where=where, remedy="write name or name(key=value)")
    name, rest = match.group().strip(), item[match.end() :].strip()
    if not rest:
        return PassText(name)
    if not (rest.startswith("(") and rest.endswith(")")):
        raise PassError(f"unexpected '{rest}'", where=name, remedy="write name(key=value)")
    params = []
    for pair in _split(rest[1:-1]):
        if not pair.strip():
            continue
        key, equals, value = pair.partition("=")
        if not equals:
            raise PassError(f"'{pair.strip()}' is not key=value", where=name)
        params.append((key.strip(), value.strip()))
    return PassText(name, tuple(params))
