"""Preprocess round-trips as text; images decode to what Pillow alone gives."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qfrewrite.data.preprocess import Preprocess, crop_box, image_pixels
from qfrewrite.errors import DataError, UsageError

RAW = Preprocess.parse("raw")
finite = st.floats(-1e6, 1e6)
positive = st.floats(1e-6, 1e6)


@st.composite
def preprocesses(draw: st.DrawFn) -> Preprocess:
    channels = draw(st.sampled_from((1, 3)))
    mean = draw(st.lists(finite, min_size=channels, max_size=channels))
    std = draw(st.lists(positive, min_size=1, max_size=1) | st.just([58.4] * channels))
    crop = draw(st.floats(0, 1, exclude_min=True))
    return Preprocess(tuple(mean), tuple(std), crop)


def picture(height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


# Text and arithmetic


@settings(deadline=None)
@given(preprocesses())
def test_text_parses_back(p: Preprocess) -> None:
    assert Preprocess.parse(str(p)) == p


@pytest.mark.parametrize(
    ("text", "mean", "std", "crop"),
    [
        ("mobilenet", (127.5,), (127.5,), 1.0),
        ("unit", (0.0,), (255.0,), 1.0),
        ("raw", (0.0,), (1.0,), 1.0),
        ("mean=1,std=2", (1.0,), (2.0,), 1.0),
        (" mean = 1 , std = 2 ", (1.0,), (2.0,), 1.0),
        ("mean=1:2:3,std=4:5:6,crop=0.5", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 0.5),
        ("std=2", (0.0,), (2.0,), 1.0),
        ("unit,crop=0.875", (0.0,), (255.0,), 0.875),
    ],
)
def test_forms(text: str, mean: tuple[float, ...], std: tuple[float, ...], crop: float) -> None:
    assert Preprocess.parse(text) == Preprocess(mean, std, crop)


@pytest.mark.parametrize("name", ["mobilenet", "unit", "raw", "unit,crop=0.875"])
def test_names_are_kept_in_text(name: str) -> None:
    assert str(Preprocess.parse(name)) == name


def test_scalars_and_lists_are_taken() -> None:
    assert Preprocess(1, [2.0, 3.0]) == Preprocess((1.0,), (2.0, 3.0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mobilnet",
        "mean=x",
        "mean=",
        "mean=1,mean=2",
        "mobilenet,std=3",
        "std=0",
        "std=-1",
        "mean=nan",
        "std=inf",
        "crop=0",
        "crop=1.1",
        "crop=0.5:0.5",
        "mean=1:2:3,std=1:2",
        "mean=1;std=2",
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as error:
        Preprocess.parse(text)
    assert "\n" not in str(error.value)


def test_refusal_says_what_may_be_written() -> None:
    with pytest.raises(UsageError, match=r"write mobilenet .* unit .* raw .* mean=M,std=S"):
        Preprocess.parse("caffe")


def test_named_scalings_are_the_usual_expressions_bit_for_bit() -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    x = codes.astype(np.float32)
    expected = {
        "mobilenet": x / np.float32(127.5) - np.float32(1),
        "unit": x / np.float32(255),
        "raw": x,
    }
    for name, value in expected.items():
        scaled = Preprocess.parse(name).apply(codes)
        assert scaled.dtype == np.float32
        np.testing.assert_array_equal(scaled, value)


@settings(deadline=None)
@given(preprocesses())
def test_scaling_is_the_formula(p: Preprocess) -> None:
    pixels = picture(4, 5)
    exact = (pixels.astype(np.float64) - p.mean) / p.std
    largest = (255 + np.abs(p.mean)) / np.array(p.std)
    assert np.all(np.abs(p.apply(pixels) - exact) <= 4 * 2.0**-23 * largest)


def test_channels_must_agree() -> None:
    p = Preprocess.parse("mean=1:2:3,std=4")
    with pytest.raises(UsageError, match="3 values per channel, the model's input has 1"):
        p.apply(np.zeros((2, 2, 1)))


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0, 1, exclude_min=True))
def test_crop_keeps_the_centre(width: int, height: int, crop: float) -> None:
    left, top, right, bottom = crop_box(width, height, crop)
    for low, high, side in ((left, right, width), (top, bottom, height)):
        assert 0 <= low < high <= side
        assert low == side - high
        assert side * crop - 1e-6 <= high - low <= side * crop + 2


# Decoding


def test_equals_plain_pillow(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.jpg", Image.fromarray(picture(413, 640)), quality=90)
    plain = Image.open(file).convert("RGB").resize((48, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(image_pixels(file, 32, 48, 3), np.asarray(plain))
    scaled = Preprocess.parse("mobilenet").apply(image_pixels(file, 32, 48, 3))
    expected = np.asarray(plain, np.float32) / np.float32(127.5) - np.float32(1)
    np.testing.assert_array_equal(scaled, expected)


def test_crop_is_taken_before_resizing(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.png", Image.fromarray(picture(40, 60)))
    plain = Image.open(file).crop((15, 10, 45, 30)).resize((16, 16), Image.Resampling.BILINEAR)
    cropped = image_pixels(file, 16, 16, 3, crop=0.5)
    np.testing.assert_array_equal(cropped, np.asarray(plain))
    assert not np.array_equal(cropped, image_pixels(file, 16, 16, 3))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_once(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = picture(16, 24)
    # What a camera stores: applying the orientation to it gives the upright picture.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    image = Image.fromarray(np.ascontiguousarray(stored))
    file = saved(tmp_path / f"a.{suffix}", image, exif=exif, **options)
    off = image_pixels(file, 16, 24, 3).astype(int) - upright
    assert np.abs(off).max() <= (6 if suffix == "jpg" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's own
def test_damaged_exif_does_not_spoil_the_picture(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    Image.fromarray(picture()).save(file, exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\0\xff\x01\x12")
    assert image_pixels(file, 20, 30, 3).shape == (20, 30, 3)


def test_modes_become_rgb_or_grey(tmp_path: Path) -> None:
    rgb = Image.fromarray(picture())
    for mode, suffix in (
        ("L", "png"), ("1", "png"), ("P", "gif"), ("P", "png"), ("CMYK", "jpg"), ("CMYK", "tif"),
        ("RGB", "bmp"), ("RGB", "ppm"), ("YCbCr", "jpg"), ("LA", "png"), ("RGB", "webp"),
    ):  # fmt: skip
        file = saved(tmp_path / f"{mode}.{suffix}", rgb.convert(mode))
        for channels, target in ((1, "L"), (3, "RGB")):
            pixels = image_pixels(file, 20, 30, channels)
            with Image.open(file) as image:
                plain = np.asarray(image.convert(target))
            np.testing.assert_array_equal(pixels.squeeze(), plain, f"{mode} {suffix} {channels}")


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    colours = picture()
    alpha = np.full((20, 30, 1), 7, np.uint8)
    file = saved(tmp_path / "a.png", Image.fromarray(np.concatenate([colours, alpha], 2)))
    np.testing.assert_array_equal(image_pixels(file, 20, 30, 3), colours)


def test_palette_with_transparency(tmp_path: Path) -> None:
    palette = Image.fromarray(picture()).quantize(16)
    colours = np.asarray(palette.convert("RGB"))
    for name, value in (("index", 3), ("table", bytes(range(16)))):
        file = saved(tmp_path / f"{name}.png", palette, transparency=value)
        np.testing.assert_array_equal(image_pixels(file, 20, 30, 3), colours)


def test_sixteen_bits_give_the_high_byte(tmp_path: Path) -> None:
    grey = picture()[..., 0]
    wide = grey.astype(np.uint16) * 256 + 99
    for suffix in ("png", "tif"):
        file = saved(tmp_path / f"a.{suffix}", Image.fromarray(wide))
        np.testing.assert_array_equal(image_pixels(file, 20, 30, 1)[..., 0], grey)
        np.testing.assert_array_equal(image_pixels(file, 20, 30, 3), np.stack([grey] * 3, 2))


def test_sixteen_bit_pgm(tmp_path: Path) -> None:
    wide = picture()[..., 0].astype(np.uint16) * 257
    file = tmp_path / "a.ppm"
    file.write_bytes(b"P5 30 20 65535\n" + wide.astype(">u2").tobytes())
    np.testing.assert_array_equal(image_pixels(file, 20, 30, 1)[..., 0], wide >> 8)


def test_pixels_of_no_known_range_are_refused(tmp_path: Path) -> None:
    for dtype, kind in ((np.float32, "float"), (np.int32, "32-bit integer")):
        file = saved(tmp_path / f"{kind}.tif", Image.fromarray(picture()[..., 0].astype(dtype)))
        with pytest.raises(DataError, match=f"{kind}.tif: has {kind} pixels.*8 or 16 bits"):
            image_pixels(file, 8, 8, 1)


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp"])
def test_first_frame_counts(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    file = saved(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    assert image_pixels(file, 1, 1, 3).argmax() == 0


def test_open_files_and_text_paths_are_taken(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.png", Image.fromarray(picture()))
    with file.open("rb") as stream:
        from_stream = image_pixels(stream, 8, 8, 3)
    np.testing.assert_array_equal(from_stream, image_pixels(str(file), 8, 8, 3))


# Errors


def test_other_numbers_of_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1 or 3 channels, not 4"):
        image_pixels(tmp_path / "a.png", 8, 8, 4)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.png: no such file"):
        image_pixels(tmp_path / "nothing.png", 8, 8, 3)


def test_every_cut_of_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    for suffix in ("jpg", "png", "gif", "bmp", "tif", "webp", "ppm"):
        whole = saved(tmp_path / f"whole.{suffix}", Image.fromarray(picture())).read_bytes()
        file = tmp_path / f"cut.{suffix}"
        for length in (0, 1, 10, len(whole) // 3, len(whole) // 2):
            file.write_bytes(whole[:length])
            with pytest.raises(DataError, match=rf"cut\.{suffix}: .*; remove it") as error:
                image_pixels(file, 8, 8, 3)
            assert "\n" not in str(error.value)


@settings(deadline=None)
@given(st.data())
def test_damage_never_gives_another_error(data: st.DataObject) -> None:
    buffer = io.BytesIO()
    suffix = data.draw(st.sampled_from(("JPEG", "PNG", "GIF", "BMP", "PPM")))
    Image.fromarray(picture(6, 7)).save(buffer, suffix)
    damaged = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)  # a damaged size must not cost memory
        try:
            pixels = image_pixels(io.BytesIO(bytes(damaged)), 4, 4, 3)
        except DataError:
            return
    assert pixels.shape == (4, 4, 3)


def test_decompression_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(tmp_path / "a.png", Image.fromarray(picture(40, 60)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"a\.png: is too large"):
        image_pixels(file, 8, 8, 3)
