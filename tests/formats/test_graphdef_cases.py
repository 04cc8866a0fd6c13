"""GraphDefs op by op and corner by corner against TensorFlow: in float, and through int8.

A case fails where a converter takes an attribute, an axis, a layout or a default for another; the
tolerance is far below what any such mistake makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from graphdef_cases import Case
from graphdef_cases_arithmetic import ARITHMETIC
from graphdef_cases_layouts import LAYOUTS
from graphdef_cases_shapes import SHAPES
from graphdef_cases_windows import WINDOWS

from qfrewrite.formats.graphdef.read import parse_graphdef
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Array, Model
from qfrewrite.lower.model import lower_model
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.ops.check import verify_graph
from qfrewrite.passes import Dataset, PassContext, run_passes
from qfrewrite.rewrite.raising import raise_graph
from qfrewrite.runtime.session import Runner

pytestmark = pytest.mark.tensorflow

CASES: Mapping[str, Case] = {**ARITHMETIC, **SHAPES, **WINDOWS, **LAYOUTS}


def built(case: Case, build: Callable[..., Any]) -> tuple[Any, list[str]]:
    """The graph that `build` makes, and the names of its outputs."""
    import tensorflow as tf

    graph = tf.Graph()
    stated = case.stated or (None,) * len(case.feeds)
    with graph.as_default():
        placeholders = [
            tf.compat.v1.placeholder(v.dtype, v.shape if shape is None else shape, name)
            for name, v, shape in zip(case.names, case.feeds, stated, strict=True)
        ]
        results = build(tf, *placeholders)
        results = results if isinstance(results, (list, tuple)) else [results]
        names = [f"y{i}" if i else "y" for i in range(len(results))]
        for name, result in zip(names, results, strict=True):
            tf.identity(result, name=name)
    return graph, names


def wanted(case: Case) -> list[Array]:
    """What TensorFlow computes, without its own rewriting of the graph."""
    import tensorflow as tf

    graph, names = built(case, case.reference or case.build)
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1)
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.compat.v1.Session(graph=graph, config=config) as session:
        feed = {f"{n}:0": v for n, v in case.sample().items()}
        return list(session.run([f"{n}:0" for n in names], feed))


def read(case: Case) -> tuple[Model, list[str]]:
    """The case as our reader and raising give it."""
    graph, names = built(case, case.build)
    data = graph.as_graph_def().SerializeToString()
    model = parse_graphdef(data, inputs=list(case.inputs) or case.names, outputs=names)
    raise_graph(model.graph)
    verify_graph(model.graph)
    model.mark_loaded()
    return model, names


def difference(got: Array, want: Array) -> float:
    """max |got - want| as a fraction of the range of `want`; 0 or 1 where it holds no floats."""
    assert got.shape == want.shape
    if want.dtype.kind != "f":
        return float(not np.array_equal(got, want))
    scale = float(np.ptp(want)) or float(np.abs(want).max()) or 1.0
    return float(np.abs(got.astype(np.float64) - want).max()) / scale


def run(model: Model, case: Case, options: QuantOptions | None = None) -> list[Array]:
    """The outputs of the `.tflite` that the model becomes."""
    runner = Runner(serialize(lower_model(model, options)[0]), threads=1)
    return [v.copy() for v in runner.run(case.sample())]


@pytest.mark.parametrize("name", sorted(CASES))
def test_float_equals_tensorflow(name: str) -> None:
    case = CASES[name]
    model, names = read(case)
    assert [t.name for t in model.graph.outputs] == names
    for got, want in zip(run(model, case), wanted(case), strict=True):
        assert difference(got, want) <= case.tolerance


FLOATS = [n for n, c in CASES.items() if any(f.dtype == np.float32 for f in c.feeds)]


@pytest.mark.parametrize("name", FLOATS)
def test_int8_comes_close(name: str) -> None:
    """Catches what float does not show: scales of moved values, islands of float, bad types."""
    case = CASES[name]
    model, _ = read(case)
    want = run(model, case)
    run_passes(model, "calibrate", PassContext(Dataset(case.shuffled(8)), threads=1))
    for got, expected in zip(run(model, case, QuantOptions("int8")), want, strict=True):
        assert got.shape == expected.shape
        if expected.dtype == np.float32:
            assert difference(got, expected) <= case.int8
