"""What an op is, as data: one `OpSpec` per op.

The readers, the writers, the verifier, calibration and the documentation's op table all read
these definitions; nothing else in the package lists ops by name for a property that a definition
can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from math import inf, prod
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from qfrewrite.errors import UnsupportedError, VerifyError
from qfrewrite.ir import NUMPY_DTYPES, Array, Op, Tensor
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
# The output, or all outputs, from the op (for its attributes) and the value of each input. Their
# element type may be wider than the op's: `computed` narrows it.
Reference = Callable[..., Any]


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
    """Fixed-point multipliers reach 2^13 above the largest scale of an operand."""
    return max(scales) * 2.0**-13


def step_of_product(scales: Sequence[float]) -> float:
    """Products of quantized values are rescaled by less than 2^8, for XNNPACK."""
    return prod(scales) * 2.0**-7


@dataclass(frozen=True)
class Port:
    """One input or output slot."""

    name: str
    """What messages call it."""
    role: str = "act"
    """`act` (a value that is quantized), `weight` (a constant quantized symmetrically, per index of
    `axis`), `bias` (int32 at scale input x weight), `param` (integers: shapes, axes, paddings;
    never quantized), or `any` (read in whatever type it has)."""
    axis: int | None = None
    """The axis of the output channels of a weight."""
    rank: int | None = None
    """The rank of a weight, where kernels support one only."""
    optional: bool = False
    """Whether the slot may be empty."""
    variadic: bool = False
    """Whether the last slot stands for any number of slots."""
    fixed: tuple[float, int] | None = None
    """Scale and zero point that the specification prescribes for an int8 output."""
    dtype: str | None = None
    """The element type of an output that does not follow the operands."""


act = partial(Port, role="act")
"""A slot for an activation."""
weight = partial(Port, role="weight")
"""A slot for weights whose output channels lie on `axis`."""
bias = partial(Port, "bias", role="bias", optional=True)
"""An optional slot for a bias, [output channels]."""
param = partial(Port, role="param")
"""A slot for integers that are no values: shapes, axes, paddings."""
X, Y = act("x"), act("y")
"""The slots of most ops with one operand, and of their results."""
TRUTH = (param("y", dtype="bool"),)
"""The slot of a result that is true or false."""
INT32 = (param("y", dtype="int32"),)
"""The slot of a result of integers."""


def shape_error(op: Op, what: str) -> VerifyError:
    """The error a shape rule raises: the op's operands do not fit together."""
    return VerifyError(what, where=op.place)


def shape_of(op: Op, slot: int) -> Shape:
    """The shape of input `slot`; raises VerifyError where the slot is empty."""
    tensor = op.input(slot)
    if tensor is None:
        raise shape_error(op, f"input {slot} is missing")
    return tensor.shape


def broadcast(op: Op, *shapes: Shape) -> Shape:
    """The shape that numpy broadcasts these shapes to; raises VerifyError where they do not fit."""
    try:
        return tuple(int(d) for d in np.broadcast_shapes(*shapes))
    except ValueError:
        names = " and ".join(str(list(shape)) for shape in shapes)
        raise shape_error(op, f"shapes {names} do not broadcast") from None


def same_shape(op: Op) -> list[Shape]:
    """The output has the shape of the first input."""
    return [shape_of(op, 0)]


AS_KIND = "CamelCase"
"""For `OpSpec.graphdef`: ops that are defined from it are called like their kind."""


def _camel_case(kind: str) -> str:
    return "".join(word.capitalize() for word in kind.split("_"))


@dataclass(frozen=True)
class OpSpec:
    """The definition of one op: its operands, what it computes, and its facets.

    A facet is a fact about the op that rewrites, the writers and the verifier ask for. A facet that
    is not stated does not hold.
    """

    kind: str = ""
    """TFLite's builtin name; empty for what only serves to define others."""
    inputs: tuple[Port, ...] = (X,)
    """The input slots."""
    infer: ShapeRule = same_shape
    """The shape rule."""
    reference: Reference | None = None
    """What it computes, in numpy."""
    _: KW_ONLY
    outputs: tuple[Port, ...] = (Y,)
    """The output slots."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """Every attribute with its default."""
    options: str | None = None
    """The flatbuffer table of its attributes, where that is not named after the op."""
    graphdef: str | None = None
    """Its name in a GraphDef, where operands stand in the same slots there. Ops whose forms differ
    have an entry in `formats/graphdef/rules/table.py` instead."""
    graphdef_attrs: Mapping[str, str] = field(default_factory=dict)
    """Attribute name here -> attribute name in a GraphDef."""

    kernels: frozenset[str] = QUANTIZED
    """The quantized types LiteRT computes it in."""
    versions: Mapping[str | Feature, int] = field(default_factory=dict)
    """The least op version that LiteRT asks for, by the element type of the first operand and by
    features of the op (tensorflow/compiler/mlir/lite/tools/versioning)."""
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

    def op(
        self,
        kind: str,
        inputs: tuple[Port, ...] = (X,),
        infer: ShapeRule = same_shape,
        reference: Reference | None = None,
        **facts: Any,
    ) -> OpSpec:
        """The definition of an op like this one."""
        named = {"graphdef": _camel_case(kind)} if self.graphdef == AS_KIND else {}
        given = {"kind": kind, "inputs": inputs, "infer": infer, "reference": reference}
        return replace(self, **{**given, **named, **facts})

    def facets(self, names: str = "", **facts: Any) -> OpSpec:
        """This definition with these facets, which hold, and facets of other values."""
        held: dict[str, Any] = dict.fromkeys(names.split(), True)
        return replace(self, **held, **facts)

    def attributes(self, **defaults: Any) -> OpSpec:
        """This definition with attributes of these defaults."""
        return replace(self, attrs=defaults)

    def shared(self, **defaults: Any) -> OpSpec:
        """This definition with attributes of these defaults, which a GraphDef calls alike."""
        return replace(self, attrs=defaults, graphdef_attrs={name: name for name in defaults})

    def since(self, features: Mapping[Feature, int] | None = None, **types: int) -> OpSpec:
        """This definition with these least op versions, by features and by element type."""
        versions: Mapping[Any, int] = {**self.versions, **types, **(features or {})}
        return replace(self, versions=versions)

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
        return _port(self.inputs, slot)

    def output_port(self, slot: int) -> Port | None:
        """The port of output `slot`; the last one repeats where it is variadic."""
        return _port(self.outputs, slot)

    def role(self, slot: int) -> str:
        """The role of input `slot`; "" where the op has no such slot."""
        port = self.input_port(slot)
        return "" if port is None else port.role

    def slot(self, role: str) -> int | None:
        """The first input slot of that role."""
        return next((i for i, p in enumerate(self.inputs) if p.role == role), None)

    def slots(self, count: int, *roles: str) -> list[int]:
        """Of `count` input slots those of one of these roles."""
        ports = enumerate(self.input_port(slot) for slot in range(count))
        return [slot for slot, port in ports if port is not None and port.role in roles]

    def min_inputs(self) -> int:
        """How many leading slots an op must fill."""
        return sum(not (p.optional or p.variadic) for p in self.inputs)


def _port(ports: tuple[Port, ...], slot: int) -> Port | None:
    if slot < len(ports):
        return ports[slot]
    return ports[-1] if ports and ports[-1].variadic else None


_BY_KIND: dict[str, OpSpec] = {}

OPS: Mapping[str, OpSpec] = MappingProxyType(_BY_KIND)
"""Every definition by kind; filled by the family modules that `qfrewrite.ops` imports."""


def define(*specs: OpSpec) -> None:
    """Register the definitions of one family module."""
    for spec in specs:
        if spec.kind in _BY_KIND:
            raise ValueError(f"two definitions of {spec.kind}")
        _BY_KIND[spec.kind] = spec
    register_kinds(spec.kind for spec in specs)


def spec_of(op: Op) -> OpSpec | None:
    """The definition of `op`, or None for an opaque op."""
    return OPS.get(op.kind)


def facets(op: Op | None) -> OpSpec:
    """The definition of `op`; one without any facet for no op, and for one that has none."""
    return OPS.get(op.kind, _UNKNOWN) if op is not None else _UNKNOWN


def kinds_that(facet: Callable[[OpSpec], object]) -> tuple[str, ...]:
    """The kinds of ops for which a facet holds: `kinds_that(lambda op: op.reshapes)`."""
    return tuple(kind for kind, spec in OPS.items() if facet(spec))


def clip_bounds(op: Op | None) -> tuple[float, float]:
    """The bounds that `op` clips its operand to; infinite where it does not clip."""
    spec = facets(op)
    return spec.bounds if spec.clips and spec.bounds is not None else (-inf, inf)


def require_spec(op: Op) -> OpSpec:
    """The definition of `op`; raises UnsupportedError where there is none."""
    spec = OPS.get(op.kind)
    if spec is None:
        remedy = "keep it as it is, or define it under qfrewrite/ops"
        raise UnsupportedError("has no definition", where=op.place, remedy=remedy)
    return spec


def output_types(op: Op, default: str, count: int) -> list[str]:
    """The element types of the `count` outputs of `op`: `default` unless its ports say others."""
    spec = require_spec(op)
    types = [getattr(spec.output_port(i), "dtype", None) or default for i in range(count)]
    chosen = op.attrs.get("output_type")
    if chosen and spec.outputs[0].dtype is not None:
        types[0] = chosen.lower()
    return types


def least_version(op: Op) -> int:
    """The least version of `op` that runtimes must know to compute it."""
    spec = facets(op)
    acts = (op.inputs[slot] for slot in spec.slots(len(op.inputs), "act", "any"))
    first = next((t.dtype for t in acts if t is not None), "")
    asked = (
        version
        for condition, version in spec.versions.items()
        if (condition == first if isinstance(condition, str) else condition(op))
    )
    return max(asked, default=1)


def fixed_quant(port: Port | None, dtype: str) -> tuple[float, int] | None:
    """Scale and zero point that the specification prescribes for an output of type `dtype`."""
    if port is None or port.fixed is None:
        return None
    scale, zero = port.fixed
    return {"int8": (scale, zero), "uint8": (scale, zero + 128), "int16": (2.0**-15, 0)}[dtype]


def attr(op: Op, name: str) -> Any:
    """An attribute of `op`, or its default from the op's definition."""
    if name in op.attrs:
        return op.attrs[name]
    spec = OPS.get(op.kind)
    if spec is None or name not in spec.attrs:
        raise KeyError(f"{op.kind} has no attribute {name!r}")
    return spec.attrs[name]


def const_ints(op: Op, slot: int) -> tuple[int, ...]:
    """The integers in the constant operand `slot`, flattened; raises where it is computed."""
    tensor = op.input(slot)
    if tensor is None or tensor.data is None:
        remedy = "shapes that depend on the data are not supported"
        raise UnsupportedError(f"operand {slot} must be a constant", where=op.place, remedy=remedy)
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
        raise _misfit(op, error) from None


def computed(op: Op, values: Sequence[Array | None]) -> list[Array]:
    """What `op`, whose definition has a reference, makes of these operands.

    Raises VerifyError where they do not fit the op, UnsupportedError where an element type is not
    known or where it takes more memory than there is.
    """
    spec = require_spec(op)
    assert spec.reference is not None
    for tensor in op.inputs:
        if tensor is not None and tensor.dtype not in NUMPY_DTYPES:
            what = f"reads {tensor.dtype}, whose values cannot be computed with"
            raise UnsupportedError(what, where=op.place)
    try:
        with np.errstate(all="ignore"):
            results = spec.reference(op, *values)
            results = results if isinstance(results, list) else [results]
            return [
                _narrowed(spec, slot, np.asarray(one), values) for slot, one in enumerate(results)
            ]
    except MemoryError:
        what = "takes more memory than there is"
        remedy = "the file is damaged, or this machine too small"
        raise UnsupportedError(what, where=op.place, remedy=remedy) from None
    except _MALFORMED as error:
        raise _misfit(op, error) from None


def values_of(ops: Iterable[Op], known: Mapping[Tensor, Array]) -> dict[Tensor, Array]:
    """The known values, and those that `ops`, in their order, compute from them."""
    values = dict(known)
    for op in ops:
        results = computed(op, [None if t is None else values[t] for t in op.inputs])
        values.update(zip(op.outputs, results, strict=False))
    return values


def _narrowed(spec: OpSpec, slot: int, result: Array, values: Sequence[Array | None]) -> Array:
    """A result in the element type of the first activation, unless it has one of its own."""
    port = spec.output_port(slot)
    if spec.converts or port is None or port.dtype is not None:
        return result
    acts = (values[i] for i in spec.slots(len(values), "act"))
    first = next((v for v in acts if v is not None), result)
    return result.astype(first.dtype, copy=False)


def values_alone(function: Callable[..., Any]) -> Reference:
    """The reference of an op that computes `function` of its operands and has no attributes."""
    return lambda op, *values: function(*values)


def _misfit(op: Op, error: Exception) -> VerifyError:
    return shape_error(op, f"has operands that do not fit: {error or type(error).__name__}")


def unknown_shape(op: Op) -> list[Shape]:
    """The shape rule of an op whose output sizes depend on its operands' values."""
    what = "has an output whose shape depends on the data"
    raise UnsupportedError(what, where=op.place, remedy="keep it as it is")


def normal_axis(op: Op, axis: int, rank: int) -> int:
    """`axis` counted from the front; raises VerifyError outside [-rank, rank)."""
    if not -rank <= axis < rank:
        raise shape_error(op, f"axis {axis} is outside rank {rank}")
    return axis % rank


_UNKNOWN = OpSpec("", (), unknown_shape, outputs=())
