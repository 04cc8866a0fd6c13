"""The least runtime that a model says it needs."""

from __future__ import annotations

import numpy as np
import pytest

from qfrewrite.formats.tflite.read import parse_tflite
from qfrewrite.formats.tflite.runtimes import _runtimes, min_runtime_version
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Model
from qfrewrite.ops import OPS
from qfrewrite.ops.build import GraphBuilder


@pytest.mark.parametrize(("ops", "said", "want"), [
    ([], None, "1.5.0"),
    ([("CONV_2D", 1), ("RESHAPE", 1)], None, "1.5.0"),
    ([("CONV_2D", 3), ("TILE", 1)], None, "1.14.0"),  # not 1.5 < 1.10 < 1.14 as text
    ([("CONV_2D", 5), ("ADD", 1)], b"2.9.0", "2.4.0"),
    ([("CONV_2D", 1), ("CUSTOM", 1)], b"2.9.0\0\0", "2.9.0"),
    ([("CONV_2D", 99)], None, "1.5.0"),
])  # fmt: skip
def test_the_latest_of_what_the_ops_need(
    ops: list[tuple[str, int]], said: bytes | None, want: str
) -> None:
    assert min_runtime_version(ops, said).rstrip(b"\0").decode() == want


def test_a_written_model_says_what_it_needs() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 4, 4, 2))
    model = Model([b.finish(b.op("GELU", x))])
    back = parse_tflite(serialize(model))
    assert dict(back.metadata)["min_runtime_version"] == b"2.9.0".ljust(16, b"\0")
    back.graph.set_kind(back.graph.ops[0], "RELU")
    again = parse_tflite(serialize(back))
    assert dict(again.metadata)["min_runtime_version"] == b"1.5.0".ljust(16, b"\0")
    assert np.array_equal(again.graph.inputs[0].shape, (1, 4, 4, 2))


def test_every_op_of_the_table_has_its_runtimes() -> None:
    ours = {"BATCH_NORM", "CUSTOM", "ERF", "FLOAT_BITS", "IDENTITY", "RFFT"}
    assert set(OPS) - ours <= set(_runtimes())
    for kind, spec in OPS.items():
        latest = max([1, *spec.versions.values()])
        assert kind in ours or latest <= len(_runtimes()[kind]), kind
