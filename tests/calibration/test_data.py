"""Sources open, split and stream; what does not fit is refused with its name."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
import weakref
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qfrewrite.data.checks import range_warning
from qfrewrite.data.inputs import InputSpec
from qfrewrite.data.prefetch import prefetch
from qfrewrite.data.source import DataSource, Samples, open_data, synthetic
from qfrewrite.errors import DataError, UsageError

IMAGE = InputSpec("input", (1, 8, 8, 3))
VECTOR = InputSpec("x", (1, 4))
PAIR = (VECTOR, InputSpec("ids", (1, 2), "int32"))
CODES = InputSpec("codes", (1, 4), "uint8")


def rows(count: int, width: int = 4, dtype: str = "float32") -> np.ndarray:
    return (np.arange(count * width).reshape(count, width) / (count * width)).astype(dtype)


def first_column(samples: Samples, name: str = "x") -> list[float]:
    return [float(s[name].flat[0]) for s in samples]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """12 images, some below, some with odd suffixes, and other files between them."""
    base = tmp_path / "calib"
    (base / "deep" / "er").mkdir(parents=True)
    places = [f"{i}.png" for i in range(8)] + ["A.JPG", "b.JpEg", "deep/c.webp", "deep/er/d.TIFF"]
    rng = np.random.default_rng(0)
    for place in places:
        Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8)).save(base / place)
    (base / "labels.csv").write_text("x")
    (base / "._0.png").write_bytes(b"not an image")
    return base


# Images


def test_folder_is_searched_and_described(folder: Path) -> None:
    calibration, held_out = open_data(folder, [IMAGE]).split(200, 50)
    assert (len(calibration), len(held_out)) == (12, 0)
    assert calibration.description == "12 images of calib/"
    names = {Path(label).relative_to(folder).as_posix() for label in calibration.labels()}
    assert {"A.JPG", "b.JpEg", "deep/c.webp", "deep/er/d.TIFF", "0.png"} <= names


def test_samples_have_the_inputs_shape_and_type(folder: Path) -> None:
    for sample in open_data(str(folder), [IMAGE]).split(12)[0]:
        assert list(sample) == ["input"]
        x = sample["input"]
        assert (x.shape, x.dtype) == ((1, 8, 8, 3), np.float32)
        assert x.flags.c_contiguous
        assert -1 <= x.min() < x.max() <= 1


def test_folder_is_shuffled_by_seed_and_dealt_without_overlap(folder: Path) -> None:
    parts = [open_data(folder, [IMAGE], seed=s).split(7, 3) for s in (0, 0, 1)]
    labels = [[list(part.labels()) for part in pair] for pair in parts]
    assert labels[0] == labels[1] != labels[2]
    assert labels[0][0] != sorted(labels[0][0])
    assert [len(part) for part in labels[0]] == [7, 3]
    assert not set(labels[0][0]) & set(labels[0][1])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(folder: Path, threads: int) -> None:
    plain, _ = open_data(folder, [IMAGE], threads=0).split(12)
    ahead, _ = open_data(folder, [IMAGE], threads=threads).split(12)
    for _pass in range(2):
        pairs = list(zip(plain, ahead, strict=True))
        assert len(pairs) == 12
        assert all(np.array_equal(a["input"], b["input"]) for a, b in pairs)
    assert plain.diagnostics == ahead.diagnostics


def test_links_in_a_circle_end(folder: Path) -> None:
    (folder / "deep" / "again").symlink_to(folder, target_is_directory=True)
    assert len(open_data(folder, [IMAGE]).split(100)[0]) == 12


def test_one_image(folder: Path) -> None:
    samples, _ = open_data(folder / "0.png", [IMAGE]).split(10)
    assert samples.description == "1 image of 0.png"
    assert len(list(samples)) == 1


def test_list_of_images_is_relative_to_itself(folder: Path) -> None:
    listing = folder / "some.txt"
    listing.write_text(f"# mine\n0.png\n\n  deep/c.webp \r\n{folder / 'A.JPG'}\n", "utf-8")
    samples, _ = open_data(listing, [IMAGE]).split(10)
    assert samples.description == "3 images of some.txt"
    assert {Path(label).name for label in samples.labels()} == {"0.png", "c.webp", "A.JPG"}


def test_list_names_the_line_of_a_missing_file(folder: Path) -> None:
    listing = folder / "some.txt"
    listing.write_text("0.png\nnothing.png\n")
    with pytest.raises(DataError, match=r"some\.txt: line 2: no such file 'nothing\.png'"):
        open_data(listing, [IMAGE])


def test_integer_inputs_take_pixel_codes(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (8, 8), (0, 100, 255)).save(file)
    expected = {"uint8": (0, 100, 255), "int8": (-128, -28, 127), "int32": (0, 100, 255)}
    for dtype, codes in expected.items():
        samples, _ = open_data(file, [InputSpec("x", (1, 8, 8, 3), dtype)]).split(1)
        (sample,) = samples
        assert sample["x"].dtype == np.dtype(dtype)
        assert tuple(sample["x"][0, 0, 0]) == codes


def test_half_floats_and_grey(folder: Path) -> None:
    spec = InputSpec("x", (1, 5, 7, 1), "float16")
    (sample,) = open_data(folder / "0.png", [spec], preprocess="unit").split(1)[0]
    assert (sample["x"].shape, sample["x"].dtype) == ((1, 5, 7, 1), np.float16)


def test_damaged_image_is_named_where_it_stands(folder: Path) -> None:
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n")
    samples, _ = open_data(folder, [IMAGE], threads=2).split(100)
    place = [Path(label).name for label in samples.labels()].index("bad.png")
    passed = 0
    with pytest.raises(DataError, match=r"bad\.png: .*; remove it"):  # noqa: PT012
        for _ in samples:
            passed += 1
    assert passed == place


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([InputSpec("x", (1, 49, 10))], r"input 'x' float32\[1, 49, 10\] is none"),
        ([InputSpec("x", (1, 8, 8, 4))], "1 or 3"),
        ([InputSpec("x", (2, 8, 8, 3))], "1 or 3"),
        ([InputSpec("x", (1, 3, 8, 8))], "1 or 3"),
        ([InputSpec("x", (1, 8, 8, 3), "bool")], "images cannot feed"),
        (list(PAIR), r"the model has 2 \('x', 'ids'\)"),
    ],
)
def test_images_need_an_image_input(folder: Path, inputs: list[InputSpec], said: str) -> None:
    with pytest.raises(DataError, match=rf"{said}.*give an \.npz"):
        open_data(folder, inputs)


def test_preprocess_must_fit_the_channels(folder: Path) -> None:
    with pytest.raises(UsageError, match="3 values per channel, the model's input has 1"):
        open_data(folder, [InputSpec("x", (1, 8, 8, 1))], preprocess="mean=1:2:3,std=1")


def test_folder_without_images_says_what_was_looked_for(tmp_path: Path) -> None:
    for name in ("a.csv", "b.npy", "c"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=r"looked for .*\.jpg .*\.png .*found 3 other files"):
        open_data(tmp_path, [IMAGE])


@pytest.mark.parametrize("name", ["nothing", "nothing.npz", "nothing/at/all"])
def test_no_such_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name}: no such file or folder; give a folder"):
        open_data(tmp_path / name, [IMAGE])


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("x")
    with pytest.raises(DataError, match=r"'\.mp4' is not a kind of file"):
        open_data(tmp_path / "a.mp4", [IMAGE])


# Arrays


@pytest.mark.parametrize("batch_axis", [False, True])
@pytest.mark.parametrize("kind", ["array", "npy", "fortran", "npz", "packed", "dict", "list"])
def test_arrays_in_every_form(tmp_path: Path, kind: str, batch_axis: bool) -> None:
    data = rows(60)[:, None] if batch_axis else rows(60)
    source: Any = tmp_path / f"a.{'npz' if kind in ('npz', 'packed') else 'npy'}"
    match kind:
        case "array":
            source = data
        case "dict":
            source = {"x": data}
        case "list":
            source = list(data)
        case "npy":
            np.save(source, data)
        case "fortran":
            np.save(source, np.asfortranarray(data))
        case "npz":
            np.savez(source, anything=data)
        case "packed":
            np.savez_compressed(source, anything=data)
    samples, held_out = open_data(source, [VECTOR]).split(50, 20)
    assert (len(samples), len(held_out)) == (50, 10)
    first = first_column(samples)
    assert first != sorted(first)
    assert first == first_column(samples)
    assert sorted(first + first_column(held_out)) == sorted(data.reshape(60, 4)[:, 0].tolist())
    assert all(s["x"].shape == (1, 4) and s["x"].dtype == np.float32 for s in samples)


def test_array_samples_are_copies() -> None:
    data = rows(3)
    for sample in open_data(data, [VECTOR]).split(3)[0]:
        sample["x"][:] = 99
    np.testing.assert_array_equal(data, rows(3))


def test_array_descriptions(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows(64))
    assert open_data(tmp_path / "a.npy", [VECTOR]).split(99)[0].description == "64 samples of a.npy"
    assert open_data(rows(1), [VECTOR]).split(9)[0].description == "1 sample of an array"


def test_arrays_are_mapped_not_read(tmp_path: Path) -> None:
    data = np.zeros((64, 256, 256), np.float32)  # 16 MB
    np.save(tmp_path / "a.npy", data)
    np.savez(tmp_path / "a.npz", x=data)
    np.savez_compressed(tmp_path / "packed.npz", x=data)
    for name in ("a.npy", "a.npz", "packed.npz"):
        tracemalloc.start()
        samples, _ = open_data(tmp_path / name, [InputSpec("x", (1, 256, 256))]).split(64)
        assert sum(1 for _ in samples) == 64
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * 2**20, name


def test_npz_with_an_array_per_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ids=np.arange(10).reshape(5, 2), x=rows(5), labels=np.arange(5))
    for sample in open_data(tmp_path / "a.npz", PAIR).split(5)[0]:
        assert list(sample) == ["x", "ids"]
        assert sample["ids"].dtype == np.int32
        row = sample["ids"].flat[0] // 2
        np.testing.assert_array_equal(sample["x"][0], rows(5)[row])


@pytest.mark.parametrize("inputs", [(VECTOR,), PAIR])
def test_npz_keys_are_named_where_wrong(tmp_path: Path, inputs: tuple[InputSpec, ...]) -> None:
    np.savez(tmp_path / "a.npz", images=rows(5), labels=np.arange(5))
    said = r"\('x'.*found 'images', 'labels'; name the arrays as"
    with pytest.raises(DataError, match=said):
        open_data(tmp_path / "a.npz", inputs)


def test_npz_inputs_must_have_as_many_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=rows(5), ids=np.zeros((4, 2), int))
    with pytest.raises(DataError, match="different numbers of samples: 'x' 5, 'ids' 4"):
        open_data(tmp_path / "a.npz", PAIR)


def test_npy_cannot_feed_two_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows(5))
    with pytest.raises(DataError, match=r"one array, the model has 2 inputs \('x', 'ids'\)"):
        open_data(tmp_path / "a.npy", PAIR)


def test_wrong_shape_of_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows(6, 5))
    said = r"a\.npy: array 'x': has shape \[6, 5\], expected \[N, 1, 4\] or \[N, 4\] for input 'x'"
    with pytest.raises(DataError, match=said):
        open_data(tmp_path / "a.npy", [VECTOR])
    with pytest.raises(DataError, match="first axis"):
        open_data(rows(1)[0], [VECTOR])


def test_whole_batches_need_the_whole_shape() -> None:
    spec = InputSpec("x", (2, 4))
    (sample,) = open_data(rows(2)[None], [spec]).split(1)[0]
    assert sample["x"].shape == (2, 4)
    with pytest.raises(DataError, match=r"expected \[N, 2, 4\] for"):
        open_data(rows(2), [spec])


def test_scalars_per_sample() -> None:
    samples, _ = open_data(np.arange(5.0), [InputSpec("x", (1,))]).split(5)
    assert sorted(first_column(samples)) == [0, 1, 2, 3, 4]


def test_integers_must_fit() -> None:
    samples, _ = open_data(np.full((1, 4), 255), [CODES]).split(1)
    assert next(iter(samples))["codes"].dtype == np.uint8
    for wrong in (256, -1):
        with pytest.raises(DataError, match=rf"sample 0 of array: holds .*{wrong}.*uint8"):
            list(open_data(np.full((1, 4), wrong), [CODES]).split(1)[0])
    with pytest.raises(DataError, match=r"float32 values, input 'codes' takes uint8"):
        list(open_data(rows(1), [CODES]).split(1)[0])


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_damaged_array_files(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    (np.save if name == "a.npy" else np.savez)(file, rows(500))
    whole = file.read_bytes()
    for length in (0, 4, 20, 100, len(whole) // 2):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"{name}: .*; save it again"):
            open_data(file, [VECTOR])


def test_damaged_npz_members(tmp_path: Path) -> None:
    packed = tmp_path / "a.npz"
    np.savez_compressed(packed, x=np.random.default_rng(0).random((50, 4)))
    whole = bytearray(packed.read_bytes())
    whole[200:260] = bytes(60)
    packed.write_bytes(whole)
    with pytest.raises(DataError, match=r"a\.npz: "):
        open_data(packed, [VECTOR])
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("x.npy", b"no array")
    with pytest.raises(DataError, match=r"a\.npz: array 'x': is not an array file"):
        open_data(packed, [VECTOR])


def test_lying_array_header_allocates_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    np.save(file, rows(500))
    head, body = file.read_bytes()[:128], file.read_bytes()[128:]
    file.write_bytes(head.replace(b"(500, 4), }  ", b"(5000000000, 4), }")[:128] + body)
    with pytest.raises(DataError, match=r"is cut short: \[5000000000, 4\] float32"):
        open_data(file, [VECTOR])


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}, {}], object))
    with pytest.raises(DataError, match="holds object values, not numbers"):
        open_data(tmp_path / "a.npy", [VECTOR])


# Python iterables


def test_generator_is_taken_in_order_and_kept() -> None:
    drawn = []

    def generate() -> Iterator[np.ndarray]:
        for i in range(1000):
            drawn.append(i)
            yield np.full(4, i)

    source = open_data(generate(), [VECTOR])
    assert drawn == []
    calibration, held_out = source.split(60, 20)
    assert len(drawn) == 80
    for _pass in range(2):
        assert first_column(calibration) == list(range(60))
        assert first_column(held_out) == list(range(60, 80))
    assert calibration.description == "60 samples of a generator"
    again, _ = source.split(10, 5)
    assert first_column(again) == list(range(10))
    assert len(drawn) == 80


def test_generator_may_reuse_its_buffer() -> None:
    def generate() -> Iterator[np.ndarray]:
        buffer = np.zeros((1, 4), np.float32)
        for i in range(60):
            buffer[:] = i
            yield buffer

    assert first_column(open_data(generate(), [VECTOR]).split(60)[0]) == list(range(60))


def test_kept_samples_cannot_be_spoilt() -> None:
    samples, _ = open_data(iter([np.zeros(4)] * 3), [VECTOR]).split(3)
    sample = next(iter(samples))
    with pytest.raises(ValueError, match="read-only"):
        sample["x"][:] = 1
    sample.clear()
    assert [list(s) for s in samples] == [["x"]] * 3


@pytest.mark.parametrize(
    "item",
    [
        {"ids": [1, 2], "x": np.ones((1, 4))},
        (np.ones(4), [1, 2]),
        [np.ones(4, np.float64), np.array([[1, 2]])],
    ],
)
def test_forms_of_an_item(item: Any) -> None:
    for source in (iter([item]), [item]):
        (sample,) = open_data(source, PAIR).split(5)[0]
        np.testing.assert_array_equal(sample["x"], np.ones((1, 4)))
        np.testing.assert_array_equal(sample["ids"], [[1, 2]])


@pytest.mark.parametrize(
    "item",
    [[1, 2, 3, 4], (1, 2, 3, 4), [[1, 2, 3, 4]], ([1, 2, 3, 4],), {"any": np.arange(1, 5)}],
)
def test_forms_of_an_item_for_one_input(item: Any) -> None:
    (sample,) = open_data(iter([item]), [VECTOR]).split(5)[0]
    np.testing.assert_array_equal(sample["x"], [[1, 2, 3, 4]])


def test_functions_that_return_a_generator() -> None:
    samples, _ = open_data(lambda: ([row] for row in rows(5)), [VECTOR]).split(3)
    assert first_column(samples) == rows(5)[:3, 0].tolist()


@pytest.mark.parametrize(
    ("item", "inputs", "said"),
    [
        (np.zeros(5), [VECTOR], r"has shape \[5\], input 'x' takes \[1, 4\] or \[4\]"),
        (np.zeros((2, 4)), [VECTOR], r"has shape \[2, 4\]"),
        ("a.jpg", [VECTOR], "holds str values"),
        (None, [VECTOR], "not numbers"),
        ((np.zeros(4), 3), [VECTOR], "is not an array of numbers"),
        (np.zeros(4), PAIR, "has one value, the model has 2 inputs"),
        ((1, 2, 3), PAIR, "has 3 items, the model has 2 inputs"),
        ({"x": np.zeros(4)}, PAIR, r"expected .*\('x', 'ids'\), found 'x'"),
        ({"y": np.zeros(4), "z": 0}, [VECTOR], r"expected .*\('x'\), found 'y', 'z'"),
    ],
)
def test_wrong_items_are_named(item: Any, inputs: list[InputSpec], said: str) -> None:
    good = tuple(np.zeros(s.shape, s.dtype) for s in inputs)
    with pytest.raises(DataError, match=f"sample 1 of a generator: .*{said}"):
        open_data((x for x in (good, item)), inputs).split(5)
    with pytest.raises(DataError, match=f"sample 1 of a list: .*{said}"):
        list(open_data([good, item], inputs).split(5)[0])


def test_errors_of_the_users_own_code_pass_through() -> None:
    def generate() -> Iterator[np.ndarray]:
        yield np.zeros(4)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        open_data(generate(), [VECTOR]).split(5)


def test_nothing_at_all(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((0, 4), np.float32))
    np.savez(tmp_path / "a.npz", np.zeros((0, 4), np.float32))
    (tmp_path / "a.txt").write_text("# none\n")
    paths = [tmp_path / f"a.{suffix}" for suffix in ("npy", "npz")]
    for source in (*paths, np.zeros((0, 4)), [], iter([])):
        with pytest.raises(DataError, match="no samples"):
            open_data(source, [VECTOR]).split(5)
    with pytest.raises(DataError, match=r"a\.txt: there are no samples"):
        open_data(tmp_path / "a.txt", [IMAGE])


@pytest.mark.parametrize("source", [None, 3, b"x", 1.5])
def test_what_is_no_data(source: Any) -> None:
    with pytest.raises(DataError, match="is not calibration data; give a folder"):
        open_data(source, [VECTOR])


def test_source_opens_once_for_the_same_inputs() -> None:
    source = open_data(rows(5), [VECTOR])
    assert isinstance(source, DataSource)
    assert open_data(source, [VECTOR]) is source
    with pytest.raises(DataError, match=r"\[1, 4\], the model takes .*\[1, 5\]; open the data ag"):
        open_data(source, [InputSpec("x", (1, 5))])


@pytest.mark.parametrize("numbers", [(0, 5), (-1, 0), (5, -1)])
def test_split_needs_sensible_numbers(numbers: tuple[int, int]) -> None:
    with pytest.raises(UsageError):
        open_data(rows(5), [VECTOR]).split(*numbers)


@pytest.mark.parametrize(
    "inputs", [[], [InputSpec("x", (1, 4), "string")], [InputSpec("x", (-1, 4))]]
)
def test_inputs_that_no_data_fits(inputs: list[InputSpec]) -> None:
    with pytest.raises(DataError):
        open_data(rows(5), inputs)


def test_seed_must_not_be_negative() -> None:
    for call in (lambda: open_data(rows(5), [VECTOR], seed=-1), lambda: synthetic([VECTOR], 1, -1)):
        with pytest.raises(UsageError, match="seed"):
            call()


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 50), st.integers(0, 5), st.booleans())
def test_split_deals_every_sample_at_most_once(
    count: int, samples: int, held_out: int, seed: int, stream: bool
) -> None:
    data = rows(count)
    source = open_data(iter(data) if stream else data, [VECTOR], seed=seed)
    calibration, held = source.split(samples, held_out)
    assert len(calibration) == min(samples, count)
    assert len(held) == max(min(held_out, count - samples), 0)
    dealt = first_column(calibration) + first_column(held)
    assert len(set(dealt)) == len(dealt)
    assert set(dealt) <= set(data[:, 0].tolist())


# Loading ahead


@settings(deadline=None)
@given(st.integers(0, 6), st.lists(st.integers(), max_size=40))
def test_prefetch_keeps_order(threads: int, keys: list[int]) -> None:
    def load(key: int) -> int:
        time.sleep((key % 3) * 1e-4)
        return key * 2

    assert list(prefetch(load, keys, threads)) == [key * 2 for key in keys]


def test_prefetch_looks_ahead_only_so_far() -> None:
    asked: list[int] = []

    def keys() -> Iterator[int]:
        for i in range(1000):
            asked.append(i)
            yield i

    stream = prefetch(abs, keys(), 3)
    for _ in range(5):
        next(stream)
    assert len(asked) == 5 + 2 * 3
    stream.close()


def test_prefetch_raises_in_order_and_stops() -> None:
    loaded: list[int] = []

    def load(key: int) -> int:
        loaded.append(key)
        if key == 5:
            raise DataError("damaged")
        return key

    stream = prefetch(load, range(1000), 2)
    assert [next(stream) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="damaged"):
        next(stream)
    assert max(loaded) <= 5 + 2 * 2


def test_prefetch_drops_what_has_not_begun() -> None:
    begun: list[int] = []

    def load(key: int) -> int:
        begun.append(key)
        time.sleep(0.3 if key else 0)
        return key

    stream = prefetch(load, range(1000), 2)
    next(stream)
    stream.close()
    assert max(begun) <= 2


def data_threads() -> int:
    return sum(t.name.startswith("qfrewrite-data") for t in threading.enumerate())


@pytest.mark.parametrize("stop", ["break", "close", "error", "end"])
def test_threads_end_with_the_pass(folder: Path, stop: str) -> None:
    samples, _ = open_data(folder, [IMAGE], threads=2).split(12)

    def run() -> None:
        stream = iter(samples)
        next(stream)
        assert data_threads() > 0
        if stop == "close":
            stream.close()  # type: ignore[attr-defined]
        elif stop == "error":
            raise InterruptedError
        elif stop == "end":
            list(stream)

    if stop == "error":
        with pytest.raises(InterruptedError):
            run()
    else:
        run()
    gc.collect()
    assert data_threads() == 0


def test_a_pass_keeps_no_samples() -> None:
    samples, _ = open_data(rows(50), [VECTOR]).split(50)
    alive = []
    for sample in samples:
        alive.append(weakref.ref(sample["x"]))
        del sample
    assert sum(ref() is not None for ref in alive) <= 1


# Warnings


def warned(data: Any, spec: InputSpec = VECTOR) -> list[str]:
    samples, _ = open_data(data, [spec]).split(len(data))
    for _pass in range(2):
        assert sum(1 for _ in samples) == len(data)
    return [str(one) for one in samples.diagnostics]


def usual(count: int = 60) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, 4))


def spoilt(change: Callable[[np.ndarray], object]) -> np.ndarray:
    data = usual()
    change(data)
    return data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (usual(), None),
        (usual() * 3, None),
        (usual(49), "only 49 samples: ranges may"),
        (spoilt(lambda x: x.__setitem__((7, 2), np.nan)), "sample 7 of array holds NaN or inf"),
        (spoilt(lambda x: x.__setitem__((7, 2), -np.inf)), "sample 7 of array holds NaN or inf"),
        (spoilt(lambda x: x.__setitem__(7, np.inf)), "sample 7 of array holds NaN or inf"),
        (spoilt(lambda x: x.__setitem__(7, 0.5)), "1 of 60 samples hold one single value"),
        (spoilt(lambda x: x.__setitem__(slice(None), 0.0)), "is the same in all 60 samples"),
        (spoilt(lambda x: x.__setitem__(slice(None), x[0].copy())), "is the same in all 60"),
        (usual() * 100, "far outside the usual -1..1"),
        (usual() / 1000, "very narrow"),
    ],
)
def test_odd_data_is_said_once(data: np.ndarray, said: str | None) -> None:
    found = warned(data)
    assert len(found) == (said is not None), found
    assert said is None or said in found[0]


def test_nonfinite_values_are_said_once_for_many() -> None:
    data = usual()
    data[[9, 3, 5], 0] = np.nan
    assert len(warned(data)) == 1


def test_raw_pixels_into_a_float_model(folder: Path) -> None:
    samples, _ = open_data(folder, [IMAGE], preprocess="raw").split(12)
    list(samples)
    assert ["raw pixels" in w.text for w in samples.diagnostics] == [False, True]
    codes, _ = open_data(folder, [InputSpec("x", (1, 8, 8, 3), "uint8")]).split(12)
    list(codes)
    assert len(codes.diagnostics) == 1


def test_overflow_shows_as_infinity() -> None:
    data = usual()
    data[3, 3] = 1e300
    assert any("sample 3 of array holds NaN or infinity" in w for w in warned(data))


def test_a_broken_pass_says_nothing_twice() -> None:
    data = usual()
    data[:, 0] = np.nan
    samples, _ = open_data(data, [VECTOR]).split(60)
    for _sample in samples:
        break
    list(samples)
    list(samples)
    assert len(samples.diagnostics) == 1


def test_checks_see_samples_as_they_were() -> None:
    samples, _ = open_data(np.ones((60, 4)) * [1, 0, 0, 0], [VECTOR]).split(60)
    for i, sample in enumerate(samples):
        sample["x"][:] = i
    assert ["same in all 60" in w.text for w in samples.diagnostics] == [True]


def test_held_out_samples_may_be_few() -> None:
    calibration, held_out = open_data(usual(80), [VECTOR]).split(60, 20)
    list(held_out)
    assert calibration.diagnostics == held_out.diagnostics == []


@settings(deadline=None)
@given(st.floats(-300, 300), st.floats(-300, 300))
def test_range_warning_is_silent_on_usual_ranges(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    quiet = range_warning("x", low, high, image=True) is None
    assert quiet == (max(-low, high) <= 8 and not 0 < high - low < 0.02)


# Synthetic inputs


def test_synthetic_maps_span_the_range() -> None:
    spec = InputSpec("x", (1, 32, 48, 5))
    samples = synthetic([spec], 4)
    assert samples.description == "4 synthetic inputs"
    for sample in samples:
        x = sample["x"]
        assert (x.shape, x.dtype) == (spec.shape, np.float32)
        assert (x.min(), x.max()) == (-1, 1)
        # Smooth: neighbours differ far less than any two pixels do.
        assert np.abs(np.diff(x, axis=1)).mean() < 0.25 * x.std()
    assert samples.diagnostics == []


def test_synthetic_is_deterministic() -> None:
    specs = [InputSpec("a", (1, 8, 8, 1)), InputSpec("b", (1, 5)), InputSpec("c", (1, 5))]
    one, same = list(synthetic(specs, 5)), list(synthetic(specs, 5))
    other = list(synthetic(specs, 5, seed=1))
    for name in "abc":
        values = [s[name] for s in one]
        assert all(np.array_equal(v, s[name]) for v, s in zip(values, same, strict=True))
        assert not any(np.array_equal(v, s[name]) for v, s in zip(values, other, strict=True))
        assert not np.array_equal(values[0], values[1])
    assert not np.array_equal(one[0]["b"], one[0]["c"])


def test_synthetic_prefix_does_not_depend_on_the_number() -> None:
    short, long = list(synthetic([VECTOR], 2)), list(synthetic([VECTOR], 9))
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(short, long[:2], strict=True))


@settings(deadline=None)
@given(
    st.sampled_from(("float32", "float16", "int8", "uint8", "int32", "int64", "bool")),
    st.lists(st.integers(0, 6), max_size=5),
)
def test_synthetic_fits_any_input(dtype: str, shape: list[int]) -> None:
    spec = InputSpec("x", tuple(shape), dtype)
    (sample,) = synthetic([spec], 1)
    x = sample["x"]
    assert (x.shape, x.dtype) == (tuple(shape), np.dtype(dtype))
    if dtype.startswith("float") and x.size:
        assert x.min() >= -1
        assert x.max() <= 1
    elif x.size and len(shape) != 4:
        assert 0 <= x.min() <= x.max() <= 7


def test_synthetic_refuses_to_make_none() -> None:
    with pytest.raises(UsageError, match="1 or more"):
        synthetic([VECTOR], 0)


@pytest.mark.parametrize("side", [8, 40])
def test_images_of_a_very_large_batch_come_again(side: int) -> None:
    """64 of a batch are drawn; drawing each of 65,536 took 35 seconds."""
    batch, few = (
        next(iter(synthetic([InputSpec("x", (n, side, side, 3), "float32")], 1)))["x"]
        for n in (130, 5)
    )
    assert batch.shape == (130, side, side, 3)
    assert np.array_equal(batch[:5], few)
    assert np.array_equal(batch[128], batch[0])
    assert not np.array_equal(batch[1], batch[0])
