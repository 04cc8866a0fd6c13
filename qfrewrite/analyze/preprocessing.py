"""Whether the images are scaled as in training: the float model, judged on them.

A wrong scale goes unnoticed otherwise: the quantized model follows the float one closely, and both
are wrong. Three things tell, the surest first: what BatchNorm remembers of training; how large the
values that enter the first layer are beside its bias; how sure the scores are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt

import numpy as np

from qfrewrite.data.cache import CachedSamples
from qfrewrite.data.preprocess import Preprocess, stated_preprocess
from qfrewrite.data.source import DataSource
from qfrewrite.errors import Diagnostic, Diagnostics
from qfrewrite.ir import Array, Graph, Model, Op, Tensor
from qfrewrite.ir.dtypes import Float64
from qfrewrite.lower.canonical import canonicalise
from qfrewrite.ops.spec import attr
from qfrewrite.rewrite.dequantize import computes_quantized
from qfrewrite.rewrite.linear import linear_ports
from qfrewrite.rewrite.match import LINEAR
from qfrewrite.rewrite.raising import raise_graph
from qfrewrite.runtime.session import Session
from qfrewrite.solve.context import PassContext, sample_count
from qfrewrite.solve.moments import ChannelSums

# What models are usually trained on, the most usual first.
_USUAL = ("mobilenet", "unit", "imagenet", "raw", "mean=123.68:116.779:103.939,std=1")
# Figures below were measured on trained networks (docs/calibration.md).
# BatchNorm: the first layers say most; later ones normalise the difference away.
_LAYERS, _IMAGES = 5, 8
_DIVERGES, _CLOSER = 0.1, 4.0
# Values that enter the first layer, beside its bias.
_PLAUSIBLE = (0.05, 10.0)
# Scores: t of the paired difference in entropy, for many classes and for few. Of few classes the
# surest is often only the one with the most contrast: there only like scales are compared.
_SCORED_ON, _MOST_BYTES = 64, 64 << 20
_MANY_CLASSES, _SURER_MANY, _SURER_FEW = 100, 2.0, 2.5
_FEW_COMPARED = ("mobilenet", "unit")


@dataclass(frozen=True)
class PreprocessVerdict:
    """What the float model says of a preprocessing."""

    fits: bool = False
    """Whether there is evidence that it is right."""
    better: Preprocess | None = None
    """One that fits better."""
    why: str = ""
    """The figures that say so."""

    def warning(self, given: Preprocess) -> Diagnostic | None:
        """What names the better one; None where there is none."""
        if self.better is None:
            return None
        text = f"preprocess '{given}' does not fit the float model: {self.why}"
        return Diagnostic("warning", "preprocess", text, remedy=f"give --preprocess {self.better}")


def judge_data(model: Model, context: PassContext) -> tuple[str, list[Diagnostic]]:
    """How images become the model's input, and what speaks against that.

    model: float, before any pass. The text is empty for data that are no images.
    """
    source = context.samples.source if context.samples is not None else None
    if context.samples is None or source is None or (how := source.preprocess) is None:
        return "", []
    data = context.samples.calibration
    verdict = judge_preprocess(model, source, sample_count(data), threads=context.threads)
    if verdict.fits and isinstance(data, CachedSamples):
        data.samples.scale_known = True
    stated, diagnostics = stated_preprocess(model), Diagnostics()
    as_stated = stated is not None and replace(stated, crop=how.crop) == how
    if stated is None or as_stated:
        diagnostics.add(verdict.warning(how))
    else:
        text = f"preprocess '{how}' is not what the model's metadata say: '{stated}'"
        diagnostics.warn("preprocess", text)
    return f"{how} (as the model's metadata say)" if as_stated else str(how), diagnostics


def judge_preprocess(
    model: Model, source: DataSource, most: int | None = None, *, threads: int | None = None
) -> PreprocessVerdict:
    """Judge the preprocessing of `source` by running the float `model` on `most` of its images.

    model: as it was loaded, so that its BatchNorms are there. Data that are no images, and inputs
    that take pixel codes, have no preprocessing: nothing is known of them.
    """
    given = source.preprocess
    if given is None or computes_quantized(model.graph):
        return PreprocessVerdict()
    graph = model.graph.clone()[0]
    raise_graph(graph)
    candidates = _candidates(given, stated_preprocess(model), source.inputs[0].shape[-1])
    size = 4 * prod(source.inputs[0].shape)
    count = min(most or _SCORED_ON, _SCORED_ON, max(_IMAGES, _MOST_BYTES // size))
    pixels = [next(iter(sample.values())) for sample in source.pixels(count)]
    few = _Runs(graph, pixels[:_IMAGES], threads)
    if divergence := _divergences(few, candidates):
        return _by_statistics(divergence, given)
    canonicalise(graph)
    ratio = _ratios(few, candidates)
    low, high = _PLAUSIBLE
    plausible = [c for c in candidates if c not in ratio or low <= ratio[c] <= high]
    if not plausible:
        return PreprocessVerdict()
    entropy = _entropies(replace(few, pixels=pixels), plausible)
    first = given if given in plausible else plausible[0]
    better = _surest(entropy, first) if entropy else first
    if better == given:
        return PreprocessVerdict(given in ratio)
    if given not in plausible:
        why = (
            f"what enters its first layer is {ratio[given]:.3g} times as large as the layer's "
            f"bias (with {better} {ratio[better]:.2g} times)"
        )
    else:
        mean, less = (float(entropy[c][0].mean()) for c in (given, better))
        why = (
            f"its scores are less sure than with {better} (entropy {mean:.2f} against "
            f"{less:.2f} nats on {len(pixels)} images)"
        )
    return PreprocessVerdict(False, better, why)


def _candidates(given: Preprocess, stated: Preprocess | None, channels: int) -> list[Preprocess]:
    """What the model states, the usual ones that have as many channels, and the given one."""
    usual = [*filter(None, [stated]), *map(Preprocess.parse, _USUAL), given]
    cropped = dict.fromkeys(replace(one, crop=given.crop) for one in usual)
    return [one for one in cropped if max(len(one.mean), len(one.std)) in (1, channels)]


# -- BatchNorm ------------------------------------------------------------------------------


def _divergences(few: _Runs, candidates: Sequence[Preprocess]) -> dict[Preprocess, float]:
    """How far the values before the first BatchNorms lie from those of training, in nats."""
    layers = [op for op in few.graph.ops_of("BATCH_NORM") if _moments(op) is not None][:_LAYERS]
    inputs, divergences = [op.operand(0) for op in layers], {}
    for candidate, runs in few.under(candidates, inputs):
        sums = [ChannelSums(tensor.shape[-1]) for tensor in inputs]
        for values in runs:
            for own, value in zip(sums, values, strict=True):
                own.add(value.reshape(-1, value.shape[-1]))
        each = [_divergence(op, own.moments) for op, own in zip(layers, sums, strict=True)]
        divergences[candidate] = float(np.mean(each))
    return divergences


def _moments(op: Op) -> tuple[Float64, Float64] | None:
    """Mean and variance [C] that a BATCH_NORM keeps of training; None where it has none."""
    mean, variance = (op.input(slot) for slot in (3, 4))
    if mean is None or variance is None or mean.data is None or variance.data is None:
        return None
    return mean.data.astype(np.float64), variance.data.astype(np.float64)


def _divergence(op: Op, seen: tuple[Float64, Float64]) -> float:
    """The median over channels of KL(seen || training), both taken as normal."""
    trained = _moments(op)
    assert trained is not None
    epsilon = max(attr(op, "epsilon"), 1e-12)
    mean, variance = trained[0], trained[1] + epsilon
    here, spread = seen[0], seen[1] + epsilon
    ratio = spread / variance
    return float(np.median(0.5 * (ratio - 1 - np.log(ratio) + (here - mean) ** 2 / variance)))


def _by_statistics(divergence: Mapping[Preprocess, float], given: Preprocess) -> PreprocessVerdict:
    better = min(divergence, key=lambda one: divergence[one])
    if divergence[given] <= _DIVERGES or divergence[better] * _CLOSER > divergence[given]:
        return PreprocessVerdict(divergence[given] <= _DIVERGES)
    why = (
        f"its first layers see other values than in training (they diverge by "
        f"{divergence[given]:.2g} nats from what BatchNorm remembers, with {better} by "
        f"{divergence[better]:.2g})"
    )
    return PreprocessVerdict(False, better, why)


# -- the first layer ------------------------------------------------------------------------


def _ratios(few: _Runs, candidates: Sequence[Preprocess]) -> dict[Preprocess, float]:
    """How large what the first layer adds up is beside its bias; empty where it has none.

    Folded BatchNorm has a bias of the size of what it normalised: so both are about equal.
    """
    first = next(iter(few.graph.ops_of(*LINEAR)), None)
    bias = None if first is None else first.input(linear_ports(first).bias)
    if first is None or bias is None or bias.data is None or not bias.data.any():
        return {}
    b = bias.data.astype(np.float64)
    there = np.abs(b) > 1e-6 * np.abs(b).max()
    ratios = {}
    for candidate, runs in few.under(candidates, [first.output]):
        sums = np.concatenate([v.reshape(-1, b.size).astype(np.float64) for (v,) in runs]) - b
        rms = np.sqrt((sums**2).mean(0))
        ratios[candidate] = float(np.median(rms[there] / np.abs(b)[there]))
    return ratios


# -- scores ---------------------------------------------------------------------------------


def _entropies(
    all_runs: _Runs, candidates: Sequence[Preprocess]
) -> dict[Preprocess, tuple[Float64, int]]:
    """The entropy of the scores of each image, in nats, and the number of classes.

    Empty where the first output is no vector of scores.
    """
    output = all_runs.graph.outputs[0]
    if output.dtype != "float32" or not _are_scores(output) or len(candidates) < 2:
        return {}
    entropies = {}
    for candidate, runs in all_runs.under(candidates, [output]):
        scores = np.stack([v.reshape(-1).astype(np.float64) for (v,) in runs])
        entropies[candidate] = _entropy(scores), scores.shape[1]
    return entropies


def _are_scores(tensor: Tensor) -> bool:
    return bool(tensor.shape) and 1 < tensor.shape[-1] == prod(tensor.shape)


def _entropy(scores: Float64) -> Float64:
    """Of each row of scores [N, C]: probabilities, or what becomes probabilities by a softmax."""
    if not (scores.min() >= 0 and np.abs(scores.sum(-1) - 1).max() < 0.01):
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
    entropy: Float64 = -(scores * np.log(scores + 1e-12)).sum(-1)
    return entropy


def _surest(entropy: Mapping[Preprocess, tuple[Float64, int]], given: Preprocess) -> Preprocess:
    """The candidate whose scores are clearly the surest; `given` where none is clearly surer."""
    classes = entropy[given][1]
    many = classes >= _MANY_CLASSES
    limit = _SURER_MANY if many else _SURER_FEW
    compared = [c for c in entropy if many or str(c).partition(",crop=")[0] in _FEW_COMPARED]
    surer = {c: _t(entropy[given][0] - entropy[c][0]) for c in compared if c != given}
    clearly = [c for c, t in surer.items() if t > limit]
    return min(clearly, key=lambda c: float(entropy[c][0].mean()), default=given)


def _t(differences: Float64) -> float:
    """Student's t of paired differences."""
    error = float(differences.std(ddof=1)) / sqrt(len(differences)) if len(differences) > 1 else 0.0
    return float(differences.mean()) / error if error > 0 else 0.0


# -- running -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Runs:
    """A graph and the images that it is run on."""

    graph: Graph
    """Float, with one input."""
    pixels: Sequence[Array]
    """Levels 0..255."""
    threads: int | None
    """Of the runtime."""

    def under(
        self, candidates: Sequence[Preprocess], tensors: Sequence[Tensor]
    ) -> Iterator[tuple[Preprocess, Iterator[Sequence[Array]]]]:
        """Each candidate, and what `tensors` hold for each image under it; valid for one step."""
        if tensors:
            session = Session(self.graph, tensors, threads=self.threads)
            name = self.graph.inputs[0].name
            for how in candidates:
                yield how, map(session.run, ({name: how.apply(image)} for image in self.pixels))
