"""What a pass may use besides the graph: data, settings of the run, progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from qfrewrite.calibration.range_table import RangeTable
from qfrewrite.data.cache import CachedSamples
from qfrewrite.data.preprocess import Preprocess, chosen_preprocess
from qfrewrite.errors import Diagnostic
from qfrewrite.ir import Array, Graph, Model, Tensor
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.rewrite.rewriter import Log, Rewriter
from qfrewrite.runtime.metrics import Outputs
from qfrewrite.solve.dataset import HELD_OUT, Dataset, Samples, open_datasets

# How many procedural images stand in for data: to calibrate on, and to judge tries by.
IMAGINED = 150
_IMAGINED_ASIDE = 32
# Of large images fewer are drawn: as many values, and no less than a few images.
_IMAGINED_VALUES, _IMAGINED_LEAST = 1 << 27, 4

# Runs a list of passes for a pass, and gives the ranges they chose; see `PassRewriter.run_nested`.
Nested = Callable[["str", Graph, "PassContext", Log, bool, "str | None"], "RangeTable | None"]
# Called with a label and a total, gives a function to call with the number done.
Progress = Callable[[str, int | None], Callable[[int], None]]


def no_progress(label: str, total: int | None) -> Callable[[int], None]:
    """Shows nothing."""
    return lambda done: None


def _outside_a_run(*_: Any) -> RangeTable | None:
    raise AssertionError("passes run others only inside a run of the runner")


@dataclass(frozen=True)
class PassContext:
    """Data and settings of one run; what passes find is in their reports."""

    samples: Dataset | None = None
    """None without data."""
    threads: int | None = None
    """Of the runtime; None: all cores."""
    progress: Progress = no_progress
    """Shows how far a long step is."""
    seed: int = 0
    """Of made-up inputs."""
    checkpoint: Path | None = None
    """Where interrupted calibration leaves its statistics."""
    resume: bool = False
    """Whether calibration goes on from there."""
    full_statistics: bool = False
    """Whether calibration takes histograms even where its method needs none."""
    quant: QuantOptions = field(default_factory=QuantOptions)
    """How the result will be quantized."""
    signatures: Mapping[str, Dataset] = field(default_factory=dict)
    """The data of the model's other entry points, by the names of their signatures."""
    preprocess: Preprocess | None = None
    """How pixels become inputs, where there are no data."""
    nested: Nested = field(default=_outside_a_run, repr=False)
    """How a pass runs others; the runner sets it."""

    @property
    def imagined(self) -> bool:
        """Whether the samples are procedural images that stand in for data."""
        return self.samples is not None and self.samples.imagined

    @property
    def judged_on(self) -> Samples:
        """What outputs are compared on; needs samples."""
        assert self.samples is not None
        return self.samples.judged_on

    def of_signature(self, key: str) -> PassContext:
        """The data of another signature, with the settings of this run."""
        return replace(
            self,
            samples=self.signatures.get(key),
            signatures={},
            preprocess=None,
            checkpoint=None,
            resume=False,
        )

    def aside(self) -> PassContext:
        """The same data and settings for a trial, without what this run keeps or shows."""
        return replace(
            self,
            samples=None if self.samples is None else self.samples.apart(),
            progress=no_progress,
            checkpoint=None,
            resume=False,
            full_statistics=False,
            signatures={},
        )

    def imagine(self, graph: Graph) -> Dataset | None:
        """Procedural images to calibrate and to measure on, where there are no data.

        None where an input of `graph` does not look like an image.
        """
        from qfrewrite.data.source import synthetic
        from qfrewrite.data.synthetic import looks_like_image
        from qfrewrite.runtime.session import input_specs

        specs = input_specs(graph)
        if not specs or not all(map(looks_like_image, specs)):
            return None
        values = sum(math.prod(spec.assumed) for spec in specs)
        most = max(_IMAGINED_VALUES // max(values, 1), _IMAGINED_LEAST)
        drawn, others = (
            CachedSamples(synthetic(specs, min(count, most), seed, preprocess=self.preprocess))
            for count, seed in ((IMAGINED, self.seed), (_IMAGINED_ASIDE, self.seed + 1))
        )
        return Dataset(drawn, others, imagined=True, reopen=self.imagine)

    def outputs(self, graph: Graph) -> Outputs:
        """The float outputs of `graph` on the measuring samples; each state is run once."""
        assert self.samples is not None
        return self.samples.outputs(graph, threads=self.threads)


class PassRewriter(Rewriter):
    """The rewriter of a pass: edits and log, the run's context, and what the pass measured.

    main: whether `graph` is the model's main graph, not the body of a loop or a branch.
    signature: the name of the signature that `graph` computes, where it is another entry point.
    """

    def __init__(
        self,
        graph: Graph,
        context: PassContext,
        log: Log | None = None,
        *,
        main: bool = True,
        signature: str | None = None,
    ) -> None:
        super().__init__(graph, log)
        self.context = context
        self.main = main
        self.signature = signature
        # What the pass measured; the runner puts it into the report.
        self.ranges: RangeTable | None = None
        self.size: tuple[int, int] | None = None

    @property
    def samples(self) -> Dataset | None:
        """The data of `graph`; None without data."""
        return self.context.samples

    def run_nested(
        self, passes: str, graph: Graph | None = None, context: PassContext | None = None
    ) -> Log:
        """Run a list of passes inside of this one, each on the form it requires.

        graph: a copy to try them on, whose edits are in the log that is returned; None: the graph
        of this pass, with all edits in its own log. context: None: that of this run.
        """
        context, log = context or self.context, self.log if graph is None else Log()
        own = (self.main, self.signature) if graph is None else (True, None)
        ranges = self.context.nested(passes, graph or self.graph, context, log, *own)
        if graph is None:
            self.ranges = self.ranges if ranges is None else ranges
        return log

    def resized(self, size: tuple[int, int]) -> None:
        """Read the data at the size [H, W] that the graph's image input has from now on."""
        self.size = size
        if self.samples is not None:
            self.context = replace(self.context, samples=self.samples.for_graph(self.graph))

    @property
    def entry(self) -> bool:
        """Whether `graph` is run by itself: samples are its inputs."""
        return self.main or self.signature is not None

    def say(self, one: Diagnostic) -> None:
        """Enter a diagnostic, with the names of the pass and of the signature."""
        super().say(one if self.signature is None else one.at(f"signature '{self.signature}'"))

    def values_of(
        self, tensors: Sequence[Tensor], label: str, *, most: int | None = None
    ) -> Iterator[list[Array]]:
        """Values of `tensors` for each calibration sample; arrays are valid for one step.

        most: look at no more samples than this.
        """
        from qfrewrite.runtime.session import Session

        assert self.samples is not None
        samples = self.samples.calibration
        session = Session(self.graph, tensors, threads=self.context.threads)
        total = sample_count(samples)
        step = self.context.progress(label, min(total or most, most) if most else total)
        for done, sample in enumerate(islice(samples, most), 1):
            yield session.run(sample)
            step(done)


def open_context(
    model: Model,
    data: Any,
    *,
    samples: int = 200,
    preprocess: Any = None,
    once: bool = False,
    held_out: int = HELD_OUT,
    **settings: Any,
) -> PassContext:
    """The data and settings that passes see; `data` may be a PassContext already.

    data, samples, once, held_out: as for `open_datasets`. A signature without data is calibrated on
    synthetic inputs. preprocess: of images; by default what the model's metadata say, else
    `mobilenet`. settings: fields of PassContext.
    """
    if isinstance(data, PassContext):
        return data
    how = chosen_preprocess(model, preprocess)
    seed = settings.get("seed", 0)
    main, others = open_datasets(
        model, data, samples=samples, preprocess=how, seed=seed, once=once, held_out=held_out
    )
    return PassContext(main, signatures=others, preprocess=how, **settings)


def sample_count(samples: Any) -> int | None:
    """How many samples there are, where that is known."""
    return len(samples) if isinstance(samples, Sized) else None
