"""Networks nobody here wrote, as Keras and TensorFlow write them today, against TensorFlow."""

from __future__ import annotations

from pathlib import Path

import pytest
import zoo
from peers import WITHOUT_PEER, Subject, float_ops, largest_difference, sqnr_db

import qfrewrite as qf

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Statistics for quantized inputs"),
]

FORMS = ("pb", "tflite")
# Largest difference of a float output, as a share of its range.
TOLERANCE = 1e-4
# How far below TensorFlow's int8 ours may be, dB.
ALLOWANCE = 1.0


@pytest.fixture(scope="module", params=list(zoo.NETWORKS))
def subject(request: pytest.FixtureRequest) -> Subject:
    """One network with all that is made of it, for the tests of both forms."""
    return Subject(request.param)


@pytest.mark.parametrize("form", FORMS)
def test_float_equals_keras(subject: Subject, form: str, tmp_path: Path) -> None:
    model = subject.loaded(form, tmp_path)
    qf.run_passes(model, "fold_bn")
    content = qf.save(model, tmp_path / "float.tflite", scheme="float32").path.read_bytes()
    assert largest_difference(subject.wanted, subject.outputs_of(content)) <= TOLERANCE


@pytest.mark.parametrize("form", FORMS)
def test_int8_is_as_good_as_tensorflows(subject: Subject, form: str, tmp_path: Path) -> None:
    ours = subject.quantized(form, tmp_path)
    figures = sqnr_db(subject.wanted, subject.outputs_of(ours))
    if subject.name in WITHOUT_PEER:
        assert min(figures) >= WITHOUT_PEER[subject.name]
        return
    theirs = subject.tflite_int8
    peers = sqnr_db(subject.wanted, subject.outputs_of(theirs))
    assert all(a >= b - ALLOWANCE for a, b in zip(figures, peers, strict=True)), (figures, peers)
    assert len(float_ops(ours, tmp_path)) <= len(float_ops(theirs, tmp_path))
