"""Where tests find real models and images, and what is skipped without them."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A slow machine is no failure; CI draws the same examples every time, developers draw new ones.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs TensorFlow where it is not installed."""
    if importlib.util.find_spec("tensorflow") is None:
        absent = pytest.mark.skip(reason="TensorFlow is not installed")
        for item in items:
            if item.get_closest_marker("tensorflow"):
                item.add_marker(absent)


def shared_path(relative: str) -> Path:
    """A file of the shared material; skips the test, with the reason, where it is absent."""
    base = Path(os.environ.get("QFREWRITE_SHARED", ROOT.parent / "shared"))
    path = base / relative
    if not path.exists():
        pytest.skip(f"{relative} is not there (set QFREWRITE_SHARED to where it is)")
    return path


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts work in the background with SIGINT ignored: not so here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
