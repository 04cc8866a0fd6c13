"""Linear ops by what their operands mean: input, weights, bias, channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from qfrewrite.ir import Array, ChannelFacts, Graph, Op, Tensor, TrainedRange
from qfrewrite.ir.dtypes import Float64
from qfrewrite.ops import spec_of
from qfrewrite.ops.spec import attr
from qfrewrite.rewrite.match import LINEAR, NoMatch, sole_user


class LinearPorts(NamedTuple):
    """The slots of a linear op, and the axis of the output channels in its weights."""

    x: int
    weights: int
    bias: int
    axis: int


def linear_ports(op: Op) -> LinearPorts:
    """The slots of a linear op, filled or not; raises ValueError for another op."""
    spec = spec_of(op)
    slots = [spec.slot(role) if spec else None for role in ("act", "weight", "bias")]
    x, weights, bias = slots
    axis = None if spec is None or weights is None else spec.inputs[weights].axis
    if x is None or weights is None or bias is None or axis is None:
        raise ValueError(f"op '{op.name}' ({op.kind}) is not linear")
    return LinearPorts(x, weights, bias, axis)


@dataclass(frozen=True, eq=False)
class LinearView:
    """A linear op whose weights can be rewritten: constants of float32.

    The methods give views with other values. `Rewriter.set_linear` puts the values of a view into
    the op that it shows.
    """

    op: Op
    """The op, which stays as it is."""
    ports: LinearPorts
    """Its slots, and the axis of the output channels."""
    weights: Array
    """In real units, in the layout of the op. Output channels O are on `ports.axis`; each index of
    the last axis belongs to one input channel."""
    bias: Float64
    """In real units, [O]; zeros where the op has none."""
    trained: TrainedRange | None
    """The range that training chose for the weights."""
    channels: ChannelFacts
    """What is known of the channels of the output."""
    source: tuple[Array | None, ...]
    """The constants of the op when the view was made."""
    operand: Tensor | None = None
    """A constant of the graph that has the values of the new bias."""

    @classmethod
    def of(cls, op: Op) -> LinearView | NoMatch:
        """The view of `op`, or why it cannot be rewritten."""
        if op.kind not in LINEAR:
            return NoMatch(f"is {op.kind}, needs a linear op", at=op.name)
        ports = linear_ports(op)
        w, b = op.operand(ports.weights), op.input(ports.bias)
        for tensor in (w, b):
            if tensor is not None and tensor.data is None:
                return NoMatch("is not a constant", at=tensor.name)
            if tensor is not None and tensor.dtype != "float32":
                return NoMatch(f"is {tensor.dtype}, needs float32", at=tensor.name)
        bias = np.zeros(w.shape[ports.axis]) if b is None else b.value().astype(np.float64)
        source = (w.data, None if b is None else b.data)
        return cls(op, ports, w.value(), bias.reshape(-1), w.trained, op.output.channels, source)

    # -- reading ---------------------------------------------------------------------------

    @property
    def is_current(self) -> bool:
        """Whether the op still has the constants that the view was made from."""
        tensors = (self.op.input(self.ports.weights), self.op.input(self.ports.bias))
        now = (None if t is None else t.data for t in tensors)
        return all(a is b for a, b in zip(now, self.source, strict=True))

    @property
    def has_bias(self) -> bool:
        """Whether the op has a bias operand."""
        return self.op.input(self.ports.bias) is not None

    @property
    def x(self) -> Tensor:
        """The input."""
        return self.op.operand(self.ports.x)

    @property
    def output(self) -> Tensor:
        """The output."""
        return self.op.output

    @property
    def is_depthwise(self) -> bool:
        """Whether each output channel reads one input channel."""
        return self.op.kind == "DEPTHWISE_CONV_2D"

    @property
    def pads(self) -> bool:
        """Whether the op reads zeros outside its input."""
        if self.op.kind == "FULLY_CONNECTED" or attr(self.op, "padding") == "VALID":
            return False
        return self.weights.shape[1:3] != (1, 1)

    @property
    def by_output(self) -> Array:
        """The weights with the output channels first, [O, ...]."""
        return np.moveaxis(self.weights, self.ports.axis, 0)

    @property
    def outputs(self) -> int:
        """How many output channels there are."""
        return int(self.weights.shape[self.ports.axis])

    @property
    def reads_every_channel(self) -> bool:
        """Whether there are weights of its own for each channel of the last axis of the input.

        Not so for a grouped convolution and for a dense layer that flattens what it reads.
        """
        return self.is_depthwise or self.weights.shape[-1] == self.x.shape[-1]

    def along_outputs(self, values: Array) -> Array:
        """Values of the output channels, [O] or [1], in a shape that broadcasts to the weights."""
        shape = [1] * self.weights.ndim
        shape[self.ports.axis] = -1
        return values.reshape(shape)

    def along_inputs(self, values: Array) -> Array:
        """Values of the input channels, [C], as one for each index of the weights' last axis."""
        return np.repeat(values, self.weights.shape[-1] // values.size)

    def response(self, x: Float64) -> Float64:
        """The products with an input that is `x` everywhere, [O]; x: one value per channel, [C].

        Holds away from padded borders. The bias is not added.
        """
        w = self.weights.astype(np.float64)
        if self.is_depthwise:
            taps: Float64 = w.sum((0, 1, 2))
            return taps * self.along_inputs(x)
        products: Float64 = w.reshape(w.shape[0], -1, w.shape[-1]).sum(1) @ x
        return products

    # -- other values ----------------------------------------------------------------------

    def scaled(self, scale: Float64) -> LinearView:
        """The op with its outputs multiplied by `scale`, [O] (Jacob et al. 2018, arXiv:1712.05877).

        A range that training chose, and what is known of the outputs, are scaled too.
        """
        return replace(
            self,
            weights=self.weights.astype(np.float64) * self.along_outputs(scale),
            bias=self.bias * scale,
            trained=self.trained and self.trained.scaled(scale, self.ports.axis),
            channels=self.channels.scaled(scale),
            operand=None,
        )

    def shifted(self, offset: Float64, operand: Tensor | None = None) -> LinearView:
        """The op with `offset`, [O], added to its outputs, and to what is known of them.

        operand: a constant that holds `offset`. An op without a bias reads it as its bias.
        """
        takes = operand is not None and operand.shape == offset.shape and not self.has_bias
        bias, channels = self.bias + offset, self.channels.shifted(offset)
        return replace(self, bias=bias, channels=channels, operand=operand if takes else None)

    def reading(self, scale: Float64, offset: Float64) -> LinearView:
        """The op that makes of x what this one makes of scale * x + offset, both [C].

        Holds where no padding touches x.
        """
        weights = self.weights.astype(np.float64) * self.along_inputs(scale)
        return self.with_weights(weights).corrected(self.response(offset))

    def corrected(self, lost: Float64) -> LinearView:
        """The op with `lost`, [O], added to its bias, so that its outputs stay what they were."""
        return replace(self, bias=self.bias + lost, operand=None)

    def with_weights(self, weights: Array, bias: Array | None = None) -> LinearView:
        """The op with these weights, and this bias where one is given.

        A range that training chose belonged to the old weights.
        """
        new = self.bias if bias is None else bias
        return replace(self, weights=weights, bias=new, trained=None, operand=None)


def linear_views(graph: Graph, *kinds: str) -> Iterator[LinearView]:
    """The linear ops of `graph` (of these kinds) that can be rewritten, each as it is by then."""
    for op in graph.ops_of(*(kinds or LINEAR)):
        view = LinearView.of(op)
        if isinstance(view, LinearView):
            yield view


def linear_before(tensor: Tensor) -> LinearView | NoMatch:
    """The linear op that computes `tensor` for one user only."""
    op = tensor.producer
    if op is None:
        return NoMatch("is not computed by an op", at=tensor.name)
    if op.kind not in LINEAR:
        return NoMatch(f"comes from {op.kind}, needs a linear op", at=tensor.name)
    only = sole_user(tensor)
    return only if isinstance(only, NoMatch) else LinearView.of(op)
