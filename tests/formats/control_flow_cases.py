"""Graphs with control flow, made with TensorFlow and frozen, for tests.

A case is a function of the module `tensorflow` and the input `x`, [1, 7, 5] unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from qfrewrite.ir import Array

Case = Callable[[Any, Any], Any]
STEPS, FEATURES, UNITS = 7, 5, 4
SHAPE = (1, STEPS, FEATURES)


def values(*shape: int) -> Array:
    return (np.random.default_rng(shape).normal(size=shape) * 0.5).astype(np.float32)


class Cell:
    """A recurrent cell without Keras: a gate, a new value, and a state of two parts."""

    state_size = (UNITS, UNITS)
    output_size = UNITS

    def __init__(self, tf: Any) -> None:
        self.tf = tf

    def zero_state(self, batch: Any, dtype: Any) -> Any:
        return tuple(self.tf.zeros([batch, n], dtype) for n in self.state_size)

    def __call__(self, x: Any, state: Any, scope: Any = None) -> Any:
        tf = self.tf
        h, c = state
        both = tf.matmul(tf.concat([x, h], 1), values(FEATURES + UNITS, 3 * UNITS))
        gate, new, out = tf.split(both + values(3 * UNITS), 3, 1)
        c = tf.sigmoid(gate) * c + tf.tanh(new)
        h = tf.sigmoid(out) * c
        return h, (h, c)


# -- version 2: functions, frozen with and without lowering to Switch and Merge ----------------


def accumulate(tf: Any, x: Any) -> Any:
    """A while loop over rows, with a TensorArray of results."""
    rows = tf.transpose(x, [1, 0, 2])
    out = tf.TensorArray(tf.float32, STEPS, element_shape=[1, FEATURES])

    def body(i: Any, total: Any, out: Any) -> Any:
        total = total * 0.5 + rows[i]
        return i + 1, total, out.write(i, total)

    start = (0, tf.zeros([1, FEATURES]), out)
    return tf.while_loop(lambda i, *_: i < STEPS, body, start)[2].stack()


def unknown_elements(tf: Any, x: Any) -> Any:
    """The same where the list does not say the shape of its tensors."""
    out = tf.TensorArray(tf.float32, STEPS)
    rows = tf.unstack(x, axis=1)
    taken = tf.TensorArray(tf.float32, STEPS).unstack(tf.stack(rows))

    def body(i: Any, out: Any) -> Any:
        return i + 1, out.write(STEPS - 1 - i, tf.nn.relu(taken.read(i)))

    return tf.while_loop(lambda i, _: i < STEPS, body, (0, out))[1].concat()


def swap(tf: Any, x: Any) -> Any:
    """Variables that change places: the runtime must not overwrite one before it is read."""
    a, b = x[:, 0], x[:, 1]
    _, a, b = tf.while_loop(lambda i, *_: i < 3, lambda i, a, b: (i + 1, b, a), (0, a, b))
    return a - 2.0 * b


def fibonacci(tf: Any, x: Any) -> Any:
    a, b = x[:, 0], x[:, 1]
    _, a, b = tf.while_loop(lambda i, *_: i < 5, lambda i, a, b: (i + 1, b, a + b), (0, a, b))
    return tf.concat([a, b], 1)


def until(tf: Any, x: Any) -> Any:
    """The data decide how often the loop runs."""
    total = tf.reduce_sum(tf.abs(x))

    def cond(total: Any, y: Any) -> Any:
        return tf.logical_and(total > 0.5, tf.reduce_max(tf.abs(y)) > 1e-6)

    return tf.while_loop(cond, lambda t, y: (t * 0.5, y * 0.5), (total, x))[1]


def constants_in_a_loop(tf: Any, x: Any) -> Any:
    """A variable that becomes a constant, and one that only a constant follows."""

    def body(i: Any, a: Any, b: Any) -> Any:
        return i + 1, tf.constant(values(1, FEATURES)), a + b

    return tf.while_loop(lambda i, *_: i < 3, body, (0, x[:, 0], x[:, 1]))[2]


def nested(tf: Any, x: Any) -> Any:
    def outer(i: Any, y: Any) -> Any:
        def inner(j: Any, z: Any) -> Any:
            return j + 1, z * 0.5 + tf.cast(j + i, tf.float32)

        return i + 1, tf.while_loop(lambda j, _: j < i + 1, inner, (0, y))[1] + x[:, 0]

    return tf.while_loop(lambda i, _: i < 3, outer, (0, x[:, 1]))[1]


def condition(tf: Any, x: Any) -> Any:
    return tf.cond(
        tf.reduce_sum(x) > 0.0, lambda: tf.nn.relu(x) * 2.0, lambda: tf.exp(tf.minimum(x, 1.0))
    )


def condition_of_several(tf: Any, x: Any) -> Any:
    """Branches that give two values; one gives its operand, one a constant."""
    a, b = tf.cond(
        tf.reduce_mean(x) > 0.0, lambda: (x, tf.constant(values(*SHAPE))), lambda: (-x, x * x)
    )
    return a + b


def nested_conditions(tf: Any, x: Any) -> Any:
    total, peak = tf.reduce_sum(x), tf.reduce_max(x)
    return tf.cond(
        total > 0.0,
        lambda: tf.cond(peak > 1.0, lambda: x + 1.0, lambda: x - 1.0),
        lambda: tf.cond(peak > 1.0, lambda: x * 2.0, lambda: x * 3.0),
    )


def conditions_in_a_row(tf: Any, x: Any) -> Any:
    """Two conditions on one predicate, the second behind the first."""
    positive = tf.reduce_sum(x) > 0.0
    y = tf.cond(positive, lambda: x + 1.0, lambda: x - 1.0)
    return tf.cond(positive, lambda: y * y, lambda: tf.abs(y) + x)


def condition_in_a_loop(tf: Any, x: Any) -> Any:
    def body(i: Any, y: Any) -> Any:
        return i + 1, tf.cond(tf.equal(i, 2), lambda: y + x, lambda: y * 0.5)

    return tf.while_loop(lambda i, _: i < 4, body, (0, x))[1]


def loop_in_a_condition(tf: Any, x: Any) -> Any:
    def loop() -> Any:
        return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y * 0.5 + x), (0, x))[1]

    return tf.cond(tf.reduce_sum(x) > 0.0, loop, lambda: x)


def switch_case(tf: Any, x: Any) -> Any:
    index = tf.cast(tf.reduce_sum(tf.abs(x)) / 15.0, tf.int32)
    return tf.switch_case(index, [lambda: x + 1.0, lambda: x * 2.0, lambda: -x], lambda: x * 0.0)


def known_condition(tf: Any, x: Any) -> Any:
    """A condition on the shape of the input is no condition."""
    return tf.cond(tf.shape(x)[1] > 3, lambda: tf.nn.relu(x), lambda: tf.reshape(x, [1, 5, 7]))


def calls(tf: Any, x: Any) -> Any:
    @tf.function
    def inner(x: Any, w: Any) -> Any:
        return tf.nn.relu(tf.matmul(x, w)), tf.shape(x)[0]

    @tf.function
    def outer(x: Any) -> Any:
        y, n = inner(tf.reshape(x, [STEPS, FEATURES]), values(FEATURES, 6))
        z, _ = inner(y, values(6, 3))
        return tf.reshape(z, [n, 3])

    return outer(x)


def list_of_rows(tf: Any, x: Any) -> Any:
    """Lists outside of loops: written out of order, one element twice, gathered, split."""
    rows = tf.TensorArray(tf.float32, 3, element_shape=[1, FEATURES])
    rows = rows.write(2, x[:, 0]).write(0, x[:, 1]).write(2, x[:, 2])
    parts = tf.TensorArray(tf.float32, 7).split(tf.reshape(x, [7, 5]), [1] * 7)
    return tf.concat([rows.stack()[:, 0], tf.gather(parts.stack()[:, 0], [3, 1]),
                      rows.gather([2, 0])[:, 0], parts.concat()], 0)  # fmt: skip


def scattered_list(tf: Any, x: Any) -> Any:
    rows = tf.TensorArray(tf.float32, STEPS).scatter(
        [6, 5, 4, 3, 2, 1, 0], tf.transpose(x, [1, 0, 2])
    )
    return rows.stack() + tf.cast(rows.size(), tf.float32)


def scanned(tf: Any, x: Any) -> Any:
    return tf.scan(lambda a, row: a * 0.5 + row, tf.transpose(x, [1, 0, 2]))


def mapped(tf: Any, x: Any) -> Any:
    return tf.map_fn(lambda row: tf.nn.softmax(row) * row, tf.transpose(x, [1, 0, 2]))


def folded(tf: Any, x: Any) -> Any:
    return tf.foldl(lambda a, row: tf.tanh(a * 0.5 - row), tf.transpose(x, [1, 0, 2]))


def conv_in_a_loop(tf: Any, x: Any) -> Any:
    image = tf.reshape(tf.tile(x, [1, 1, 4]), [1, 7, 5, 4])

    def body(i: Any, y: Any) -> Any:
        y = tf.nn.conv2d(y, values(3, 3, 4, 4), 1, "SAME")
        return i + 1, tf.nn.relu(tf.nn.bias_add(y, values(4)))

    return tf.while_loop(lambda i, _: i < 3, body, (0, image))[1]


def printed(tf: Any, x: Any) -> Any:
    tf.print("sum", tf.reduce_sum(x))
    tf.debugging.assert_less(tf.reduce_max(x), 100.0)
    with tf.control_dependencies([tf.debugging.assert_greater(tf.reduce_max(x), -100.0)]):
        return tf.debugging.check_numerics(tf.nn.relu(x), "no numbers")


V2: dict[str, Case] = {f.__name__.replace("_", " "): f for f in (
    accumulate, unknown_elements, swap, fibonacci, until, constants_in_a_loop, nested, condition,
    condition_of_several, nested_conditions, conditions_in_a_row, condition_in_a_loop,
    loop_in_a_condition, switch_case, known_condition, calls, list_of_rows,
    scattered_list, scanned, mapped, folded, conv_in_a_loop, printed,
)}  # fmt: skip


def frozen_v2(tf: Any, call: Callable[[Any], Any], spec: Any, *, lowered: bool) -> Any:
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    function = tf.function(call).get_concrete_function(spec)
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=lowered)
    return frozen.graph.as_graph_def()


# -- Keras layers ------------------------------------------------------------------------------

KERAS: dict[str, Callable[[Any], list[Any]]] = {
    "lstm": lambda k: [k.LSTM(UNITS)],
    "lstm sequences": lambda k: [k.LSTM(UNITS, return_sequences=True), k.Dense(3)],
    "lstm twice": lambda k: [k.LSTM(UNITS, return_sequences=True), k.LSTM(3)],
    "lstm backwards": lambda k: [k.LSTM(UNITS, return_sequences=True, go_backwards=True)],
    "lstm unrolled": lambda k: [k.LSTM(UNITS, unroll=True)],
    "gru": lambda k: [k.GRU(UNITS)],
    "gru sequences": lambda k: [k.GRU(UNITS, return_sequences=True)],
    "gru reset before": lambda k: [k.GRU(UNITS, reset_after=False)],
    "simple rnn": lambda k: [k.SimpleRNN(UNITS, return_sequences=True)],
    "stacked cells": lambda k: [k.RNN([k.LSTMCell(UNITS), k.GRUCell(3)])],
    "bidirectional lstm": lambda k: [
        k.Bidirectional(k.LSTM(UNITS, return_sequences=True)), k.Dense(3)],
    "bidirectional gru": lambda k: [k.Bidirectional(k.GRU(UNITS), merge_mode="sum")],
    "time distributed": lambda k: [k.TimeDistributed(k.Dense(3, "relu")), k.GRU(3)],
    "masked lstm": lambda k: [k.Masking(), k.LSTM(UNITS)],
}  # fmt: skip


# -- version 1: graphs, with Switch, Merge and TensorArrayV3 -----------------------------------


def dynamic_rnn(tf: Any, x: Any) -> Any:
    outputs, state = tf.compat.v1.nn.dynamic_rnn(Cell(tf), x, dtype=tf.float32)
    return tf.concat([tf.reshape(outputs, [1, -1]), *state], 1)


def dynamic_rnn_of_lengths(tf: Any, x: Any) -> Any:
    return tf.compat.v1.nn.dynamic_rnn(Cell(tf), x, sequence_length=[5], dtype=tf.float32)[0]


def dynamic_rnn_time_major(tf: Any, x: Any) -> Any:
    return tf.compat.v1.nn.dynamic_rnn(
        Cell(tf), tf.transpose(x, [1, 0, 2]), dtype=tf.float32, time_major=True
    )[0]


def bidirectional_dynamic_rnn(tf: Any, x: Any) -> Any:
    outputs, _ = tf.compat.v1.nn.bidirectional_dynamic_rnn(
        Cell(tf), Cell(tf), x, sequence_length=[6], dtype=tf.float32
    )
    return tf.concat(outputs, 2)


def static_rnn(tf: Any, x: Any) -> Any:
    steps = tf.unstack(x, axis=1)
    outputs, _ = tf.compat.v1.nn.static_rnn(Cell(tf), steps, dtype=tf.float32)
    return tf.stack(outputs, 1)


def static_rnn_of_lengths(tf: Any, x: Any) -> Any:
    outputs, _ = tf.compat.v1.nn.static_rnn(
        Cell(tf), tf.unstack(x, axis=1), dtype=tf.float32, sequence_length=[4]
    )
    return tf.stack(outputs, 1)


def training_switch(tf: Any, x: Any) -> Any:
    """Keras of TensorFlow 1: a learning phase decides which normalization is used."""
    training = tf.compat.v1.placeholder_with_default(False, [], "keras_learning_phase")

    def train() -> Any:
        mean, variance = tf.nn.moments(x, [0, 1])
        return (x - mean) * tf.math.rsqrt(variance + 1e-3)

    return tf.cond(training, train, lambda: (x - values(FEATURES)) * 0.5)


def training_by_default(tf: Any, x: Any) -> Any:
    training = tf.compat.v1.placeholder_with_default(True, [], "is_training")
    return tf.cond(training, lambda: x * tf.random.normal(SHAPE), lambda: x * 2.0)


def dropout_by_rate(tf: Any, x: Any) -> Any:
    rate = tf.compat.v1.placeholder_with_default(0.0, [], "rate")
    return tf.nn.dropout(x, rate=rate) + 1.0


def dropout_by_floor(tf: Any, x: Any) -> Any:
    """Dropout as TensorFlow wrote it up to 1.13."""
    keep = tf.compat.v1.placeholder_with_default(1.0, [], "keep_prob")
    mask = tf.floor(keep + tf.compat.v1.random_uniform(SHAPE, 0.0, 1.0))
    return tf.compat.v1.div(x, keep) * mask + 1.0


def assertions(tf: Any, x: Any) -> Any:
    v1 = tf.compat.v1
    checks = [v1.assert_less(tf.reduce_max(x), 100.0), v1.Assert(tf.reduce_sum(x) < 1e3, [x])]
    with tf.control_dependencies(checks):
        return v1.Print(tf.nn.relu(x), [tf.shape(x)], "shape")


V1: dict[str, Case] = {f.__name__.replace("_", " "): f for f in (
    accumulate, unknown_elements, swap, fibonacci, until, constants_in_a_loop, nested, condition,
    condition_of_several, nested_conditions, conditions_in_a_row, condition_in_a_loop,
    loop_in_a_condition, scattered_list, scanned, mapped, conv_in_a_loop,
    dynamic_rnn, dynamic_rnn_of_lengths, dynamic_rnn_time_major, bidirectional_dynamic_rnn,
    static_rnn, static_rnn_of_lengths, training_switch, training_by_default, dropout_by_rate,
    dropout_by_floor, assertions,
)}  # fmt: skip


@contextmanager
def version_1(tf: Any) -> Iterator[None]:
    """Control flow of version 1 in this block."""
    tf.compat.v1.disable_control_flow_v2()
    try:
        yield
    finally:
        tf.compat.v1.enable_control_flow_v2()


def frozen_v1(tf: Any, case: Case, shape: tuple[int, ...] = SHAPE) -> Any:
    """The case as a graph with input `x` and output `y`."""
    graph = tf.Graph()
    with version_1(tf), graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, shape, "x")
        tf.identity(case(tf, x), name="y")
        message = graph.as_graph_def()
    return tf.compat.v1.graph_util.extract_sub_graph(message, ["y"])
