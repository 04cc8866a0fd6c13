"""A graph on LiteRT, with any of its tensors as outputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from qfrewrite.data.inputs import InputSpec
from qfrewrite.errors import Diagnostic, Diagnostics, QfError, RunError
from qfrewrite.ir import Array, Graph, Model, Quant, Tensor
from qfrewrite.ir.quant import dequantize, quantize
from qfrewrite.lower.model import lower_as_it_is, lower_float, lower_model
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.ops.loops import verify_loops
from qfrewrite.ops.shapes import open_axes, take_sizes
from qfrewrite.ops.subgraphs import reached, verify_subgraphs


def input_specs(graph: Graph) -> list[InputSpec]:
    """Names, shapes and element types of the graph's inputs."""
    return [InputSpec(t.name, t.shape, t.dtype, open_axes(t.dims)) for t in graph.inputs]


def take_usual_sizes(graph: Graph) -> Diagnostics:
    """Give inputs whose size the file leaves open a usual one; says what was assumed."""
    specs = [spec for spec in input_specs(graph) if spec.open_axes]
    take_sizes(graph, {spec.name: spec.assumed for spec in specs})
    texts = (f"{spec} leaves its size open: taken as {list(spec.assumed)}" for spec in specs)
    return Diagnostics(Diagnostic("notice", "open-size", text) for text in texts)


# Windows replaces and removes no file that is mapped into memory, as the interpreter maps its own.
_MAPPED_FILES_ARE_LOCKED = os.name == "nt"


def default_threads() -> int:
    """As many threads as this process may use processors."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


class Session:
    """Runs a float copy of `graph` whose outputs are `probes`.

    The copy is written as a `.tflite` whose graph outputs are the probed tensors: only those are
    kept in memory, everything else stays fused. Probes that are graph inputs or constants are
    answered without the runtime. as_it_is: compute what `graph` says op by op, without the
    rewriting that a written model gets: for what rewriting itself is measured by.
    """

    def __init__(
        self,
        graph: Graph,
        probes: Sequence[Tensor],
        *,
        threads: int | None = None,
        as_it_is: bool = False,
    ) -> None:
        probed, twins = graph.clone()
        wanted = [twins[t] for t in probes]
        computed = [t for t in dict.fromkeys(wanted) if t.producer is not None]
        probed.set_io(outputs=computed)
        lower = lower_as_it_is if as_it_is else lower_float
        lower(probed)
        self._inputs = tuple(t.name for t in graph.inputs)
        self._places: list[int | str | Array] = [
            computed.index(t) if t in computed else t.name if t.data is None else t.data
            for t in wanted
        ]
        self._content = _bytes(probed, lower) if computed else b""
        self._runner = self._start(threads)

    def _start(self, threads: int | None) -> Runner | None:
        return Runner(self._content, threads=threads) if self._content else None

    def twin(self, *, threads: int | None = None) -> Session:
        """The same probes on an interpreter of their own, for another thread."""
        other = copy(self)
        other._runner = other._start(threads)
        return other

    def run(self, sample: dict[str, Array]) -> list[Array]:
        """Values of the probes for one sample; arrays are valid until the next run."""
        values = self._runner.run(sample) if self._runner is not None else []
        return [
            values[p] if isinstance(p, int) else sample[p] if isinstance(p, str) else p
            for p in self._places
        ]

    def visit(self, sample: dict[str, Array]) -> Iterator[Array]:
        """Run one sample; then the values of the probes one by one, in the runtime's own memory.

        Nothing is copied, so a value must be let go before the next run.
        """
        if self._runner is not None:
            self._runner.invoke(sample)
        for place in self._places:
            if isinstance(place, int):
                assert self._runner is not None
                yield self._runner.view(place)
            else:
                yield sample[place] if isinstance(place, str) else place


class Runner:
    """A `.tflite` model, in memory or a file, on the LiteRT interpreter, fed by name or position.

    Quantized inputs and outputs are converted: samples and results are real values. Raises
    RunError for a model that the runtime refuses, or that is not safe to run.
    """

    def __init__(self, content: bytes | Path, *, threads: int | None = None) -> None:
        _check_safe(content)
        try:
            with _chatter_hidden():
                self._interpreter = _interpreter(content, threads or default_threads())
            self._in = self._interpreter.get_input_details()
            self._out = self._interpreter.get_output_details()
            self._shapes: list[tuple[int, ...]] = []
            # The size that a file names for an open dimension need not be one that works.
            if not any(-1 in d["shape_signature"] for d in self._in):
                self._allocate([tuple(d["shape"]) for d in self._in])
        except (RuntimeError, ValueError) as error:
            raise RunError(f"the runtime does not take this model: {error}") from None

    @staticmethod
    def of(
        model: Model, options: QuantOptions | None = None, *, threads: int | None = None
    ) -> Runner:
        """A model as `options` would have it written; by default as it is: an unedited `.tflite`
        as the file says, a GraphDef in float."""
        from qfrewrite.formats.tflite.write import serialize

        return Runner(serialize(lower_model(model, options)[0]), threads=threads)

    @property
    def inputs(self) -> list[InputSpec]:
        """What to feed: real values where an input is quantized."""
        return [
            InputSpec(
                d["name"],
                tuple(int(n) for n in d["shape"]),
                "float32" if _detail_quant(d) is not None else np.dtype(d["dtype"]).name,
                open_axes(d["shape_signature"]),
            )
            for d in self._in
        ]

    @property
    def output_steps(self) -> list[float]:
        """The scale of each output; 0 where it is not quantized."""
        quants = map(_detail_quant, self._out)
        return [0.0 if quant is None else float(quant.scale[0]) for quant in quants]

    def run(self, sample: dict[str, Array] | Sequence[Array]) -> list[Array]:
        """Outputs for one sample, real values; arrays are valid until the next run."""
        self.invoke(sample)
        return [_to_real(self._interpreter.get_tensor(d["index"]), d) for d in self._out]

    def view(self, output: int) -> Array:
        """An output in the runtime's own memory, as it is there: let go of it before `invoke`."""
        value: Array = self._interpreter.tensor(self._out[output]["index"])()
        return value

    def invoke(self, sample: dict[str, Array] | Sequence[Array]) -> None:
        """Feed one sample and compute."""
        values = list(sample.values()) if isinstance(sample, dict) else list(sample)
        shapes = [np.shape(value) for value in values]
        try:
            if shapes != self._shapes:
                self._allocate(shapes)
            for detail, value in zip(self._in, values, strict=True):
                self._interpreter.set_tensor(detail["index"], _to_codes(value, detail))
        except (RuntimeError, ValueError) as error:
            sizes = ", ".join(str(list(shape)) for shape in shapes)
            raise RunError(f"the runtime does not take inputs of {sizes}: {error}") from None
        self.again()

    def _allocate(self, shapes: list[tuple[int, ...]]) -> None:
        """Make room for inputs of these shapes, where the model leaves their sizes open."""
        with _chatter_hidden():
            for detail, shape in zip(self._in, shapes, strict=True):
                if -1 in detail["shape_signature"] and tuple(detail["shape"]) != shape:
                    self._interpreter.resize_tensor_input(detail["index"], shape)
            self._interpreter.allocate_tensors()
        self._in = self._interpreter.get_input_details()
        self._shapes = shapes

    def again(self) -> None:
        """Compute once more, on the inputs that are there."""
        try:
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise RunError(f"the runtime failed: {error}") from None


def _check_safe(content: bytes | Path) -> None:
    """Raise RunError for what the runtime would not survive, or not return from.

    Where subgraphs disagree it would write outside its memory; loops may have no end.
    """
    from qfrewrite.formats.tflite.read import parse_tflite, read_tflite

    where = None if isinstance(content, bytes) else str(content)
    model = parse_tflite(content) if isinstance(content, bytes) else read_tflite(content)
    checks = (
        (verify_subgraphs, "cannot be run safely", "make the file anew: its subgraphs must agree"),
        (verify_loops, "cannot be run", None),
    )
    for verify, what, remedy in checks:
        try:
            verify(model.graphs)
        except QfError as error:
            raise RunError(f"{what}: {error}", where=where, remedy=remedy) from None


def _interpreter(content: bytes | Path, threads: int) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tensorflow.lite import Interpreter
    if isinstance(content, Path) and _MAPPED_FILES_ARE_LOCKED:
        content = content.read_bytes()
    if isinstance(content, Path):
        return Interpreter(model_path=str(content), num_threads=threads)
    return Interpreter(model_content=content, num_threads=threads)


@contextmanager
def _chatter_hidden() -> Iterator[None]:
    """Keep the runtime's own log lines ("Created TensorFlow Lite XNNPACK delegate") off stderr.

    They are written by C++ code straight to the file descriptor, and there is no setting for it.
    """
    try:
        saved = os.dup(2)
    except OSError:  # no stderr
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _detail_quant(detail: dict[str, Any]) -> Quant | None:
    scale, zero = detail["quantization"]
    return Quant.per_tensor(float(scale), int(zero)) if scale else None


def _to_codes(value: Array, detail: dict[str, Any]) -> Array:
    quant = _detail_quant(detail)
    dtype = np.dtype(detail["dtype"])
    if quant is None or value.dtype.kind != "f" or dtype.kind == "f":
        return value.astype(dtype, copy=False)
    return quantize(value, quant, dtype.name)


def _to_real(value: Array, detail: dict[str, Any]) -> Array:
    quant = _detail_quant(detail)
    return value if quant is None or value.dtype.kind == "f" else dequantize(value, quant)


def _bytes(graph: Graph, lower: Callable[[Graph], None]) -> bytes:
    from qfrewrite.formats.tflite.write import serialize

    needed = reached(graph) - {graph}
    # Subgraphs are numbered, so those that are not run leave empty ones in their places.
    bodies = [b.clone()[0] if b in needed else Graph() for b in graph.bodies] if needed else []
    for body in bodies:
        lower(body)
    return serialize(Model([graph, *bodies]))
