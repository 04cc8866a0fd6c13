"""qfrewrite: rewrite trained TensorFlow graphs for 8-bit chips.

>>> import qfrewrite as qf
>>> m = qf.load("model.pb")
>>> qf.run_passes(m, "remove_dw_bn,relu6_to_relu,calibrate", data="images/")
>>> qf.save(m, "model_int8.tflite")
>>> table = qf.calibrate("model.pb", "images/", method="greedy")

Names are imported when they are first used, so that `import qfrewrite` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qfrewrite.analyze.bench import bench_layers, bench_models
    from qfrewrite.analyze.compare import Comparison, compare_models
    from qfrewrite.analyze.costs import model_cost
    from qfrewrite.analyze.evaluate import evaluate
    from qfrewrite.analyze.layers import Inspection, inspect_model
    from qfrewrite.analyze.sweep import sweep
    from qfrewrite.api import (
        QuantizeReport,
        SaveReport,
        calibrate,
        check,
        dequantize,
        load,
        quantize,
        run_passes,
        save,
        sensitivity,
    )
    from qfrewrite.calibration.range_table import RangeTable
    from qfrewrite.data.labels import read_labels
    from qfrewrite.errors import Diagnostic, QfError
    from qfrewrite.ir import Graph, Model, Op, Tensor
    from qfrewrite.ops.build import GraphBuilder
    from qfrewrite.ops.text import graph_text, parse_graph
    from qfrewrite.passes import (
        Pass,
        PassReport,
        PassRewriter,
        Rule,
        RunReport,
        all_passes,
        register,
        rule,
    )
    from qfrewrite.rewrite.match import NoMatch

__version__ = "0.1.0"

# Public name -> the module that defines it.
_PUBLIC = {
    "Comparison": "qfrewrite.analyze.compare",
    "Diagnostic": "qfrewrite.errors",
    "Graph": "qfrewrite.ir",
    "GraphBuilder": "qfrewrite.ops.build",
    "Inspection": "qfrewrite.analyze.layers",
    "Model": "qfrewrite.ir",
    "NoMatch": "qfrewrite.rewrite.match",
    "Op": "qfrewrite.ir",
    "Pass": "qfrewrite.passes",
    "PassReport": "qfrewrite.passes",
    "PassRewriter": "qfrewrite.passes",
    "QfError": "qfrewrite.errors",
    "QuantizeReport": "qfrewrite.api",
    "RangeTable": "qfrewrite.calibration.range_table",
    "Rule": "qfrewrite.passes",
    "RunReport": "qfrewrite.passes",
    "SaveReport": "qfrewrite.api",
    "Tensor": "qfrewrite.ir",
    "all_passes": "qfrewrite.passes",
    "bench_layers": "qfrewrite.analyze.bench",
    "bench_models": "qfrewrite.analyze.bench",
    "calibrate": "qfrewrite.api",
    "check": "qfrewrite.api",
    "dequantize": "qfrewrite.api",
    "compare_models": "qfrewrite.analyze.compare",
    "evaluate": "qfrewrite.analyze.evaluate",
    "inspect_model": "qfrewrite.analyze.layers",
    "graph_text": "qfrewrite.ops.text",
    "load": "qfrewrite.api",
    "model_cost": "qfrewrite.analyze.costs",
    "parse_graph": "qfrewrite.ops.text",
    "quantize": "qfrewrite.api",
    "read_labels": "qfrewrite.data.labels",
    "register": "qfrewrite.passes",
    "rule": "qfrewrite.passes",
    "run_passes": "qfrewrite.api",
    "save": "qfrewrite.api",
    "sensitivity": "qfrewrite.api",
    "sweep": "qfrewrite.analyze.sweep",
}

__all__ = [
    "Comparison",
    "Diagnostic",
    "Graph",
    "GraphBuilder",
    "Inspection",
    "Model",
    "NoMatch",
    "Op",
    "Pass",
    "PassReport",
    "PassRewriter",
    "QfError",
    "QuantizeReport",
    "RangeTable",
    "Rule",
    "RunReport",
    "SaveReport",
    "Tensor",
    "__version__",
    "all_passes",
    "bench_layers",
    "bench_models",
    "calibrate",
    "check",
    "compare_models",
    "dequantize",
    "evaluate",
    "graph_text",
    "inspect_model",
    "load",
    "model_cost",
    "parse_graph",
    "quantize",
    "read_labels",
    "register",
    "rule",
    "run_passes",
    "save",
    "sensitivity",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'qfrewrite' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_PUBLIC[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
