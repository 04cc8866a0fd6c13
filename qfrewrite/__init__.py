"""qfrewrite: rewrite trained TensorFlow graphs for 8-bit chips.

>>> import qfrewrite as qf
>>> m = qf.load("model.pb")
>>> qf.run_passes(m, "remove_dw_bn,relu6_to_relu,calibrate", data="images/")
>>> qf.save(m, "model_int8.tflite")

Names are imported when they are first used, so that `import qfrewrite` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qfrewrite.api import QuantizeReport, SaveReport, load, quantize, run_passes, save
    from qfrewrite.errors import QfError
    from qfrewrite.ir import Graph, Model, Op, Tensor
    from qfrewrite.passes import Pass, PassReport, PassRewriter, RunReport, all_passes, register

__version__ = "0.1.0"

# Public name -> the module that defines it.
_PUBLIC = {
    "Graph": "qfrewrite.ir",
    "Model": "qfrewrite.ir",
    "Op": "qfrewrite.ir",
    "Pass": "qfrewrite.passes",
    "PassReport": "qfrewrite.passes",
    "PassRewriter": "qfrewrite.passes",
    "QfError": "qfrewrite.errors",
    "QuantizeReport": "qfrewrite.api",
    "RunReport": "qfrewrite.passes",
    "SaveReport": "qfrewrite.api",
    "Tensor": "qfrewrite.ir",
    "all_passes": "qfrewrite.passes",
    "load": "qfrewrite.api",
    "quantize": "qfrewrite.api",
    "register": "qfrewrite.passes",
    "run_passes": "qfrewrite.api",
    "save": "qfrewrite.api",
}

__all__ = [
    "Graph",
    "Model",
    "Op",
    "Pass",
    "PassReport",
    "PassRewriter",
    "QfError",
    "QuantizeReport",
    "RunReport",
    "SaveReport",
    "Tensor",
    "__version__",
    "all_passes",
    "load",
    "quantize",
    "register",
    "run_passes",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'qfrewrite' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_PUBLIC[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
