"""Passes: one file each, found by themselves; see docs/writing-a-pass.md."""

from qfrewrite.passes._registry import (
    Pass,
    Rule,
    all_passes,
    judged_on,
    load_plugin,
    make_passes,
    register,
    rule,
)
from qfrewrite.passes._runner import PassReport, RunReport, run_nested, run_passes
from qfrewrite.solve.context import PassContext, PassRewriter, Progress
from qfrewrite.solve.dataset import Dataset
from qfrewrite.solve.measure import measure, row_names
from qfrewrite.solve.parameters import Reads, Within

__all__ = [
    "Dataset",
    "Pass",
    "PassContext",
    "PassReport",
    "PassRewriter",
    "Progress",
    "Reads",
    "Rule",
    "RunReport",
    "Within",
    "all_passes",
    "judged_on",
    "load_plugin",
    "make_passes",
    "measure",
    "register",
    "row_names",
    "rule",
    "run_nested",
    "run_passes",
]
