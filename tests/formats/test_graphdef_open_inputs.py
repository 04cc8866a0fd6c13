"""Inputs of unknown size: what the layers imply is taken, else a size that works is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import shared_path
from graphdefs import Nodes

from qfrewrite.errors import ModelFileError, UsageError
from qfrewrite.formats.graphdef.nodes import index_nodes
from qfrewrite.formats.graphdef.read import parse_graphdef
from qfrewrite.formats.graphdef.schema import AttrValue, GraphDef

RNG = np.random.default_rng(2)
ANY = (-1, -1, -1, 3)


def conv(
    g: Nodes, x: str, outputs: int, inputs: int = 3, stride: int = 1, padding: str = "SAME",
    size: int = 3, layout: str = "NHWC",
) -> str:  # fmt: skip
    name = f"conv{len(g.message.node)}"
    g.const(f"{name}/w", RNG.normal(size=(size, size, inputs, outputs)))
    strides = [1, stride, stride, 1] if layout == "NHWC" else [1, 1, stride, stride]
    return g.add("Conv2D", name, [x, f"{name}/w"], strides=strides, padding=padding,
                 data_format=layout)  # fmt: skip


def pool(g: Nodes, x: str, window: tuple[int, int], stride: int, kind: str = "AvgPool") -> str:
    name = f"pool{len(g.message.node)}"
    return g.add(kind, name, [x], ksize=[1, *window, 1], strides=[1, stride, stride, 1],
                 padding="VALID", data_format="NHWC")  # fmt: skip


def dense(g: Nodes, x: str, inputs: int) -> str:
    g.const("flat", np.array([-1, inputs], np.int32))
    g.add("Reshape", "flattened", [x, "flat"])
    g.const("fc", RNG.normal(size=(inputs, 10)))
    return g.add("MatMul", "y", ["flattened", "fc"])


def dense_by_shape(g: Nodes, x: str, inputs: int) -> str:
    """Flattened as Keras does it: [Shape(x)[0], product of the rest]."""
    for name, value in (("zero", [0]), ("one", [1]), ("four", [4])):
        g.const(name, np.array(value, np.int32))
    masks = {"end_mask": 0, "ellipsis_mask": 0, "new_axis_mask": 0, "begin_mask": 0}
    g.add("Shape", "shape", [x])
    first = {**masks, "shrink_axis_mask": 1}
    g.add("StridedSlice", "batch", ["shape", "zero", "one", "one"], **first)
    rest = {**masks, "shrink_axis_mask": 0}
    g.add("StridedSlice", "rest", ["shape", "one", "four", "one"], **rest)
    g.add("Prod", "volume", ["rest", "zero"], keep_dims=False)
    g.add("Pack", "target", ["batch", "volume"], N=2, axis=0)
    g.add("Reshape", "flattened", [x, "target"])
    g.const("fc", RNG.normal(size=(inputs, 10)))
    return g.add("MatMul", "y", ["flattened", "fc"])


def shapes(g: Nodes) -> list[tuple[int, ...]]:
    return [t.shape for t in parse_graphdef(g.bytes()).graph.inputs]


Flatten = Callable[[Nodes, str, int], str]


@pytest.mark.parametrize("flatten", [dense, dense_by_shape])
def test_a_dense_layer_tells_the_size_of_an_image(flatten: Flatten) -> None:
    g = Nodes()
    g.placeholder("x", ANY)
    flatten(g, conv(g, "x", 4), 28 * 28 * 4)
    model = parse_graphdef(g.bytes())
    assert model.graph.inputs[0].shape == (1, 28, 28, 3)
    assert any("taken as 1x28x28x3" in one.text for one in model.diagnostics)


def test_a_dense_layer_tells_the_length_of_a_vector() -> None:
    g = Nodes()
    g.placeholder("x", (-1, -1))
    g.const("w", RNG.normal(size=(784, 10)))
    g.add("MatMul", "y", ["x", "w"])
    assert shapes(g) == [(1, 784)]


def test_a_kernel_tells_the_channels() -> None:
    g = Nodes()
    g.placeholder("x", (1, 20, 20, -1))
    conv(g, "x", 4, inputs=5)
    assert shapes(g) == [(1, 20, 20, 5)]


def test_channels_and_sizes_are_found_together() -> None:
    g = Nodes()
    g.placeholder("x", (-1, -1, -1, -1))
    dense(g, conv(g, conv(g, "x", 6, inputs=1), 4, inputs=6), 12 * 12 * 4)
    assert shapes(g) == [(1, 12, 12, 1)]


def test_an_unknown_rank_is_found() -> None:
    g = Nodes()
    g.add("Placeholder", "x")
    dense(g, conv(g, "x", 4, inputs=1), 28 * 28 * 4)
    assert shapes(g) == [(1, 28, 28, 1)]


def test_an_oblong_window_tells_both_sides() -> None:
    g = Nodes()
    g.placeholder("x", ANY)
    pool(g, conv(g, "x", 4), (6, 9), 1)
    g.add("Squeeze", "y", ["pool3"], squeeze_dims=[1, 2])
    assert shapes(g) == [(1, 6, 9, 3)]


def test_a_size_in_nchw_is_found() -> None:
    g = Nodes()
    g.placeholder("x", (-1, 3, -1, -1))
    dense(g, conv(g, "x", 4, layout="NCHW"), 10 * 10 * 4)
    assert shapes(g) == [(1, 3, 10, 10)]


def test_two_inputs_that_are_added_have_one_size() -> None:
    g = Nodes()
    g.placeholder("a", ANY)
    g.placeholder("b", (-1, 14, 14, 3))
    g.add("AddV2", "y", ["a", "b"])
    # Sizes of 1 are spread over the other: two sizes are left, and the larger is named.
    with pytest.raises(UsageError, match="a:1x14x14x3"):
        parse_graphdef(g.bytes())


def named(data: bytes) -> tuple[str, str]:
    """The message for a graph whose size is not settled, and the input that it names."""
    with pytest.raises(UsageError) as caught:
        parse_graphdef(data, Path("m.pb"))
    text = str(caught.value)
    found = re.search(r"--input (\S+)$", text)
    assert found, text
    assert "\n" not in text
    return text, found[1]


def mobile(window: int = 7, stages: int = 5) -> Nodes:
    """Halves the size `stages` times, then pools by `window` and removes height and width."""
    g = Nodes()
    g.placeholder("x", ANY)
    y, inputs = "x", 3
    for _ in range(stages):
        y, inputs = conv(g, y, 4, inputs, stride=2), 4
    g.add("Squeeze", "y", [pool(g, y, (window, window), 2)], squeeze_dims=[1, 2])
    return g


@pytest.mark.parametrize(
    ("window", "stages", "size", "low", "high"),
    [(7, 5, 224, 193, 224 + 32), (4, 5, 128, 97, 160), (3, 4, 48, 33, 64)],
)
def test_several_sizes_are_named_with_one_that_works(
    window: int, stages: int, size: int, low: int, high: int
) -> None:
    g = mobile(window, stages)
    text, shape = named(g.bytes())
    assert f"sizes {low} to {high}" in text
    assert shape.startswith("x:1x")
    assert parse_graphdef(g.bytes(), inputs=[shape]).graph.inputs[0].shape[1] % 2**stages == 0
    assert parse_graphdef(g.bytes(), inputs=[f"x:1x{size}x{size}x3"])


def test_any_size_is_named_by_one_that_halves() -> None:
    g = Nodes()
    g.placeholder("x", ANY)
    y = conv(g, "x", 4, padding="VALID")
    g.const("axes", np.array([1, 2], np.int32))
    g.add("Mean", "y", [y, "axes"], keep_dims=False)
    text, shape = named(g.bytes())
    assert "any size from 3" in text
    assert shape == "x:1x64x64x3"
    assert parse_graphdef(g.bytes(), inputs=[shape])


def test_what_no_layer_says_is_not_invented() -> None:
    """Where no size fits the message shows what a shape looks like, not 224."""
    g = Nodes()
    g.placeholder("x", ANY)
    dense(g, conv(g, "x", 4), 4 * 2053)
    text, shape = named(g.bytes())
    assert shape == "x:1xHxWx3"
    assert "224" not in text


def test_a_given_size_is_not_questioned() -> None:
    g = mobile()
    assert parse_graphdef(g.bytes(), inputs=["x:1x200x220x3"]).graph.inputs[0].shape[1:3] == (
        200, 220,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mobilenet_v1_0.25_128_2017_06_frozen_graph.pb", 128),
        ("mobilenet_v2_1.0_224_folded_frozen_graph.pb", 224),
    ],
)
def test_a_published_model_without_its_size_names_one(name: str, size: int) -> None:
    message = GraphDef.FromString(shared_path(f"models/{name}").read_bytes())
    shape = AttrValue()
    for d in (-1, -1, -1, 3):
        shape.shape.dim.add().size = d
    index_nodes(message)["input"].attr["shape"].CopyFrom(shape)
    data = message.SerializeToString()
    text, found = named(data)
    assert parse_graphdef(data, inputs=[found]).graph.inputs[0].shape[3] == 3
    if name.startswith("mobilenet_v1"):
        assert found == f"input:1x{size}x{size}x3", text


def test_hostile_attributes_strike_nothing_down() -> None:
    """Steps and blocks of 0, a split into a billion: an error of one line, without warnings."""
    g = Nodes()
    g.placeholder("x", ANY)
    y = conv(g, "x", 4, stride=0)
    g.const("axis", np.int32(3))
    g.add("Split", "parts", ["axis", "x"], num_split=1 << 30)
    with pytest.raises(UsageError, match="unknown dimensions"):
        parse_graphdef(g.bytes(), outputs=[y, "parts"])


def test_a_cycle_is_named_before_sizes_are_sought() -> None:
    g = Nodes()
    g.placeholder("x", ANY)
    g.add("Add", "a", ["x", "b"])
    g.add("Relu", "b", ["a"])
    with pytest.raises(ModelFileError, match=r"node 'a' .*cycle that is no loop"):
        parse_graphdef(g.bytes(), outputs=["b"])
