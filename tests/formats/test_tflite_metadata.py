"""The metadata of a `.tflite`: decoded, encoded again, and what it says of preprocessing."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import shared_path

import qfrewrite as qf
from qfrewrite.errors import ModelFileError
from qfrewrite.formats.tflite.metadata import (
    ENTRY,
    Normalization,
    metadata_bytes,
    normalizations,
    parse_metadata,
)
from qfrewrite.ir import Model
from qfrewrite.ops.build import GraphBuilder


def model(*inputs: dict[str, Any] | None, names: str = "ab") -> Model:
    """A model with two inputs whose metadata hold these process units."""
    b = GraphBuilder()
    graph = b.finish(b.op("ADD", *(b.input(name, (1, 3)) for name in names)))
    described = [
        {"process_units": None if unit is None else [
            {"options_type": "ScoreThresholdingOptions", "options": {}}, unit,
        ]} for unit in inputs
    ]  # fmt: skip
    values = {"subgraph_metadata": [{"input_tensor_metadata": described}]}
    return Model([graph], metadata=[("other", b"x"), (ENTRY, metadata_bytes(values))])


def unit(mean: list[float], std: list[float]) -> dict[str, Any]:
    return {"options_type": "NormalizationOptions", "options": {"mean": mean, "std": std}}


def test_inputs_are_matched_by_place() -> None:
    found = normalizations(model(None, unit([1, 2, 3], [4, 5, 6])))
    assert found == {"b": Normalization((1, 2, 3), (4, 5, 6))}


@pytest.mark.parametrize("bad", [
    unit([0.0], [0.0]), unit([0.0], []), unit([], [1.0]), unit([0.0], [-1.0]),
    unit([0.0], [float("nan")]), unit([float("inf")], [1.0]), unit([0.0, 1.0], [1.0, 1.0, 1.0]),
])  # fmt: skip
def test_numbers_without_sense_are_not_taken(bad: dict[str, Any]) -> None:
    assert normalizations(model(bad, unit([0.0], [255.0]))) == {"b": Normalization((0,), (255,))}


def test_metadata_of_another_model_is_not_taken() -> None:
    assert normalizations(model(unit([0.0], [1.0]))) == {}


def test_damaged_metadata_is_not_taken() -> None:
    whole = model(unit([0.0], [1.0]), None)
    content = whole.metadata[1][1]
    assert normalizations(whole)
    for at in range(0, len(content), 3):
        damaged = content[:at] + b"\xff" + content[at + 1 :]
        whole.metadata[1] = (ENTRY, damaged)
        normalizations(whole)
        whole.metadata[1] = (ENTRY, content[:at])
        normalizations(whole)
    with pytest.raises(ModelFileError, match="no model metadata"):
        parse_metadata(b"\0" * 16)


@pytest.mark.parametrize(("name", "found"), [
    ("selfie_segmentation_fp16.tflite", Normalization((0.0,), (255.0,))),
    ("face_detection_sparse_fp16.tflite", Normalization((127.5,), (127.5,))),
    ("vww_96_float.tflite", None),
])  # fmt: skip
def test_published_files(name: str, found: Normalization | None) -> None:
    loaded = qf.load(shared_path(f"models/{name}"))
    assert dict(normalizations(loaded)) == ({} if found is None else {"input_1": found})
    for entry, content in loaded.metadata:
        if entry == ENTRY:
            values = parse_metadata(content)
            assert str(parse_metadata(metadata_bytes(values))) == str(values)
