"""Tables of ranges: saved, edited, merged."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qfrewrite.calibration.kernels import Scratch
from qfrewrite.calibration.observers import Detail, TensorStats
from qfrewrite.calibration.range_row import RangeRow
from qfrewrite.calibration.range_table import RangeTable
from qfrewrite.errors import DataError, UsageError

SCRATCH = Scratch()


def table(seed: int, *, model: str = "m", fingerprint: str = "f") -> RangeTable:
    rng, rows = np.random.default_rng(seed), {}
    for name, low in (("x", -np.inf), ("relu", 0.0)):
        stats = TensorStats(3, Detail(channel_mean=True, full=True))
        for _ in range(4):
            stats.add(np.maximum(rng.standard_t(3, (5, 5, 3)), low).astype("f4"), SCRATCH)
        rows[name] = RangeRow(name, (min(stats.low, 0), stats.high), "minmax", stats)
    rows["guess"] = RangeRow(
        "guess", (-1.0, float(seed)), "batch_norm", guessed_mean=np.array([0.1, 1 / 3])
    )
    return RangeTable(rows, model, "data", 4, fingerprint)


def text(t: RangeTable, path: Path) -> str:
    return t.save(path).read_text()


def test_a_saved_table_is_the_same(tmp_path: Path) -> None:
    before = table(1).choose("greedy")
    first = text(before, tmp_path / "a.json")
    after = RangeTable.load(tmp_path / "a.json")
    assert text(after, tmp_path / "b.json") == first
    for method in ("mse", "percentile(99.9)", "minmax"):
        assert [r.range for r in after.choose(method)] == [r.range for r in before.choose(method)]


def test_tables_add_up_in_memory_and_in_files(tmp_path: Path) -> None:
    tables = [table(k).choose("greedy") for k in (1, 2, 3)]
    loaded = [RangeTable.load(t.save(tmp_path / f"{k}.json")) for k, t in enumerate(tables)]
    whole = RangeTable.merge(tables)
    other = loaded[2] + loaded[0] + loaded[1]
    assert whole.samples == 12
    assert [r.range for r in whole] == [r.range for r in other]
    assert text(whole, tmp_path / "x.json") == text(other, tmp_path / "y.json")
    assert whole["guess"].range == (-1.0, 3.0)
    assert tables[0].samples == 4  # left as they were
    assert tables[0]["x"].stats is not None
    assert tables[0]["x"].stats.samples == 4


def test_tables_of_other_models_are_refused() -> None:
    with pytest.raises(DataError, match="different models"):
        table(1) + table(2, fingerprint="g")
    less = table(2)
    del less.rows["relu"]
    with pytest.raises(DataError, match="relu"):
        table(1) + less


def test_an_edited_range_is_taken(tmp_path: Path) -> None:
    path = table(1).save(tmp_path / "a.json")
    held = json.loads(path.read_text())
    held["tensors"]["x"]["range"] = [0.5, 4]
    held["tensors"]["new"] = {"range": [-2, 2]}
    path.write_text(json.dumps(held))
    loaded = RangeTable.load(path)
    assert loaded["x"].range == (0.0, 4.0)  # zero is always in
    assert loaded["new"].range == (-2.0, 2.0)
    assert loaded["new"].method == "manual"


def test_moving_averages_do_not_merge() -> None:
    with pytest.raises(UsageError, match="order of samples"):
        table(1).choose("ema")


def test_the_table_reads_well() -> None:
    first, *rows = str(table(1)).splitlines()
    assert first == repr(table(1)) == "<RangeTable of m: 3 tensors, data>"
    assert len(rows) == 3
    assert "minmax, seen [" in rows[0]
    [row] = [r for r in table(1).records() if r["name"] == "relu"]
    assert row["zero_point"] == -128
    assert row["quantization_loss"] > 0


def test_a_data_frame() -> None:
    pytest.importorskip("pandas")
    frame = table(1).to_frame()
    assert list(frame.index) == ["x", "relu", "guess"]
    assert frame.loc["relu", "low"] == 0


def test_saved_tables_meet_their_schema(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "schemas" / "ranges.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    held = json.loads(text(table(1), tmp_path / "a.json"))
    jsonschema.validate(held, schema)
    held["tensors"]["x"]["range"] = ["low", 1]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(held, schema)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("", "not JSON"), ("[]", "is no ranges file"), ('{"format": "x"}', "is no ranges file"),
        ('{"format": "qfrewrite-ranges-1"}', "tensors"),
        ('{"format": "qfrewrite-ranges-1", "tensors": {"a": {}}}', "tensor 'a': lacks 'range'"),
        ('{"format": "qfrewrite-ranges-1", "tensors": {"a": {"range": [1, 0]}}}', "is empty"),
        ('{"format": "qfrewrite-ranges-1", "tensors": {"a": {"range": [NaN, 0]}}}', "not finite"),
        ('{"format": "qfrewrite-ranges-1", "samples": "x", "tensors": {}}', "samples"),
        ("[" * 100_000, "not JSON"),
    ],
)  # fmt: skip
def test_broken_files_are_named(broken: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(broken)
    with pytest.raises(DataError, match=words) as caught:
        RangeTable.load(path)
    assert "r.json" in str(caught.value)


JUNK: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.lists(st.floats() | st.integers() | st.none(), max_size=4)
    | st.dictionaries(st.text(max_size=5), st.integers(), max_size=2)
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_edit_brings_it_down(data: st.DataObject, tmp_path: Path) -> None:
    """Replace or drop anything in a saved file: it loads, or DataError says what is wrong."""
    held = json.loads(text(table(1), tmp_path / "a.json"))
    for _ in range(data.draw(st.integers(1, 3))):
        place = held
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            inner = place[key]
            if isinstance(inner, (dict, list)) and inner and data.draw(st.booleans()):
                place = inner
                continue
            if data.draw(st.booleans()):
                place[key] = data.draw(JUNK)
            else:
                del place[key]
            break
    (tmp_path / "b.json").write_text(json.dumps(held))
    with contextlib.suppress(DataError, UsageError):
        RangeTable.load(tmp_path / "b.json").choose("greedy").save(tmp_path / "c.json")
