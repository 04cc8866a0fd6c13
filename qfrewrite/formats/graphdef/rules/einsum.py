"""Reading Einsum as a matrix product, a product with broadcasting, or a sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.graphdef.importer import NodeContext
from qfrewrite.formats.graphdef.rules.arith import Table
from qfrewrite.formats.graphdef.values import Computed, Constant, Layout, Value, transposition
from qfrewrite.ir import Tensor

Labels = tuple[str, ...]
# Kernels of BATCH_MATMUL broadcast over so many axes.
_MOST_BATCH_AXES = 2


@dataclass(frozen=True)
class _Term:
    """One operand and the label of each of its axes."""

    value: Value
    """The operand."""
    labels: Labels
    """The label of each axis, as the file sees them."""

    def size(self, *labels: str) -> int:
        """The product of the sizes of these axes."""
        return prod(self.value.shape[self.labels.index(n)] for n in labels)

    def pick(self, labels: Sequence[str]) -> Labels:
        """Those of `labels` that the operand has, in the order in which they are stored."""
        stored = sorted(self.labels, key=lambda n: self.value.perm[self.labels.index(n)])
        return tuple(n for n in stored if n in labels)


def _einsum(c: NodeContext) -> list[Value]:
    terms, out = _terms(c)
    terms = [
        _summed(c, t, {*out, *(n for o in terms if o is not t for n in o.labels)}) for t in terms
    ]
    if len(terms) == 1:
        (term,) = terms
        if sorted(term.labels) != sorted(out):
            raise ModelFileError(f"makes {list(out)} of {list(term.labels)}")
        order = [term.labels.index(n) for n in out]
        return [term.value.transposed(order, term.value.name)]
    if len(terms) != 2:
        raise UnsupportedError(f"Einsum of {len(terms)} operands is not supported")
    a, b = terms
    if set(out) != {*a.labels, *b.labels} & set(out):
        raise ModelFileError(f"makes {list(out)} of {list(a.labels)} and {list(b.labels)}")
    shared = [n for n in a.labels if n in b.labels]
    contracted = [n for n in shared if n not in out]
    if not contracted:
        return _product(c, a, b, out)
    if any(a.size(n) != b.size(n) for n in contracted):
        raise ModelFileError(f"sums over axes of different sizes: {contracted}")
    batch = [n for n in out if n in shared]
    if not batch and isinstance(a.value, Constant) != isinstance(b.value, Constant):
        x, w = (b, a) if isinstance(a.value, Constant) else (a, b)
        return _dense(c, x, w, contracted, out)
    return _batch_matmul(c, a, b, batch, contracted, out)


# -- the equation ------------------------------------------------------------------------------


def _terms(c: NodeContext) -> tuple[list[_Term], Labels]:
    """Operands with labels, and the labels of the result; `...` stands for labels of its own."""
    c.require(1)
    text = str(c.attr("equation", "")).replace(" ", "")
    left, arrow, right = text.partition("->")
    parts = left.split(",")
    if len(parts) != len(c.inputs):
        raise ModelFileError(f"equation '{text}' is for {len(parts)} operands, not {len(c.inputs)}")
    terms = [
        _Term(v, _labels(part, len(v.shape), text)) for v, part in zip(c.inputs, parts, strict=True)
    ]
    named = [n for t in terms for n in t.labels]
    hidden = sorted({n for n in named if len(n) > 1}, reverse=True)
    if arrow:
        letters, dots = right.replace("...", ""), right.partition("...")
        out = (*dots[0], *hidden, *dots[2]) if dots[1] else tuple(letters)
    else:
        out = (*hidden, *sorted({n for n in named if len(n) == 1 and named.count(n) == 1}))
    if len(set(out)) != len(out) or any(len(set(t.labels)) != len(t.labels) for t in terms):
        raise UnsupportedError(f"equation '{text}' takes a diagonal")
    return terms, out


def _labels(part: str, rank: int, equation: str) -> Labels:
    """One label per axis; those of `...` are `.0`, `.1`, ... from the last axis on."""
    before, dots, after = part.partition("...")
    missing = rank - len(before) - len(after)
    if missing < 0 or (missing and not dots):
        raise ModelFileError(f"equation '{equation}' does not fit an operand of rank {rank}")
    return (*before, *(f".{i:02}" for i in reversed(range(missing))), *after)


# -- forms -------------------------------------------------------------------------------------


def _summed(c: NodeContext, term: _Term, needed: set[str]) -> _Term:
    """`term` summed over the axes that nothing else needs."""
    axes = [i for i, n in enumerate(term.labels) if n not in needed]
    if not axes:
        return term
    operands = [c.importer.plain(term.value), c.operand(axes, "axes")]
    total = c.part("SUM", operands, "sum", keep_dims=False)
    return _Term(Computed.plain(total), tuple(n for n in term.labels if n in needed))


def _stored(c: NodeContext, term: _Term, order: Sequence[str], shape: Sequence[int]) -> Tensor:
    """`term` with its axes in the order of the labels `order`, then in `shape`."""
    perm = tuple(order.index(n) for n in term.labels)
    if isinstance(term.value, Constant):
        layout = Layout(transposition(term.value.perm, perm), tuple(shape))
        return c.importer.constant(term.value, layout)
    tensor = c.importer.laid_out(term.value, perm)
    if tensor.shape == tuple(shape):
        return tensor
    return c.importer.reshaped(tensor, shape, f"{tensor.name}/flat")


def _finished(
    c: NodeContext,
    kind: str,
    operands: Sequence[Tensor],
    attrs: dict[str, Any],
    order: Sequence[str],
    out: Labels,
    terms: Sequence[_Term],
    flat: Sequence[int],
) -> list[Value]:
    """The op's result [flat], whose axes are those of the labels `order` run together, as `out`."""
    perm = tuple(order.index(n) for n in out)
    shape = tuple(max(t.size(n) for t in terms if n in t.labels) for n in order)
    if tuple(flat) == shape:
        return c.emit(kind, operands, attrs, perm=perm)
    return c.emit_reshape(c.part(kind, operands, kind.lower(), **attrs), shape, perm)


def _product(c: NodeContext, a: _Term, b: _Term, out: Labels) -> list[Value]:
    """No sum over a common axis: MUL, each operand with axes of size 1 for what it lacks."""
    tensors = [
        _stored(
            c,
            t,
            [n for n in out if n in t.labels],
            [t.size(n) if n in t.labels else 1 for n in out],
        )
        for t in (a, b)
    ]
    return c.emit("MUL", tensors)


def _dense(
    c: NodeContext, x: _Term, w: _Term, contracted: Sequence[str], out: Labels
) -> list[Value]:
    """A constant without common axes but those summed over: FULLY_CONNECTED."""
    kept, made = x.pick(out), tuple(n for n in out if n in w.labels)
    inner = x.pick(contracted)
    rows, columns, depth = x.size(*kept), w.size(*made), x.size(*inner)
    operands = [
        _stored(c, x, [*kept, *inner], [rows, depth]),
        _stored(c, w, [*made, *inner], [columns, depth]),
    ]
    order, flat = [*kept, *made], [rows, columns]
    return _finished(c, "FULLY_CONNECTED", operands, {}, order, out, (x, w), flat)


def _batch_matmul(
    c: NodeContext, a: _Term, b: _Term, batch: Sequence[str], contracted: Sequence[str], out: Labels
) -> list[Value]:
    """BATCH_MATMUL of [batch, rows, inner] and [batch, inner, columns], either one transposed."""
    inner = a.pick(contracted)
    sizes = [max(a.size(n), b.size(n)) for n in batch]
    free = [t.pick([n for n in out if n not in batch]) for t in (a, b)]
    if any(a.size(n) != b.size(n) for n in batch) and len(batch) > _MOST_BATCH_AXES:
        raise UnsupportedError("Einsum that broadcasts over more than two axes")
    operands, swapped = [], []
    for i, (term, own) in enumerate(zip((a, b), free, strict=True)):
        straight = (own, inner) if i == 0 else (inner, own)
        # The order in which the operand is stored costs no transpose.
        order = next(
            (
                o
                for o in (straight, straight[::-1])
                if term.pick(term.labels) == (*batch, *o[0], *o[1])
            ),
            straight,
        )
        swapped.append(order is not straight)
        shape = [*_outer([term.size(n) for n in batch]), *(term.size(*part) for part in order)]
        operands.append(_stored(c, term, [*batch, *order[0], *order[1]], shape))
    attrs = {"adj_x": swapped[0], "adj_y": swapped[1]}
    flat = [*_outer(sizes), a.size(*free[0]), b.size(*free[1])]
    labels = [*batch, *free[0], *free[1]]
    return _finished(c, "BATCH_MATMUL", operands, attrs, labels, out, (a, b), flat)


def _outer(sizes: list[int]) -> list[int]:
    """The batch axes as a kernel takes them."""
    return sizes if len(sizes) <= _MOST_BATCH_AXES else [prod(sizes)]


EINSUM: Table = {"Einsum": _einsum}
"""Converters by node op."""
