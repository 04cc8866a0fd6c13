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
    from qfrewrite.analyze.bench import bench_layers as bench_layers
    from qfrewrite.analyze.bench import bench_models as bench_models
    from qfrewrite.analyze.compare import Comparison as Comparison
    from qfrewrite.analyze.compare import compare_models as compare_models
    from qfrewrite.analyze.costs import model_cost as model_cost
    from qfrewrite.analyze.evaluate import evaluate as evaluate
    from qfrewrite.analyze.layers import Inspection as Inspection
    from qfrewrite.analyze.layers import inspect_model as inspect_model
    from qfrewrite.analyze.sweep import sweep as sweep
    from qfrewrite.api import calibrate as calibrate
    from qfrewrite.api import check as check
    from qfrewrite.api import dequantize as dequantize
    from qfrewrite.api import load as load
    from qfrewrite.api import quantize as quantize
    from qfrewrite.api import run_passes as run_passes
    from qfrewrite.api import save as save
    from qfrewrite.api import sensitivity as sensitivity
    from qfrewrite.calibration.range_table import RangeTable as RangeTable
    from qfrewrite.conversion import QuantizeReport as QuantizeReport
    from qfrewrite.data.labels import read_labels as read_labels
    from qfrewrite.errors import Diagnostic as Diagnostic
    from qfrewrite.errors import QfError as QfError
    from qfrewrite.ir import Graph as Graph
    from qfrewrite.ir import Model as Model
    from qfrewrite.ir import Op as Op
    from qfrewrite.ir import Tensor as Tensor
    from qfrewrite.ops.build import GraphBuilder as GraphBuilder
    from qfrewrite.ops.text import graph_text as graph_text
    from qfrewrite.ops.text import parse_graph as parse_graph
    from qfrewrite.passes import Pass as Pass
    from qfrewrite.passes import PassReport as PassReport
    from qfrewrite.passes import PassRewriter as PassRewriter
    from qfrewrite.passes import Rule as Rule
    from qfrewrite.passes import RunReport as RunReport
    from qfrewrite.passes import all_passes as all_passes
    from qfrewrite.passes import register as register
    from qfrewrite.passes import rule as rule
    from qfrewrite.rewrite.match import NoMatch as NoMatch
    from qfrewrite.saving import SaveReport as SaveReport

__version__ = "0.1.0"

# Where the public names are defined.
_MODULES = {
    "analyze.bench": "bench_layers bench_models",
    "analyze.compare": "Comparison compare_models",
    "analyze.costs": "model_cost",
    "analyze.evaluate": "evaluate",
    "analyze.layers": "Inspection inspect_model",
    "analyze.sweep": "sweep",
    "api": "calibrate check dequantize load quantize run_passes save sensitivity",
    "conversion": "QuantizeReport",
    "calibration.range_table": "RangeTable",
    "data.labels": "read_labels",
    "errors": "Diagnostic QfError",
    "ir": "Graph Model Op Tensor",
    "ops.build": "GraphBuilder",
    "ops.text": "graph_text parse_graph",
    "passes": "Pass PassReport PassRewriter Rule RunReport all_passes register rule",
    "rewrite.match": "NoMatch",
    "saving": "SaveReport",
}
_PUBLIC = {
    name: f"qfrewrite.{module}" for module, names in _MODULES.items() for name in names.split()
}

__all__ = sorted(["__version__", *_PUBLIC])


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'qfrewrite' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_PUBLIC[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
