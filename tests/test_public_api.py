"""What `import qfrewrite` promises."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.resources import files

import qfrewrite

PUBLIC = [
    "Comparison", "Diagnostic", "Graph", "GraphBuilder", "Inspection", "Model", "NoMatch", "Op",
    "Pass", "PassReport", "PassRewriter", "QfError", "QuantizeReport", "RangeTable", "Rule",
    "RunReport", "SaveReport", "Tensor", "__version__", "all_passes", "bench_layers",
    "bench_models", "calibrate", "check", "compare_models", "dequantize", "evaluate",
    "graph_text", "inspect_model", "load", "model_cost", "parse_graph", "quantize",
    "read_labels", "register", "rule", "run_passes", "save", "sensitivity", "sweep",
]  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert qfrewrite.__all__ == PUBLIC
    assert dir(qfrewrite) == sorted(PUBLIC)


def test_every_public_name_is_there_and_documented() -> None:
    for name in PUBLIC:
        value = getattr(qfrewrite, name)
        assert isinstance(value, str) or inspect.getdoc(value), name


IMPORT_ALL = """
import importlib, pkgutil, qfrewrite
for module in pkgutil.walk_packages(qfrewrite.__path__, "qfrewrite."):
    if not module.name.endswith(("__main__", "._count")):
        importlib.import_module(module.name)
for name, home in qfrewrite._PUBLIC.items():
    value = getattr(qfrewrite, name)
    assert value is getattr(importlib.import_module(home), name), f"{name} is {value}"
    assert not inspect.ismodule(value), f"{name} is a module"
"""


def test_every_public_name_stays_its_object_after_every_module_was_imported() -> None:
    """A subpackage named like a public function takes its place as soon as it is imported."""
    run = subprocess.run(
        [sys.executable, "-c", "import inspect\n" + IMPORT_ALL], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_types_are_shipped() -> None:
    assert files("qfrewrite").joinpath("py.typed").is_file()
