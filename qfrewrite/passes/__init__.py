"""Passes: one file each, found by themselves; see docs/writing-a-pass.md."""

from qfrewrite.passes._registry import (
    Pass,
    all_passes,
    judged_on,
    make_passes,
    parameters,
    register,
)
from qfrewrite.passes._runner import PassReport, RunReport, run_nested, run_passes
from qfrewrite.solve.context import PassContext, PassRewriter, Progress
from qfrewrite.solve.measure import measure, row_names

__all__ = [
    "Pass",
    "PassContext",
    "PassReport",
    "PassRewriter",
    "Progress",
    "RunReport",
    "all_passes",
    "judged_on",
    "make_passes",
    "measure",
    "parameters",
    "register",
    "row_names",
    "run_nested",
    "run_passes",
]
