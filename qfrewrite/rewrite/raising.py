"""Raise low-level forms to the ops that passes look for.

BatchNorm comes as FusedBatchNorm (raised by the reader), as Rsqrt/Mul/Sub/Add on constants (the
MobileNets of 2017), or as MUL and ADD after a convolution; a bias as an ADD of a constant; a
dilated convolution between SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND; float weights as quantized
constants of a float op. None of these steps changes what the graph computes.
"""

from __future__ import annotations

import numpy as np

from qfrewrite.ir import Array, Graph, Tensor, constant
from qfrewrite.ir.quant import Quant, dequantize
from qfrewrite.ops.spec import facets
from qfrewrite.rewrite.activations import raise_gelu, raise_leaky
from qfrewrite.rewrite.dense import raise_dense
from qfrewrite.rewrite.densify import densify
from qfrewrite.rewrite.dilation import raise_dilation
from qfrewrite.rewrite.fold import fold_constants
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.rewrite.match import NoMatch, all_of, per_channel
from qfrewrite.rewrite.padding import raise_lowest_padding, raise_same_padding
from qfrewrite.rewrite.pattern import Match, Patterns
from qfrewrite.rewrite.reshapes import keep_reduced_axes, sink_reshapes
from qfrewrite.rewrite.rewriter import Log, Rewriter
from qfrewrite.rewrite.simplify import drop_idle_clips, drop_neutral, merge_equal
from qfrewrite.rewrite.weight_ranges import note_weight_ranges

# Types of the quantized constants that kernels of float ops take as weights.
_HYBRID = ("int8", "uint8")


_p = Patterns()
_INVERSE = _p.RSQRT(_p.ADD(_p.const("variance"), _p.number("epsilon")).commute())
_FACTOR = _p.any_of(_INVERSE, _p.MUL(_INVERSE, _p.const("gamma")).commute())
_SCALED = _p.MUL(_p.x, _FACTOR).commute()
_MEAN = _p.MUL(_p.const("mean"), _FACTOR).commute()
# y = x * (rsqrt(var + eps) * gamma) + (beta - mean * (rsqrt(var + eps) * gamma))
_DECOMPOSED = _p.any_of(
    _p.ADD(_SCALED, _p.SUB(_p.const("beta"), _MEAN)).commute(), _p.SUB(_SCALED, _MEAN)
)
# y = conv(x) * gamma [+ beta]
_GAIN = _p.linear("conv").then(_p.MUL(_p.per_channel("gamma")))
_GAIN_AND_OFFSET = _GAIN.then(_p.ADD(_p.per_channel("beta")))
# y = conv(x) + c, or - c
_BIASED = _p.any_of(
    _p.linear("conv").then(_p.ADD(_p.per_channel("c"))),
    _p.linear("conv").then(_p.SUB(_p.per_channel("c"))),
)


def raise_graph(graph: Graph, log: Log | None = None) -> Rewriter:
    """Bring `graph` into the form that passes expect; returns the rewriter with its log."""
    rw = Rewriter(graph, log)
    densify(rw)
    note_weight_ranges(rw)
    _dequantize_weights(rw)
    rw.rewrite_all(_DECOMPOSED, _as_batch_norm, action="raised", tell=False)
    fold_constants(rw)
    raise_gelu(rw)
    raise_dense(rw)
    raise_dilation(rw)
    sink_reshapes(rw)
    keep_reduced_axes(rw)
    raise_same_padding(rw)
    raise_lowest_padding(rw)
    raise_leaky(rw)
    for pattern in (_GAIN_AND_OFFSET, _GAIN):
        rw.rewrite_all(pattern, _as_batch_norm, action="raised", tell=False)
    rw.rewrite_all(_BIASED, _merged_bias, action="merged", detail="into the bias", tell=False)
    drop_neutral(rw)
    drop_idle_clips(rw)
    merge_equal(rw)
    return rw


def _dequantize_weights(rw: Rewriter) -> None:
    """Quantized constants of an op that computes in float (dynamic-range models) become float."""
    for op in rw.graph.ops:
        if not op.outputs or op.output.dtype != "float32":
            continue
        for slot, tensor in enumerate(op.inputs):
            if tensor is None or facets(op).role(slot) not in ("weight", "bias"):
                continue
            if tensor.data is not None and tensor.quant is not None and tensor.dtype in _HYBRID:
                twin = constant(tensor.name, _hybrid_values(tensor.data, tensor.quant))
                rw.graph.set_input(op, slot, twin)
                rw.graph.forget_file(op)
                rw.edit("dequantized", op, f"{tensor.dtype} '{tensor.name}' to float32")


def _hybrid_values(values: Array, quant: Quant) -> Array:
    """The real weights of a float op with quantized ones, float32.

    The converters of 2018 wrote signed values with zero point 0 and called them uint8: kernels of
    float ops read the bytes as int8.
    """
    if values.dtype == np.uint8 and not quant.zero_point.any():
        values = values.view(np.int8)
    return dequantize(values, quant)


def _as_batch_norm(m: Match) -> Tensor | NoMatch:
    """BATCH_NORM with the statistics that a pattern captured."""
    x: Tensor = m.get("x") or m.conv.output
    channels = x.shape[-1] if x.shape else 0
    statistics = [m.tensor(name) for name in ("gamma", "beta", "mean", "variance")]
    fitting = all_of(per_channel(t, channels) for t in statistics if t is not None)
    if isinstance(fitting, NoMatch):
        return fitting
    flat = [None if t is None else _vector(m.graph, t, channels) for t in statistics]
    return m.new("BATCH_NORM", x, *flat, attrs={"epsilon": m.get("epsilon", 0.0)})


def _vector(graph: Graph, tensor: Tensor, channels: int) -> Tensor:
    if tensor.shape == (channels,):
        return tensor
    data = np.ascontiguousarray(np.broadcast_to(tensor.value().reshape(-1), (channels,)))
    return constant(graph.unique_name(f"{tensor.name}/per_channel"), data)


def _merged_bias(m: Match) -> LinearView:
    view: LinearView = m.conv
    values = m.c.astype(np.float64)
    return view.shifted(-values) if m.root.kind == "SUB" else view.shifted(values, m.tensor("c"))
