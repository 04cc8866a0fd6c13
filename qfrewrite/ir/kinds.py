"""The kinds of ops there are: other layers register them, since the IR gives them no meaning."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from qfrewrite.errors import UsageError

_KNOWN: set[str] = set()


def register_kinds(kinds: Iterable[str]) -> None:
    """Let graphs be asked for ops of these kinds."""
    _KNOWN.update(kinds)


def check_kinds(kinds: set[str]) -> None:
    """Raise UsageError for a kind that is not registered; it names the nearest one that is."""
    for kind in sorted(kinds - _KNOWN):
        near = difflib.get_close_matches(kind.upper(), sorted(_KNOWN), n=1, cutoff=0.5)
        what = f"there is no kind of op '{kind}'"
        raise UsageError(what, remedy=f"did you mean '{near[0]}'?" if near else "see docs/ops.md")
