"""Pass lists with a name: `@per-tensor` and the like."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Pipeline(NamedTuple):
    """A pass list as text, and what it is for."""

    passes: str
    what: str


PIPELINES: Mapping[str, Pipeline] = MappingProxyType(
    {
        "@fast": Pipeline(
            "absorb_dead_channels,calibrate",
            "dead channels and bias correction; seconds",
        ),
        "@auto": Pipeline(
            "auto",
            "tries the others, from the cheapest on, until max_drop is met",
        ),
        "@per-channel": Pipeline(
            "absorb_dead_channels,reconstruct(weights=per-channel)",
            "the best that weights with a scale per channel give",
        ),
        "@per-tensor": Pipeline(
            "absorb_dead_channels,equalize,reconstruct(weights=per-tensor,scale=search)",
            "for chips that compute with one scale per weight tensor",
        ),
    }
)
"""By name."""
