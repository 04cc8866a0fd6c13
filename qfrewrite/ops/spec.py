"""What an op is, as data: one `OpSpec` row per op.

The readers, the writers, the verifier, calibration and the documentation's op table all read
these rows; nothing else in the package lists ops by name for a property that a row can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from math import inf, prod
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from qfrewrite.errors import UnsupportedError, VerifyError
from qfrewrite.ir import NUMPY_DTYPES, Array, Op
from qfrewrite.ir.kinds import register_kinds

Shape = tuple[int, ...]
# Shapes of the outputs from the op (attributes, constant operands, input shapes).
ShapeRule = Callable[[Op], list[Shape]]
# The least scale of a result that a kernel can rescale to, from the scales of its operands.
LeastStep = Callable[[Sequence[float]], float]
# Multiply-accumulates of one inference of an op.
Macs = Callable[[Op], int]
# Whether an op has the feature that asks for a later version.
Feature = Callable[[Op], bool]
# Outputs from the op (for its attributes) and the values of its inputs.
Reference = Callable[[Op, list[Array | None]], list[Array]]


# What kernels compute was measured on LiteRT 2.3 with XNNPACK, optimized and reference kernels
# (tests/ops/test_quantized_kernels.py): a kernel that gives wrong values counts as none.
QUANTIZED = frozenset({"int8", "uint8", "int16"})
"""The element types of quantized activations."""
FLOAT_ONLY: frozenset[str] = frozenset()
"""No quantized kernel at all."""
INT8 = frozenset({"int8"})
INT8_UINT8 = frozenset({"int8", "uint8"})
INT8_INT16 = frozenset({"int8", "int16"})


def step_of_operands(scales: Sequence[float]) -> float:
    """Fixed-point multipliers reach 2^13 above the largest operand's step."""
    return max(scales) * 2.0**-13


def step_of_product(scales: Sequence[float]) -> float:
    """Products of codes are rescaled by less than 2^8, for XNNPACK."""
    return prod(scales) * 2.0**-7


@dataclass(frozen=True)
class Port:
    """One input or output slot.

    role: `act` (a value that is quantized), `weight` (a constant quantized symmetrically, per
    index of `axis`), `bias` (int32 at scale input x weight), `param` (integers: shapes,
    axes, paddings; never quantized), or `any` (read in whatever type it has).
    rank: of a weight, where kernels take one only.
    fixed: scale and zero point that the specification prescribes for an int8 output.
    dtype: the element type of an output that does not follow the operands.
    """

    name: str
    role: str = "act"
    axis: int | None = None
    rank: int | None = None
    optional: bool = False
    variadic: bool = False
    fixed: tuple[float, int] | None = None
    dtype: str | None = None


def act(name: str, **kw: Any) -> Port:
    """A slot for an activation."""
    return Port(name, "act", **kw)


def weight(name: str, axis: int | None, **kw: Any) -> Port:
    """A slot for weights whose output channels lie on `axis`."""
    return Port(name, "weight", axis=axis, **kw)


def bias(name: str = "bias", **kw: Any) -> Port:
    """A slot for a bias, [output channels]; optional unless said otherwise."""
    return Port(name, "bias", optional=kw.pop("optional", True), **kw)


def param(name: str, **kw: Any) -> Port:
    """A slot for integers that are no values: shapes, axes, paddings."""
    return Port(name, "param", **kw)


@dataclass(frozen=True)
class OpSpec:
    """The definition of one op: its operands, what it computes, and its facets.

    A facet is a fact about the op that rewrites, the writers and the verifier ask for. A facet that
    is not stated does not hold.
    """

    kind: str
    """TFLite's builtin name."""
    inputs: tuple[Port, ...]
    """The input slots."""
    outputs: tuple[Port, ...]
    """The output slots."""
    infer: ShapeRule
    """The shape rule."""
    reference: Reference | None = None
    """What it computes, in numpy."""
    options: str | None = None
    """The flatbuffer table of its attributes, if it has one."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """Every attribute with its default."""
    _: KW_ONLY
    graphdef: str | None = None
    """Its name in a GraphDef, where operands stand in the same slots there. Ops whose forms differ
    have an entry in `formats/graphdef/rules/table.py` instead."""
    graphdef_attrs: Mapping[str, str] = field(default_factory=dict)
    """Attribute name here -> attribute name in a GraphDef."""

    kernels: frozenset[str] = QUANTIZED
    """The quantized types LiteRT computes it in."""
    versions: Mapping[str, int] = field(default_factory=dict)
    """The least op version that LiteRT asks for, by the element type of the first operand
    (tensorflow/compiler/mlir/lite/tools/versioning)."""
    since: tuple[tuple[Feature, int], ...] = ()
    """The least version for each feature."""
    least_step: LeastStep = step_of_operands
    """The least scale of the result, from the scales of activations and weights."""
    same_scale: bool = False
    """Input and output must share scale and zero point."""
    symmetric: bool = False
    """The zero point must be that of quantized value 0, which the kernel writes by itself."""
    hybrid: bool = False
    """The float kernel takes int8 weights."""
    fuses: bool = False
    """Kernels apply a fused activation to the result."""
    fusible: bool = False
    """It can be the fused activation of another op."""

    activation: bool = False
    """A nonlinear function of one value, the same for all values, as it stands behind layers."""
    bounds: tuple[float, float] | None = None
    """The least and the largest value of the result, whatever the operand is."""
    clips: bool = False
    """Within `bounds` the result is the operand, and beyond them the nearer bound."""
    selects: bool = False
    """Each value of the result is a value of the first operand."""
    reshapes: bool = False
    """The result holds the values of the first operand in their order, in another shape."""
    channelwise: bool = False
    """Channel c (of the last axis) of the result follows from channel c of the first operand alone,
    in the same way for each c. A channel of zeros gives finite values."""
    combines: bool = False
    """It combines two operands value by value, and broadcasts them as numpy does."""
    divides: bool = False
    """Where the second operand is 0 the result may not be finite."""
    neutral: tuple[float, tuple[int, ...]] | None = None
    """The constant that leaves the other operand as it is, and the slots where it does."""
    homogeneous: bool = False
    """f(t x) = t f(x) for t > 0, for each channel by itself and all computed operands at once.
    RELU6 counts: it is so where it does not clip."""
    reduces: bool = False
    """It makes one value of all those along the axes that the second operand names."""
    scatters: bool = False
    """A linear op that adds each position of its input to several positions of its output."""
    macs: Macs | None = None
    """Multiply-accumulates of one inference; None: it does not multiply by weights."""
    scores: Literal["probabilities", "ranks"] | None = None
    """What it makes of final scores: probabilities, or the indices of the largest."""
    quantizes: bool = False
    """It changes the quantized representation of values, and no values."""
    converts: bool = False
    """The results have another type of numbers than the operands."""
    effects: bool = False
    """It has effects beyond its outputs: it stays where nobody reads them."""

    @property
    def linear(self) -> bool:
        """Whether the result is weights times input, plus a bias per output channel."""
        return {"weight", "bias"} <= {port.role for port in self.inputs}

    @property
    def gathers(self) -> bool:
        """Whether it is linear, and each output sees one window of the input."""
        return self.linear and not self.scatters

    @property
    def rectifies(self) -> bool:
        """Whether it is RELU, or RELU where an upper bound does not clip."""
        return self.clips and self.homogeneous

    @property
    def unfuses(self) -> bool:
        """Whether its attributes name an activation of its result.

        In the graph that is an op of its own. (The activation of LSTM, RNN and SVDF cells acts
        inside them and stays an attribute.)
        """
        return "fused_activation_function" in self.attrs

    @property
    def clips_freely(self) -> bool:
        """Whether kernels apply a fused activation, and the result has a scale of its own."""
        return self.fuses and not self.same_scale

    def input_port(self, slot: int) -> Port | None:
        """The port of input `slot`; the last one repeats where it is variadic."""
        if slot < len(self.inputs):
            return self.inputs[slot]
        return self.inputs[-1] if self.inputs and self.inputs[-1].variadic else None

    def output_port(self, slot: int) -> Port | None:
        """The port of output `slot`; the last one repeats where it is variadic."""
        if slot < len(self.outputs):
            return self.outputs[slot]
        return self.outputs[-1] if self.outputs and self.outputs[-1].variadic else None

    def slot(self, role: str) -> int | None:
        """The first input slot of that role."""
        return next((i for i, p in enumerate(self.inputs) if p.role == role), None)

    def min_inputs(self) -> int:
        """How many leading slots an op must fill."""
        return sum(not (p.optional or p.variadic) for p in self.inputs)


_ROWS: dict[str, OpSpec] = {}

OPS: Mapping[str, OpSpec] = MappingProxyType(_ROWS)
"""Every row by kind; filled by the family modules that `qfrewrite.ops` imports."""


def rows(*specs: OpSpec) -> None:
    """Register the rows of one family module."""
    for spec in specs:
        if spec.kind in _ROWS:
            raise ValueError(f"two rows for {spec.kind}")
        _ROWS[spec.kind] = spec
    register_kinds(spec.kind for spec in specs)


def spec_of(op: Op) -> OpSpec | None:
    """The row of `op`, or None for an op that is only carried along."""
    return OPS.get(op.kind)


def facets(op: Op | None) -> OpSpec:
    """The definition of `op`; one without any facet for no op, and for one that has none."""
    return _ROWS.get(op.kind, _UNKNOWN) if op is not None else _UNKNOWN


def kinds_that(facet: Callable[[OpSpec], object]) -> tuple[str, ...]:
    """The kinds of ops for which a facet holds: `kinds_that(lambda op: op.reshapes)`."""
    return tuple(kind for kind, spec in _ROWS.items() if facet(spec))


def clip_bounds(op: Op | None) -> tuple[float, float]:
    """The bounds that `op` clips its operand to; infinite where it does not clip."""
    spec = facets(op)
    return spec.bounds if spec.clips and spec.bounds is not None else (-inf, inf)


def require_spec(op: Op) -> OpSpec:
    """The row of `op`; raises UnsupportedError where there is none."""
    spec = OPS.get(op.kind)
    if spec is None:
        raise UnsupportedError(
            "has no row in the op table",
            where=op.place,
            remedy="keep it as it is, or add its row under qfrewrite/ops",
        )
    return spec


def output_types(op: Op, default: str, count: int) -> list[str]:
    """The element types of the `count` outputs of `op`: `default` unless its row says otherwise."""
    spec = require_spec(op)
    ports = [spec.output_port(i) for i in range(count)]
    said = [port.dtype if port is not None else None for port in ports]
    chosen = op.attrs.get("output_type")
    return [
        default if dtype is None else chosen.lower() if chosen and i == 0 else dtype
        for i, dtype in enumerate(said)
    ]


def least_version(op: Op) -> int:
    """The least version of `op` that runtimes must know to compute it."""
    spec = OPS.get(op.kind)
    if spec is None:
        return 1
    roles = {slot: port.role for slot in range(len(op.inputs)) if (port := spec.input_port(slot))}
    acts = (op.inputs[slot] for slot, role in roles.items() if role in ("act", "any"))
    first = next((t for t in acts if t is not None), None)
    needed = [version for feature, version in spec.since if feature(op)]
    return max([1, spec.versions.get(first.dtype, 1) if first is not None else 1, *needed])


def fixed_quant(port: Port | None, dtype: str) -> tuple[float, int] | None:
    """Scale and zero point that the specification prescribes for an output of type `dtype`."""
    if port is None or port.fixed is None:
        return None
    scale, zero = port.fixed
    return {"int8": (scale, zero), "uint8": (scale, zero + 128), "int16": (2.0**-15, 0)}[dtype]


def attr(op: Op, name: str) -> Any:
    """An attribute of `op`, or its default from the op's row."""
    if name in op.attrs:
        return op.attrs[name]
    spec = OPS.get(op.kind)
    if spec is None or name not in spec.attrs:
        raise KeyError(f"{op.kind} has no attribute {name!r}")
    return spec.attrs[name]


def shape_error(op: Op, what: str) -> VerifyError:
    """The error a shape rule raises: the op's operands do not fit together."""
    return VerifyError(what, where=op.place)


def shape_of(op: Op, slot: int) -> Shape:
    """The shape of input `slot`; raises VerifyError where the slot is empty."""
    tensor = op.input(slot)
    if tensor is None:
        raise shape_error(op, f"input {slot} is missing")
    return tensor.shape


def operand_value(values: list[Array | None], slot: int) -> Array:
    """The value in `slot` that a numpy reference was given; the verifier saw that it is there."""
    value = values[slot]
    assert value is not None
    return value


def const_ints(op: Op, slot: int) -> tuple[int, ...]:
    """The integers in the constant operand `slot`, flattened; raises where it is computed."""
    tensor = op.input(slot)
    if tensor is None or tensor.data is None:
        raise UnsupportedError(
            f"operand {slot} must be a constant",
            where=op.place,
            remedy="shapes that depend on the data are not supported",
        )
    return tuple(int(v) for v in tensor.data.reshape(-1))


# What a rule raises on operands that no valid model has: a rank too low, an empty table.
_MALFORMED = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


def inferred(op: Op) -> list[Shape]:
    """The shapes of the outputs of `op`, by its shape rule.

    Raises VerifyError where the operands do not fit the op, UnsupportedError where the shapes
    depend on data.
    """
    try:
        return require_spec(op).infer(op)
    except _MALFORMED as error:
        raise shape_error(op, f"has operands that do not fit: {_said(error)}") from None


def computed(op: Op, values: list[Array | None]) -> list[Array]:
    """What `op`, whose row has a reference, makes of these operands.

    Raises VerifyError where they do not fit the op, UnsupportedError where an element type is not
    known or where it takes more memory than there is.
    """
    reference = require_spec(op).reference
    assert reference is not None
    for tensor in op.inputs:
        if tensor is not None and tensor.dtype not in NUMPY_DTYPES:
            raise UnsupportedError(
                f"reads {tensor.dtype}, whose values cannot be computed with", where=op.place
            )
    try:
        with np.errstate(all="ignore"):
            return reference(op, values)
    except MemoryError:
        raise UnsupportedError(
            "takes more memory than there is",
            where=op.place,
            remedy="the file is damaged, or this machine too small",
        ) from None
    except _MALFORMED as error:
        raise shape_error(op, f"has operands that do not fit: {_said(error)}") from None


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def unknown_shape(op: Op) -> list[Shape]:
    """The shape rule of an op whose output sizes depend on its operands' values."""
    raise UnsupportedError(
        "has an output whose shape depends on the data",
        where=op.place,
        remedy="keep it as it is",
    )


def normal_axis(op: Op, axis: int, rank: int) -> int:
    """`axis` counted from the front; raises VerifyError outside [-rank, rank)."""
    if not -rank <= axis < rank:
        raise shape_error(op, f"axis {axis} is outside rank {rank}")
    return axis % rank


_UNKNOWN = OpSpec("", (), (), unknown_shape)
