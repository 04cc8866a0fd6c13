"""Switches between training and inference that a frozen graph still has: set to inference."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from qfrewrite.errors import Diagnostics
from qfrewrite.formats.graphdef.nodes import Nodes, attribute, data_refs
from qfrewrite.formats.graphdef.schema import DATA_TYPES, NodeDef

# Names of such switches: keras_learning_phase, is_training, phase_train, bn/training_1, ...
_NAME = re.compile(
    r"(.*[/_])?(learning_phase|phase_train|(is_?)?train(ing)?(_(phase|flag|mode|switch))?)(_\d+)?",
    re.IGNORECASE,
)


def for_inference(nodes: Nodes, given: Collection[str], diagnostics: Diagnostics) -> dict[str, Any]:
    """`nodes` with every switch between training and inference a constant: false.

    Such a switch is a Placeholder of one bool that bears the name of one. given: names of inputs
    that the user wants to feed.
    """
    constants = {}
    for name, node in nodes.items():
        if name in given or not _is_switch(node):
            continue
        constants[name] = _false(node)
        if not _is_false(nodes, node):
            diagnostics.notice(
                "inference", f"'{name}' is taken as false: the graph is read for inference"
            )
    return {**nodes, **constants}


def _is_switch(node: Any) -> bool:
    if node.op not in ("Placeholder", "PlaceholderWithDefault") or not _NAME.fullmatch(node.name):
        return False
    if attribute(node, "dtype") != "DT_BOOL":
        return False
    shape = attribute(node, "shape")
    return getattr(shape, "unknown_rank", True) or not shape.dim


def _is_false(nodes: Nodes, node: Any) -> bool:
    """Whether the switch is false by default."""
    refs = data_refs(node)
    default = nodes.get(refs[0].node) if refs else None
    if default is None or default.op != "Const" or "value" not in default.attr:
        return False
    value = default.attr["value"].tensor
    return not any(value.bool_val) and not any(value.tensor_content)


def _false(node: Any) -> Any:
    constant = NodeDef(name=node.name, op="Const", device=node.device)
    constant.attr["dtype"].type = DATA_TYPES["DT_BOOL"]
    tensor = constant.attr["value"].tensor
    tensor.dtype = DATA_TYPES["DT_BOOL"]
    tensor.tensor_shape.SetInParent()
    tensor.bool_val.append(False)
    return constant
