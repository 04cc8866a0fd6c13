"""Lowering to integers: a graph with FAKE_QUANT ops becomes a graph of quantized tensors.

Every rule it follows is data: ports, kernels and fixed scales from the op table, element types
from the scheme, ranges from FAKE_QUANT. An op that has no kernel for the type wanted stays float
between DEQUANTIZE and QUANTIZE.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qfrewrite.errors import UnsupportedError
from qfrewrite.ir import Array, Graph, Op, Quant, Tensor
from qfrewrite.ir.quant import LARGEST_SCALE, activation_quant
from qfrewrite.lower.canonical import (
    canonicalise,
    fuse_activations,
    is_fused,
    with_fused,
    written_as,
)
from qfrewrite.lower.conversions import Conversions
from qfrewrite.lower.fake_quant_ranges import Ranges, take_ranges
from qfrewrite.lower.groups import Groups, find_groups, widen_narrow_results
from qfrewrite.lower.scheme import (
    BIASES_OF,
    WEIGHTS_OF,
    QuantOptions,
    QuantReport,
    matches,
    with_whole_names,
)
from qfrewrite.lower.substitute import substitute
from qfrewrite.lower.weights import mean_response, quantize_linear, weight_bounds
from qfrewrite.ops import OpSpec, spec_of
from qfrewrite.ops.spec import facets
from qfrewrite.ops.subgraphs import Use
from qfrewrite.rewrite.activations import lower_erf
from qfrewrite.rewrite.linear import LinearView
from qfrewrite.rewrite.match import NoMatch, all_of
from qfrewrite.rewrite.rewriter import Rewriter


def has_ranges(graph: Graph) -> bool:
    """Whether the graph carries FAKE_QUANT on a computed tensor."""
    return any(not op.operand(0).is_const for op in graph.ops_of("FAKE_QUANT"))


def lower_quantized(
    graph: Graph,
    options: QuantOptions | None = None,
    impossible: Mapping[tuple[str, str], str] | None = None,
) -> QuantReport:
    """Turn `graph` into its quantized form, in place; the scheme must have such activations.

    Constants that the subgraphs it runs assign to its variables are quantized too. impossible:
    name and kind of ops that must stay float, and why.
    """
    return _Lowering(graph, options or QuantOptions(), impossible or {}).run()


class _Lowering:
    def __init__(
        self, graph: Graph, options: QuantOptions, impossible: Mapping[tuple[str, str], str]
    ) -> None:
        self.graph = graph
        self.options = options
        self.impossible = impossible
        self.report = QuantReport()
        self.ranges = Ranges()
        self.groups = Groups()
        # The element type each op computes in (absent: float), and that each tensor holds.
        self.chosen: dict[Op, str] = {}
        self.held: dict[Tensor, str] = {}
        self.raised: dict[Op, int] = {}
        # What reads and writes quantized variables -> a tensor whose scale they have.
        self.variables: dict[Op, Tensor] = {}
        # What other subgraphs assign to them, each with that tensor and the element type.
        self.outside: list[tuple[Use, Tensor, str]] = []
        self.convert = Conversions(graph, self.held)

    def run(self) -> QuantReport:
        canonicalise(self.graph)
        self.options = with_whole_names(self.options, self.graph.ops)
        self.ranges = take_ranges(self.graph)
        substitute(Rewriter(self.graph), self.options, self._wanted, self.ranges.activations)
        fuse_activations(self.graph)
        # No kernel writes fused tensors.
        written = {t: r for t, r in self.ranges.activations.items() if not t.fused}
        self.groups = find_groups(self.graph, written)
        widen_narrow_results(self.graph, self.groups, self._wanted)
        self._choose_ops()
        self._choose_tensors()
        self._convert_operands()
        for tensor, dtype in self.held.items():
            self.graph.set_type(tensor, dtype, self._quant_or_none(written_as(tensor), dtype))
        for use, value, dtype in self.outside:
            Conversions(use.graph, {}).constant(use.op, 1, self._known(value, dtype), dtype)
        self._convert_interface()
        # Late, so that it is computed in float as a whole.
        lower_erf(Rewriter(self.graph))
        self.graph.prune(keep=lambda op: not op.outputs)
        self._note()
        return self.report

    # -- decide ----------------------------------------------------------------------------

    def _choose_ops(self) -> None:
        fused = [op for op in self.graph.ops if is_fused(op)]
        types = {op: self._type(op, self._wanted(op)) for op in self.graph.ops if not is_fused(op)}
        self.chosen |= {op: dtype for op, dtype in types.items() if isinstance(dtype, str)}
        types |= self._leave_variables_float()
        for op, dtype in types.items():
            if isinstance(dtype, str):
                self.report.count(dtype)
            elif any(t.dtype == "float32" for t in op.outputs):
                self.report.float_ops.append((op.name, op.kind, str(dtype)))
        for op in fused:
            host = op.operand(0).producer
            if host in self.chosen:
                self.chosen[op] = self.chosen[host]

    def _leave_variables_float(self) -> dict[Op, NoMatch]:
        """A variable has one type in all that reads and writes it: else all of these stay float.

        Returns why, for each op that was to be quantized and is not.
        """
        for variable, value in self.groups.variables:
            ops = [use.op for use in variable.uses if use.graph is self.graph]
            dtypes = {self.chosen.get(op) for op in ops}
            dtype = dtypes.pop()
            if not dtypes and dtype is not None:
                self.variables |= dict.fromkeys(ops, value)
                self.outside += [
                    (u, value, dtype) for u in variable.uses if u.graph is not self.graph
                ]
        uses = self.graph.ops_of("READ_VARIABLE", "ASSIGN_VARIABLE")
        left = [op for op in uses if op in self.chosen and op not in self.variables]
        for op in left:
            del self.chosen[op]
        return dict.fromkeys(left, NoMatch("its variable must stay float elsewhere"))

    def _wanted(self, op: Op) -> str:
        inner, kept = self.options.kind.activations, self.options.keep_int16
        assert inner is not None
        wide = any(matches(one, kept) or one.keep == "int16" for one in with_fused(op))
        return "int16" if wide and inner != "uint8" else inner

    def _type(self, op: Op, dtype: str) -> str | NoMatch:
        """`dtype`, if `op` can compute in it, or why it cannot."""
        spec = spec_of(op)
        ops = with_fused(op)
        if any(matches(o, self.options.keep_float) for o in ops):
            return NoMatch("kept float by name")
        if any(o.keep == "float" for o in ops):
            return NoMatch("kept float: its error is too large in integers")
        if (op.name, op.kind) in self.impossible:
            return NoMatch(self.impossible[op.name, op.kind])
        if spec is None:
            return NoMatch("unknown op")
        if dtype not in spec.kernels:
            return NoMatch(f"no {dtype} kernel")
        if not any(t.dtype == "float32" for t in (*filter(None, op.inputs), *op.outputs)):
            return NoMatch("holds no float tensor")
        operands = all_of(
            self._operand(tensor, spec.role(slot), dtype, clips=spec.same_scale)
            for slot, tensor in enumerate(op.inputs)
        )
        if isinstance(operands, NoMatch):
            return operands
        written = [written_as(t) for t in op.outputs if t.dtype == "float32"]
        results = all_of(self._quant(tensor, dtype) for tensor in written)
        return results if isinstance(results, NoMatch) else dtype

    def _operand(
        self, tensor: Tensor | None, role: str, dtype: str, *, clips: bool
    ) -> Tensor | NoMatch | None:
        """An operand, or why it keeps its user from computing in `dtype`.

        clips: whether an infinite constant may become the last code: where values only move (a
        maximum's padding) the last code does as well.
        """
        if tensor is None or role not in ("act", "weight", "bias"):
            return tensor
        if tensor.dtype != "float32":
            return NoMatch(f"operand '{tensor.name}' is {tensor.dtype}")
        if tensor.data is not None:
            bad = np.isnan(tensor.data) if clips else ~np.isfinite(tensor.data)
            return NoMatch(f"constant '{tensor.name}' is not finite") if bad.any() else tensor
        if role != "act":
            return NoMatch("is computed", at=tensor.name)
        quant = self._quant(tensor, dtype)
        return quant if isinstance(quant, NoMatch) else tensor

    def _quant(self, tensor: Tensor, dtype: str) -> Quant | NoMatch:
        group, quant = self.groups.of.get(tensor), self.groups.quant(tensor, dtype)
        if quant is not None and quant.scale[0] <= LARGEST_SCALE:
            return quant
        if group is None or group.range is None:
            return NoMatch(f"no range for '{tensor.name}'")
        low, high = group.range
        return NoMatch(f"the range of '{tensor.name}' is too wide: {low:.3g}..{high:.3g}")

    def _quant_or_none(self, tensor: Tensor, dtype: str) -> Quant | None:
        quant = NoMatch("is not quantized") if dtype == "float32" else self._quant(tensor, dtype)
        return None if isinstance(quant, NoMatch) else quant

    def _known(self, tensor: Tensor, dtype: str) -> Quant:
        quant = self._quant(tensor, dtype)
        if isinstance(quant, NoMatch):
            remedy = "add calibrate to the passes"
            raise UnsupportedError("has no range", where=f"tensor '{tensor.name}'", remedy=remedy)
        return quant

    def _choose_tensors(self) -> None:
        """The tensors that hold codes: results of quantized ops, and inputs they read."""
        inner = self.options.kind.activations
        for op, dtype in self.chosen.items():
            self.held.update((out, dtype) for out in op.outputs if out.dtype == "float32")
        for tensor in self.graph.inputs:
            if tensor.dtype != "float32":
                continue
            users = [r for r in tensor.users if r.op in self.chosen]
            wanted = [self.chosen[r.op] for r in users if facets(r.op).role(r.slot) == "act"]
            if wanted:
                self.held[tensor] = inner if inner in wanted else wanted[0]

    # -- rewrite ---------------------------------------------------------------------------

    def _convert_operands(self) -> None:
        for op in self.graph.ops:
            if op in self.chosen:
                self._convert_op(op, self.chosen[op])
            elif not facets(op).quantizes:
                self.convert.feed_real(op)

    def _convert_op(self, op: Op, dtype: str) -> None:
        spec, view = facets(op), LinearView.of(op)
        if isinstance(view, LinearView):
            self._convert_linear(view, dtype)
        if dtype == "int16" and "pot_scale_int16" in spec.attrs:
            self.graph.set_attrs(op, pot_scale_int16=False)
        for slot, tensor in enumerate(op.inputs):
            if tensor is None or tensor.dtype != "float32" or spec.role(slot) != "act":
                continue
            apart = (op, slot) in self.groups.requantized
            if tensor.data is not None:
                quant = self._constant_quant(op, spec, tensor, dtype)
                self.convert.constant(op, slot, quant, dtype)
            elif not is_fused(op) and (apart or self.held.get(tensor) != dtype):
                quant = self._known(op.output if apart else tensor, dtype)
                self.convert.through_quantize(op, slot, quant, dtype)

    def _constant_quant(self, op: Op, spec: OpSpec, tensor: Tensor, dtype: str) -> Quant:
        joint = op.output if spec.same_scale else self.variables.get(op)
        shared = self._quant_or_none(joint, dtype) if joint is not None else None
        if shared is not None:
            return shared
        low, high = self.ranges.weights.get(tensor, (tensor.value(), tensor.value()))
        return activation_quant(low.min(initial=0), high.max(initial=0), dtype)

    def _convert_linear(self, view: LinearView, dtype: str) -> None:
        op, x, ports = view.op, view.x, view.ports
        result, source = (self._known(t, dtype) for t in (written_as(op.output), x))
        q = quantize_linear(
            view.weights,
            view.bias if view.has_bias else None,
            self._weight_bounds(op, op.operand(ports.weights), ports.axis, WEIGHTS_OF[dtype]),
            mean_response(view, x),
            axis=ports.axis,
            input_scale=float(source.scale[0]),
            output_scale=float(result.scale[0]),
            bias_type=BIASES_OF[dtype],
        )
        if q.raised:
            self.raised[op] = q.raised
        self.convert.put(op, ports.weights, q.weights, Quant(q.scale, q.zero_point, ports.axis))
        if q.bias is not None:
            scale = (np.float32(source.scale[0]) * q.scale).astype(np.float32)
            quant = Quant(scale, np.zeros(scale.size, np.int64))
            self.convert.put(op, ports.bias, q.bias, quant)

    def _weight_bounds(self, op: Op, w: Tensor, axis: int, dtype: str) -> Array:
        """What weights span: magnitudes [1] or [O], or for uint8 the two ends [2, 1]."""
        given = self.ranges.weights.get(w)
        if dtype == "uint8":
            low, high = given or (w.value(), w.value())
            return np.array([[low.min(initial=0.0)], [high.max(initial=0.0)]], np.float64)
        per_channel = self.options.per_channel_for(op)
        return weight_bounds(w.value(), axis, per_channel=per_channel, given=given)

    def _convert_interface(self) -> None:
        io = self.options.io or self.options.kind.activations
        assert io is not None
        for tensor in self.graph.inputs:
            if self.held.get(tensor, io) != io:
                self.convert.input(tensor, io, self._quant_or_none(tensor, io))
        for tensor in dict.fromkeys(self.graph.outputs):
            if self.held.get(tensor, io) != io and not tensor.is_input:
                self.convert.output(tensor, io, self._quant_or_none(tensor, io))

    def _note(self) -> None:
        self.report.diagnostics.add(*self.groups.diagnostics)
        if self.raised:
            self.report.diagnostics.note(
                "scale-raised",
                f"{sum(self.raised.values())} channels in {len(self.raised)} layers have next to "
                "no weights beside their bias: their scale was raised so that it fits 32 bits",
            )
