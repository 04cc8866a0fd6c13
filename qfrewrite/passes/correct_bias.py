"""`correct_bias`: note mean inputs, by which the writer corrects biases."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qfrewrite.calibration.statistics import propagate
from qfrewrite.ir import Graph
from qfrewrite.passes._registry import Pass, register
from qfrewrite.rewrite.match import LINEAR
from qfrewrite.solve.context import PassRewriter
from qfrewrite.solve.moments import channel_moments


@register
@dataclass(frozen=True)
class CorrectBias(Pass):
    """Note the mean of every linear layer's input, so that its bias takes up rounding errors.

    Given:  y = f(x; w, b)
    Result: the same; when w is rounded to w', b becomes b + (w - w') E[x]
    E[x] is measured over the data, or follows from BatchNorm statistics (analytic). `calibrate`
    with data does this by itself; this pass is for graphs that bring their ranges, and without
    data before `calibrate`. The function stays as it is until weights are rounded.
    (Nagel et al. 2019, arXiv:1906.04721, section 4.2.)
    """

    exact = True
    requires = "canonical"

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """The means stay with the tensors; the writer knows what it rounds."""
        inputs = list(
            dict.fromkeys(
                t
                for op in graph.ops_of(*LINEAR)
                for t in (op.input(0),)
                if t is not None and t.dtype == "float32" and not t.is_const and t.shape
            )
        )
        if rw.main and rw.samples is not None:
            measured = channel_moments(rw, inputs, "measuring mean inputs")
            means = {tensor: mean for tensor, (mean, _) in measured.items()}
        else:
            means = {t: np.asarray(g.mean, np.float64) for t, g in propagate(graph).items()}
        found = {t: m for t in inputs if (m := means.get(t)) is not None and m.size == t.shape[-1]}
        for tensor, mean in found.items():
            known = tensor.channels.mean
            if known is None or not np.array_equal(mean, known):
                graph.set_channels(tensor, replace(tensor.channels, mean=mean))
                rw.edit("noted", tensor.users[0].op, f"the mean of '{tensor.name}'")
        rw.note("means", f"mean inputs of {len(found)} of {len(inputs)} tensors noted")
