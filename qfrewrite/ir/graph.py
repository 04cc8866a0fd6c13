"""The graph: a bipartite networkx index over ops and tensors, and the only way to write them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any, TypeVar

import networkx as nx

from qfrewrite.errors import VerifyError
from qfrewrite.ir.dtypes import Array
from qfrewrite.ir.facts import ChannelFacts, TrainedRange
from qfrewrite.ir.kinds import check_kinds
from qfrewrite.ir.names import numbered
from qfrewrite.ir.nodes import NO_META, Attrs, Index, Op, Precision, Rank, Tensor, constant
from qfrewrite.ir.quant import Quant

_Node = TypeVar("_Node", Op, Tensor)


class Graph:
    """Ops and tensors of one subgraph.

    Reading: `ops` (stable topological order), `tensors`, `inputs`, `outputs`, and `nx`, a live
    read-only networkx view whose nodes are the `Op` and `Tensor` objects. Tensors know their
    neighbours: `tensor.producer`, `tensor.users`. Writing: `add_op`, `remove_op`, `set_inputs`,
    `replace_uses`, `set_io`, `prune`, and one method for each field of an op or tensor. Each
    checks before it changes anything, and raises `VerifyError` where the result would not be a
    graph.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.version = 0
        self.meta: dict[str, Any] = {}
        # In a main graph: the model's other subgraphs, which WHILE, IF and CALL_ONCE run.
        self.bodies: tuple[Graph, ...] = ()
        edges: Any = nx.DiGraph()
        self._nx = edges
        # The dictionaries behind its views `pred` and `succ`, which take twice as long.
        self._index = Index(edges._pred, edges._succ)
        self._names: Counter[str] = Counter()
        self._last_rank = 0
        self._inserted: dict[Rank, int] = {}
        # While every edge leads from a lower to a higher rank no edit that keeps this can close
        # a cycle; once one does not, edits pay for a search.
        self._rank_ordered = True
        self._order: tuple[int, tuple[Op, ...]] | None = None
        self._state: tuple[int, object] | None = None

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
        return self._index.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The graph's outputs in order; one tensor may stand twice."""
        return self._index.outputs

    @property
    def interface(self) -> tuple[tuple[str, tuple[int, ...], str], ...]:
        """Name, shape and element type of every input, then of every output."""
        return tuple((t.name, t.shape, t.dtype) for t in (*self.inputs, *self.outputs))

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
        """The ops of these kinds, in order. A snapshot: safe to edit while iterating.

        Raises UsageError for a kind that no definition and no op of the graph has.
        """
        ops = tuple(op for op in self.ops if op.kind in kinds)
        check_kinds(set(kinds) - {op.kind for op in ops})
        return ops

    def __contains__(self, node: object) -> bool:
        return node in self._nx

    def tensor(self, name: str) -> Tensor:
        """The first tensor of that name; raises KeyError."""
        return _first_named(name, self.tensors)

    def op(self, name: str) -> Op:
        """The first op of that name; raises KeyError."""
        return _first_named(name, self.ops)

    def unique_name(self, name: str) -> str:
        """`name`, or `name_1`, `name_2`, ... where a tensor of that name exists."""
        return numbered(name, self._names)

    # -- writing ---------------------------------------------------------------------------

    def add_tensor(self, tensor: Tensor) -> Tensor:
        """Make `tensor` known to the graph; no effect where it is already."""
        if tensor not in self._nx:
            if tensor._index is not None:
                raise VerifyError("is in another graph", where=tensor.place)
            self._nx.add_node(tensor)
            object.__setattr__(tensor, "_index", self._index)
            self._names[tensor.name] += 1
            self.version += 1
        return tensor

    def add_op(self, op: Op, *, anchor: Op | None = None) -> Op:
        """Put `op` in: after everything (reading a file), or at the place of `anchor`."""
        if op in self._nx:
            raise VerifyError("is in the graph already", where=op.place)
        for out in op.outputs:
            if out.is_const or out.is_input or out.producer is not None:
                raise VerifyError(f"'{out.name}' has a value from elsewhere", where=op.place)
        rank = self._new_rank(anchor)
        self._check_edges(op, rank, op.inputs)
        object.__setattr__(op, "rank", rank)
        self._nx.add_node(op)
        for t in (*filter(None, op.inputs), *op.intermediates, *op.outputs):
            self.add_tensor(t)
        reads = [(t, op) for t in op.inputs if t is not None]
        self._nx.add_edges_from([*reads, *((op, t) for t in op.outputs)])
        self.version += 1
        return op

    def rename(self, node: Op | Tensor, name: str) -> None:
        """Give an op or a tensor another name."""
        if isinstance(node, Tensor) and node in self._nx:
            self._forget_name(node.name)
            self._names[name] += 1
        self._put(node, name=name)

    def set_kind(self, op: Op, kind: str, attrs: Attrs | None = None) -> None:
        """Make `op` another kind with these attributes; what its file states of it goes."""
        attrs = MappingProxyType(dict(attrs or {}))
        self._put(op, kind=kind, attrs=attrs, version=None, meta=NO_META)

    def set_attrs(self, op: Op, **attrs: Any) -> None:
        """Set these attributes of `op`; the others stay."""
        self._put(op, attrs=MappingProxyType({**op.attrs, **attrs}))

    def set_inputs(self, op: Op, inputs: Iterable[Tensor | None]) -> None:
        """Let `op` read these tensors."""
        inputs = tuple(inputs)
        self._check_holds(op)
        self._check_edges(op, op.rank, inputs)
        self._nx.remove_edges_from([(t, op) for t in self._index.producers[op]])
        for t in filter(None, inputs):
            self.add_tensor(t)
            self._nx.add_edge(t, op)
        self._put(op, inputs=inputs)

    def set_input(self, op: Op, slot: int, tensor: Tensor | None) -> None:
        """Let `op` read `tensor` in `slot`; slots between the last one and it are empty."""
        inputs = [*op.inputs, *[None] * (slot + 1 - len(op.inputs))]
        inputs[slot] = tensor
        self.set_inputs(op, inputs)

    def put_constant(self, op: Op, slot: int, data: Array, name: str | None = None) -> Tensor:
        """Put a constant in `slot` of `op` only, in place where nothing else reads the old one.

        name: of a new constant; without it that of the old one, made unique.
        """
        old = op.input(slot)
        if old is not None and old.is_const and len(old.users) == 1:
            self.set_data(old, data)
            return old
        base = name or (old.name if old is not None else f"{op.name}/operand{slot}")
        new = constant(self.unique_name(base), data)
        self.set_input(op, slot, new)
        return new

    def set_shape(self, tensor: Tensor, shape: Iterable[int]) -> None:
        """Set the shape; which dimensions a file leaves open stays."""
        self._put(tensor, shape=tuple(int(d) for d in shape))

    def set_signature(self, tensor: Tensor, signature: tuple[int, ...] | None) -> None:
        """Set the shape with -1 for each dimension that a file leaves open."""
        self._put(tensor, shape_signature=signature)

    def set_type(self, tensor: Tensor, dtype: str, quant: Quant | None) -> None:
        """Set the element type, and the scale and zero point it is quantized with."""
        self._put(tensor, dtype=dtype, quant=quant)

    def set_data(
        self, tensor: Tensor, data: Array, *, dtype: str | None = None, quant: Quant | None = None
    ) -> None:
        """Give a constant another value and its shape; `dtype` stays where it is not given.

        What belonged to the old value goes: its quantization, and the range that training chose.
        """
        if tensor.producer is not None:
            raise VerifyError("is computed: it cannot hold a constant", where=tensor.name)
        self._put(tensor, data=data, shape=data.shape, dtype=dtype or tensor.dtype, quant=quant)
        self._put(tensor, trained=None, sparsity=None)

    def set_channels(self, tensor: Tensor, channels: ChannelFacts) -> None:
        """Set what is known of the channels."""
        self._put(tensor, channels=channels)

    def set_trained(self, tensor: Tensor, trained: TrainedRange | None) -> None:
        """Set the range that training chose for a constant."""
        self._put(tensor, trained=trained)

    def set_fused(self, tensor: Tensor, fused: bool) -> None:
        """Say whether an activation that reads `tensor` is fused into the op that computes it."""
        self._put(tensor, fused=fused)

    def set_keep(self, op: Op, keep: Precision | None) -> None:
        """Set the precision that `op` shall compute in."""
        self._put(op, keep=keep)

    def set_version(self, op: Op, version: int | None) -> None:
        """Set the version that a file asks for."""
        self._put(op, version=version)

    def copy_facts(self, source: Tensor, tensor: Tensor) -> None:
        """Let `tensor`, which holds the value of `source`, have all that is known of that value."""
        slots = ("shape_signature", "has_rank", "is_variable", "fused", "channels", "meta")
        self._put(tensor, **{slot: getattr(source, slot) for slot in slots})

    def forget_file(self, op: Op) -> None:
        """Drop what the file of `op` states of it: it is another op now."""
        self._put(op, version=None, meta=NO_META)

    def replace_uses(self, old: Tensor, new: Tensor, *, skip: Iterable[Op] = ()) -> None:
        """Let every user of `old` read `new`; where `old` is a graph output, `new` becomes it.

        Ops in `skip` keep reading `old`. The name of a graph output stays: `new` takes it over
        and `old` gets another. So an output that is an input too stays what it is, and a `new`
        that is an input or an output itself is refused.
        """
        output = old.is_output and not old.is_input and new is not old
        if output and (new.is_output or new.is_input):
            what = f"has a name of its own in the interface: it cannot become output '{old.name}'"
            raise VerifyError(what, where=new.place, remedy="put an op between the two")
        skipped = set(skip)
        edits = {user.op for user in old.users} - skipped
        self.add_tensor(new)
        for op in sorted(edits, key=lambda o: o.rank):
            self.set_inputs(op, (new if t is old else t for t in op.inputs))
        if output:
            name, other = old.name, new.name
            self.rename(old, other)
            self.rename(new, name)
            self.set_io(outputs=tuple(new if t is old else t for t in self.outputs))

    def remove_op(self, op: Op) -> None:
        """Take out an op whose outputs nobody reads; its outputs go with it."""
        self._check_holds(op)
        for out in op.outputs:
            if self._index.users[out] or out.is_output:
                raise VerifyError(f"'{out.name}' is still read", where=op.place)
        gone = (*op.outputs, *op.intermediates)
        self._nx.remove_node(op)
        for out in gone:
            self._drop_tensor(out)
        self.version += 1

    def set_io(
        self, inputs: Iterable[Tensor] | None = None, outputs: Iterable[Tensor] | None = None
    ) -> None:
        """Set the graph's inputs or outputs."""
        inputs = self.inputs if inputs is None else tuple(inputs)
        outputs = self.outputs if outputs is None else tuple(outputs)
        for t in inputs:
            if t.producer is not None:
                raise VerifyError("is computed: it cannot be an input", where=t.name)
        for t in (*inputs, *outputs):
            self.add_tensor(t)
        self._index.inputs, self._index.outputs = inputs, outputs
        self.version += 1

    def prune(self, keep: Callable[[Op], bool] = lambda op: False) -> tuple[Op, ...]:
        """Remove ops that no output needs (save those `keep` names) and tensors nobody uses."""
        live: set[Any] = set(self.outputs) | {op for op in self.ops if keep(op)}
        live |= {out for op in live if isinstance(op, Op) for out in op.outputs}
        stack = list(live)
        while stack:
            for before in self._index.producers.get(stack.pop(), ()):
                if before not in live:
                    live.add(before)
                    stack.append(before)
                    live.update(before.outputs if isinstance(before, Op) else ())
        dead = tuple(op for op in self.ops if op not in live)
        for op in reversed(dead):
            self.remove_op(op)
        live |= {t for op in self.ops for t in op.intermediates}
        for t in self.tensors:
            if not (t.users or t.producer or t in live):
                self._drop_tensor(t)
        return dead

    def become(self, other: Graph) -> None:
        """Take over everything `other` holds, which must not be used any more."""
        name, version = self.name, self.version
        state = other._content()
        self.__dict__.update(other.__dict__)
        self.name, self.version, self._order = name, max(version, other.version) + 1, None
        self._state = self.version, state

    def clone(self) -> tuple[Graph, dict[Tensor, Tensor]]:
        """An independent copy that shares constant data, and the map from old to new tensors."""
        copy = Graph(self.name)
        copy.meta, copy.bodies, copy._names = dict(self.meta), self.bodies, Counter(self._names)
        tensors = {t: t.twin() for t in self.tensors}
        ops = {op: op.twin(tensors) for op in self.ops}
        nodes: dict[Any, Any] = {**tensors, **ops}
        copy._nx.add_nodes_from(nodes.values())
        copy._nx.add_edges_from((nodes[a], nodes[b]) for a, b in self._nx.edges)
        for t in tensors.values():
            object.__setattr__(t, "_index", copy._index)
        copy._index.inputs = tuple(tensors[t] for t in self.inputs)
        copy._index.outputs = tuple(tensors[t] for t in self.outputs)
        copy._last_rank, copy._inserted = self._last_rank, dict(self._inserted)
        copy._rank_ordered, copy._order = self._rank_ordered, (copy.version, tuple(ops.values()))
        copy._state = copy.version, self._content()
        return copy, tensors

    def snapshot(self) -> tuple[object, ...]:
        """What the graph and its bodies hold now, as a key.

        It equals that of a copy until one of both is edited, and no other.
        """
        return (self._content(), *(body._content() for body in self.bodies))

    # -- inside ----------------------------------------------------------------------------

    def _content(self) -> object:
        """A token of what this graph holds in its present version."""
        if self._state is None or self._state[0] != self.version:
            self._state = self.version, object()
        return self._state[1]

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
        producers = {p for t in inputs for p in self._index.producers.get(t, ())}
        users = {user for out in op.outputs for user in self._index.users.get(out, ())}
        late = any(producer.rank >= rank for producer in producers)
        if not late and self._rank_ordered and all(user.rank > rank for user in users):
            return
        reached = {op, *users}
        for user in users | ({op} if op in self._nx else set()):
            reached |= nx.descendants(self._nx, user)
        for producer in producers & reached:
            raise VerifyError(f"reading '{producer}' would close a cycle", where=op.place)
        self._rank_ordered = self._rank_ordered and not late

    def _check_holds(self, node: Op | Tensor) -> None:
        if node not in self._nx:
            raise VerifyError("is not in the graph", where=node.place)

    def _put(self, node: Op | Tensor, **fields: Any) -> None:
        self._check_holds(node)
        for key, value in fields.items():
            object.__setattr__(node, key, value)
        self.version += 1

    def _drop_tensor(self, tensor: Tensor) -> None:
        if tensor in self._nx and not tensor.is_input and not tensor.is_output:
            self._nx.remove_node(tensor)
            object.__setattr__(tensor, "_index", None)
            self._forget_name(tensor.name)
            self.version += 1

    def _forget_name(self, name: str) -> None:
        self._names[name] -= 1
        if self._names[name] <= 0:
            del self._names[name]


def _first_named(name: str, nodes: Iterable[_Node]) -> _Node:
    for node in nodes:
        if node.name == name:
            return node
    raise KeyError(name)
