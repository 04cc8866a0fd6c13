"""Same-scale groups: tensors that int8 kernels need at one scale and zero point.

Groups are found by union-find over the ops whose row says `same_scale`. Ops with one operand
(pooling, reshaping, padding) pass their operand's scale on; ops that join several operands
(CONCATENATION, MAXIMUM) merge groups, or take an operand through a QUANTIZE of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from math import isfinite

import numpy as np

from qfrewrite.errors import Diagnostics
from qfrewrite.ir import Graph, Op, Quant, Tensor
from qfrewrite.ir.quant import SMALLEST_SCALE, activation_quant
from qfrewrite.lower.canonical import written_as
from qfrewrite.lower.fake_quant_ranges import Range
from qfrewrite.ops.spec import Port, facets, fixed_quant
from qfrewrite.ops.subgraphs import Variable, variables
from qfrewrite.rewrite.match import NoMatch

# Joining an operand whose range is narrower than the whole by more than this would leave its
# other users fewer than 5 of 8 bits.
_NARROW = 1 / 8
# An operand with less than this of the joint range is left 8 codes.
_CRUSHED = 1 / 32


@dataclass
class Group:
    """Tensors that share scale and zero point."""

    members: list[Tensor]
    """The tensors, those of the first one's op before others."""
    range: Range | None = None
    """What their values span, in real units; None where it is not known."""
    fixed: Port | None = None
    """The output port that prescribes scale and zero point."""
    symmetric: bool = False
    """Whether real zero must be the quantized value in the middle."""

    def quant(self, dtype: str) -> Quant | None:
        """Scale and zero point of the group, or None where nothing is known."""
        prescribed = fixed_quant(self.fixed, dtype)
        if prescribed is not None:
            return Quant.per_tensor(*prescribed)
        if self.range is None:
            return None
        low, high = self.range
        if self.symmetric and dtype != "int16":
            scale = max(max(-low, high) / 127.0, SMALLEST_SCALE)
            return Quant.per_tensor(scale, 128 if dtype == "uint8" else 0)
        return activation_quant(low, high, dtype)

    @property
    def prescribed(self) -> tuple[float, int] | None:
        """Scale and zero point in int8, where they are prescribed."""
        return fixed_quant(self.fixed, "int8")


@dataclass
class Groups:
    """Every tensor's group, and the operands that go through a QUANTIZE of their own."""

    of: dict[Tensor | None, Group] = field(default_factory=dict)
    """The group of each float tensor that is computed."""
    requantized: list[tuple[Op, int]] = field(default_factory=list)
    """The operands, as op and slot, that keep their own scale."""
    variables: list[tuple[Variable, Tensor]] = field(default_factory=list)
    """Those whose values share one group, each with a computed tensor of that group."""
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    """What the user should know."""

    def quant(self, tensor: Tensor, dtype: str) -> Quant | None:
        """Scale and zero point of a tensor, or None where nothing is known."""
        group = self.of.get(tensor)
        return None if group is None else group.quant(dtype)

    def merge(self, a: Group, b: Group) -> Group:
        """Join two groups; their range is the hull of both."""
        if a is b:
            return a
        a.members += b.members
        a.range = hull(a.range, b.range)
        a.fixed = a.fixed if a.fixed is not None else b.fixed
        a.symmetric = a.symmetric or b.symmetric
        for tensor in b.members:
            self.of[tensor] = a
        return a


def widen_narrow_results(graph: Graph, groups: Groups, dtype_of: Callable[[Op], str]) -> None:
    """Give results a scale that their kernels can rescale to.

    What cancels, or is always zero, has next to no range, and no kernel multiplies codes up
    without end. Twice: a wider result is a wider operand of what comes before it in its group.
    """
    for op in (*graph.ops, *graph.ops):
        spec = facets(op)
        if spec.same_scale or not op.outputs or dtype_of(op) not in spec.kernels:
            continue
        group, dtype = groups.of.get(written_as(op.output)), dtype_of(op)
        scales = _operand_scales(op, groups, dtype)
        if group is None or group.fixed is not None or not scales:
            continue
        quant, least = group.quant(dtype), spec.least_step(scales)
        if quant is not None and group.range is not None and float(quant.scale[0]) < least:
            low, high = group.range
            # int16 has its steps on both sides of zero.
            steps, width = (32767, max(-low, high)) if dtype == "int16" else (255, high - low)
            grow = steps * least / width if width > 0 else 0.0
            widened = low * grow, high * grow
            group.range = widened if all(map(isfinite, widened)) and grow else (0.0, steps * least)


def _operand_scales(op: Op, groups: Groups, dtype: str) -> list[float]:
    """The scales of activations and weights that `op` reads; empty where one is not known."""
    scales = []
    for slot, tensor in enumerate(op.inputs):
        if tensor is None or facets(op).role(slot) not in ("act", "weight"):
            continue
        if tensor.dtype == "float32" and tensor.data is not None:
            scales.append(float(np.abs(tensor.data).max(initial=0.0)) / 127.0)
        elif (quant := groups.quant(tensor, dtype)) is not None:
            scales.append(float(quant.scale[0]))
        else:
            return []
    return scales if np.isfinite(scales).all() else []


def hull(a: Range | None, b: Range | None) -> Range | None:
    """The smallest range that holds both."""
    if a is None or b is None:
        return a if b is None else b
    return min(a[0], b[0]), max(a[1], b[1])


def find_groups(graph: Graph, ranges: dict[Tensor, Range]) -> Groups:
    """Group all float32 tensors of `graph` by the same-scale rules of the op table."""
    groups = Groups()
    for tensor in graph.tensors:
        if tensor.dtype == "float32" and not tensor.is_const:
            groups.of[tensor] = Group([tensor], ranges.get(tensor), _fixed(tensor))
    for op in graph.ops:
        spec = facets(op)
        if not spec.same_scale or not op.outputs or op.output not in groups.of:
            continue
        slots = [i for i, t in enumerate(op.inputs) if t in groups.of and spec.role(i) == "act"]
        joint = groups.of[op.output]
        for out in op.outputs[1:]:
            if out in groups.of:
                joint = groups.merge(joint, groups.of[out])
        joint.symmetric = joint.symmetric or spec.symmetric
        _include_constants(op, joint, [groups.of[op.operand(i)].range for i in slots])
        _join(groups, op, slots, symmetric=spec.symmetric)
    for variable in variables((graph, *graph.bodies)):
        _join_variable(groups, graph, variable)
    return groups


def _join_variable(groups: Groups, graph: Graph, variable: Variable) -> None:
    """One scale for all that is read from and written to a variable, in every subgraph.

    Other subgraphs can take part where they only assign constants: those are known here.
    """
    others = [use.value for use in variable.uses if use.graph is not graph]
    computed = [t for t in variable.tensors(graph) if t in groups.of]
    own = [groups.of[t] for t in computed]
    fixed = {group.prescribed for group in own} - {None}
    held = [use.value for use in variable.uses if use.value.data is not None]
    finite = all(t.dtype == "float32" and np.isfinite(t.value()).all() for t in held)
    if not own or len(fixed) > 1 or not finite or any(t.data is None for t in others):
        return
    for group in own[1:]:
        groups.merge(groups.of[computed[0]], group)
    joint = groups.of[computed[0]]
    for value in (t.value() for t in held if t.size):
        joint.range = hull(joint.range, (float(value.min()), float(value.max())))
    groups.variables.append((variable, computed[0]))


def _join(groups: Groups, op: Op, slots: list[int], *, symmetric: bool) -> None:
    """Merge the operands in `slots` with the output of `op`, where their scales agree."""
    operands = [groups.of[op.operand(i)] for i in slots]
    whole = reduce(hull, (g.range for g in operands), groups.of[op.output].range)
    prescribed = {g.prescribed for g in operands}
    for slot, group in zip(slots, operands, strict=True):
        joint = groups.of[op.output]
        apart = len(operands) > 1 and group is not joint
        if len(operands) > 1:
            _warn_of_crushing(groups, op, slot, group, whole)
        shared: Group | NoMatch = group
        if group.fixed is not None and (symmetric or (apart and len(prescribed) > 1)):
            shared = NoMatch("has a prescribed scale")
        elif apart:
            shared = _wide_enough(op, slot, group, whole)
        if isinstance(shared, Group):
            groups.merge(joint, shared)
        else:
            groups.requantized.append((op, slot))
            place, name = f"{op.kind} '{op.name}'", op.operand(slot).name
            groups.diagnostics.note("requantized", f"'{name}' {shared}: requantized", where=place)
            joint.range = hull(joint.range, _range_of(group))


def _wide_enough(op: Op, slot: int, group: Group, whole: Range | None) -> Group | NoMatch:
    """The group of an operand, or why sharing a scale would leave its other users few codes."""
    others = any(user.op is not op for user in op.operand(slot).users)
    if whole is None or group.range is None or not others:
        return group
    width, own = whole[1] - whole[0], group.range[1] - group.range[0]
    return group if own >= _NARROW * width else NoMatch(f"has {own / width:.3f} of the joint range")


def _warn_of_crushing(groups: Groups, op: Op, slot: int, group: Group, whole: Range | None) -> None:
    """Say where one operand's values share few codes because another's span much more."""
    own = _range_of(group)
    if whole is None or own is None or own[1] <= own[0]:
        return
    share = (own[1] - own[0]) / (whole[1] - whole[0])
    if share < _CRUSHED:
        groups.diagnostics.note(
            "few-codes",
            f"'{op.operand(slot).name}' is left {max(256 * share, 1):.0f} of 256 codes by wider "
            "operands: give it an output of its own, or keep_int16 the op",
            where=f"{op.kind} '{op.name}'",
        )


def _range_of(group: Group) -> Range | None:
    if group.prescribed is None:
        return group.range
    scale, zero = group.prescribed
    return (-128 - zero) * scale, (127 - zero) * scale


def _include_constants(op: Op, group: Group, operands: list[Range | None]) -> None:
    """Let the range of `group`, of the results of `op`, hold the constants that it reads too.

    operands: ranges of the computed ones. What a MAXIMUM or MINIMUM compares with may lie far
    outside both (a bound against division by zero): there the last code does as well.
    """
    span = reduce(hull, operands, group.range)
    for slot, tensor in enumerate(op.inputs):
        if tensor is None or tensor.data is None or facets(op).role(slot) != "act":
            continue
        if tensor.dtype == "float32" and tensor.data.size and np.isfinite(tensor.data).all():
            held = float(tensor.data.min()), float(tensor.data.max())
            if facets(op).combines and span is not None:
                low, high = (min(max(end, span[0]), span[1]) for end in held)
                held = low, high
            group.range = hull(group.range, held)


def _fixed(tensor: Tensor) -> Port | None:
    op = tensor.producer
    port = None if op is None else facets(op).output_port(op.outputs.index(tensor))
    return port if port is not None and port.fixed is not None else None
