"""Loops without an end are refused before anything runs; all others are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qfrewrite as qf
from qfrewrite.errors import RunError, VerifyError
from qfrewrite.formats.tflite.write import write_tflite
from qfrewrite.ir import Graph, Model, Op, Tensor, constant
from qfrewrite.ops.build import GraphBuilder, append_op
from qfrewrite.ops.loops import MOST_STEPS, verify_loops


def counting(step: int, limit: int, *, start: int | None = 0, compare: str = "LESS") -> Model:
    """y = x / 2^n, where n is how often `step` is added to `start` before `limit` is reached."""
    main = Graph("main")
    x = Tensor("x", (1, 4))
    first = Tensor("first", (), "int32") if start is None else constant("first", np.int32(start))
    main.set_io([x] if start is not None else [x, first])
    outs = [Tensor("n", (), "int32"), Tensor("y", (1, 4))]
    attrs = {"cond_subgraph_index": 1, "body_subgraph_index": 2}
    main.add_op(Op("WHILE", [first, x], outs, attrs, name="loop"))
    main.set_io(outputs=[append_op(main, "RELU", [outs[1]], name="z").output])
    graphs = [main]
    for name in ("cond", "body"):
        b = GraphBuilder(name)
        i, v = b.input("i", (), "int32"), b.input("v", (1, 4))
        if name == "cond":
            graphs.append(b.finish(b.op(compare, i, b.const("limit", np.int32(limit)))))
        else:
            more = b.op("ADD", i, b.const("step", np.int32(step)))
            graphs.append(b.finish(more, b.op("MUL", v, b.const("half", np.float32(0.5)))))
    main.bodies = tuple(graphs[1:])
    return Model(graphs)


@pytest.mark.parametrize(
    ("step", "limit", "compare"),
    [(0, 4, "LESS"), (-1, 4, "LESS"), (1, 2**31 - 1, "LESS"), (1, MOST_STEPS, "LESS"),
     (1, -3, "GREATER_EQUAL"), (3, 4, "NOT_EQUAL")],
)  # fmt: skip
def test_loops_without_an_end(step: int, limit: int, compare: str, tmp_path: Path) -> None:
    """Without the check the process hangs in the runtime."""
    model = counting(step, limit, compare=compare)
    with pytest.raises(VerifyError, match="a loop without an end"):
        verify_loops(model.graphs)
    write_tflite(model, tmp_path / "model.tflite")
    with pytest.raises(RunError, match=r"\A[^\n]*'n'[^\n]*a loop without an end[^\n]*\Z"):
        qf.run_passes(qf.load(tmp_path / "model.tflite"), "calibrate")


@pytest.mark.parametrize(
    "model",
    [counting(1, 4), counting(1, MOST_STEPS - 1), counting(0, -1), counting(0, 4, start=None),
     counting(4, 4, compare="NOT_EQUAL")],
)  # fmt: skip
def test_other_loops(model: Model) -> None:
    """They end; of the fourth nothing is known, for it starts from an input."""
    verify_loops(model.graphs)


def test_a_loop_that_ends_is_run(tmp_path: Path) -> None:
    write_tflite(counting(1, 4), tmp_path / "model.tflite")
    qf.run_passes(qf.load(tmp_path / "model.tflite"), "calibrate")
