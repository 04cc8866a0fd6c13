"""GraphDef cases: arithmetic, activations, comparisons, reductions, matrix products."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from graphdef_cases import Case, X, case, integers, positive
from graphs import normal

# [0.5, 1.5, ...] and their negatives: what rounds to even, and what is exact.
HALVES = (np.arange(-24, 24, dtype=np.float32) / 4).reshape(1, 3, 4, 4)
MASK = integers(*X, below=2).astype(bool)

BROADCASTING: Mapping[str, Case] = {
    "add a scalar": case(lambda tf, x: x + 1.5),
    "add a scalar computed from constants": case(
        lambda tf, x: x + tf.constant(2.0) * tf.constant(0.75)),
    "add a row": case(lambda tf, x: x + normal(4)),
    "add a plane": case(lambda tf, x: x + normal(6, 8, 4)),
    "add a column": case(lambda tf, x: x + normal(6, 1, 1)),
    "add a longer constant": case(lambda tf, x: x + normal(2, 1, 1, 1), (1, 6, 4)),
    "add what is computed": case(lambda tf, x, y: x + y, X, (8, 4)),
    "add both ways": case(lambda tf, x, y: x + y, (1, 6, 1, 4), (1, 1, 8, 1)),
    "add a scalar input": case(lambda tf, x, y: x + y, X, np.array(0.75, np.float32)),
    "add by its old name": case(lambda tf, x: tf.raw_ops.Add(x=x, y=normal(4))),
    "add n": case(lambda tf, x: tf.add_n([x, tf.nn.relu(x), x])),
    "add to a constant of rank 5": case(lambda tf, x: x + normal(2, 1, 3, 1, 4), (2, 5, 3, 1, 4)),
    "subtract from a constant": case(lambda tf, x: normal(4) - x),
    "multiply by minus one": case(lambda tf, x: x * -1.0),
    "multiply two branches": case(lambda tf, x: tf.nn.relu(x) * tf.tanh(x)),
    "divide by a constant": case(lambda tf, x: x / (np.abs(normal(4)) + np.float32(0.5))),
    "divide a constant": case(lambda tf, x: 2.0 / x, positive(*X)),
    "divide by its old name": case(
        lambda tf, x, y: tf.raw_ops.Div(x=x, y=y), X, positive(*X)),
    "divide where zero is zero": case(
        lambda tf, x: tf.math.divide_no_nan(x, tf.nn.relu(x)), int8=0.05),
    "maximum of a constant": case(lambda tf, x: tf.maximum(x, normal(8, 4))),
    "minimum of two": case(lambda tf, x: tf.minimum(x, -x)),
    "clip by value": case(lambda tf, x: tf.clip_by_value(x, -0.5, 0.75)),
    "clip in one op": case(lambda tf, x: tf.raw_ops.ClipByValue(
        t=x, clip_value_min=-0.5, clip_value_max=0.75)),
    "squared difference": case(lambda tf, x: tf.math.squared_difference(x, normal(4))),
    "bias of rank 2": case(lambda tf, x: tf.nn.bias_add(x, normal(5)), (3, 5)),
    "bias of rank 3": case(lambda tf, x: tf.nn.bias_add(x, normal(5)), (2, 3, 5)),
    "bias of rank 5": case(lambda tf, x: tf.nn.bias_add(x, normal(5)), (1, 2, 3, 4, 5)),
    "bias by its old name": case(lambda tf, x: tf.raw_ops.BiasAddV1(value=x, bias=normal(4))),
    "same constant twice": case(lambda tf, x: (x + (c := tf.constant(normal(4)))) * c),
}  # fmt: skip

UNARY: Mapping[str, Case] = {
    "abs": case(lambda tf, x: tf.abs(x)),
    "neg": case(lambda tf, x: -x),
    "square": case(lambda tf, x: tf.square(x)),
    "exp": case(lambda tf, x: tf.exp(x)),
    "expm1": case(lambda tf, x: tf.math.expm1(x)),
    "log": case(lambda tf, x: tf.math.log(x), positive(*X)),
    "log1p": case(lambda tf, x: tf.math.log1p(x), positive(*X)),
    "sqrt": case(lambda tf, x: tf.sqrt(x), positive(*X)),
    "rsqrt": case(lambda tf, x: tf.math.rsqrt(x), positive(*X), int8=0.04),
    "reciprocal": case(lambda tf, x: tf.math.reciprocal(x), positive(*X)),
    "inverse by its old name": case(lambda tf, x: tf.raw_ops.Inv(x=x), positive(*X)),
    "sin": case(lambda tf, x: tf.sin(x * 3.0)),
    "cos": case(lambda tf, x: tf.cos(x * 3.0)),
    "tan": case(lambda tf, x: tf.tan(x), normal(*X) / 4),
    "sign": case(lambda tf, x: tf.sign(x), HALVES),
    "floor": case(lambda tf, x: tf.floor(x), HALVES),
    "ceil": case(lambda tf, x: tf.math.ceil(x), HALVES),
    "round": case(lambda tf, x: tf.round(x), HALVES),
    "rint": case(lambda tf, x: tf.math.rint(x), HALVES),
    "sinh and cosh": case(lambda tf, x: tf.sinh(x) + tf.cosh(x)),
    "relu": case(lambda tf, x: tf.nn.relu(x)),
    "relu6": case(lambda tf, x: tf.nn.relu6(x * 4.0)),
    "relu -1 to 1": case(lambda tf, x: tf.maximum(tf.minimum(x, 1.0), -1.0)),
    "leaky relu": case(lambda tf, x: tf.nn.leaky_relu(x, 0.3)),
    "leaky relu by default": case(lambda tf, x: tf.raw_ops.LeakyRelu(features=x)),
    "prelu": case(lambda tf, x: tf.nn.relu(x) - normal(4) * tf.nn.relu(-x)),
    "elu": case(lambda tf, x: tf.nn.elu(x)),
    "selu": case(lambda tf, x: tf.nn.selu(x)),
    "softplus": case(lambda tf, x: tf.nn.softplus(x * 4.0)),
    "softplus far out": case(
        lambda tf, x: tf.nn.softplus(x), np.linspace(-90, 90, 96, dtype=np.float32).reshape(2, 48)),
    "softsign": case(lambda tf, x: tf.nn.softsign(x)),
    "sigmoid": case(lambda tf, x: tf.sigmoid(x)),
    "log sigmoid": case(lambda tf, x: tf.math.log_sigmoid(x)),
    "tanh": case(lambda tf, x: tf.tanh(x)),
    "swish": case(lambda tf, x: x * tf.sigmoid(x)),
    "mish": case(lambda tf, x: x * tf.tanh(tf.nn.softplus(x))),
    "hard sigmoid": case(lambda tf, x: tf.nn.relu6(x + 3.0) * np.float32(1 / 6)),
    "hard swish": case(lambda tf, x: x * tf.nn.relu6(x + 3.0) * np.float32(1 / 6)),
    "gelu": case(lambda tf, x: tf.nn.gelu(x)),
    "gelu by tanh": case(lambda tf, x: tf.nn.gelu(x, approximate=True)),
    "gelu by erf": case(lambda tf, x: 0.5 * x * (1.0 + tf.math.erf(x / np.float32(np.sqrt(2))))),
    "gelu by erf, halved last": case(
        lambda tf, x: x * (tf.math.erf(x * np.float32(np.sqrt(0.5))) + 1.0) * 0.5),
    "gelu by erf, as a distribution": case(
        lambda tf, x: x * (0.5 * (1.0 + tf.math.erf(x * np.float32(np.sqrt(0.5)))))),
    "erf": case(lambda tf, x: tf.math.erf(x * 2.0)),
    "erf of nearly nothing": case(lambda tf, x: tf.math.erf(x), np.array(
        [[0, 1e-30, -1e-30, 1e-8, -1e-6, 1e-4, -1e-3, 1e-2]], np.float32)),
    "erf far out": case(
        lambda tf, x: tf.math.erf(x), np.linspace(-40, 40, 96, dtype=np.float32).reshape(2, 48)),
    "erfc": case(lambda tf, x: tf.math.erfc(x)),
    "pow 2": case(lambda tf, x: tf.pow(x, 2.0)),
    "pow 3": case(lambda tf, x: tf.pow(x, 3.0)),
    "pow 0.5": case(lambda tf, x: tf.pow(x, 0.5), positive(*X)),
    "pow -0.5": case(lambda tf, x: tf.pow(x, -0.5), positive(*X), int8=0.04),
    "pow -1": case(lambda tf, x: tf.pow(x, -1.0), positive(*X)),
    "pow 1.7": case(lambda tf, x: tf.pow(x, 1.7), positive(*X)),
    "pow of two": case(lambda tf, x, y: tf.pow(x, y), positive(*X), X),
    "pow of a constant": case(lambda tf, x: tf.pow(2.0, x)),
    "pow per channel": case(lambda tf, x: tf.pow(x, np.array([0, 1, 2, 2.5], "f4")), positive(*X)),
    "floor division": case(lambda tf, x: tf.math.floordiv(x, 0.75), HALVES),
    "floor division of two": case(
        lambda tf, x, y: tf.math.floordiv(x, y), HALVES, positive(1, 3, 4, 4)),
    "floor modulo": case(lambda tf, x: tf.math.floormod(x, 0.7), HALVES + 0.1),
    "floor modulo of integers": case(
        lambda tf, x: tf.math.floormod(x - 6, 4), integers(2, 9, below=12)),
    "floor division of integers": case(
        lambda tf, x: tf.math.floordiv(x - 6, 4), integers(2, 9, below=12)),
    "truncating division of integers": case(
        lambda tf, x: tf.raw_ops.TruncateDiv(x=x - 6, y=4), integers(2, 9, below=12)),
    "bounded far above": case(
        lambda tf, x: x * tf.minimum(tf.math.rsqrt(tf.reduce_sum(x * x, -1, True)), 1e12)),
    "atan": case(lambda tf, x: tf.atan(x)),
    "asin and acos": case(lambda tf, x: tf.asin(x) * tf.acos(x), np.tanh(normal(*X))),
    "asinh": case(lambda tf, x: tf.asinh(x * 5.0)),
    "acosh": case(lambda tf, x: tf.acosh(x), 1 + positive(*X)),
    "atanh": case(lambda tf, x: tf.atanh(x), np.tanh(normal(*X)), int8=0.5),
    "is finite": case(lambda tf, x: tf.math.is_finite(x) & ~tf.math.is_inf(x)),
    "buckets": case(lambda tf, x: tf.raw_ops.Bucketize(input=x, boundaries=[-1.0, 0.0, 0.5])),
    "atan2": case(lambda tf, x, y: tf.atan2(x, y), X, X),
    "is nan": case(lambda tf, x: tf.math.is_nan(x)),
    "cast to integers and back": case(
        lambda tf, x: tf.cast(tf.cast(x, tf.int32), tf.float32), HALVES),
    "cast from integers": case(
        lambda tf, x: tf.cast(x, tf.float32) * 0.5, integers(2, 9, below=100)),
    "cast from bytes": case(
        lambda tf, x: tf.cast(x, tf.float32) / 255.0, integers(*X, below=256, dtype="uint8")),
    "cast to bool": case(lambda tf, x: tf.cast(tf.nn.relu(x), tf.bool)),
    "cast to int64": case(lambda tf, x: tf.cast(x, tf.int64) + 1, integers(2, 9, below=100)),
    "cast from bool": case(lambda tf, x: tf.cast(x > 0.0, tf.float32) * x),
    "ones and zeros like": case(lambda tf, x: (tf.ones_like(x) - x) + tf.zeros_like(x)),
}  # fmt: skip

COMPARING: Mapping[str, Case] = {
    "greater": case(lambda tf, x: tf.greater(x, 0.1)),
    "greater or equal": case(lambda tf, x, y: tf.greater_equal(x, y), X, (8, 4)),
    "less": case(lambda tf, x: tf.less(x, normal(4))),
    "less or equal": case(lambda tf, x: tf.less_equal(x, tf.nn.relu(x))),
    "equal": case(lambda tf, x: tf.equal(x, 3), integers(4, 9, below=5)),
    "not equal": case(lambda tf, x: tf.not_equal(x, tf.nn.relu(x))),
    "and": case(lambda tf, x: tf.logical_and(x > 0.0, x < 1.0)),
    "or": case(lambda tf, x: tf.logical_or(x > 1.0, x < normal(4))),
    "not": case(lambda tf, x: tf.logical_not(x > 0.0)),
    "exclusive or": case(lambda tf, x: tf.math.logical_xor(x > 0.0, x < 1.0)),
    "logic on inputs": case(lambda tf, x, y: tf.logical_and(x, tf.logical_not(y)), MASK, ~MASK),
    "any": case(lambda tf, x: tf.reduce_any(x > 1.5, -1)),
    "all": case(lambda tf, x: tf.reduce_all(x > -1.0, [1, 2], keepdims=True)),
    "select": case(lambda tf, x: tf.where(x > 0.1, x, tf.abs(x) * 2.0)),
    "select a constant": case(lambda tf, x: tf.where(x > 0.1, x, normal(4)), int8=0.12),
    "select by a row": case(lambda tf, x: tf.where(
        np.array([True, False, True, False]), x, tf.zeros_like(x))),
    "select by a scalar": case(lambda tf, x: tf.raw_ops.SelectV2(
        condition=tf.reduce_mean(x) > 100.0, t=x, e=x * 2.0)),
    "select rows by its old name": case(lambda tf, x: tf.raw_ops.Select(
        condition=np.array([True, False, True]), x=x, y=x * 2.0), (3, 4)),
    "mask": case(lambda tf, x, m: x * tf.cast(m, tf.float32), X, MASK),
}  # fmt: skip

REDUCING: Mapping[str, Case] = {
    **{
        f"{name} over {axes}, {'kept' if keep else 'dropped'}": case(
            lambda tf, x, name=name, axes=axes, keep=keep: getattr(tf, f"reduce_{name}")(
                x, axes, keepdims=keep),
        )
        for name, axes, keep in (
            ("mean", [1, 2], True), ("mean", [-1], False), ("mean", None, False),
            ("mean", [2, 1], False), ("mean", -2, True), ("mean", [], False),
            ("sum", [-1], True), ("sum", [0, -3], False), ("sum", None, True),
            ("max", [-1, -2], False), ("max", 1, True), ("max", None, False),
            ("min", [-1], False), ("min", [1, 2], True),
            ("prod", [-1], False), ("prod", [1], True),
        )
    },
    "mean of rank 2": case(lambda tf, x: tf.reduce_mean(x, 0), (5, 3)),
    "argmax": case(lambda tf, x: tf.argmax(x, -1)),
    "argmax as Keras does it": case(lambda tf, x: tf.argmax(tf.where(
        tf.equal(x, 0.0) & (tf.bitwise.bitwise_and(tf.bitcast(x, tf.int32), -(2**31)) < 0),
        -1.1754943508222875e-38, x), -1)),
    "a smallest number that stands for itself": case(
        lambda tf, x: tf.where(x < 0.0, 1e-38, x) * 1.0),
    "argmax of rows": case(lambda tf, x: tf.argmax(x, 1, output_type=tf.int32)),
    "argmin": case(lambda tf, x: tf.argmin(x, -2, output_type=tf.int32)),
    "log sum exp": case(lambda tf, x: tf.reduce_logsumexp(x, -1)),
    "normalize": case(lambda tf, x: tf.nn.l2_normalize(x, -1)),
    # In 8 bits the variance is the mean of squares of rounded differences.
    "moments": case(lambda tf, x: list(tf.nn.moments(x, [1, 2], keepdims=True)), int8=0.05),
    "layer normalization": case(lambda tf, x: (
        lambda m, v: (x - m) * tf.math.rsqrt(v + 1e-3) * normal(4) + normal(4, seed=1))(
            *tf.nn.moments(x, [-1], keepdims=True)), int8=0.07),
    "softmax of rank 2": case(lambda tf, x: tf.nn.softmax(x * 3.0), (3, 9)),
    "softmax over an inner axis": case(lambda tf, x: tf.nn.softmax(x, 1)),
    "log softmax": case(lambda tf, x: tf.nn.log_softmax(x)),
    "local response": case(lambda tf, x: tf.nn.lrn(x, 2, 1.5, 0.3, 0.6), (1, 3, 3, 9)),
    "local response by default": case(lambda tf, x: tf.raw_ops.LRN(input=x), (1, 3, 3, 9)),
    "cumulated": case(lambda tf, x: tf.cumsum(x, -2)),
    "cumulated, exclusive and in reverse": case(
        lambda tf, x: tf.cumsum(x, 1, exclusive=True, reverse=True)),
    "top k": case(lambda tf, x: list(tf.math.top_k(x, 2))),
    "euclidean norm": case(lambda tf, x: tf.norm(x, axis=-1)),
}  # fmt: skip

MATRICES: Mapping[str, Case] = {
    "matmul": case(lambda tf, x: tf.matmul(x, normal(5, 3)), (4, 5)),
    "matmul transposed": case(
        lambda tf, x: tf.matmul(x, normal(3, 4), transpose_a=True, transpose_b=True), (4, 5)),
    "matmul of a constant": case(lambda tf, x: tf.matmul(normal(3, 4), x), (4, 5)),
    "matmul of two inputs": case(lambda tf, x, y: tf.matmul(x, y), (4, 5), (5, 3)),
    "matmul of two, transposed": case(
        lambda tf, x, y: tf.matmul(x, y, transpose_a=True, transpose_b=True), (5, 4), (3, 5)),
    "batch matmul": case(lambda tf, x, y: tf.matmul(x, y), (2, 3, 4, 5), (2, 3, 5, 6)),
    "batch matmul that broadcasts": case(lambda tf, x, y: tf.matmul(x, y), (2, 3, 4, 5), (5, 6)),
    "batch matmul of a constant": case(lambda tf, x: tf.matmul(x, normal(2, 5, 6)), (2, 4, 5)),
    "batch matmul adjoint": case(
        lambda tf, x, y: tf.matmul(x, y, adjoint_b=True), (2, 4, 5), (2, 6, 5)),
    "dense on the last axis": case(
        lambda tf, x: tf.tensordot(x, normal(5, 6), [[2], [0]]), (2, 3, 5)),
    "dense with bias and activation": case(
        lambda tf, x: tf.nn.relu(tf.nn.bias_add(tf.matmul(x, normal(5, 3)), normal(3))), (1, 5)),
    **{
        f"einsum {equation}": case(
            lambda tf, *x, equation=equation: tf.einsum(equation, *x), *shapes)
        for equation, *shapes in (
            ("ij,jk->ik", (3, 4), (4, 5)),
            ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
            ("bij,jk->bik", (2, 3, 4), (4, 5)),
            ("bij,bkj->bik", (2, 3, 4), (2, 5, 4)),
            ("aecd,abcd->acbe", (2, 3, 4, 5), (2, 6, 4, 5)),
            ("acbe,aecd->abcd", (2, 4, 6, 3), (2, 3, 4, 5)),
            ("bij->bji", (2, 3, 4)),
            ("bij->bi", (2, 3, 4)),
            ("bij->", (2, 3, 4)),
            ("ij,jk", (3, 4), (4, 5)),
            ("bi,bj->bij", (2, 3), (2, 4)),
            ("bi,bi->b", (2, 3), (2, 3)),
            ("bij,bij->ij", (2, 3, 4), (2, 3, 4)),
            ("...ij,jk->...ik", (2, 2, 3, 4), (4, 5)),
            ("b...i,i->b...", (2, 3, 4), (4,)),
            ("ij,k->ikj", (3, 4), (5,)),
            ("ijk,ilj->kl", (2, 3, 4), (2, 5, 3)),
        )
    },
    "einsum of a projection": case(
        lambda tf, x: tf.einsum("abc,cde->abde", x, normal(6, 2, 4)), (1, 5, 6)),
    "einsum of a projection back": case(
        lambda tf, x: tf.einsum("abcd,cde->abe", x, normal(2, 4, 6)), (1, 5, 2, 4)),
    "einsum of a dense layer": case(
        lambda tf, x: tf.einsum("ab,bc->ac", x, normal(6, 3)) + normal(3), (2, 6)),
    "einsum with the constant first": case(
        lambda tf, x: tf.einsum("ij,bj->bi", normal(3, 6), x), (2, 6)),
}  # fmt: skip

SPECTRA: Mapping[str, Case] = {
    "magnitudes of a spectrum": case(lambda tf, x: tf.abs(tf.signal.rfft(x)), (3, 16), int8=0.04),
    "magnitudes of longer frames": case(lambda tf, x: tf.abs(tf.signal.rfft(x, [20])), (2, 3, 15),
        int8=0.04),
    "magnitudes of shorter frames": case(lambda tf, x: tf.abs(tf.signal.rfft(x, [9])), (3, 16)),
    "parts of a spectrum": case(
        lambda tf, x: [tf.math.real(y := tf.signal.rfft(x)), tf.math.imag(y)], (3, 16)),
    "spectrogram": case(
        lambda tf, x: tf.math.log(tf.abs(tf.signal.stft(x, 16, 8)) ** 2 + 1.0), (1, 80), int8=0.05),
    "spectrogram, transposed": case(
        lambda tf, x: tf.transpose(tf.abs(tf.signal.stft(x, 12, 8, 16)), [0, 2, 1]), (1, 80),
        int8=0.09),
}  # fmt: skip

ARITHMETIC: Mapping[str, Case] = {
    **BROADCASTING, **UNARY, **COMPARING, **REDUCING, **MATRICES, **SPECTRA,
}  # fmt: skip
