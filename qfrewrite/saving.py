"""Writing: by suffix and scheme, checked against the specification before a byte is written."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qfrewrite.errors import UsageError, VerifyError
from qfrewrite.ir import Model
from qfrewrite.lower.quantized import has_ranges
from qfrewrite.lower.scheme import SCHEMES, QuantOptions, QuantReport
from qfrewrite.lower.spec_check import Violation
from qfrewrite.targets.target import Target, Unmapped

WEIGHTS = ("per-channel", "per-tensor")
DEFAULT_SCHEME = "int8"


@dataclass
class SaveReport:
    """A written file."""

    path: Path
    """Where it is."""
    size: int
    """In bytes."""
    lowering: QuantReport = field(default_factory=QuantReport)
    """What became of the ops."""
    target: str | None = None
    """The runtime or chip that it was written for."""
    unmapped: list[Unmapped] = field(default_factory=list)
    """The ops that the target does not take."""

    def __repr__(self) -> str:
        return f"<SaveReport {str(self.path)!r}: {self.size} bytes>"

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        return {
            "path": str(self.path),
            "size": self.size,
            "ops": self.lowering.counts,
            "float_ops": [
                dict(zip(("name", "op", "why"), entry, strict=True))
                for entry in self.lowering.float_ops
            ],
            "diagnostics": [one.to_dict() for one in self.lowering.diagnostics],
            "target": self.target,
            "unmapped": [asdict(one) for one in self.unmapped],
        }


def save(
    model: Model,
    path: str | Path,
    *,
    scheme: str | None = None,
    weights: str = "per-channel",
    fc_weights: str | None = None,
    io: str | None = None,
    keep_float: Sequence[str] = (),
    keep_int16: Sequence[str] = (),
    target: str | None = None,
) -> SaveReport:
    """Write `model`; the path's suffix decides the format.

    `.tflite`: quantized by `scheme` (int8, uint8, int16x8, dynamic, weight-only, float16, float32)
    wherever FAKE_QUANT gives ranges; `.pb`: the rewritten GraphDef with its FakeQuant nodes. If a
    scheme is named, the result has it, or this is an error; without one the result is int8 where
    there are ranges, and as the model is where there are none. weights, fc_weights:
    `per-channel` or `per-tensor`, for all and for FULLY_CONNECTED; io: `int8`, `uint8`, `int16`
    or `float32` (default: as activations are); keep_float, keep_int16: names of ops that stay
    float or compute in 16 bits, with `*` and `?`; target: whose demands the report checks, and
    whose slow ops are written as faster ones. What is written obeys the specification, else
    nothing is. Nothing is left behind on failure. Raises OutputError, UnsupportedError,
    UsageError, VerifyError.
    """
    path = Path(path)
    options = quant_options(scheme, weights, fc_weights, io, keep_float, keep_int16, target)
    if path.suffix == ".pb":
        from qfrewrite.formats.atomic import write_atomic
        from qfrewrite.formats.graphdef.write import graphdef_bytes
        from qfrewrite.lower.model import lower_graphdef

        if scheme is not None:
            _check_graphdef_scheme(model, options)
        report = QuantReport()
        content = graphdef_bytes(lower_graphdef(model), report.diagnostics)
        return SaveReport(path, write_atomic(path, content), report)
    if path.suffix == ".tflite":
        return _save_tflite(model, path, options, target, asked=scheme is not None)
    what = f"the suffix '{path.suffix}' names no format"
    raise UsageError(what, where=str(path), remedy="end the output in .tflite or .pb")


def _save_tflite(
    model: Model, path: Path, options: QuantOptions, target: str | None, *, asked: bool
) -> SaveReport:
    from qfrewrite.formats.tflite.write import write_tflite
    from qfrewrite.lower.model import lower_model
    from qfrewrite.lower.scheme_check import check_scheme
    from qfrewrite.ops.subgraphs import verify_subgraphs

    lowered, lowering = lower_model(model, options)
    if asked:
        check_scheme(lowered, options, lowering)
    if lowering.counts:
        _check(lowered)
    if model.edited:
        verify_subgraphs(lowered.graphs)
    missing = _unmapped(lowered, target)
    return SaveReport(path, write_tflite(lowered, path), lowering, target, missing)


def _unmapped(model: Model, target: str | None) -> list[Unmapped]:
    """The ops that `target` does not take; raises UsageError where there is no such target."""
    from qfrewrite.targets.target import unmapped

    chosen = _target(target)
    return unmapped(model, chosen) if chosen is not None else []


def _target(name: str | None) -> Target | None:
    from qfrewrite.targets.table import TARGETS

    _one_of("target", name, TARGETS)
    return None if name is None else TARGETS[name]


def _check_graphdef_scheme(model: Model, options: QuantOptions) -> None:
    """A GraphDef holds ranges as FakeQuant nodes, and weights in float32."""
    if options.kind.activations is None and options.kind.weights is not None:
        what = f"a .pb has no weights of scheme {options.scheme}"
        raise UsageError(what, where="scheme", remedy="end the output in .tflite")
    if options.kind.activations is not None and not any(has_ranges(g) for g in model.graphs):
        what = "the model has no ranges: it would be written without FakeQuant nodes"
        remedy = "add calibrate to the passes"
        raise VerifyError(what, where=f"scheme {options.scheme}", remedy=remedy)


def quant_options(
    scheme: str | None = None,
    weights: str = "per-channel",
    fc_weights: str | None = None,
    io: str | None = None,
    keep_float: Sequence[str] = (),
    keep_int16: Sequence[str] = (),
    target: str | None = None,
) -> QuantOptions:
    """How to quantize, from names; raises UsageError where one is not known.

    Without a scheme it is int8. A target whose FULLY_CONNECTED takes one scale gets one, unless
    `fc_weights` says otherwise; ops that it computes slowly are written as faster ones.
    """
    chosen = _target(target)
    _one_of("weights", weights, WEIGHTS)
    _one_of("fc_weights", fc_weights, WEIGHTS)
    by_target = None if chosen is None or chosen.per_axis_fc else False
    per_channel_fc = by_target if fc_weights is None else fc_weights == "per-channel"
    return QuantOptions(
        scheme or DEFAULT_SCHEME,
        weights == "per-channel",
        per_channel_fc,
        io,
        tuple(keep_float),
        tuple(keep_int16),
        chosen.slow if chosen is not None else frozenset(),
    )


def check(path: str | Path, *, target: str | None = None) -> list[Violation | Unmapped]:
    """What in a `.tflite` breaks the 8-bit specification, and which ops `target` does not take.

    Raises ModelFileError, UsageError.
    """
    from qfrewrite.formats.tflite.read import read_tflite
    from qfrewrite.lower.spec_check import check_model

    _target(target)
    if not is_tflite(Path(path)):
        raise UsageError("is no .tflite", where=str(path), remedy="convert it first")
    model = read_tflite(path)
    return [*check_model(model, mapped=True), *_unmapped(model, target)]


def _check(lowered: Model) -> None:
    """Raise VerifyError where what is to be written breaks the specification."""
    from qfrewrite.lower.spec_check import check_model

    for violation in check_model(lowered):
        what = f"{violation.text} [{violation.code}]"
        remedy = "keep the op float (keep_float), and report this, please"
        raise VerifyError(what, where=violation.where, remedy=remedy)


def default_output(model: Model, scheme: str | None = None) -> Path:
    """`<model>_<scheme>.tflite` in the current directory; `_float` where nothing is quantized."""
    scheme = scheme or DEFAULT_SCHEME
    kind = SCHEMES.get(scheme, SCHEMES[DEFAULT_SCHEME])
    coded = any(t.dtype == "int8" for g in model.graphs for t in (*g.inputs, *g.outputs))
    ranged = kind.activations is not None and any(has_ranges(g) for g in model.graphs)
    if ranged or (kind.activations is None and kind.weights is not None):
        return Path(f"{model.name}_{scheme}.tflite")
    return Path(f"{model.name}_{'int8' if coded else 'float'}.tflite")


def is_tflite(path: Path) -> bool:
    """By the mark at byte 4, else by the suffix: a renamed file is read as what it is."""
    try:
        with path.open("rb") as file:
            return file.read(8)[4:] == b"TFL3" or path.suffix == ".tflite"
    except OSError:
        return path.suffix == ".tflite"


def _one_of(name: str, value: str | None, choices: Collection[str]) -> None:
    if value is not None and value not in choices:
        remedy = f"use one of {', '.join(choices)}"
        raise UsageError(f"{name}='{value}' is not known", remedy=remedy)
