"""Reading lists of tensors (TensorList, TensorArray): a list is the stack of its tensors.

A list of n tensors of one shape is a tensor [n, *shape]: reading element i gathers it, writing it
updates a slice. A list that grows while the graph runs has no such form.
"""

from __future__ import annotations

from functools import partial
from math import prod

import numpy as np

from qfrewrite.errors import ModelFileError, UnsupportedError
from qfrewrite.formats.graphdef.importer import MAX_ELEMENTS, NodeContext
from qfrewrite.formats.graphdef.rules.arith import Table, element_type
from qfrewrite.formats.graphdef.rules.index import sliced
from qfrewrite.formats.graphdef.values import Computed, Constant, Unset, Value, identity_perm
from qfrewrite.ir import NUMPY_DTYPES, Tensor

_GIVE_SIZE = "give the list its size, and its tensors one shape"


def _new(c: NodeContext, length: int, shape: tuple[int, ...] | None, dtype: str) -> Value:
    """A list of `length` tensors of zeros; `shape` is None where it is not known yet."""
    if length < 0 or length * prod(shape or ()) > MAX_ELEMENTS:
        raise ModelFileError(f"makes a list of {length} tensors")
    if shape is None:
        return Unset(c.name, np.zeros((length, 0), NUMPY_DTYPES[dtype]))
    return Constant.filled(c.name, 0, dtype, (length, *shape))


def _element_type(c: NodeContext, attribute: str) -> str:
    stated = c.attr(attribute, "DT_FLOAT")
    if stated in ("DT_VARIANT", "DT_RESOURCE", "DT_STRING"):
        raise UnsupportedError(f"is a list of {stated}")
    return element_type(stated)


def _known_shape(dims: tuple[int, ...]) -> tuple[int, ...] | None:
    return dims if min(dims, default=0) >= 0 else None


def _element_shape(c: NodeContext, slot: int) -> tuple[int, ...] | None:
    """The shape in `slot`: a scalar -1 says that nothing is known."""
    if not c.constant(slot).shape:
        return None
    return _known_shape(c.ints(slot))


def _reserve(c: NodeContext) -> list[Value]:
    """TensorListReserve(element_shape, num_elements)."""
    return [_new(c, c.integer(1), _element_shape(c, 0), _element_type(c, "element_dtype"))]


def _empty(c: NodeContext) -> list[Value]:
    """EmptyTensorList(element_shape, max_num_elements)."""
    return [_new(c, 0, _element_shape(c, 0), _element_type(c, "element_dtype"))]


def _array(c: NodeContext) -> list[Value]:
    """TensorArrayV3(size) -> handle, flow: both are the list; what is read is the flow."""
    proto = c.attr("element_shape")
    stated = hasattr(proto, "unknown_rank") and not proto.unknown_rank
    shape = _known_shape(tuple(int(d.size) for d in proto.dim)) if stated else None
    return [_new(c, c.integer(0), shape, _element_type(c, "dtype"))] * 2


def _list(c: NodeContext, slot: int) -> Value:
    """The list in `slot`, at least of rank 1."""
    value = c.value(slot)
    if not value.shape:
        raise ModelFileError(f"input {slot} is no list of tensors")
    return value


def _filled(c: NodeContext, slot: int) -> Value:
    """The list in `slot`, whose tensors have a shape."""
    value = _list(c, slot)
    if isinstance(value, Unset):
        raise UnsupportedError("reads a list that nothing was written to", remedy=_GIVE_SIZE)
    return value


def _whole(slot: int, c: NodeContext) -> list[Value]:
    return [_filled(c, slot)]


def _get(slot: int, index: int, c: NodeContext) -> list[Value]:
    """One tensor of the list in `slot`, or several."""
    values, at = _filled(c, slot), c.value(index)
    length = values.shape[0]
    if isinstance(at, Constant):
        if at.data.dtype.kind not in "iu" or not _inside(at, length):
            raise ModelFileError(f"reads outside a list of {length}")
        if at.shape and np.array_equal(at.data, np.arange(length)):
            return [values]
    return c.emit("GATHER", [c.importer.plain(values), c.plain(index)], {"axis": 0})


def _inside(index: Constant, length: int) -> bool:
    low, high = index.data.min(initial=0), index.data.max(initial=0)
    return index.data.size == 0 or bool(0 <= low <= high < length)


def _set(slot: int, index: int, item: int, c: NodeContext) -> list[Value]:
    """The list in `slot` with another tensor at an index."""
    before, at, new = _list(c, slot), c.value(index), c.value(item)
    length, shape = before.shape[0], new.shape
    if at.shape or (not isinstance(before, Unset) and before.shape[1:] != shape):
        what = f"puts {list(shape)} into a list of {list(before.shape[1:])}"
        raise UnsupportedError(what, remedy=_GIVE_SIZE)
    if isinstance(at, Constant) and not _inside(at, length):
        what = f"writes element {int(at.data)} of a list of {length}"
        raise UnsupportedError(what, remedy=_GIVE_SIZE)
    if not length:
        what = "writes to a list of no tensors, which grows while the graph runs"
        raise UnsupportedError(what, remedy=_GIVE_SIZE)
    part = _element(c, new)
    if length == 1:
        return [part]
    if isinstance(before, Unset):
        before = Constant.filled(before.name, 0, before.dtype, (length, *shape))
    operands = [c.importer.plain(before), c.importer.plain(part), _start(c, at, len(shape))]
    return c.emit("DYNAMIC_UPDATE_SLICE", operands)


def _element(c: NodeContext, value: Value) -> Value:
    """`value` as a list of one tensor."""
    operand = c.operand((1, *value.shape), "element/shape")
    name = f"{c.name}/element"
    return c.emit("RESHAPE", [c.importer.plain(value), operand], name=name)[0]


def _start(c: NodeContext, index: Value, rank: int) -> Tensor:
    """[index, 0, ...]: where an element of a list starts in the stack."""
    if isinstance(index, Constant):
        return c.operand([int(index.data), *[0] * rank], "start")
    shape = c.operand([1], "start/shape")
    first = c.part("RESHAPE", [c.importer.plain(index), shape], "start/first")
    if not rank:
        return first
    rest = c.importer.operand(np.zeros(rank, NUMPY_DTYPES[first.dtype]), f"{c.name}/start/rest")
    return c.part("CONCATENATION", [first, rest], "start", axis=0)


def _scatter(item: int, index: int, into: int | None, c: NodeContext) -> list[Value]:
    """A list made from a stack: its tensor i goes to place `index[i]`."""
    values, places = c.value(item), c.ints(index)
    before = None if into is None else _list(c, into)
    length = max(places, default=-1) + 1 if before is None else before.shape[0]
    if before is None and len(c.inputs) > 3:
        length = max(length, c.integer(3))
    if values.shape[:1] != (len(places),) or len(set(places)) != len(places):
        raise ModelFileError(f"scatters {list(values.shape)} to {len(places)} places")
    if min(places, default=0) < 0 or max(places, default=-1) >= length:
        raise UnsupportedError(f"writes outside a list of {length}", remedy=_GIVE_SIZE)
    if places == tuple(range(length)):
        return [values]
    if isinstance(before, Computed) or (before is not None and before.data.any()):
        raise UnsupportedError("writes a part of a list that holds something else")
    operands = [
        c.operand(np.reshape(places, (-1, 1)), "places"),
        c.importer.plain(values),
        c.operand([length, *values.shape[1:]], "shape"),
    ]
    return c.emit("SCATTER_ND", operands)


def _length(slot: int, c: NodeContext) -> list[Value]:
    return [Constant(c.name, np.array(_list(c, slot).shape[0], np.int32), True)]


def _shape_of_elements(c: NodeContext) -> list[Value]:
    dtype = NUMPY_DTYPES[element_type(c.attr("shape_type", "DT_INT32"))]
    return [Constant(c.name, np.array(_filled(c, 0).shape[1:], dtype), from_shape=True)]


def _concat(slot: int, c: NodeContext) -> list[Value]:
    """The tensors of a list joined on their first axis, and the length of each."""
    values = _filled(c, slot)
    if len(values.shape) < 2:
        raise ModelFileError("joins scalars")
    length, first, *rest = values.shape
    joined = c.emit_reshape(c.importer.plain(values), [length * first, *rest])
    return [*joined, Constant(f"{c.name}:1", np.full(length, first, np.int64), True)]


def _split(item: int, lengths: int, c: NodeContext) -> list[Value]:
    """A list of parts of a tensor; they have one shape where they are equally long."""
    values, parts = c.value(item), c.ints(lengths)
    if len(set(parts)) != 1 or sum(parts) != values.shape[0]:
        raise UnsupportedError(f"splits a tensor into parts of {list(parts)}")
    return c.emit_reshape(c.importer.plain(values), [len(parts), parts[0], *values.shape[1:]])


def _push(c: NodeContext) -> list[Value]:
    """TensorListPushBack(list, tensor)."""
    before, new = _list(c, 0), c.value(1)
    part = _element(c, new)
    if not before.shape[0]:
        return [part]
    if before.shape[1:] != new.shape:
        raise UnsupportedError(f"puts {list(new.shape)} into a list of {list(before.shape[1:])}")
    return c.emit("CONCATENATION", [c.importer.plain(before), c.importer.plain(part)], {"axis": 0})


def _pop(c: NodeContext) -> list[Value]:
    """TensorListPopBack(list, element_shape) -> the rest, the last tensor."""
    values = c.importer.plain(_filled(c, 0))
    length, *shape = values.shape
    if not length:
        raise ModelFileError("takes a tensor from an empty list")
    rest = sliced(c, values, 0, 0, length - 1, "rest")
    last = sliced(c, values, 0, length - 1, 1, "last")
    return [c.as_value(rest, identity_perm(len(rest.shape))), *c.emit_reshape(last, shape)]


def _resize(c: NodeContext) -> list[Value]:
    """TensorListResize(list, size)."""
    values, size = _list(c, 0), c.integer(1)
    length, *shape = values.shape
    if size == length:
        return [values]
    if isinstance(values, Unset):
        return [_new(c, size, None, values.dtype)]
    stack = c.importer.plain(values)
    if 0 <= size < length:
        bounds = [c.operand([0, *[0] * len(shape)], "begin"), c.operand([size, *shape], "size")]
        return c.emit("SLICE", [stack, *bounds])
    pads = [[0, size - length], *[[0, 0]] * len(shape)]
    return c.emit("PAD", [stack, c.operand(pads, "pads")])


LISTS: Table = {
    "TensorListReserve": _reserve,
    "EmptyTensorList": _empty,
    "TensorListFromTensor": lambda c: [_list(c, 0)],
    "TensorListStack": partial(_whole, 0),
    "TensorListGetItem": partial(_get, 0, 1),
    "TensorListGather": partial(_get, 0, 1),
    "TensorListSetItem": partial(_set, 0, 1, 2),
    "TensorListScatter": partial(_scatter, 0, 1, None),
    "TensorListScatterV2": partial(_scatter, 0, 1, None),
    "TensorListScatterIntoExistingList": partial(_scatter, 1, 2, 0),
    "TensorListLength": partial(_length, 0),
    "TensorListElementShape": _shape_of_elements,
    "TensorListConcat": partial(_concat, 0),
    "TensorListConcatV2": partial(_concat, 0),
    "TensorListSplit": partial(_split, 0, 2),
    "TensorListPushBack": _push,
    "TensorListPopBack": _pop,
    "TensorListResize": _resize,
    "TensorArrayV3": _array,
    "TensorArrayReadV3": partial(_get, 2, 1),
    "TensorArrayGatherV3": partial(_get, 2, 1),
    "TensorArrayWriteV3": partial(_set, 3, 1, 2),
    "TensorArrayScatterV3": partial(_scatter, 2, 1, 3),
    "TensorArraySizeV3": partial(_length, 1),
    "TensorArrayConcatV3": partial(_concat, 1),
    "TensorArraySplitV3": partial(_split, 1, 2),
}
"""Converters of ops on lists; a list is given in the slot of a TensorList or of a flow."""
