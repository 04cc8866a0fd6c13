"""What a pass is, and how it becomes known by name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from typing import Any, ClassVar, TypeVar

from qfrewrite.errors import PassError, UsageError
from qfrewrite.ir import Graph
from qfrewrite.lower.canonical import canonicalise
from qfrewrite.passes._context import PassRewriter
from qfrewrite.passes._pipelines import PIPELINES
from qfrewrite.passes._spec_text import PassText, parse_list, quote, unquoted
from qfrewrite.rewrite.rewriter import Log


@dataclass(frozen=True)
class Pass(ABC):
    """One named rewrite. Subclasses are frozen dataclasses whose fields are the parameters."""

    name: ClassVar[str]
    """What the pass is called in lists."""
    exact: ClassVar[bool]
    """Whether it keeps what the graph computes (the runner can prove it) or changes it (the report
    says by how much)."""
    requires: ClassVar[str | None] = None
    """The form, of `FORMS`, that the graph must have. The runner establishes it first, as a step of
    its own."""
    measured: ClassVar[bool] = True
    """Whether the runner compares outputs before and after an inexact pass."""
    judges_on: ClassVar[int] = 50
    """How many samples are held back from calibration for that, and for its own judgement."""
    gives_ranges: ClassVar[bool] = False
    """Whether the graph can be written in integers afterwards; running the pass asks for that."""
    sets_size: ClassVar[bool] = False
    """Whether it gives the inputs another size."""

    @abstractmethod
    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """Edit `graph` through `rw`; say through `rw.skip` what was left, and why."""

    def apply(self, graph: Graph, rw: PassRewriter) -> None:
        """`run` on a graph of any form, outside the runner; all edits go to the log of `rw`."""
        if self.requires is not None:
            FORMS[self.requires](graph, rw.log)
        self.run(graph, rw)

    @property
    def keeps_function(self) -> bool:
        """Whether the pass is exact with the parameters it has."""
        return self.exact

    def __str__(self) -> str:
        given = [
            f"{f.name}={quote(_show(getattr(self, f.name)))}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        ]
        return self.name + (f"({', '.join(given)})" if given else "")


FORMS: Mapping[str, Callable[[Graph, Log], None]] = types.MappingProxyType(
    {"canonical": canonicalise}
)
"""What a pass may require of the graph, by name, and what brings a graph there."""

P = TypeVar("P", bound=type[Pass])
_REGISTRY: dict[str, type[Pass]] = {}


def register(cls: P) -> P:
    """Class decorator: make a pass known by its name."""
    known = _REGISTRY.get(cls.name)
    if known is not None and known.__qualname__ != cls.__qualname__:
        raise PassError(f"'{cls.name}' is the name of another pass", where=cls.__qualname__)
    _REGISTRY[cls.name] = cls
    return cls


@cache
def _load_all() -> None:
    """Import every module of this package: a pass is one file here, found by itself."""
    package = importlib.import_module("qfrewrite.passes")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"qfrewrite.passes.{module.name}")


def all_passes() -> Mapping[str, type[Pass]]:
    """Every known pass by name, alphabetically."""
    _load_all()
    return types.MappingProxyType(dict(sorted(_REGISTRY.items())))


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
        raise PassError(
            f"no such pipeline: '{item.name}'", remedy=_nearest(item.name, list(PIPELINES))
        )
    known, made, used = all_passes(), [], set()
    for part in parse_list(PIPELINES[item.name].passes):
        names = {f.name for f in fields(known[part.name])}
        more = tuple((k, v) for k, v in item.params if k in names)
        used |= {k for k, _ in more}
        given = {k for k, _ in more}
        made.append(_make(PassText(part.name, (*((k, v) for k, v in part.params
                                                 if k not in given), *more))))  # fmt: skip
    for key, _ in item.params:
        if key not in used:
            raise PassError(f"no such parameter: '{key}'", where=item.name,
                            remedy="its passes have none of that name")  # fmt: skip
    return made


def parameters(cls: type[Pass]) -> list[tuple[str, str, Any]]:
    """Name, type and default of each parameter of a pass; MISSING where it must be given."""
    return [(f.name, _type_name(cls, f), f.default) for f in fields(cls)]


def _make(item: PassText) -> Pass:
    known = all_passes()
    cls = known.get(item.name)
    if cls is None:
        raise PassError(f"no such pass: '{item.name}'", remedy=_nearest(item.name, list(known)))
    wanted = {f.name: f for f in fields(cls)}
    values: dict[str, Any] = {}
    for key, text in item.params:
        if key not in wanted:
            hint = _nearest(key, list(wanted)) if wanted else "it takes no parameters"
            raise PassError(f"no such parameter: '{key}'", where=item.name, remedy=hint)
        values[key] = _convert(item.name, key, text, _hints(cls)[key])
    missing = [n for n, f in wanted.items() if f.default is MISSING and n not in values]
    if missing:
        raise PassError(f"needs {', '.join(missing)}", where=item.name)
    try:
        return cls(**values)
    except UsageError as error:
        raise PassError(error.what, where=item.name, remedy=error.remedy) from None


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def _hints(cls: type[Pass]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _type_name(cls: type[Pass], f: Field[Any]) -> str:
    hint = _hints(cls)[f.name]
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


_TRUE = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _convert(where: str, key: str, text: str, hint: Any) -> Any:
    """`text` as a value of the annotated type."""
    options = typing.get_args(hint) or (hint,)
    # What stands in quotes is text, also the word none.
    bare, text = text, unquoted(text)
    if (bare.lower() == "none" or not text) and type(None) in options:
        return None
    for kind in options:
        if kind is bool and text.lower() in _TRUE:
            return _TRUE[text.lower()]
        if kind in (int, float, str):
            try:
                return kind(text)
            except ValueError:
                continue
    wanted = " or ".join(getattr(k, "__name__", str(k)) for k in options)
    raise PassError(f"{key}={text} is not a valid {wanted}", where=where)


def _show(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
