"""Whether a lowered model computes in the element types that its scheme names."""

from __future__ import annotations

from qfrewrite.errors import VerifyError
from qfrewrite.ir import Model, Op, Tensor
from qfrewrite.lower.scheme import QuantOptions, QuantReport
from qfrewrite.ops.spec import QUANTIZED, facets

_NO_RANGES = "add calibrate to the passes (-p calibrate), or leave out the scheme"


def check_scheme(lowered: Model, options: QuantOptions, report: QuantReport) -> None:
    """Raise VerifyError where no op computes as the scheme says.

    report: which ops lowering left in float, and why. Ops that only move values (a RESHAPE behind
    a SOFTMAX) do not count, unless there are no others.
    """
    wanted = options.kind.activations
    allowed = {wanted, "int16"} if options.keep_int16 else {wanted}
    dtypes = {dtype for op in _computing(lowered) if (dtype := _activation(op)) is not None}
    obeyed = wanted is not None and not dtypes.isdisjoint(allowed)
    others = sorted((dtypes & QUANTIZED) - allowed)
    if others and not obeyed:
        what = f"computes in {' and '.join(others)} already"
        remedy = "make it float first (--dequantize, or qf.dequantize)"
        raise VerifyError(what, where=f"scheme {options.scheme}", remedy=remedy)
    if wanted is None or not dtypes or obeyed:
        return
    if not report.float_ops:
        what = "the model has no ranges: it would be written float"
        raise VerifyError(what, where=f"scheme {options.scheme}", remedy=_NO_RANGES)
    name, kind, why = report.float_ops[0]
    what = f"no op computes in {wanted}: {kind} '{name}' stays float ({why})"
    remedy = "choose other passes or ranges, or ask for --scheme dynamic or float32"
    raise VerifyError(what, where=f"scheme {options.scheme}", remedy=remedy)


def _computing(model: Model) -> list[Op]:
    """The ops whose element types count: those that only move values do if there are no others."""
    ops = [
        op
        for graph in model.graphs
        for op in graph.ops
        if not facets(op).quantizes and op.kind != "FAKE_QUANT"
    ]
    computing = [op for op in ops if not facets(op).same_scale]
    return computing if any(_activation(op) for op in computing) else ops


def _activation(op: Op) -> str | None:
    """The type an op computes in: that of quantized values it takes or gives, else float32."""
    values = [t for t in (*op.outputs, *op.inputs) if t is not None and not t.is_const]
    coded = next((t.dtype for t in values if _coded(t)), None)
    return coded or ("float32" if any(t.dtype == "float32" for t in values) else None)


def _coded(tensor: Tensor) -> bool:
    return tensor.quant is not None and tensor.dtype in QUANTIZED
