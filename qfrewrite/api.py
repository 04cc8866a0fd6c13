"""The public surface: load, run passes, save, and all of it at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from qfrewrite.analyze.compare import RANKED_ONLY, synthetic_inputs
from qfrewrite.calibration.range_table import RangeTable
from qfrewrite.conversion import Job, QuantizeReport, convert, dequantize, load
from qfrewrite.errors import Diagnostics
from qfrewrite.ir import Model
from qfrewrite.passes import Pass, Progress, RunReport, judged_on, make_passes
from qfrewrite.passes import run_passes as _run_passes
from qfrewrite.saving import SaveReport, check, quant_options, save
from qfrewrite.solve.context import no_progress, open_context
from qfrewrite.solve.dataset import Dataset
from qfrewrite.solve.sensitivity import Sensitivities, sensitivities

__all__ = [
    "QuantizeReport",
    "SaveReport",
    "calibrate",
    "check",
    "dequantize",
    "load",
    "open_context",
    "quantize",
    "run_passes",
    "save",
    "sensitivity",
]

DEFAULT_PASSES = "remove_dw_bn,relu6_to_relu,calibrate"


def run_passes(
    model: Model,
    passes: str | Sequence[Pass],
    *,
    data: Any = None,
    samples: int = 200,
    preprocess: Any = None,
    seed: int = 0,
    threads: int | None = None,
    verify: str = "structure",
    progress: Progress = no_progress,
    after: Callable[[Pass, Model], Any] | None = None,
) -> RunReport:
    """Run passes on `model`, in place, and report what each changed, skipped and why.

    passes: text like `fold_bn,calibrate` or a list of passes. data: an image folder, `.npy`,
    `.npz`, an array, or any iterable of samples (see `qfrewrite.data.source.open_data`);
    `samples` of it are used and up to 50 others kept for measuring. preprocess: `mobilenet`,
    `unit`, `raw`, `imagenet` or `mean=..,std=..`, for images; by default what the metadata of a
    `.tflite` say, else `mobilenet`. verify: `off`, `structure` or `numeric`.
    A quantized model is made float first (`dequantize`). Raises PassError, DataError, VerifyError.
    """
    dequantize(model)
    context = open_context(
        model,
        data,
        samples=samples,
        preprocess=preprocess,
        held_out=judged_on(_as_passes(passes)),
        seed=seed,
        threads=threads,
        progress=progress,
    )
    return _run_passes(model, passes, context, verify=verify, after=after)


def calibrate(
    model: Model | str | Path,
    data: Any = None,
    *,
    method: str = "minmax",
    per_layer: str = "",
    passes: str = "",
    samples: int = 200,
    preprocess: Any = None,
    bins: int = 2048,
    histograms: Literal["auto", "always"] = "auto",
    seed: int = 0,
    threads: int | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: Progress = no_progress,
) -> RangeTable:
    """Observe `model` over `data` and choose a range for every tensor; the model stays as it is.

    passes: run first, on a copy, so that the ranges fit the graph they will be used on: replay
    them by `passes + ",calibrate(ranges=FILE)"`. method, per_layer, bins: as for the `calibrate`
    pass. histograms: `auto` takes them for methods that need them; `always`: so that
    `RangeTable.choose` can choose anew by any method. checkpoint: where Ctrl-C leaves the
    statistics so far; with `resume` the run goes on from there. The rest
    as in `run_passes`. Raises DataError, UsageError, Interrupted.
    """
    from qfrewrite.passes.calibrate import Calibrate

    loaded = _own_copy(model)
    context = open_context(
        loaded,
        data,
        samples=samples,
        preprocess=preprocess,
        once=not passes,
        seed=seed,
        threads=threads,
        full_statistics=histograms == "always",
        resume=resume,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        progress=progress,
    )
    last = Calibrate(method, per_layer=per_layer, bins=bins)
    report = _run_passes(loaded, [*_as_passes(passes), last], context)
    table = report.ranges.get(None, RangeTable())
    table.model = loaded.name
    about_data = context.samples.diagnostics if context.samples is not None else ()
    table.diagnostics = Diagnostics([*about_data, *table.diagnostics])
    return table


def sensitivity(
    model: Model | str | Path,
    data: Any = None,
    *,
    passes: str = "calibrate",
    samples: int = 200,
    preprocess: Any = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = no_progress,
    **saving: Any,
) -> Sensitivities:
    """What quantizing costs: the model as a whole, and each layer alone and left out.

    passes: run first, on a copy. SQNR of the outputs against float, in dB, on up to 32 held-out
    samples. Without data layers are ranked on synthetic inputs, and there is no figure of the
    whole. The rest as in `run_passes` and `save`. Raises DataError, PassError, UsageError.
    """
    loaded = _own_copy(model)
    context = open_context(
        loaded,
        data,
        samples=samples,
        preprocess=preprocess,
        seed=seed,
        threads=threads,
        quant=quant_options(**saving),
        progress=progress,
    )
    judged = context.samples or Dataset(synthetic_inputs(loaded.graph, seed + 1))
    reference = judged.outputs(loaded.clone().graph, threads=threads)
    _run_passes(loaded, passes, context)
    whole, layers = sensitivities(loaded.graph, reference, judged.judged_on, context)
    if context.samples is None:
        return Sensitivities(layers, None, Diagnostics([RANKED_ONLY]))
    return Sensitivities(layers, whole)


def _own_copy(model: Model | str | Path) -> Model:
    """A float model that may be changed."""
    copy = load(model) if isinstance(model, (str, Path)) else model.clone()
    dequantize(copy)
    return copy


def _as_passes(passes: str | Sequence[Pass]) -> Sequence[Pass]:
    if isinstance(passes, str):
        return make_passes(passes) if passes else []
    return passes


def quantize(
    path: str | Path,
    output: str | Path | None = None,
    *,
    passes: str | Sequence[Pass] = DEFAULT_PASSES,
    data: Any = None,
    samples: int = 200,
    preprocess: Any = None,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    seed: int = 0,
    threads: int | None = None,
    verify: str = "structure",
    **saving: Any,
) -> QuantizeReport:
    """Load, run passes, write, and compare the result with the float model.

    output: by default `<model>_<scheme>.tflite` in the current directory. A result that the runtime
    fails on is not left behind. The rest as in `load`, `run_passes` and `save` (to which all
    further arguments go).
    """
    job = Job(
        passes=make_passes(passes) if isinstance(passes, str) else passes,
        output=None if output is None else Path(output),
        data=data,
        samples=samples,
        preprocess=preprocess,
        seed=seed,
        threads=threads,
        verify=verify,
        saving=saving,
    )
    return convert(load(path, inputs=inputs, outputs=outputs), job)
