"""Random graphs of all that a file may hold, from a recipe of small numbers.

Weights that are constants, computed, or quantized codes; constants of rank 0; axes from the end;
one channel; tensors of rank 0 to 5; outputs that are inputs, that occur twice, that are integers;
an open first dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod, sqrt

import numpy as np
from graphs import batch_norm, normal
from hypothesis import strategies as st

from qfrewrite.ir import Array, Graph, Quant, Tensor
from qfrewrite.ops.build import GraphBuilder

# The largest tensor, and the largest number of channels.
_MOST, _WIDEST = 4096, 48


@dataclass
class Growing:
    """A graph as it grows: what there is to read, and the numbers that decide the next op."""

    b: GraphBuilder
    pool: list[Tensor]
    numbers: tuple[int, ...] = ()
    seeds: int = 0
    used: list[str] = field(default_factory=list)

    def seed(self) -> int:
        self.seeds += 1
        return self.seeds

    def one(self, place: int, choices: list[Tensor]) -> Tensor | None:
        return choices[self.numbers[place] % len(choices)] if choices else None

    def tensor(self, place: int, least: int = 0, most: int = 5) -> Tensor | None:
        return self.one(place, [t for t in self.pool if least <= len(t.shape) <= most])

    def const(self, name: str, data: object, dtype: str | None = None) -> Tensor:
        return self.b.const(name, np.asarray(data), dtype)

    def axis(self, place: int, rank: int) -> int:
        """An axis from either end."""
        return self.numbers[place] % (2 * rank) - rank


Rule = Callable[[Growing], "list[Tensor] | Tensor | None"]


def _unary(kind: str, least: int = 0) -> Rule:
    def grow(g: Growing) -> Tensor | None:
        x = g.tensor(0, least)
        return None if x is None else g.b.op(kind, x)

    return grow


def _exp(g: Growing) -> Tensor | None:
    x = g.tensor(0)
    return None if x is None else g.b.op("EXP", g.b.op("TANH", x))


def _binary(kind: str) -> Rule:
    def grow(g: Growing) -> Tensor | None:
        x = g.tensor(0)
        assert x is not None
        y = g.one(
            1, [t for t in g.pool if t.shape in (x.shape, (), x.shape[-1:], (1,) * len(x.shape))]
        )
        return None if y is None else g.b.op(kind, x, y)

    return grow


def _constant(kind: str) -> Rule:
    """With a constant of rank 0, of one element, per channel, of full rank; also a neutral one."""

    def grow(g: Growing) -> Tensor | None:
        x = g.tensor(0)
        assert x is not None
        c = x.shape[-1] if x.shape else 1
        shapes = [(), (1,), (c,), (*[1] * max(len(x.shape) - 1, 0), c)]
        shape = shapes[g.numbers[1] % len(shapes)] if x.shape else ()
        data = normal(*shape, seed=g.seed()) if shape else np.float32(0.5 + g.numbers[2] % 3)
        if g.numbers[2] % 5 == 0:
            data = np.full(shape, 1 if kind in ("MUL", "DIV") else 0, "f4")
        data = np.where(np.abs(data) < 0.1, np.float32(0.5), data) if kind == "DIV" else data
        pair = [x, g.const("c", np.asarray(data, "f4"))]
        return g.b.op(kind, *(pair[::-1] if g.numbers[3] % 2 and kind != "DIV" else pair))

    return grow


def _weights(g: Growing, shape: tuple[int, ...], fan: int, x: Tensor, name: str) -> Tensor:
    """A constant, a constant times what the input says, or codes of 8 bits."""
    w = normal(*shape, scale=1 / sqrt(fan), seed=g.seed())
    how = ("constant", "constant", "computed", "int8", "uint8")[g.numbers[3] % 5]
    if how == "uint8" and name == "dw":
        how = "int8"  # kernels take no others
    g.used.append(how)
    if how == "computed":
        axes = g.const("axes", list(range(len(x.shape))), "int32")
        gate = g.b.op("LOGISTIC", g.b.op("MEAN", x, axes))
        return g.b.op("MUL", g.const(name, w), gate)
    if how in ("int8", "uint8"):
        # The hybrid kernel of depthwise convolutions takes a scale per channel and nothing else.
        count = shape[-1] if name == "dw" else 1
        scale = np.full(count, max(float(np.abs(w).max()), 1e-3) / 127, "f4")
        codes = np.rint(w / scale).astype("i1")
        tensor = g.const(name, codes.view("u1") if how == "uint8" else codes)
        quant = Quant(scale, np.zeros(count, np.int64), len(shape) - 1 if count > 1 else 0)
        g.b.graph.set_type(tensor, tensor.dtype, quant)
        return tensor
    return g.const(name, w)


def _bias(g: Growing, count: int) -> Tensor | None:
    return g.const("b", normal(count, scale=0.1, seed=g.seed())) if g.numbers[4] % 3 else None


def _conv(g: Growing) -> Tensor | None:
    x = g.tensor(0, 4, 4)
    if x is None or min(x.shape[1:3]) < 1:
        return None
    outs, size = (1, 3, 8)[g.numbers[1] % 3], (1, 3)[g.numbers[2] % 2]
    fan = size * size * x.shape[3]
    w = _weights(g, (outs, size, size, x.shape[3]), fan, x, "w")
    stride = 1 + g.numbers[2] // 2 % 2
    return g.b.op("CONV_2D", x, w, _bias(g, outs), attrs={"stride_h": stride, "stride_w": stride})


def _depthwise(g: Growing) -> Tensor | None:
    x = g.tensor(0, 4, 4)
    if x is None:
        return None
    outs = x.shape[3] * (1 + g.numbers[1] % 2)
    w = _weights(g, (1, 3, 3, outs), 9, x, "dw")
    return g.b.op("DEPTHWISE_CONV_2D", x, w, _bias(g, outs),
                  attrs={"depth_multiplier": 1 + g.numbers[1] % 2})  # fmt: skip


def _dense(g: Growing) -> Tensor | None:
    x = g.tensor(0, 2)
    if x is None or not x.shape[-1]:
        return None
    outs, keep = (1, 4, 5)[g.numbers[1] % 3], bool(g.numbers[2] % 2)
    w = _weights(g, (outs, x.shape[-1]), x.shape[-1], x, "fc")
    return g.b.op("FULLY_CONNECTED", x, w, _bias(g, outs), attrs={"keep_num_dims": keep})


def _norm(g: Growing) -> Tensor | None:
    x = g.tensor(0, 2, 4)
    return None if x is None else batch_norm(g.b, x, g.b.graph.unique_name("bn"))


def _pool(kind: str) -> Rule:
    def grow(g: Growing) -> Tensor | None:
        x = g.tensor(0, 4, 4)
        window = {"filter_height": 2, "filter_width": 2, "padding": "SAME"}
        return None if x is None else g.b.op(kind, x, attrs=window)

    return grow


def _pad(g: Growing) -> Tensor | None:
    x = g.tensor(0, 4, 4)
    pads = [[0, 0], [1, 0], [0, 1], [0, g.numbers[1] % 2]]
    return None if x is None else g.b.op("PAD", x, g.const("pads", pads, "int32"))


def _concat(g: Growing) -> Tensor | None:
    x = g.tensor(0, 1)
    if x is None:
        return None
    axis = g.axis(1, len(x.shape))
    if axis % len(x.shape) == 0:
        axis = -1
    place = axis % len(x.shape)

    def rest(t: Tensor) -> tuple[int, ...]:
        return (len(t.shape), *t.shape[:place], *t.shape[place + 1 :])

    other = g.one(2, [t for t in g.pool if rest(t) == rest(x)])
    return g.b.op("CONCATENATION", x, other, attrs={"axis": axis})


def _split(g: Growing) -> list[Tensor] | None:
    x = g.tensor(0, 1)
    if x is None:
        return None
    axis = -1 - g.numbers[1] % max(len(x.shape) - 1, 1)
    if x.shape[axis] % 2:
        return None
    g.b.op("SPLIT", g.const("axis", np.int32(axis)), x, attrs={"num_splits": 2})
    return list(g.b.graph.ops[-1].outputs)


def _transpose(g: Growing) -> Tensor | None:
    x = g.tensor(0, 3)
    if x is None:
        return None
    order = [0, *np.random.default_rng(g.numbers[1]).permutation(np.arange(1, len(x.shape)))]
    return g.b.op("TRANSPOSE", x, g.const("order", order, "int32"))


def _reshape(g: Growing) -> Tensor | None:
    x = g.tensor(0, 2)
    if x is None or not prod(x.shape):
        return None
    shapes = [
        (-1, x.shape[-1]),
        (-1, *x.shape[1:][::-1]),
        (-1, *x.shape[1:], 1),
        (-1, *x.shape[1:]),
    ]
    shape = shapes[g.numbers[1] % len(shapes)]
    return g.b.op("RESHAPE", x, g.const("shape", shape, "int32")) if len(shape) <= 5 else None


def _reduce(kind: str) -> Rule:
    """Over one axis, several, or all: then the result has rank 0."""

    def grow(g: Growing) -> Tensor | None:
        x = g.tensor(0, 1, 4)
        if x is None:
            return None
        rank = len(x.shape)
        every = g.numbers[2] % 2 == 0
        axes = list(range(rank)) if every else [-1 - g.numbers[1] % max(rank - 1, 1)]
        keep = bool(g.numbers[3] % 2)
        return g.b.op(kind, x, g.const("axes", axes, "int32"), attrs={"keep_dims": keep})

    return grow


def _expand(g: Growing) -> Tensor | None:
    x = g.tensor(0, 0, 4)
    if x is None:
        return None
    axis = -1 - g.numbers[1] % (len(x.shape) + (0 if x.shape else 1))
    return g.b.op("EXPAND_DIMS", x, g.const("axis", np.int32(axis)))


def _squeeze(g: Growing) -> Tensor | None:
    x = g.tensor(0, 2)
    if x is None:
        return None
    ones = [i - len(x.shape) for i, d in enumerate(x.shape) if i and d == 1]
    return g.b.op("SQUEEZE", x, attrs={"squeeze_dims": tuple(ones[:1])}) if ones else None


def _slice(g: Growing) -> Tensor | None:
    x = g.tensor(0, 1)
    if x is None:
        return None
    begin = [0] * (len(x.shape) - 1) + [g.numbers[1] % x.shape[-1]]
    size = [-1] * len(x.shape)
    return g.b.op("SLICE", x, g.const("begin", begin, "int32"), g.const("size", size, "int32"))


def _strided(g: Growing) -> Tensor | None:
    """The last index, which goes away or not."""
    x = g.tensor(0, 2)
    if x is None:
        return None
    rank = len(x.shape)
    begin, end = [0] * (rank - 1) + [-1], [0] * rank
    mask = (1 << rank) - 1
    attrs = {"begin_mask": mask >> 1, "end_mask": mask,
             "shrink_axis_mask": (1 << (rank - 1)) * (g.numbers[1] % 2)}  # fmt: skip
    table = [
        g.const(n, v, "int32") for n, v in (("begin", begin), ("end", end), ("by", [1] * rank))
    ]
    return g.b.op("STRIDED_SLICE", x, *table, attrs=attrs)


def _gather(g: Growing) -> Tensor | None:
    x = g.tensor(0, 2, 4)
    if x is None:
        return None
    indices = [0, x.shape[-1] - 1] if g.numbers[1] % 2 else np.int32(x.shape[-1] - 1)
    return g.b.op("GATHER", x, g.const("indices", indices, "int32"), attrs={"axis": -1})


def _pack(g: Growing) -> Tensor | None:
    x = g.tensor(0, 0, 4)
    other = None if x is None else g.one(1, [t for t in g.pool if t.shape == x.shape])
    return None if x is None else g.b.op(
        "PACK", x, other, attrs={"axis": -1, "values_count": 2}
    )  # fmt: skip


def _unpack(g: Growing) -> list[Tensor] | None:
    x = g.tensor(0, 2, 4)
    if x is None or not 0 < x.shape[-1] < 5:
        return None
    g.b.op("UNPACK", x, attrs={"axis": -1, "num": x.shape[-1]})
    return list(g.b.graph.ops[-1].outputs)


def _tile(g: Growing) -> Tensor | None:
    x = g.tensor(0, 1)
    if x is None:
        return None
    return g.b.op("TILE", x, g.const("times", [*[1] * (len(x.shape) - 1), 2], "int32"))


def _along(kind: str) -> Rule:
    """An op along one axis that is a constant operand."""

    def grow(g: Growing) -> Tensor | None:
        x = g.tensor(0, 2, 4)
        if x is None:
            return None
        axis = -1 - g.numbers[1] % (len(x.shape) - 1)
        data = np.int32(axis) if kind == "CUMSUM" else np.array([axis], "i4")
        return g.b.op(kind, x, g.const("axis", data))

    return grow


def _identity_twice(g: Growing) -> Tensor | None:
    x = g.tensor(0)
    return None if x is None else g.b.op("IDENTITY", g.b.op("IDENTITY", x))


RULES: Mapping[str, Rule] = {
    **{k: _unary(k) for k in ("RELU", "RELU6", "ABS", "LOGISTIC", "TANH", "NEG", "SQUARE",
                              "RELU_N1_TO_1", "IDENTITY", "LEAKY_RELU", "ELU", "HARD_SWISH")},
    **{k: _unary(k, 1) for k in ("GELU", "SOFTMAX", "L2_NORMALIZATION")},
    "EXP": _exp, "IDENTITIES": _identity_twice,
    **{k: _binary(k) for k in ("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE")},
    **{f"{k} constant": _constant(k) for k in ("ADD", "SUB", "MUL", "DIV")},
    "CONV_2D": _conv, "DEPTHWISE_CONV_2D": _depthwise, "FULLY_CONNECTED": _dense,
    "BATCH_NORM": _norm, "MAX_POOL_2D": _pool("MAX_POOL_2D"),
    "AVERAGE_POOL_2D": _pool("AVERAGE_POOL_2D"), "PAD": _pad, "CONCATENATION": _concat,
    "SPLIT": _split, "TRANSPOSE": _transpose, "RESHAPE": _reshape, "EXPAND_DIMS": _expand,
    "SQUEEZE": _squeeze, "SLICE": _slice, "STRIDED_SLICE": _strided, "GATHER": _gather,
    "PACK": _pack, "UNPACK": _unpack, "TILE": _tile, "REVERSE_V2": _along("REVERSE_V2"),
    "CUMSUM": _along("CUMSUM"), "ARG_MAX": _along("ARG_MAX"),
    **{k: _reduce(k) for k in ("MEAN", "SUM", "REDUCE_MAX")},
}  # fmt: skip
# What networks are made of comes up more often.
KINDS = (
    *RULES, "RELU6", "ADD", *("MUL constant", "ADD constant", "MEAN", "SUM") * 2,
    *("CONV_2D", "FULLY_CONNECTED", "DEPTHWISE_CONV_2D", "BATCH_NORM") * 3,
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What `grow` makes a graph of: ops with the numbers that place them, outputs, channels."""

    steps: tuple[tuple[str, tuple[int, ...]], ...]
    outputs: tuple[int, ...]
    channels: int
    open_batch: bool


def recipes() -> st.SearchStrategy[Recipe]:
    """Random recipes of up to 8 ops."""
    step = st.tuples(st.sampled_from(KINDS), st.tuples(*[st.integers(0, 59)] * 5))
    return st.builds(
        Recipe, st.lists(step, min_size=1, max_size=8).map(tuple),
        st.lists(st.integers(0, 30), min_size=1, max_size=3).map(tuple),
        st.sampled_from((3, 3, 1, 4)), st.booleans(),
    )  # fmt: skip


def grow(recipe: Recipe) -> Graph:
    """The graph of a recipe; where its batch is open, tensors say in which dimensions it is."""
    graph = _grown(recipe, 1)
    if recipe.open_batch:
        for one, other in zip(graph.tensors, _grown(recipe, 2).tensors, strict=True):
            dims = tuple(a if a == b else -1 for a, b in zip(one.shape, other.shape, strict=True))
            if -1 in dims and not one.is_const:
                graph.set_signature(one, dims)
    return graph


def _grown(recipe: Recipe, batch: int) -> Graph:
    b = GraphBuilder("random")
    shape = (batch, 4, 4, recipe.channels)
    g = Growing(b, [b.input("x", shape), b.input("z", shape)])
    whole: list[Tensor] = []
    for kind, numbers in recipe.steps:
        g.numbers = numbers
        made = RULES[kind](g)
        for tensor in made if isinstance(made, list) else [made] if made is not None else []:
            small = tensor.size <= _MOST * batch and tensor.shape[-1:] <= (_WIDEST,)
            if tensor.dtype != "float32":
                whole.append(tensor)
            elif small and len(tensor.shape) <= 5:
                g.pool.append(tensor)
    # From the end, so that most of what was made is used.
    last = [*g.pool, *whole][::-1]
    graph = b.finish(*(last[i % len(last)] for i in recipe.outputs))
    graph.prune()
    return graph


def is_tame(values: list[list[Array]]) -> bool:
    """Whether numbers can be compared: none beyond a thousand, none that is not finite."""
    return all(np.isfinite(v).all() and np.abs(v).max(initial=0) < 1e3
               for row in values for v in row if v.dtype.kind == "f")  # fmt: skip
