"""What a pass may use besides the graph: data, threads, progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from qfrewrite.calibration.ranges import RangeTable
from qfrewrite.data.cache import CachedSamples
from qfrewrite.data.preprocess import Preprocess
from qfrewrite.data.source import DataSource
from qfrewrite.errors import DataError, Diagnostic
from qfrewrite.ir import Array, Graph, Tensor
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.rewrite.rewriter import Log, Rewriter
from qfrewrite.runtime.metrics import Outputs, graph_outputs

# How many procedural images stand in for data: to calibrate on, and to judge tries by.
IMAGINED = 150
_IMAGINED_ASIDE = 32
# Of large images fewer are drawn: as many values, and no less than a few images.
_IMAGINED_VALUES, _IMAGINED_LEAST = 1 << 27, 4

# Runs a list of passes for a pass; see `PassRewriter.run_nested`.
Nested = Callable[["str", Graph, "PassContext", Log, bool, "str | None"], None]
# Called with a label and a total, gives a function to call with the number done.
Progress = Callable[[str, int | None], Callable[[int], None]]


class Samples(Protocol):
    """Model inputs, one sample at a time, as often as asked."""

    @property
    def description(self) -> str:
        """What these are, for people: `200 images of calib/`."""

    def __iter__(self) -> Iterator[dict[str, Array]]: ...


def _no_progress(label: str, total: int | None) -> Callable[[int], None]:
    return lambda done: None


@dataclass
class PassContext:
    """Data and settings of one run.

    data: calibration samples, or None; measuring: the samples that outputs are compared on, and
    held_back: whether those were kept from calibration; threads: for the runtime; progress:
    called with a label and a total, gives a function to call with the number done; checkpoint:
    where interrupted calibration leaves its statistics, and resume: whether it goes on from them;
    ranges: what calibration found, once it ran, and full_statistics: whether it takes histograms
    even where its method needs none; quant: how the result will be quantized. source: what the
    samples were dealt from. reopen: opens the
    data anew for a graph whose inputs have other shapes; size: what the image input was given.
    signatures: the contexts of the model's other entry points, by the names of their signatures.
    preprocess: how pixels become inputs, where there is no data; imagined: whether `data` are
    procedural images that stand in for data. nested: how a pass runs others; the runner sets it.
    """

    data: Samples | None = None
    measuring: Samples | None = None
    held_back: bool = False
    threads: int | None = None
    progress: Progress = _no_progress
    seed: int = 0
    checkpoint: Path | None = None
    resume: bool = False
    ranges: RangeTable | None = None
    full_statistics: bool = False
    quant: QuantOptions = field(default_factory=QuantOptions)
    source: DataSource | None = None
    reopen: Callable[[Graph], PassContext] | None = None
    size: tuple[int, int] | None = None
    signatures: dict[str, PassContext] = field(default_factory=dict)
    preprocess: Preprocess | None = None
    imagined: bool = False
    nested: Nested = field(default=lambda *_: _outside_a_run(), repr=False)
    _outputs: dict[tuple[Graph, int], Outputs] = field(default_factory=dict, repr=False)

    @property
    def judged_on(self) -> Samples:
        """The measuring samples; those of calibration where there are no others."""
        samples = self.measuring if self.measuring is not None else self.data
        assert samples is not None
        return samples

    def of_signature(self, key: str) -> PassContext:
        """The data of another signature, with the settings of this run."""
        own = self.signatures.setdefault(key, PassContext())
        own.threads, own.seed, own.quant = self.threads, self.seed, self.quant
        own.progress, own.full_statistics = self.progress, self.full_statistics
        own.nested = self.nested
        return own

    def aside(self) -> PassContext:
        """The same data and settings for a try on the side, without what this run keeps."""
        return PassContext(
            self.data, self.measuring, self.held_back, threads=self.threads, seed=self.seed,
            quant=self.quant, preprocess=self.preprocess, imagined=self.imagined,
            nested=self.nested,
        )  # fmt: skip

    def imagining(self, graph: Graph) -> PassContext | None:
        """Without data: these settings with procedural images to calibrate and to measure on.

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
        return replace(self, data=drawn, measuring=others, imagined=True, _outputs={})

    def resized(self, graph: Graph, size: tuple[int, int]) -> None:
        """Read the data at the size [H, W] that the graph's image input has from now on."""
        self.size = size
        self._outputs.clear()
        if self.data is None:
            return
        if self.imagined:
            new = self.imagining(graph) or replace(self, data=None, measuring=None, imagined=False)
            self.data, self.measuring, self.imagined = new.data, new.measuring, new.imagined
            return
        if self.reopen is None:
            raise DataError("the data were made for another input size", where="resize_input",
                            remedy="resize first, then open the data")  # fmt: skip
        new = self.reopen(graph)
        self.data, self.measuring, self.held_back = new.data, new.measuring, new.held_back

    def outputs(self, graph: Graph, *, of: tuple[Graph, int] | None = None) -> Outputs:
        """The float outputs of `graph` on the measuring samples; each state is run once.

        of: the graph and version that `graph` is a copy of. Needs `measuring` or `data`.
        """
        key = of or (graph, graph.version)
        if key not in self._outputs:
            self._outputs[key] = graph_outputs(graph, self.judged_on, threads=self.threads)
        return self._outputs[key]


def _outside_a_run() -> None:
    raise AssertionError("passes run others only inside a run of the runner")


class PassRewriter(Rewriter):
    """The rewriter of a pass: edits and log, and the run's context.

    main: whether `graph` is the model's main graph, not the body of a loop or a branch.
    signature: the name of the signature that `graph` computes, where it is another entry point.
    """

    def __init__(
        self, graph: Graph, context: PassContext, log: Log | None = None, *, main: bool = True,
        signature: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(graph, log)
        self.context = context
        self.main = main
        self.signature = signature

    def run_nested(
        self, passes: str, graph: Graph | None = None, context: PassContext | None = None
    ) -> Log:
        """Run a list of passes inside of this one, each on the form it requires.

        graph: a copy to try them on, whose edits are in the log that is returned; None: the graph
        of this pass, with all edits in its own log. context: None: that of this run.
        """
        context, log = context or self.context, self.log if graph is None else Log()
        own = (self.main, self.signature) if graph is None else (True, None)
        self.context.nested(passes, graph or self.graph, context, log, *own)
        return log

    @property
    def entry(self) -> bool:
        """Whether `graph` is run by itself: samples are its inputs."""
        return self.main or self.signature is not None

    def say(self, one: Diagnostic) -> None:
        """Enter a diagnostic, with the names of the pass and of the signature."""
        super().say(one if self.signature is None else one.at(f"signature '{self.signature}'"))

    def observe(
        self, tensors: Sequence[Tensor], label: str, *, most: int | None = None
    ) -> Iterator[list[Array]]:
        """Values of `tensors` for each calibration sample; arrays are valid for one step.

        most: look at no more samples than this.
        """
        from qfrewrite.runtime.session import Session

        assert self.context.data is not None
        session = Session(self.graph, tensors, threads=self.context.threads)
        total = sample_count(self.context.data)
        step = self.context.progress(label, min(total or most, most) if most else total)
        for done, sample in enumerate(islice(self.context.data, most), 1):
            yield session.run(sample)
            step(done)


def sample_count(samples: Any) -> int | None:
    """How many samples there are, where that is known."""
    try:
        return len(samples)
    except TypeError:
        return None
