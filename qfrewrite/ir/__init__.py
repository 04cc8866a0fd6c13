"""The intermediate representation: tensors, ops, graphs, models."""

from qfrewrite.ir.graph import Graph, Reader
from qfrewrite.ir.model import Model, Signature
from qfrewrite.ir.op import Op
from qfrewrite.ir.quant import Quant
from qfrewrite.ir.tensor import NUMPY_DTYPES, Array, Tensor, constant

__all__ = [
    "NUMPY_DTYPES",
    "Array",
    "Graph",
    "Model",
    "Op",
    "Quant",
    "Reader",
    "Signature",
    "Tensor",
    "constant",
]
