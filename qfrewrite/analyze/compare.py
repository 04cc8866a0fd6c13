"""A quantized model against its float one, layer by layer and at the output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf, sqrt
from typing import Any

import numpy as np

from qfrewrite.analyze.layers import real_twins
from qfrewrite.data.inputs import Sample
from qfrewrite.data.source import Samples, synthetic
from qfrewrite.errors import Diagnostic, Diagnostics, UsageError
from qfrewrite.ir import Array, Graph, Model, Tensor
from qfrewrite.ir.quant import quantize
from qfrewrite.lower.canonical import settle
from qfrewrite.ops.shapes import take_sizes
from qfrewrite.records import Record
from qfrewrite.runtime.metrics import Fidelity, FidelityMeter, sqnr_db
from qfrewrite.runtime.session import Session, input_specs

# Quality drops where a layer falls below the first figure, and by the second below all before it.
_POOR_DB, _DROP_DB = 30.0, 5.0
# How many synthetic inputs layers are ranked on.
_RANKED_ON = 16
RANKED_ONLY = Diagnostic(
    "notice",
    "no-data",
    "no data: synthetic inputs rank the layers, but say nothing of how close the result is on real "
    "ones",
    remedy="give --data",
)
"""What reports hold that rank layers without data."""


@dataclass
class LayerFidelity(Record):
    """One tensor in both models, over all samples."""

    name: str
    """The name of the tensor."""
    op: str
    """The kind of the op that computes it."""
    order: int
    """Its place in execution order."""
    sqnr_db: float = inf
    """10 log10(sum x^2 / sum (x - q)^2)."""
    lost_db: float = 0.0
    """What the layer itself loses: by how much `sqnr_db` lies below the worst of the values that it
    is computed from, of which an SQNR above 30 dB counts as 30."""
    cosine: float = 1.0
    """Of both as vectors."""
    max_error: float = 0.0
    """The largest |x - q|, in real units."""
    _sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0], repr=False)

    def add(self, x: Array, q: Array) -> None:
        """Take one sample's float values and quantized ones."""
        a, b = x.reshape(-1).astype(np.float64), q.reshape(-1).astype(np.float64)
        error = a - b
        for k, value in enumerate((a @ a, b @ b, a @ b, error @ error)):
            self._sums[k] += float(value)
        self.max_error = max(self.max_error, float(np.abs(error).max(initial=0.0)))

    def finish(self) -> None:
        """Turn sums into figures."""
        aa, bb, ab, noise = self._sums
        self.sqnr_db = sqnr_db(aa, noise)
        self.cosine = ab / sqrt(aa * bb) if aa > 0 and bb > 0 else float(noise == 0)


@dataclass(repr=False)
class Comparison(Record):
    """A quantized model beside its float one."""

    layers: list[LayerFidelity]
    """The layers that both models have, the worst first."""
    output: Fidelity | None
    """All outputs together; None without data."""
    dropped: LayerFidelity | None
    """The first layer in execution order below 30 dB that lies 5 dB or more below all before it."""
    samples: int
    """How many samples both were run on."""
    only_float: list[str] = field(default_factory=list)
    """The names of layers that the quantized model has no tensor for."""
    measured_on: str = ""
    """What the samples are."""
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    """What speaks against the figures."""

    def figures(self) -> dict[str, Any]:
        """The fields, and the figures of the outputs."""
        output = {} if self.output is None else self.output.figures()
        return super().figures() | {
            "output_sqnr_db": output.get("sqnr_db"),
            "output_agreement": output.get("agreement"),
            "first_drop": None if self.dropped is None else self.dropped.name,
        }


def compare_models(
    reference: Model,
    quantized: Model,
    samples: Iterable[Sample] | None = None,
    *,
    seed: int = 0,
    threads: int | None = None,
) -> Comparison:
    """Run both over `samples` and compare every tensor that has the same name in both.

    Without samples the layers are ranked on synthetic inputs, drawn by `seed`. Raises UsageError
    where the models take different inputs.
    """
    _check_inputs(reference.graph, quantized.graph)
    # Sizes that both leave open are the same in both.
    sizes = [t.shape for t in reference.graph.inputs]
    first, second = (_prepared(m.graph, sizes) for m in (reference, quantized))
    pairs, missing = _pairs(first, second)
    probed = [*pairs, *zip(first.graph.outputs, second.graph.outputs, strict=False)]
    sessions = [
        Session(model.copy, [model.real[t] for t in side], threads=threads)
        for model, side in zip((first, second), zip(*probed, strict=True), strict=True)
    ]
    layers = [
        LayerFidelity(a.name, a.producer.kind if a.producer else "input", k)
        for k, (a, _) in enumerate(pairs)
    ]
    meter = FidelityMeter()
    for sample in synthetic_inputs(reference.graph, seed) if samples is None else samples:
        x = sessions[0].run(sample)
        q = sessions[1].run(_fed(second.graph, sample))
        for layer, a, b in zip(layers, x, q, strict=False):
            layer.add(a, b)
        meter.add(x[len(layers) :], q[len(layers) :])
    for layer in layers:
        layer.finish()
    _set_losses(first.graph, dict(zip((a for a, _ in pairs), layers, strict=True)))
    return Comparison(
        sorted(layers, key=lambda layer: (layer.sqnr_db, layer.order)),
        None if samples is None else meter.result(),
        _first_drop(layers),
        meter.samples,
        missing,
        getattr(samples, "description", ""),
        Diagnostics([RANKED_ONLY] if samples is None else []),
    )


def synthetic_inputs(graph: Graph, seed: int) -> Samples:
    """What layers are ranked on where there are no data."""
    return synthetic(input_specs(graph), _RANKED_ON, seed=seed)


@dataclass
class _Prepared:
    """A graph in the form in which it is compared."""

    graph: Graph
    """In canonical form."""
    copy: Graph
    """A copy that also computes the real values of 8-bit tensors."""
    real: dict[Tensor, Tensor]
    """For each tensor of the graph, the one of the copy that has its real values."""


def _prepared(source: Graph, sizes: Sequence[tuple[int, ...]]) -> _Prepared:
    graph, _ = source.clone()
    take_sizes(graph, dict(zip((t.name for t in graph.inputs), sizes, strict=True)))
    settle(graph)
    copy, real = real_twins(graph)
    return _Prepared(graph, copy, real)


def _check_inputs(first: Graph, second: Graph) -> None:
    specs = map(input_specs, (first, second))
    one, other = (", ".join(f"[{spec.forms[0]}]" for spec in side) for side in specs)
    if one != other:
        what = f"the models take different inputs: {one} and {other}"
        raise UsageError(what, where="compare", remedy="compare a model with one made from it")


def _pairs(first: _Prepared, second: _Prepared) -> tuple[list[tuple[Tensor, Tensor]], list[str]]:
    """Tensors of the same name and shape; converters join names of fused ops by `;`."""
    theirs: dict[str, Tensor] = {}
    for tensor in second.real:
        for name in (tensor.name, *tensor.name.split(";")):
            theirs.setdefault(name, tensor)
            theirs.setdefault(name.removesuffix("/fake_quant"), tensor)
    computed = {t: theirs.get(t.name) for t in first.real if not t.is_input}
    pairs = [(t, other) for t, other in computed.items() if other and other.shape == t.shape]
    paired = {t for t, _ in pairs}
    return pairs, [t.name for t in computed if t not in paired]


def _set_losses(graph: Graph, layers: dict[Tensor, LayerFidelity]) -> None:
    """What each layer loses, from the closest tensors before it that both models have."""
    entering: dict[Tensor, float] = {}

    def reached(tensor: Tensor | None) -> float:
        if tensor is None:
            return _POOR_DB
        layer = layers.get(tensor)
        return entering.get(tensor, _POOR_DB) if layer is None else min(layer.sqnr_db, _POOR_DB)

    for op in graph.ops:
        before = min(map(reached, op.inputs), default=_POOR_DB)
        for tensor in op.outputs:
            entering[tensor] = before
            if layer := layers.get(tensor):
                layer.lost_db = max(before - layer.sqnr_db, 0.0)


def _fed(graph: Graph, sample: Sample) -> Sample:
    """A float sample as the quantized model's inputs take it."""
    fed = {}
    for tensor, value in zip(graph.inputs, sample.values(), strict=True):
        if tensor.quant is not None and value.dtype.kind == "f" and tensor.dtype != "float32":
            value = quantize(value, tensor.quant, tensor.dtype)
        fed[tensor.name] = value
    return fed


def _first_drop(layers: list[LayerFidelity]) -> LayerFidelity | None:
    worst = inf
    for layer in layers:
        if layer.sqnr_db < _POOR_DB and worst - layer.sqnr_db >= _DROP_DB:
            return layer
        worst = min(worst, layer.sqnr_db)
    return None
