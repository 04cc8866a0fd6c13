"""The intermediate representation: tensors, ops, graphs, models."""

from qfrewrite.ir.dtypes import NUMPY_DTYPES, Array
from qfrewrite.ir.facts import ChannelFacts, Normal, TrainedRange
from qfrewrite.ir.graph import Graph
from qfrewrite.ir.model import Model, Signature
from qfrewrite.ir.nodes import Op, Tensor, User, constant
from qfrewrite.ir.quant import Quant

__all__ = [
    "NUMPY_DTYPES",
    "Array",
    "ChannelFacts",
    "Graph",
    "Model",
    "Normal",
    "Op",
    "Quant",
    "Signature",
    "Tensor",
    "TrainedRange",
    "User",
    "constant",
]
