"""Another input size: every shape inferred anew, and what was baked in for the old one replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np

from qfrewrite.errors import QfError, UsageError, VerifyError
from qfrewrite.ir import Array, Graph, Op, Tensor, constant
from qfrewrite.ops import spec_of
from qfrewrite.ops.shapes import settle_shapes
from qfrewrite.ops.spec import attr, const_ints, inferred, kinds_that
from qfrewrite.rewrite.rewriter import reshape

Shape = tuple[int, ...]
Size = tuple[int, int]


def images_of(graph: Graph) -> Tensor:
    """The input that holds images, [N, H, W, C]; raises UsageError where there is not one."""
    images = [t for t in graph.inputs if len(t.shape) == 4]
    if len(images) != 1:
        what = f"has {len(images)} inputs of shape [N, H, W, C], needs 1"
        raise UsageError(what, where=graph.name, remedy="resize before it is exported")
    return images[0]


class Resizing:
    """One change of size: old shapes by tensor, and the edits that follow from it.

    replaced: what was replaced, by op.
    """

    def __init__(self, graph: Graph, size: Size) -> None:
        self.graph, self.size = graph, size
        self.old = {t: t.shape for t in graph.tensors}
        self.replaced: list[tuple[Op, str]] = []
        self._input = images_of(graph)

    def run(self) -> None:
        """Change everything; raises VerifyError that names the op that cannot follow."""
        n, height, width, channels = self._input.shape
        if (height, width) == self.size:
            return
        open_size = self._input.dims[1:3] == (-1, -1)
        reshape(self.graph, self._input, (n, *self.size, channels))
        if open_size:
            settle_shapes(self.graph)  # nothing in it was made for one size
            return
        for op in self.graph.ops:
            if not any(self.changed(t) for t in op.inputs if t is not None):
                continue
            try:
                self._follow(op)
            except QfError as error:
                what = f"cannot take an input of {self.size[0]}x{self.size[1]}: {error.what}"
                raise VerifyError(
                    what, where=op.place, remedy=error.remedy or self._hint()
                ) from None

    def changed(self, tensor: Tensor) -> bool:
        """Whether the shape of `tensor` is another than before."""
        return self.old.get(tensor, tensor.shape) != tensor.shape

    def was(self, tensor: Tensor) -> Shape:
        """The shape before."""
        return self.old[tensor]

    def set_constant(self, op: Op, slot: int, values: list[int] | Shape) -> None:
        """Put other integers in a slot of `op`."""
        old = op.operand(slot)
        data: Array = np.array(values, old.value().dtype).reshape(old.shape)
        new = constant(self.graph.unique_name(old.name), data)
        self.graph.set_input(op, slot, new)
        self.note(op, f"{old.value().reshape(-1).tolist()} -> {data.reshape(-1).tolist()}")

    def set_attrs(self, op: Op, **attrs: int) -> None:
        """Set attributes of `op`."""
        before = {k: attr(op, k) for k in attrs}
        self.graph.set_attrs(op, **attrs)
        self.graph.forget_file(op)
        self.note(op, ", ".join(f"{k} {before[k]} -> {v}" for k, v in attrs.items()))

    def note(self, op: Op, text: str) -> None:
        """Say what was replaced."""
        self.replaced.append((op, text))

    def _follow(self, op: Op) -> None:
        spec = spec_of(op)
        if spec is None or op.kind == "CUSTOM":
            what = "what it makes of another shape is not known (anchors and the like are baked in)"
            remedy = "take it off first (strip_postprocess), or export the model at that size"
            raise VerifyError(what, remedy=remedy)
        fix = _FIXES.get(op.kind)
        if fix is not None:
            x = op.operand(_INPUTS.get(op.kind, 0))
            fix(self, op, self.was(x), x.shape)
        for tensor, shape in zip(op.outputs, inferred(op), strict=True):
            if min(shape, default=1) < 1:
                raise VerifyError(f"nothing is left of '{tensor.name}': {list(shape)}")
            reshape(self.graph, tensor, shape)

    def _hint(self) -> str:
        """Sizes divide evenly where they are a multiple of the largest stride."""
        height = self.was(self._input)[1]
        shapes = [self.was(out) for op in self.graph.ops for out in op.outputs]
        maps = [shape[1] for shape in shapes if len(shape) == 4 and shape[1] > 1]
        stride = max((round(height / rows) for rows in maps), default=1)
        return f"try a multiple of {stride}, or export the model at that size"


def _pool(r: Resizing, op: Op, was: Shape, now: Shape) -> None:
    """A window over the whole map stays one over the whole map."""
    window = (attr(op, "filter_height"), attr(op, "filter_width"))
    if window == was[1:3] and r.was(op.output)[1:3] == (1, 1):
        r.set_attrs(op, filter_height=now[1], filter_width=now[2])


def _reshape(r: Resizing, op: Op, was: Shape, now: Shape) -> None:
    """Runs of axes that hold the same as before follow; else the one axis that holds rows times
    columns, or rows and columns each."""
    target = list(r.was(op.output))
    stated = const_ints(op, 1) if op.input(1) is not None else attr(op, "new_shape")
    shape = _regrouped(was, now, target)
    if shape is None:
        fits = -1 in stated and prod(now) % prod(d for d in stated if d != -1) == 0
        if fits or prod(now) == prod(target):
            return
        shape = _scaled_axes(was, now, target)
    if prod(shape) != prod(now):
        raise VerifyError(
            f"reshapes to {list(r.was(op.output))}, which does not follow from "
            "the size of its input"
        )
    if len(stated) == len(shape):
        shape = [-1 if old == -1 else new for old, new in zip(stated, shape, strict=True)]
    if shape == list(stated):
        return
    if op.input(1) is not None:
        r.set_constant(op, 1, shape)
    r.graph.set_attrs(op, new_shape=tuple(shape))
    r.graph.forget_file(op)


def _regrouped(was: Shape, now: Shape, target: list[int]) -> list[int] | None:
    """The target of a RESHAPE where each run of its axes holds what a run of input axes holds.

    [8, 8, 2, 4] to [8, 16, 4] is 8 | 8, 2 | 4 to 8 | 16 | 4. None where several axes of a run may
    follow the size.
    """
    result, i, j = list(target), 0, 0
    while i < len(was) or j < len(target):
        first, begin = i, j
        old = made = 1
        if i < len(was):
            old, i = was[i], i + 1
        if j < len(target):
            made, j = target[j], j + 1
        while old != made:
            if old < made and i < len(was):
                old, i = old * was[i], i + 1
            elif made < old and j < len(target):
                made, j = made * target[j], j + 1
            else:
                return None
        new = prod(now[first:i])
        wide = [k for k in range(begin, j) if target[k] > 1]
        fits = wide if len(wide) == 1 else [k for k in wide if new * target[k] % old == 0]
        if new != old and len(fits) != 1:
            return None
        if new != old:
            result[fits[0]] = target[fits[0]] * new // old
    return result


def _scaled_axes(was: Shape, now: Shape, target: list[int]) -> list[int]:
    """The target where one axis holds rows times columns, or each has an axis of its size."""
    ratios = [(old, new) for old, new in zip(was, now, strict=True) if old != new]
    whole = [i for i, d in enumerate(target) if d % prod(old for old, _ in ratios) == 0]
    single = [[i for i, d in enumerate(target) if d == old] for old, _ in ratios]
    if len(whole) == 1:
        old, new = (prod(pair[k] for pair in ratios) for k in (0, 1))
        target[whole[0]] = target[whole[0]] // old * new
    elif all(single) and len({tuple(s) for s in single}) in (1, len(ratios)):
        places = list(dict.fromkeys(i for s in single for i in s))[: len(ratios)]
        for place, (_, new) in zip(places, ratios, strict=False):
            target[place] = new
    return target


def _dense(r: Resizing, op: Op, was: Shape, now: Shape) -> None:
    """Weights over a flattened map fix its size."""
    if prod(was[1:]) != prod(now[1:]) and not attr(op, "keep_num_dims"):
        what = f"has weights for {prod(was[1:])} flattened inputs, would get {prod(now[1:])}"
        raise VerifyError(what, remedy="pool before the dense layer")


def _resize(r: Resizing, op: Op, was: Shape, now: Shape) -> None:
    """By a whole factor, or to the size of the input or another map, follows; else it stays."""
    to, image = const_ints(op, 1), r.was(images_of(r.graph))[1:3]
    sizes = list(zip(to, was[1:3], now[1:3], strict=True))
    if to == image:
        r.set_constant(op, 1, r.size)
    elif all(t % old == 0 for t, old, _ in sizes):
        r.set_constant(op, 1, [t // old * new for t, old, new in sizes])


def _transpose_conv(r: Resizing, op: Op, was: Shape, now: Shape) -> None:
    """The output size follows where it is what the stride says."""
    shape = list(const_ints(op, 0))
    window = op.operand(1).shape[1:3]
    for i, key in enumerate(("stride_h", "stride_w")):
        stride = attr(op, key)
        more = 0 if attr(op, "padding") == "SAME" else max(window[i] - stride, 0)
        if shape[i + 1] != was[i + 1] * stride + more:
            raise VerifyError(f"writes {shape[1:3]}, which does not follow from its stride")
        shape[i + 1] = now[i + 1] * stride + more
    r.set_constant(op, 0, shape)


def _slice(r: Resizing, op: Op, was: Shape, now: Shape) -> None:
    """What took all of an axis still does."""
    begin, size = const_ints(op, 1), list(const_ints(op, 2))
    axes = zip(begin, size, was, now, strict=True)
    wanted = [new if b == 0 and s == old else s for b, s, old, new in axes]
    if wanted != size:
        r.set_constant(op, 2, wanted)


def _strided_slice(r: Resizing, op: Op, was: Shape, now: Shape) -> None:
    """An end at the old edge goes to the new one."""
    end = list(const_ints(op, 2))
    wanted = [now[i] if i < len(was) and e == was[i] else e for i, e in enumerate(end)]
    masked = attr(op, "new_axis_mask") or attr(op, "ellipsis_mask")
    if wanted != end and not masked:
        r.set_constant(op, 2, wanted)


def _constant_maps(r: Resizing, op: Op, was: Shape, now: Shape) -> None:
    """A constant with a value for each position was made for the old size."""
    for tensor in op.inputs:
        if tensor is None or not tensor.is_const or len(tensor.shape) < 2:
            continue
        spatial = r.was(op.output)[:-1][-len(tensor.shape) + 1 :]
        if any(d > 1 and d == s for d, s in zip(tensor.shape[:-1], spatial, strict=False)):
            raise VerifyError(
                f"adds or multiplies by '{tensor.name}' {list(tensor.shape)}, "
                "which is baked in for the old size"
            )


# Where an op reads the values whose size changes, if not in its first slot.
_INPUTS = {"TRANSPOSE_CONV": 2}
_FIXES: Mapping[str, Callable[[Resizing, Op, Shape, Shape], None]] = {
    "AVERAGE_POOL_2D": _pool,
    "MAX_POOL_2D": _pool,
    "RESHAPE": _reshape,
    "FULLY_CONNECTED": _dense,
    "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "TRANSPOSE_CONV": _transpose_conv,
    "SLICE": _slice,
    "STRIDED_SLICE": _strided_slice,
    **dict.fromkeys(kinds_that(lambda op: op.combines), _constant_maps),
}
