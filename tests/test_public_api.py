"""What `import qfrewrite` promises."""

from __future__ import annotations

import inspect
from importlib.resources import files

import qfrewrite

PUBLIC = [
    "Comparison", "Graph", "Inspection", "Model", "Op", "Pass", "PassReport", "PassRewriter",
    "QfError", "QuantizeReport", "RangeTable", "RunReport", "SaveReport", "Tensor",
    "__version__", "all_passes", "bench_layers", "bench_models", "calibrate", "check",
    "compare_models", "dequantize", "evaluate", "inspect_model", "load", "model_cost",
    "quantize", "read_labels", "register", "run_passes", "save", "sensitivity", "sweep",
]  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert qfrewrite.__all__ == PUBLIC
    assert dir(qfrewrite) == sorted(PUBLIC)


def test_every_public_name_is_there_and_documented() -> None:
    for name in PUBLIC:
        value = getattr(qfrewrite, name)
        assert isinstance(value, str) or inspect.getdoc(value), name


def test_types_are_shipped() -> None:
    assert files("qfrewrite").joinpath("py.typed").is_file()
