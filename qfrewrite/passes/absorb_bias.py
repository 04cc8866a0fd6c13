"""`absorb_bias`: what a channel never falls below goes into the next layer's bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qfrewrite.calibrate.statistics import propagate
from qfrewrite.ir import Graph, Op
from qfrewrite.lower.canonical import canonicalise
from qfrewrite.passes._base import Pass, register
from qfrewrite.passes._context import PassRewriter
from qfrewrite.passes._pairs import Float64, Pair, find_pair, look
from qfrewrite.passes._scaling import NEAR
from qfrewrite.rewrite.fold import constant_response, pads, restate, set_weights
from qfrewrite.rewrite.match import LINEAR, bias_of, sole_reader, weights_of

# Without data a channel is taken to stay above its mean less so many deviations.
_SIGMAS = 3.0
# With data, of the least value that was seen: others may lie lower.
_SHARE = 0.75


@register
@dataclass(frozen=True)
class AbsorbBias(Pass):
    """Move what a channel never falls below from one bias into the next.

    Given:  y = f(x; w, b), y[..., c] >= k[c] > 0;  z = g(relu(y); v, d)
    Result: y = f(x; w, b - k);  z = g(relu(y); v, d + what k adds)
    Activations lose an offset that only widens their range. k: with data the least value that any
    sample shows, times 0.75; without, the mean less 3 deviations from BatchNorm statistics, as in
    the paper. Where the next layer pads what it reads, or ReLU6 may clip, the channel stays.
    (Nagel et al. 2019, arXiv:1906.04721, section 4.1.3.)
    """

    name: ClassVar[str] = "absorb_bias"
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """Only where the next layer reads the activation itself."""
        canonicalise(graph)
        pairs = [p for op in graph.ops_of(*LINEAR) if (p := find_pair(rw, op)) is not None]
        pairs = [p for p in pairs if _direct(rw, p) and not pads(p.second)]
        if not pairs:
            return
        look(rw, pairs)
        for pair, least in zip(pairs, _least(rw, pairs), strict=True):
            clips = pair.clips_at_6 & (pair.most >= NEAR * 6.0)
            k = np.where(clips, 0.0, np.maximum(least, 0.0))
            if not k.any():
                continue
            first, second = pair.first, pair.second
            set_weights(rw, first, weights_of(first), (bias_of(first) - k).astype(np.float32))
            restate(rw.graph, first.output, shift=-k)
            extra = constant_response(second, weights_of(second), k)
            set_weights(rw, second, weights_of(second),
                        (bias_of(second) + extra).astype(np.float32))  # fmt: skip
            rw.edit("absorbed", first, f"{int((k > 0).sum())} biases into '{second.name}'")
            rw.layer(first, second=second.name, channels=int((k > 0).sum()), most=float(k.max()))


def _direct(rw: PassRewriter, pair: Pair) -> bool:
    """Whether an activation that keeps positive values, and nothing else, lies between."""
    act = sole_reader(rw.graph, pair.first.output)
    return (
        isinstance(act, Op)
        and act.kind in ("RELU", "RELU6")
        and any(r.op is pair.second for r in rw.graph.readers(act.output))
    )


def _least(rw: PassRewriter, pairs: list[Pair]) -> list[Float64]:
    """What each channel of each pair never falls below, before the activation."""
    if rw.main and rw.context.data is not None:
        found = [np.full(p.first.output.shape[-1], np.inf) for p in pairs]
        for values in rw.observe([p.first.output for p in pairs], "looking at biases"):
            for i, value in enumerate(values):
                found[i] = np.minimum(found[i], value.reshape(-1, value.shape[-1]).min(0))
        return [_SHARE * np.where(np.isfinite(f), f, 0.0) for f in found]
    known = propagate(rw.graph)
    return [
        stats.mean - _SIGMAS * stats.std if (stats := known.get(p.first.output)) is not None
        else np.zeros(p.first.output.shape[-1])
        for p in pairs
    ]  # fmt: skip
