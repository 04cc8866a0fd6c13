"""A graph one op at a time: each op a small model of its own, values between them on disk."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qfrewrite.errors import RunError
from qfrewrite.ir import NUMPY_DTYPES, Array, Graph, Op, Tensor
from qfrewrite.lower.canonical import fuses_into
from qfrewrite.rewrite.linear import linear_ports
from qfrewrite.runtime.session import Session

# Values are kept in 16 bits where 32 would take more than this.
_MOST_BYTES = 256 << 20


class SpillBuffer:
    """One value of each sample, all of one shape, in a file that goes when the buffer does."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._shape: tuple[int, ...] | None = None
        self._dtype, self._size = dtype, 0
        self._file = tempfile.TemporaryFile(prefix="qfrewrite-")  # noqa: SIM115
        # Also where an error ends the work.
        weakref.finalize(self, self._file.close)

    @staticmethod
    def of(tensor: Tensor, samples: int) -> SpillBuffer:
        """A buffer for the float values of `tensor`."""
        dtype = NUMPY_DTYPES[tensor.dtype]
        if tensor.dtype == "float32" and samples * tensor.size * 4 > _MOST_BYTES:
            dtype = np.dtype("<f2")
        return SpillBuffer(dtype)

    def put(self, value: Array) -> None:
        """Add the next sample's value."""
        if self._shape is None:
            self._shape, self._size = value.shape, value.size * self._dtype.itemsize
        if value.shape != self._shape:
            what = f"holds {list(value.shape)}, the first sample had {list(self._shape)}"
            remedy = "give samples of one size, or calibrate without reconstruct"
            raise RunError(what, where="values between layers", remedy=remedy)
        if self._dtype == np.dtype("<f2"):
            value = np.clip(value, -65504, 65504)
        try:
            self._file.write(np.ascontiguousarray(value, self._dtype).data)
        except OSError as error:
            what = f"no room for the values between layers ({error.strerror or error})"
            remedy = "take fewer samples, or set TMPDIR"
            raise RunError(what, where=tempfile.gettempdir(), remedy=remedy) from None

    def get(self, index: int) -> Array:
        """The value of one sample, floats as float32."""
        assert self._shape is not None
        self._file.seek(index * self._size)
        value = np.frombuffer(self._file.read(self._size), self._dtype).reshape(self._shape)
        return value.astype(np.float32) if self._dtype == np.dtype("<f2") else value

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def cut_out(
    ops: Sequence[Op], copied: Callable[[Tensor], Tensor]
) -> tuple[Graph, dict[Tensor, Tensor]]:
    """A graph of these ops alone, with a copy of each of their tensors, and those copies.

    What the first of them reads becomes the inputs, what the last one gives the outputs.
    """
    small = Graph(ops[0].name)
    tensors = (t for op in ops for t in (*op.inputs, *op.outputs, *op.intermediates))
    twins = {t: copied(t) for t in dict.fromkeys(tensors) if t is not None}
    small.set_io(
        [twins[t] for t in dict.fromkeys(ops[0].inputs) if t is not None and not t.is_const]
    )
    for op in ops:
        small.add_op(op.twin(twins))
    small.set_io(outputs=[twins[t] for t in ops[-1].outputs])
    return small, twins


def _as_float(tensor: Tensor) -> Tensor:
    return Tensor(
        tensor.name,
        tensor.shape,
        tensor.dtype,
        tensor.data,
        shape_signature=tensor.shape_signature,
    )


@dataclass(frozen=True)
class Unit:
    """An op, and the activation that will be fused into it."""

    graph: Graph
    op: Op
    activation: Op | None

    @property
    def kind(self) -> str:
        """The kinds of both, with a `+` between them."""
        return self.op.kind if self.activation is None else f"{self.op.kind}+{self.activation.kind}"

    @property
    def results(self) -> tuple[Tensor, ...]:
        """What a kernel writes."""
        return self.op.outputs if self.activation is None else self.activation.outputs

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """The computed tensors it reads, each once."""
        return tuple(dict.fromkeys(t for t in self.op.inputs if t is not None and not t.is_const))

    def session(
        self,
        probes: Sequence[Tensor],
        *,
        threads: int | None,
        weights: Array | None = None,
        bias: Array | None = None,
    ) -> Session:
        """The unit as a model that gives `probes`, with other weights and bias where given."""
        ops = (self.op,) if self.activation is None else (self.op, self.activation)
        small, twins = cut_out(ops, _as_float)
        small.bodies = self.graph.bodies
        if weights is not None:
            ports, first = linear_ports(self.op), small.ops[0]
            for slot, data in ((ports.weights, weights), (ports.bias, bias)):
                if data is not None:
                    fitted = Tensor(f"fitted/{slot}", data.shape, "float32", data)
                    small.set_input(first, slot, fitted)
        small.set_io(outputs=[twins[t] for t in probes])
        return Session(small, [twins[t] for t in probes], threads=threads)


def units(graph: Graph) -> Iterator[Unit]:
    """Every op of a canonical graph in order, with the activation that it takes."""
    hosts = {host: op for op in graph.ops if isinstance(host := fuses_into(op), Op)}
    taken = set(hosts.values())
    for op in graph.ops:
        if op not in taken and op.outputs:
            yield Unit(graph, op, hosts.get(op))
