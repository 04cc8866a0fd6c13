"""Two thousand damaged files: each is refused in one line, or converted.

`benchmarks/fuzz.py` does more of them by hand.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COUNT = 2000

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork")
    or importlib.util.find_spec("resource") is None
    or not Path("/proc/self/statm").exists(),
    reason="limits of child processes are set as Linux has them",
)


@pytest.mark.slow
def test_damaged_files_are_refused_or_converted() -> None:
    """Two mutations of the code that this was seen to catch.

    Without the check of types in `ops/check.py` seed 176 ends the process by SIGSEGV. Where
    BatchNorm statistics that are no numbers give ranges, seed 1350 is a ValueError. Defects are
    also: 10 seconds of processor time, 2 GB of memory, several lines, and any file left behind.
    """
    script = ROOT / "benchmarks" / "fuzz.py"
    done = subprocess.run(
        [sys.executable, script, "--count", str(COUNT), "--workers", "2", "--json"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["defects"] == []
    counts = result["outcomes"]
    assert counts["written"] + counts["refused"] == COUNT
    # Damage that is all refused, or all ignored, would show nothing.
    assert 0.1 < counts["written"] / COUNT < 0.4
