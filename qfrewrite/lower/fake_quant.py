"""Fake quantization in the form of TFLite's kernel.

TFLite's FAKE_QUANT has one range and no runtime takes a narrow one; a range without width gives
NaN there, and 0 in TensorFlow.
"""

from __future__ import annotations

from qfrewrite.errors import UnsupportedError
from qfrewrite.ir import Graph, Op
from qfrewrite.lower.canonical import drop_identities
from qfrewrite.ops.quantization import fake_quant_grid
from qfrewrite.ops.spec import attr, computed
from qfrewrite.rewrite.rewriter import Rewriter

# Stands for a range without width: every result is 0 as far as float32 shows.
_NO_WIDTH = 1e-30


def lower_fake_quant(graph: Graph) -> None:
    """Bring every FAKE_QUANT of `graph` into a form that TFLite computes, in place.

    The FAKE_QUANT of a constant is computed here if the kernel cannot do it. Raises
    UnsupportedError for a range per channel of computed values.
    """
    rw = Rewriter(graph)
    for op in graph.ops_of("FAKE_QUANT"):
        per_channel, narrow = attr(op, "axis") is not None, bool(attr(op, "narrow_range"))
        if op.operand(0).is_const and (per_channel or narrow):
            _apply(rw, op)
        elif per_channel:
            what = "has a range per channel of computed values"
            remedy = "write a .pb, or give it one range"
            raise UnsupportedError(what, where=f"op '{op.name}' (FAKE_QUANT)", remedy=remedy)
        elif narrow:
            _widen(rw, op)
        elif attr(op, "min") == attr(op, "max"):
            graph.set_attrs(op, min=0.0, max=_NO_WIDTH)
    drop_identities(rw)  # an output may have needed one for its name


def _apply(rw: Rewriter, op: Op) -> None:
    """Given  y = FAKE_QUANT(c), c constant;  Result  y is the constant that it computes."""
    source = op.operand(0)
    values = computed(op, [source.data])[0]
    rw.set_constant(op, 0, values, name=f"{source.name}/quantized")
    rw.bypass(op)


def _widen(rw: Rewriter, op: Op) -> None:
    """Given  y = FAKE_QUANT(x), narrow range;  Result  y = FAKE_QUANT(MAXIMUM(x, low)).

    The new range has one step more at its lower end, which no value reaches: `low` is the lowest
    value of the narrow range. Scale and zero stay where they are.
    """
    bits = attr(op, "num_bits")
    low, high, step = (
        float(v) for v in fake_quant_grid(attr(op, "min"), attr(op, "max"), bits, True)
    )
    bound = rw.constant(f"{op.name}/low", low)
    bounded = rw.put(op, "MAXIMUM", op.operand(0), bound, name=f"{op.name}/bounded")
    rw.graph.set_inputs(op, [bounded.output])
    rw.graph.set_attrs(op, min=low - step, max=high, narrow_range=False)
