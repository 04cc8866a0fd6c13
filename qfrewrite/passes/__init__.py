"""Passes: one file each, found by themselves; see docs/writing-a-pass.md."""

from qfrewrite.passes._base import Pass, all_passes, make_passes, parameters, register
from qfrewrite.passes._context import PassContext, PassRewriter, Progress
from qfrewrite.passes._measure import measure, row_names
from qfrewrite.passes._runner import PassReport, RunReport, run_passes

__all__ = [
    "Pass",
    "PassContext",
    "PassReport",
    "PassRewriter",
    "Progress",
    "RunReport",
    "all_passes",
    "make_passes",
    "measure",
    "parameters",
    "register",
    "row_names",
    "run_passes",
]
