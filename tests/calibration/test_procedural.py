"""Images that stand in for photographs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from qfrewrite.data.inputs import InputSpec
from qfrewrite.data.procedural import procedural_image
from qfrewrite.data.source import synthetic
from qfrewrite.data.synthetic import looks_like_image
from qfrewrite.ir import Array

IMAGE = InputSpec("x", (1, 96, 128, 3), "float32")


def drawn(count: int, height: int = 128, width: int = 128, channels: int = 3) -> Array:
    return np.stack([
        procedural_image(np.random.default_rng([3, i]), height, width, channels)
        for i in range(count)
    ])  # fmt: skip


def spectral_slope(image: Array) -> float:
    """The exponent a of an amplitude spectrum ~ f^a, over the frequencies that are well sampled."""
    amplitude = np.abs(np.fft.fft2(image - image.mean()))
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij"))
    bands = np.geomspace(0.02, 0.3, 8)
    means = [
        amplitude[(frequency >= low) & (frequency < high)].mean() for low, high in pairwise(bands)
    ]
    return float(np.polyfit(np.log(np.sqrt(bands[1:] * bands[:-1])), np.log(means), 1)[0])


def test_the_spectrum_falls_as_in_photographs() -> None:
    """About 1/f: noise would give 0, smooth blobs less than -2."""
    slopes = [spectral_slope(image.mean(-1)) for image in drawn(12).astype(float)]
    assert -1.4 < np.mean(slopes) < -0.8
    assert max(slopes) < -0.4


def test_images_differ_in_colour_and_brightness() -> None:
    images = drawn(24).astype(float)
    means = images.mean((1, 2))
    assert means.mean() == pytest.approx(125, abs=25)
    assert means.mean(1).std() > 15  # brightness from image to image
    assert (means.max(1) - means.min(1)).mean() > 20  # colour casts
    assert images.min() < 10
    assert images.max() > 245


def test_the_same_seed_gives_the_same_images() -> None:
    one, same = list(synthetic([IMAGE], 3)), list(synthetic([IMAGE], 3))
    other = list(synthetic([IMAGE], 3, seed=1))
    for a, b, c in zip(one, same, other, strict=True):
        assert np.array_equal(a["x"], b["x"])
        assert not np.array_equal(a["x"], c["x"])


@pytest.mark.parametrize("shape", [(40, 200, 3), (300, 64, 1), (32, 32, 3)])
def test_images_have_the_shape_that_is_asked_for(shape: tuple[int, int, int]) -> None:
    image = procedural_image(np.random.default_rng(0), *shape)
    assert image.shape == shape
    assert image.dtype == np.uint8
    assert image.std() > 10


def test_levels_are_preprocessed_as_a_photograph_would_be() -> None:
    levels = next(iter(synthetic([IMAGE], 1, preprocess="raw")))["x"]
    scaled = next(iter(synthetic([IMAGE], 1, preprocess="mean=100,std=50")))["x"]
    assert levels.max() > 150
    np.testing.assert_allclose(scaled, (levels - 100) / 50, atol=1e-6)
    codes = next(iter(synthetic([InputSpec("x", IMAGE.shape, "int8")], 1)))["x"]
    np.testing.assert_array_equal(codes.astype(int), levels - 128)


def test_what_looks_like_an_image() -> None:
    assert looks_like_image(IMAGE)
    assert looks_like_image(InputSpec("x", (4, 32, 32, 1)))
    assert not looks_like_image(InputSpec("x", (1, 31, 64, 3)))
    assert not looks_like_image(InputSpec("x", (1, 64, 64, 2)))
    assert not looks_like_image(InputSpec("x", (1, 64, 3)))
    assert synthetic([IMAGE], 2).description == "2 procedural images"
    assert synthetic([IMAGE, InputSpec("y", (1, 4))], 2).description == "2 synthetic inputs"
