"""The graph: a bipartite networkx index over ops and tensors, and the only way to write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import networkx as nx

from qfrewrite.errors import VerifyError
from qfrewrite.ir.names import numbered
from qfrewrite.ir.op import Op, Rank
from qfrewrite.ir.tensor import Tensor

_OP_FIELDS = frozenset({"kind", "name", "attrs", "inputs", "meta"})
_TENSOR_FIELDS = frozenset({"name", "shape", "dtype", "data", "quant", "shape_signature", "meta"})


class Reader(NamedTuple):
    """One slot of one op that reads a tensor."""

    op: Op
    slot: int


class Graph:
    """Ops and tensors of one subgraph.

    Reading: `ops` (stable topological order), `tensors`, `inputs`, `outputs`, `producer`,
    `readers`, and `nx`, a live read-only networkx view whose nodes are the `Op` and `Tensor`
    objects. Writing: `add_tensor`, `add_op`, `update_op`, `update_tensor`, `replace_uses`,
    `remove_op`, `set_io`, `prune`; each checks before it changes anything and raises
    `VerifyError` where the result would not be a graph.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.version = 0
        self.meta: dict[str, Any] = {}
        # In a main graph: the model's other subgraphs, which WHILE, IF and CALL_ONCE run.
        self.bodies: tuple[Graph, ...] = ()
        self._nx: Any = nx.DiGraph()
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: tuple[Tensor, ...] = ()
        self._names: dict[str, int] = {}
        self._last_rank = 0
        self._inserted: dict[Rank, int] = {}
        # While every edge leads from a lower to a higher rank no edit that keeps this can close
        # a cycle; once one does not, edits pay for a search.
        self._rank_ordered = True
        self._order: tuple[int, tuple[Op, ...]] | None = None

    def __repr__(self) -> str:
        return f"<Graph {self.name!r}: {len(self.ops)} ops, {len(self.tensors)} tensors>"

    # -- reading ---------------------------------------------------------------------------

    @property
    def nx(self) -> Any:
        """A live, read-only `networkx.DiGraph` view: tensor -> op -> tensor."""
        return self._nx.copy(as_view=True)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The graph's inputs in order."""
        return self._inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The graph's outputs in order; one tensor may stand twice."""
        return self._outputs

    @property
    def ops(self) -> tuple[Op, ...]:
        """Every op, producers first, otherwise in file order; raises on a cycle."""
        if self._order is None or self._order[0] != self.version:
            self._order = (self.version, self._sorted_ops())
        return self._order[1]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor in the order it was added."""
        return tuple(n for n in self._nx if isinstance(n, Tensor))

    def ops_of(self, *kinds: str) -> tuple[Op, ...]:
        """The ops of these kinds, in order. A snapshot: safe to edit while iterating."""
        return tuple(op for op in self.ops if op.kind in kinds)

    def __contains__(self, node: object) -> bool:
        return node in self._nx

    def producer(self, tensor: Tensor) -> Op | None:
        """The op that computes `tensor`; None for inputs and constants."""
        return next(iter(self._nx.pred[tensor]), None) if tensor in self._nx else None

    def readers(self, tensor: Tensor) -> tuple[Reader, ...]:
        """Every slot that reads `tensor`, in op order; an op that reads it twice stands twice."""
        if tensor not in self._nx:
            return ()
        ops = sorted(self._nx.succ[tensor], key=lambda op: op.rank)
        return tuple(Reader(op, i) for op in ops for i, t in enumerate(op.inputs) if t is tensor)

    def tensor(self, name: str) -> Tensor:
        """The first tensor of that name; raises KeyError."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    def op(self, name: str) -> Op:
        """The first op of that name; raises KeyError."""
        for op in self.ops:
            if op.name == name:
                return op
        raise KeyError(name)

    def is_output(self, tensor: Tensor) -> bool:
        """Whether `tensor` is a graph output."""
        return any(t is tensor for t in self._outputs)

    def is_input(self, tensor: Tensor) -> bool:
        """Whether `tensor` is a graph input."""
        return any(t is tensor for t in self._inputs)

    def unique_name(self, name: str) -> str:
        """`name`, or `name_1`, `name_2`, ... where a tensor of that name exists."""
        return numbered(name, self._names)

    # -- writing ---------------------------------------------------------------------------

    def add_tensor(self, tensor: Tensor) -> Tensor:
        """Make `tensor` known to the graph; no effect where it is already."""
        if tensor not in self._nx:
            self._nx.add_node(tensor)
            self._names[tensor.name] = self._names.get(tensor.name, 0) + 1
            self.version += 1
        return tensor

    def add_op(self, op: Op, *, anchor: Op | None = None) -> Op:
        """Put `op` in: after everything (reading a file), or at the place of `anchor`."""
        if op in self._nx:
            raise VerifyError("is in the graph already", where=_place(op))
        for out in op.outputs:
            if out.is_const or self.is_input(out) or self.producer(out) is not None:
                raise VerifyError(f"'{out.name}' has a value from elsewhere", where=_place(op))
        rank = self._new_rank(anchor)
        self._check_edges(op, rank, op.inputs)
        object.__setattr__(op, "rank", rank)
        self._nx.add_node(op)
        for t in (*filter(None, op.inputs), *op.intermediates, *op.outputs):
            self.add_tensor(t)
        self._nx.add_edges_from((t, op) for t in op.inputs if t is not None)
        self._nx.add_edges_from((op, t) for t in op.outputs)
        self.version += 1
        return op

    def update_op(self, op: Op, **fields: Any) -> None:
        """Set `kind`, `name`, `attrs`, `inputs` or `meta` of an op that is in the graph."""
        self._check_fields(op, fields, _OP_FIELDS)
        if "inputs" in fields:
            fields["inputs"] = tuple(fields["inputs"])
            self._check_edges(op, op.rank, fields["inputs"])
            self._nx.remove_edges_from([(t, op) for t in self._nx.pred[op]])
            for t in filter(None, fields["inputs"]):
                self.add_tensor(t)
                self._nx.add_edge(t, op)
        for key in ("attrs", "meta"):
            if key in fields:
                fields[key] = MappingProxyType(dict(fields[key]))
        self._put(op, fields)

    def update_tensor(self, tensor: Tensor, **fields: Any) -> None:
        """Set `name`, `shape`, `dtype`, `data`, `quant`, `shape_signature` or `meta`."""
        self._check_fields(tensor, fields, _TENSOR_FIELDS)
        if fields.get("data") is not None and self.producer(tensor) is not None:
            raise VerifyError("is computed: it cannot hold a constant", where=tensor.name)
        if "name" in fields:
            self._forget_name(tensor.name)
            self._names[fields["name"]] = self._names.get(fields["name"], 0) + 1
        if "shape" in fields:
            fields["shape"] = tuple(int(d) for d in fields["shape"])
        if "meta" in fields:
            fields["meta"] = MappingProxyType(dict(fields["meta"]))
        self._put(tensor, fields)

    def replace_uses(self, old: Tensor, new: Tensor, *, skip: Iterable[Op] = ()) -> None:
        """Let every reader of `old` read `new`; where `old` is a graph output, `new` becomes it.

        Ops in `skip` keep reading `old`. The name of a graph output stays: `new` takes it over
        and `old` gets another. So an output that is an input too stays what it is, and a `new`
        that is an input or an output itself is refused.
        """
        output = self.is_output(old) and not self.is_input(old) and new is not old
        if output and (self.is_output(new) or self.is_input(new)):
            raise VerifyError(
                f"has a name of its own in the interface: it cannot become output '{old.name}'",
                where=_place(new), remedy="put an op between the two",
            )  # fmt: skip
        skipped = set(skip)
        edits = {r.op for r in self.readers(old)} - skipped
        self.add_tensor(new)
        for op in sorted(edits, key=lambda o: o.rank):
            self.update_op(op, inputs=tuple(new if t is old else t for t in op.inputs))
        if output:
            self._swap_names(old, new)
            self.set_io(outputs=tuple(new if t is old else t for t in self._outputs))

    def remove_op(self, op: Op) -> None:
        """Take out an op whose outputs nobody reads; its outputs go with it."""
        if op not in self._nx:
            raise VerifyError("is not in the graph", where=_place(op))
        for out in op.outputs:
            if self._nx.succ[out] or self.is_output(out):
                raise VerifyError(f"'{out.name}' is still read", where=_place(op))
        gone = (*op.outputs, *op.intermediates)
        self._nx.remove_node(op)
        for out in gone:
            self._drop_tensor(out)
        self.version += 1

    def set_io(
        self,
        inputs: Iterable[Tensor] | None = None,
        outputs: Iterable[Tensor] | None = None,
    ) -> None:
        """Set the graph's inputs or outputs."""
        if inputs is not None:
            inputs = tuple(inputs)
            for t in inputs:
                if self.producer(t) is not None:
                    raise VerifyError("is computed: it cannot be an input", where=t.name)
                self.add_tensor(t)
            self._inputs = inputs
        if outputs is not None:
            self._outputs = tuple(outputs)
            for t in self._outputs:
                self.add_tensor(t)
        self.version += 1

    def prune(self, keep: Callable[[Op], bool] = lambda op: False) -> tuple[Op, ...]:
        """Remove ops that no output needs (save those `keep` names) and tensors nobody uses."""
        live: set[Any] = set(self._outputs) | {op for op in self.ops if keep(op)}
        live |= {out for op in live if isinstance(op, Op) for out in op.outputs}
        stack = list(live)
        while stack:
            for before in self._nx.pred.get(stack.pop(), ()):
                if before not in live:
                    live.add(before)
                    stack.append(before)
                    live.update(before.outputs if isinstance(before, Op) else ())
        dead = tuple(op for op in self.ops if op not in live)
        for op in reversed(dead):
            self.remove_op(op)
        intermediates = {t for op in self.ops for t in op.intermediates}
        for t in self.tensors:
            if not (self._nx.succ[t] or self._nx.pred[t] or t in live or t in intermediates):
                self._drop_tensor(t)
        return dead

    def become(self, other: Graph) -> None:
        """Take over everything `other` holds, which must not be used any more."""
        name, version = self.name, self.version
        self.__dict__.update(other.__dict__)
        self.name, self.version, self._order = name, max(version, other.version) + 1, None

    def clone(self) -> tuple[Graph, dict[Tensor, Tensor]]:
        """An independent copy that shares constant data, and the map from old to new tensors."""
        copy = Graph(self.name)
        copy.meta, copy.bodies = dict(self.meta), self.bodies
        tensors = {
            t: Tensor(t.name, t.shape, t.dtype, t.data, t.quant,
                      shape_signature=t.shape_signature, meta=t.meta)
            for t in self.tensors
        }  # fmt: skip
        for t in tensors.values():
            copy.add_tensor(t)
        copy.set_io([tensors[t] for t in self.inputs])
        for op in self.ops:
            twin = Op(
                op.kind,
                tuple(None if t is None else tensors[t] for t in op.inputs),
                tuple(tensors[t] for t in op.outputs),
                op.attrs,
                name=op.name,
                intermediates=tuple(tensors[t] for t in op.intermediates),
                meta=op.meta,
            )
            copy.add_op(twin)
            object.__setattr__(twin, "rank", op.rank)
        copy.set_io(outputs=[tensors[t] for t in self.outputs])
        copy._last_rank, copy._inserted = self._last_rank, dict(self._inserted)
        copy._rank_ordered = self._rank_ordered
        return copy, tensors

    # -- inside ----------------------------------------------------------------------------

    def _sorted_ops(self) -> tuple[Op, ...]:
        made = {out: n.rank for n in self._nx if isinstance(n, Op) for out in n.outputs}

        def key(node: Op | Tensor) -> Rank:
            return node.rank if isinstance(node, Op) else made.get(node, (-1,))

        try:
            nodes = list(nx.lexicographical_topological_sort(self._nx, key))
        except nx.NetworkXUnfeasible:
            names = [n.name for n, _ in nx.find_cycle(self._nx) if isinstance(n, Op)]
            raise VerifyError("is part of a cycle", where=" -> ".join(names[:4])) from None
        return tuple(n for n in nodes if isinstance(n, Op))

    def _new_rank(self, anchor: Op | None) -> Rank:
        if anchor is None:
            self._last_rank += 1
            return (self._last_rank,)
        n = self._inserted[anchor.rank] = self._inserted.get(anchor.rank, 0) + 1
        return (*anchor.rank, n)

    def _check_edges(self, op: Op, rank: Rank, inputs: tuple[Tensor | None, ...]) -> None:
        """Raise where reading `inputs` would close a cycle."""
        makers = {self.producer(t) for t in inputs if t is not None} - {None}
        late = [m for m in makers if m is not None and m.rank >= rank]
        readers = {r.op for out in op.outputs for r in self.readers(out)}
        if not late and self._rank_ordered and all(r.rank > rank for r in readers):
            return
        reached = set(readers) | {op}
        for reader in readers | ({op} if op in self._nx else set()):
            reached |= nx.descendants(self._nx, reader)
        for maker in makers:
            if maker in reached:
                raise VerifyError(f"reading '{maker}' would close a cycle", where=_place(op))
        self._rank_ordered = self._rank_ordered and not late

    def _check_fields(
        self, node: Op | Tensor, fields: Mapping[str, Any], known: frozenset[str]
    ) -> None:
        if node not in self._nx:
            raise VerifyError("is not in the graph", where=_place(node))
        if unknown := set(fields) - known:
            raise TypeError(f"cannot set {sorted(unknown)}; can set {sorted(known)}")

    def _put(self, node: Op | Tensor, fields: Mapping[str, Any]) -> None:
        for key, value in fields.items():
            object.__setattr__(node, key, value)
        self.version += 1

    def _swap_names(self, a: Tensor, b: Tensor) -> None:
        name, other = a.name, b.name
        self.update_tensor(a, name=other)
        self.update_tensor(b, name=name)

    def _drop_tensor(self, tensor: Tensor) -> None:
        if tensor in self._nx and not self.is_input(tensor) and not self.is_output(tensor):
            self._nx.remove_node(tensor)
            self._forget_name(tensor.name)
            self.version += 1

    def _forget_name(self, name: str) -> None:
        self._names[name] = self._names.get(name, 1) - 1
        if self._names[name] <= 0:
            del self._names[name]


def _place(node: Op | Tensor) -> str:
    return f"{node.kind} '{node.name}'" if isinstance(node, Op) else f"tensor '{node.name}'"
