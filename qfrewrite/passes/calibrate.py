"""`calibrate`: measure activations, choose ranges, insert FAKE_QUANT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from qfrewrite.calibrate.observers import ChannelMean, MinMax
from qfrewrite.calibrate.statistics import propagate
from qfrewrite.errors import DataError
from qfrewrite.ir import Array, Graph, Op, Tensor
from qfrewrite.ir.quant import ACTIVATION_CODES
from qfrewrite.lower.canonical import canonicalise, fuses_into
from qfrewrite.lower.groups import find_groups
from qfrewrite.lower.ranges import Range
from qfrewrite.passes._base import Pass, register
from qfrewrite.passes._context import PassRewriter, Samples
from qfrewrite.rewrite.match import LINEAR


@register
@dataclass(frozen=True)
class Calibrate(Pass):
    """Insert FAKE_QUANT with a range behind every float activation.

    Given:  y = f(x)        Result:  y' = FAKE_QUANT(y), read by all that read y
    Ranges are the minimum and maximum over the data. Without data they follow from BatchNorm
    statistics where the graph has them, else from synthetic inputs. They hold zero exactly, are
    shared where int8 kernels need one scale, and are the prescribed ones behind SOFTMAX,
    LOGISTIC, TANH and the like. Ranges the model brings (FAKE_QUANT) stay. With `bias` the mean
    of every linear layer's input is noted too: the int8 writer corrects biases by it for the
    mean error of rounding the weights (Nagel et al. 2019, arXiv:1906.04721, section 4.2).
    """

    name: ClassVar[str] = "calibrate"
    exact: ClassVar[bool] = False
    # What quantization costs is measured on the int8 model itself.
    measured: ClassVar[bool] = False

    bias: bool = True

    def run(self, graph: Graph, rw: PassRewriter) -> None:
        """Housekeeping first: ranges belong to the tensors that will be written."""
        if not rw.main:
            rw.note(f"subgraph '{graph.name}' stays float: only the main graph is calibrated")
            return
        canonicalise(graph)
        tensors = observable(graph)
        if not tensors:
            rw.note("no float activations to calibrate")
            return
        means = {t: ChannelMean() for t in tensors if self.bias and _feeds_linear(graph, t)}
        known = _from_data if rw.context.data is not None else _guess
        ranges = known(rw, tensors, means)
        for tensor, observer in means.items():
            if (mean := observer.mean) is not None:
                graph.update_tensor(tensor, meta={**tensor.meta, "channel_mean": mean})
        _insert(rw, tensors, ranges)


def observable(graph: Graph) -> list[Tensor]:
    """Float tensors that an int8 model holds: all but those fused away, and without a range."""
    found = []
    for tensor in (*graph.inputs, *(out for op in graph.ops for out in op.outputs)):
        if tensor.dtype != "float32" or tensor.is_const or not tensor.size:
            continue
        readers = graph.readers(tensor)
        maker = graph.producer(tensor)
        ranged = (maker is not None and maker.kind == "FAKE_QUANT") or any(
            r.op.kind == "FAKE_QUANT" for r in readers
        )
        if ranged or (maker is not None and _feeds_only_constants(maker)):
            continue
        if any(fuses_into(graph, r.op) is not None for r in readers):
            continue
        found.append(tensor)
    return found


def _feeds_only_constants(op: Op) -> bool:
    return bool(op.inputs) and all(t is None or t.is_const for t in op.inputs)


def _feeds_linear(graph: Graph, tensor: Tensor) -> bool:
    return bool(tensor.shape) and any(r.op.kind in LINEAR for r in graph.readers(tensor))


Means = dict[Tensor, ChannelMean]


def _from_data(rw: PassRewriter, tensors: list[Tensor], means: Means) -> dict[Tensor, Range]:
    observers = [MinMax() for _ in tensors]
    for values in rw.observe(tensors, "calibrating"):
        _observe(tensors, observers, means, values)
    if not observers[0].samples:
        raise DataError("the data holds no samples", where="calibrate")
    for tensor, observer in zip(tensors, observers, strict=True):
        if observer.not_finite:
            raise DataError(
                f"{observer.not_finite} values are NaN or infinite",
                where=f"calibrate: tensor '{tensor.name}'",
                remedy="check the preprocessing and the model's weights",
            )
    data = rw.context.data
    assert data is not None
    rw.note(f"ranges from {data.description}")
    return {
        t: o.range for t, o in zip(tensors, observers, strict=True) if o.range is not None
    }  # fmt: skip


def _observe(
    tensors: list[Tensor], observers: list[MinMax], means: Means, values: list[Array]
) -> None:
    for tensor, observer, value in zip(tensors, observers, values, strict=True):
        observer.add(value)
        if tensor in means:
            means[tensor].add(value)


def _guess(rw: PassRewriter, tensors: list[Tensor], means: Means) -> dict[Tensor, Range]:
    """Ranges without data: from BatchNorm statistics, and from synthetic inputs for the rest."""
    gaussians = {t: g for t, g in propagate(rw.graph).items() if t in set(tensors)}
    known = {t: g.range() for t, g in gaussians.items()}
    for tensor, gaussian in gaussians.items():
        if tensor in means:
            means[tensor].add(gaussian.mean)
    rest = [t for t in tensors if t not in known]
    text = f"no data: ranges of {len(known)} tensors from BatchNorm statistics"
    if rest:
        observers = [MinMax() for _ in rest]
        for values in _synthetic_runs(rw, rest):
            # Means of made-up inputs would mend nothing.
            _observe(rest, observers, {}, values)
        known |= {t: o.range for t, o in zip(rest, observers, strict=True) if o.range is not None}
        text += f", of {len(rest)} from synthetic inputs in [-1, 1]"
    rw.note(f"{text}; give --data for ranges that fit your inputs")
    return known


def _synthetic_runs(rw: PassRewriter, tensors: list[Tensor]) -> Iterator[list[Array]]:
    from qfrewrite.calibrate.data import synthetic
    from qfrewrite.runtime.session import Session, input_specs

    samples: Samples = synthetic(input_specs(rw.graph), samples=16, seed=rw.context.seed)
    session = Session(rw.graph, tensors, threads=rw.context.threads)
    return (session.run(sample) for sample in samples)


def _insert(rw: PassRewriter, tensors: list[Tensor], ranges: dict[Tensor, Range]) -> None:
    groups = find_groups(rw.graph, ranges)
    lowest, highest = ACTIVATION_CODES["int8"]
    for tensor in tensors:
        quant = groups.of[tensor].quant("int8")
        if quant is None:
            maker = rw.graph.producer(tensor)
            if maker is not None:
                rw.skip(maker, f"nothing was observed at '{tensor.name}'")
            continue
        scale, zero = float(quant.scale[0]), int(quant.zero_point[0])
        low, high = (lowest - zero) * scale, (highest - zero) * scale
        rw.insert_after(
            tensor, "FAKE_QUANT", {"min": low, "max": high, "num_bits": 8}, suffix="fake_quant",
            detail=f"range {low:.4g}..{high:.4g}",
        )  # fmt: skip
    for note in groups.notes:
        rw.note(note)
