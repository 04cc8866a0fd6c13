"""A model: its subgraphs and everything else that its file holds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qfrewrite.errors import Diagnostics
from qfrewrite.ir.graph import Graph


@dataclass
class Signature:
    """A named entry point: outside names for the inputs and outputs of one subgraph."""

    key: str
    """The name of the entry point."""
    subgraph: int
    """The position of its subgraph in the model."""
    inputs: tuple[tuple[str, int], ...]
    """Names with positions in the subgraph's own list of inputs, so that they stay right when a
    pass puts another tensor there."""
    outputs: tuple[tuple[str, int], ...]
    """Names with positions in the list of outputs, likewise."""


# So many inputs and outputs are shown of a model.
_SHOWN = 4


@dataclass
class Model:
    """Subgraphs, signatures and metadata of one model file."""

    graphs: list[Graph]
    """The subgraphs, the main one first."""
    path: Path | None = None
    """The file it was read from."""
    source: str = "tflite"
    """The format it was read from, `graphdef` or `tflite`."""
    description: str | None = None
    """The text that the file describes itself with."""
    signatures: list[Signature] = field(default_factory=list)
    """The named entry points."""
    metadata: list[tuple[str, bytes]] = field(default_factory=list)
    """Further data of the file by name."""
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    """What the user should know of how the file was read."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What only the writer of the format needs."""
    loaded: tuple[int, ...] | None = None
    """The graphs' versions after reading: while they match, a writer must change nothing."""

    def __post_init__(self) -> None:
        """Let each graph know the subgraphs its ops run.

        Their numbers stay right in (graph, *bodies): only the main graph and the graph itself
        change places, and no op runs either of them.
        """
        for place, graph in enumerate(self.graphs):
            others = list(self.graphs)
            others[0], others[place] = others[place], others[0]
            graph.bodies = tuple(others[1:])

    def __repr__(self) -> str:
        """Three lines: what it is, its inputs, its outputs."""
        ops, graphs = sum(len(g.ops) for g in self.graphs), len(self.graphs)
        lines = [f"<Model {self.name!r} ({self.source}): {ops} ops in {graphs} graphs"]
        for label, side in (("inputs ", self.graph.inputs), ("outputs", self.graph.outputs)):
            shown = ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in side[:_SHOWN])
            more = f", and {len(side) - _SHOWN} more" if len(side) > _SHOWN else ""
            lines.append(f"  {label}  {shown}{more}")
        return "\n".join(lines) + ">"

    @property
    def graph(self) -> Graph:
        """The main subgraph."""
        return self.graphs[0]

    @property
    def name(self) -> str:
        """The file's name without its suffix, or `model`."""
        return self.path.stem if self.path else "model"

    @property
    def edited(self) -> bool:
        """Whether anything changed since the file was read."""
        return self.loaded != tuple(g.version for g in self.graphs)

    def signature_of(self, graph: Graph) -> str | None:
        """The name of the first signature that is computed by `graph`."""
        return next((s.key for s in self.signatures if self.graphs[s.subgraph] is graph), None)

    def mark_loaded(self) -> None:
        """Take the present state as what the file holds."""
        self.loaded = tuple(g.version for g in self.graphs)

    def clone(self) -> Model:
        """An independent copy that shares constant data."""
        copy = replace(
            self,
            graphs=[g.clone()[0] for g in self.graphs],
            signatures=list(self.signatures),
            metadata=list(self.metadata),
            diagnostics=Diagnostics(self.diagnostics),
            meta=dict(self.meta),
            loaded=None,
        )
        if not self.edited:
            copy.mark_loaded()
        return copy
