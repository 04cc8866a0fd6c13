"""Keras models as frozen GraphDefs, as users export them."""

from __future__ import annotations

from typing import Any

import numpy as np


def frozen(model: Any) -> bytes:
    """`model` for a batch of 1, its variables made constants."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    given = [tf.TensorSpec((1, *i.shape[1:]), i.dtype) for i in model.inputs]
    function = tf.function(lambda *x: model(list(x) if len(x) > 1 else x[0], training=False))
    graph = convert_variables_to_constants_v2(function.get_concrete_function(*given)).graph
    return bytes(graph.as_graph_def().SerializeToString())


def randomise(model: Any, seed: int = 0) -> None:
    """Weights with nothing special in them: no zero bias, no BatchNorm that does nothing."""
    rng = np.random.default_rng(seed)
    weights = []
    for variable in model.weights:
        shape, name = variable.shape, variable.name
        if len(shape) > 1:
            fan = float(np.prod(shape[:-1]))
            weights.append(rng.normal(size=shape) * np.sqrt(2 / fan))
        elif name in ("gamma", "moving_variance"):
            weights.append(rng.uniform(0.5, 1.5, shape))
        else:
            weights.append(rng.normal(size=shape) * 0.2)
    model.set_weights(weights)
