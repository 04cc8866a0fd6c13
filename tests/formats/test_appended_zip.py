"""Files appended to a `.tflite` as an archive survive, wherever the flatbuffer ends."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import shared_path

import qfrewrite as qf
from qfrewrite.formats.tflite.appended_zip import find_zip
from qfrewrite.formats.tflite.metadata import (
    ENTRY,
    TensorType,
    metadata_bytes,
    normalizations,
    parse_metadata,
    with_converted_stats,
)
from qfrewrite.formats.tflite.write import chunks, serialize, write_tflite
from qfrewrite.ir import Model, Quant
from qfrewrite.ops.build import GraphBuilder

FILES = {"labels.txt": b"cat\ndog\n" * 40, "vocab.txt": b"", "more/deep.bin": bytes(range(256))}


def appended(base: bytes, *, comment: bytes = b"", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """`base` and behind it an archive of FILES, as metadata tools append it."""
    buffer = io.BytesIO(base)
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "a", method) as archive:
        for name, content in FILES.items():
            archive.writestr(zipfile.ZipInfo(name, (2021, 3, 4, 5, 6, 8)), content, method)
        archive.comment = comment
    return buffer.getvalue()


def model(*, wide: int = 4) -> Model:
    b = GraphBuilder("root")
    x = b.input("x", (1, wide))
    w = np.linspace(-1, 1, 3 * wide, dtype="f4").reshape(3, wide)
    return Model([b.finish(b.op("FULLY_CONNECTED", x, b.const("w", w), None, name="y"))])


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert all(i.date_time == (2021, 3, 4, 5, 6, 8) for i in archive.infolist())
        # A reader that takes the offsets literally finds the members too.
        raw = path.read_bytes()
        for member in archive.infolist():
            assert raw[member.header_offset :][:4] == b"PK\3\4"
        end = len(raw) - 22 - len(archive.comment)
        assert raw[struct.unpack_from("<I", raw, end + 16)[0] :][:4] == b"PK\1\2"
        return {i.filename: archive.read(i) for i in archive.infolist()}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("comment", [b"", b"a comment of more than 22 bytes"])
@pytest.mark.parametrize("scheme", ["float32", "int8", "float16"])
def test_files_survive(method: int, comment: bytes, scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(appended(serialize(model()), comment=comment, method=method))
    loaded = qf.load(path)
    if scheme != "float32":
        qf.run_passes(loaded, "calibrate")
    saved = qf.save(loaded, tmp_path / "out.tflite", scheme=scheme)
    assert contents(saved.path) == FILES
    assert contents(qf.save(qf.load(saved.path), tmp_path / "again.tflite").path) == FILES
    found = find_zip(memoryview(saved.path.read_bytes()))
    before = find_zip(memoryview(path.read_bytes()))
    assert found is not None
    assert before is not None
    assert (found.start - before.start) % 64 == 0  # what was aligned stays aligned


def test_behind_data_that_stand_behind_the_flatbuffer(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(appended(serialize(model(wide=64))))
    loaded = qf.load(path)
    out = tmp_path / "large.tflite"
    out.write_bytes(b"".join(bytes(c) for c in chunks(loaded, most_inline=64)))
    assert contents(out) == FILES
    np.testing.assert_array_equal(qf.load(out).graph.tensor("w").value(),
                                  loaded.graph.tensor("w").value())  # fmt: skip


def test_an_archive_that_counts_from_its_own_start(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(serialize(model()) + appended(b""))
    qf.save(qf.load(path), tmp_path / "out.tflite", scheme="float32")
    with zipfile.ZipFile(tmp_path / "out.tflite") as archive:
        assert {i.filename: archive.read(i) for i in archive.infolist()} == FILES


def test_what_is_no_archive_is_none() -> None:
    base = serialize(model())
    whole = appended(base)
    assert find_zip(memoryview(base)) is None
    for at in range(len(base), len(whole)):
        assert find_zip(memoryview(whole[:at])) is None
    end = whole.rfind(b"PK\5\6")
    for at in range(end, len(whole)):
        damaged = whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :]
        assert find_zip(memoryview(damaged)) is None or at in range(end + 4, end + 8)
    tricky = appended(base, comment=b"a comment with PK\5\6 in it, and more than 22 bytes")
    found = find_zip(memoryview(tricky))
    assert found is not None
    assert found.start == len(base)
    many = memoryview(base + (b"PK\5\6" + bytes(18)) * 3000)
    assert find_zip(many) is None


def test_metadata_follow_the_element_type(tmp_path: Path) -> None:
    """Statistics are those of the tensor's own values; normalization is of real values."""
    unit = {"options_type": "NormalizationOptions", "options": {"mean": [127.5], "std": [127.5]}}
    values = {
        "name": "a model",
        "subgraph_metadata": [{
            "input_tensor_metadata": [
                {"name": "image", "stats": {"max": [1.0], "min": [-1.0]}, "process_units": [unit]}
            ],
            "output_tensor_metadata": [{"name": "scores", "stats": {"max": [1.0]}}],
        }],
    }  # fmt: skip
    b = GraphBuilder("root")
    graph = b.finish(b.op("LOGISTIC", b.input("x", (1, 4)), name="y"))
    source = tmp_path / "m.tflite"
    write_tflite(Model([graph], metadata=[(ENTRY, metadata_bytes(values))]), source)
    data = [np.array([[-1, 1, 0.5, 0]], "f4")]

    def described(path: Path) -> tuple[list[float], list[float], list[float], float]:
        found = parse_metadata(dict(qf.load(path).metadata)[ENTRY])
        (graph,) = found["subgraph_metadata"]
        (one,), (out,) = graph["input_tensor_metadata"], graph["output_tensor_metadata"]
        assert (found["name"], one["name"], out["name"]) == ("a model", "image", "scores")
        mean = one["process_units"][0]["options"]["mean"]
        low, high, top = one["stats"]["min"], one["stats"]["max"], out["stats"]["max"]
        return list(low), list(high), list(top), float(mean[0])

    for scheme, kind, wanted in (
        ("int8", "int8", ([-128.0], [126.0], [127.0], 127.5)),
        ("int8", "uint8", ([0.0], [254.0], [255.0], 127.5)),
        ("int8", "float32", ([-1.0], [1.0], [1.0], 127.5)),
        ("float16", None, ([-1.0], [1.0], [1.0], 127.5)),
    ):
        loaded = qf.load(source)
        qf.run_passes(loaded, "calibrate", data=data)
        saved = qf.save(loaded, tmp_path / "out.tflite", scheme=scheme, io=kind)
        assert described(saved.path) == wanted
    quantized = qf.load(tmp_path / "out.tflite")
    qf.run_passes(quantized, "calibrate", data=data)
    again = qf.save(quantized, tmp_path / "again.tflite")
    assert described(again.path) == ([-128.0], [126.0], [127.0], 127.5)


def test_what_was_quantized_is_described_in_float(tmp_path: Path) -> None:
    values = {"subgraph_metadata": [{
        "input_tensor_metadata": [{"stats": {"max": [255.0], "min": [0.0]}}],
    }]}  # fmt: skip
    loaded = model()
    qf.run_passes(loaded, "calibrate", data=[np.array([[-1, 1, 0, 0]], "f4")])
    loaded.metadata.append((ENTRY, metadata_bytes(values)))
    quantized = qf.load(qf.save(loaded, tmp_path / "q.tflite", io="uint8").path)
    qf.run_passes(quantized, "fold_bn")
    saved = qf.save(quantized, tmp_path / "f.tflite", scheme="float32")
    (graph,) = parse_metadata(dict(qf.load(saved.path).metadata)[ENTRY])["subgraph_metadata"]
    stats = graph["input_tensor_metadata"][0]["stats"]
    assert stats["min"][0] == pytest.approx(-1, abs=0.01)
    assert stats["max"][0] == pytest.approx(1, abs=0.01)


def test_outputs_that_are_gone_are_not_described(tmp_path: Path) -> None:
    values = {"subgraph_metadata": [{
        "input_tensor_metadata": [{"name": "image"}],
        "output_tensor_metadata": [{"name": "a"}, {"name": "b"}],
    }]}  # fmt: skip
    b = GraphBuilder("root")
    x = b.input("x", (1, 4))
    graph = b.finish(b.op("RELU", x, name="a"), b.op("ABS", x, name="b"))
    write_tflite(Model([graph], metadata=[(ENTRY, metadata_bytes(values))]), tmp_path / "m.tflite")
    loaded = qf.load(tmp_path / "m.tflite")
    loaded.graph.set_io(outputs=loaded.graph.outputs[:1])
    loaded.signatures.clear()
    saved = qf.save(loaded, tmp_path / "out.tflite", scheme="float32")
    (found,) = parse_metadata(dict(qf.load(saved.path).metadata)[ENTRY])["subgraph_metadata"]
    assert found["output_tensor_metadata"] is None
    assert [one["name"] for one in found["input_tensor_metadata"]] == ["image"]


def test_the_labels_of_a_published_model(tmp_path: Path) -> None:
    loaded = qf.load(shared_path("models/selfie_segmentation_fp16.tflite"))
    saved = qf.save(loaded, tmp_path / "w.tflite", scheme="weight-only")
    with zipfile.ZipFile(saved.path) as archive:
        assert archive.read("labels.txt") == b"selfie\n"


@pytest.mark.parametrize("top", [255.0, 127.5, np.nan])
def test_stats_of_a_type_that_did_not_change_stay(top: float) -> None:
    """Also those that no value of the type has: they are the file's, not ours to mend."""
    content = metadata_bytes(
        {"subgraph_metadata": [{"input_tensor_metadata": [{"stats": {"max": [top]}}]}]}
    )
    quant = [Quant.per_tensor(0.1, 0) for _ in range(2)]
    before, after = ({"input": (TensorType("int8", q),), "output": ()} for q in quant)
    assert with_converted_stats(content, before, after) == content
    floats = {"input": (TensorType("float32", None),), "output": ()}
    (graph,) = parse_metadata(with_converted_stats(content, before, floats))["subgraph_metadata"]
    (given,) = graph["input_tensor_metadata"][0]["stats"]["max"]
    wanted = top * 0.1 if np.isfinite(top) else top
    np.testing.assert_allclose(given, wanted, rtol=1e-6)


@pytest.mark.parametrize(("channels", "fits"), [(1, True), (3, True), (4, False)])
def test_a_normalization_of_other_channels_than_the_input_has_is_none(
    channels: int, fits: bool
) -> None:
    options = {"mean": [127.5] * channels, "std": [127.5]}
    unit = {"options_type": "NormalizationOptions", "options": options}
    values = {"subgraph_metadata": [{"input_tensor_metadata": [{"process_units": [unit]}]}]}
    b = GraphBuilder("root")
    graph = b.finish(b.op("RELU", b.input("x", (1, 2, 2, 3))))
    loaded = Model([graph], metadata=[(ENTRY, metadata_bytes(values))])
    assert bool(normalizations(loaded)) is fits
