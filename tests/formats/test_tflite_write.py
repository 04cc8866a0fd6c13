"""What the `.tflite` writer adds, when, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tflite_models import conv_model, rich_model, said, touched

from qfrewrite.errors import UnsupportedError
from qfrewrite.formats.tflite.read import parse_tflite
from qfrewrite.formats.tflite.write import op_version, serialize, write_tflite
from qfrewrite.ir import Graph, Model, Op, Signature, Tensor, constant


def test_an_edited_model_gets_a_signature_and_one_as_read_does_not() -> None:
    model = conv_model()
    model.mark_loaded()
    data = serialize(model)
    assert "signature_defs" not in said(data)
    assert "description" not in said(data)
    edited = said(serialize(touched(parse_tflite(data))))
    assert edited["description"] == "qfrewrite"
    (signature,) = parse_tflite(serialize(touched(parse_tflite(data)))).signatures
    assert signature == Signature("serving_default", 0, (("x", 0),), (("y", 0),))


def test_a_model_from_elsewhere_gets_a_runtime_version_and_ranks() -> None:
    model = parse_tflite(serialize(conv_model(source="graphdef")))
    assert model.metadata == [("min_runtime_version", b"1.5.0" + bytes(11))]
    assert all(t.has_rank for t in model.graph.tensors if not t.fused)


def test_versions_follow_the_element_type() -> None:
    model = rich_model()
    dense = model.graph.ops[0]
    assert op_version(dense) == 5  # keeps its dimensions
    model.graph.set_version(dense, 9)
    assert op_version(dense) == 9
    model.graph.set_version(dense, None)
    assert op_version(dense) == 5  # keeps its dimensions
    assert op_version(model.graph.ops[1]) == 1


def test_options_that_a_file_leaves_out_stay_out_until_they_are_changed() -> None:
    graph = Graph()
    x, y = Tensor("x", (2, 3)), Tensor("y", (6,))
    graph.set_io([x])
    shape = constant("s", np.array([6], np.int32))
    meta = {"no_options": True}
    op = Op("RESHAPE", [x, shape], [y], {"new_shape": ()}, version=1, meta=meta)
    graph.add_op(op)
    graph.set_io(outputs=[y])
    written = serialize(Model([graph]))
    assert "builtin_options" not in said(written)["subgraphs"][0]["operators"][0]
    back = parse_tflite(written)
    assert back.graph.ops[0].attrs == {"new_shape": ()}
    back.graph.set_attrs(back.graph.ops[0], new_shape=(6,))
    options = said(serialize(back))["subgraphs"][0]["operators"][0]["builtin_options"]
    assert options == {"new_shape": [6]}


def test_fake_quant_has_one_range() -> None:
    graph = Graph()
    x, y = Tensor("x", (2,)), Tensor("y", (2,))
    attrs = {"min": np.float32(-1), "max": 2.5, "num_bits": 8, "narrow_range": True, "axis": None}
    graph.set_io([x])
    op = graph.add_op(Op("FAKE_QUANT", [x], [y], attrs))
    graph.set_io(outputs=[y])
    back = parse_tflite(serialize(Model([graph]))).graph.ops[0]
    assert back.attrs == {**attrs, "min": -1.0}
    graph.set_attrs(op, min=np.zeros(2), max=np.ones(2), axis=0)
    with pytest.raises(UnsupportedError, match=r"'y' .*one range"):
        serialize(Model([graph]))


def test_what_tflite_has_not_is_refused_by_name(tmp_path: Path) -> None:
    def refused(says: str, change: Callable[[Model, Op, Tensor], object]) -> None:
        model = conv_model()
        change(model, model.graph.ops[0], model.graph.tensor("w"))
        with pytest.raises(UnsupportedError, match=says):
            write_tflite(model, tmp_path / "m.tflite")
        assert not list(tmp_path.iterdir())

    refused(
        r"op 'y/pre_relu6' \(BATCH_NORM\): is no op",
        lambda m, op, w: m.graph.set_kind(op, "BATCH_NORM"),
    )
    refused("CONV_2D.*has no field 'stride'", lambda m, op, w: m.graph.set_attrs(op, stride=1))
    refused("CONV_2D.*Conv2DOptions.stride_w", lambda m, op, w: m.graph.set_attrs(op, stride_w=2.5))
    refused(
        "CONV_2D.*builtin_options of type 99",
        lambda m, op, w: object.__setattr__(
            op, "meta", {"unknown": ["builtin_options of type 99"]}
        ),
    )
    refused(
        "tensor 'w': TFLite has no element type float8",
        lambda m, op, w: m.graph.set_type(w, "float8", None),
    )
    refused(
        r"tensor 'w': holds float32\[4, 3, 3, 3\]",
        lambda m, op, w: m.graph.set_shape(w, (4, 3, 3, 1)),
    )
    refused(
        "tensor 'w': holds float64", lambda m, op, w: m.graph.set_data(w, np.zeros((4, 3, 3, 3)))
    )
    refused(
        "tensor 'w': .*int4",
        lambda m, op, w: m.graph.set_data(w, np.zeros(3, np.uint8), dtype="int4"),
    )
    refused(
        "tensor 'w': .*field 12",
        lambda m, op, w: object.__setattr__(w, "meta", {"unknown": ["Tensor field 12"]}),
    )
    sign = Signature("s", 0, (("x", 4),), ())
    refused("signature 's'.*number 4", lambda m, op, w: m.signatures.append(sign))
