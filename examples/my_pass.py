"""A pass of one's own: the softmax at the end of a classifier goes, the logits stay.

Chips often leave softmax to the host, and top-1 does not need it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import qfrewrite as qf


@qf.register
@dataclass(frozen=True)
class StripSoftmax(qf.Pass):
    """Remove every SOFTMAX that is a graph output.

    Given:  y = SOFTMAX(x), an output        Result:  x is the output, under y's name
    """

    def run(self, graph: qf.Graph, rw: qf.PassRewriter) -> None:
        """Bypass the op; the rewriter keeps the output's name and writes the log."""
        for op in graph.ops_of("SOFTMAX"):
            if op.output.is_output:
                rw.bypass(op)
            else:
                rw.skip(op, "is read inside the graph")


def main() -> None:
    """Use the pass by its name."""
    model = qf.load(Path(__file__).parent / "digits" / "digits_mobilenet.pb")
    report = qf.run_passes(model, "strip_softmax,fold_bn")
    for one in report.passes:
        print(f"{one.name}: {one.edits} edits, {one.skips} skips")
    saved = qf.save(model, sys.argv[1] if len(sys.argv) > 1 else "digits_logits.tflite")
    print(f"wrote {saved.path}, {saved.size} bytes")


if __name__ == "__main__":
    main()
