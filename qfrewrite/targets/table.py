"""What runtimes and chips take, as data.

Sources: TensorFlow Lite Micro's op resolver; the list that `vela --supported-ops-report` prints
(5.2, Ethos-U55 and U65); coral.ai's table of operations of the Edge TPU; the Hexagon delegate's
README; CMSIS-NN's README. What a source does not say is not checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from qfrewrite.ir import Op
from qfrewrite.ops.features import activates
from qfrewrite.ops.spec import attr, kinds_that
from qfrewrite.targets.target import Limit, Target

# -- conditions ----------------------------------------------------------------------------


def _stride_at_most(most: int, kinds: str) -> Limit:
    return Limit(
        kinds,
        lambda op: max(attr(op, "stride_h"), attr(op, "stride_w")) <= most,
        f"has a stride above {most}",
        "change the layer",
    )


def _undilated(op: Op) -> bool:
    return (attr(op, "dilation_h_factor"), attr(op, "dilation_w_factor")) == (1, 1)


def _vela_stride(op: Op) -> bool:
    small = max(attr(op, "stride_h"), attr(op, "stride_w")) <= 3
    dilated = op.kind == "CONV_2D" and not _undilated(op)
    return bool(small or (not dilated and attr(op, "padding") == "VALID"))


def _vela_window(op: Op) -> bool:
    height, width = int(attr(op, "filter_height")), int(attr(op, "filter_width"))
    if attr(op, "padding") == "VALID" or op.kind == "MAX_POOL_2D":
        return height * width <= 256 * 256 and height <= 256
    return max(height, width) <= 8


def _weight_sums(op: Op) -> bool:
    w = op.input(1)
    if w is None or w.data is None or w.dtype not in ("int8", "uint8"):
        return True
    zero = int(w.quant.zero_point[0]) if w.quant is not None else 0
    axis = 3 if op.kind == "DEPTHWISE_CONV_2D" else 0
    taps = np.moveaxis(np.abs(w.data.astype(np.int64) - zero), axis, 0)
    return int(taps.reshape(taps.shape[0], -1).sum(1).max(initial=0)) <= 8_323_072


def _resized_evenly(op: Op) -> bool:
    """Both sides grow by the same power of two up to 8, or the input is a single pixel."""
    (_, h, w, _), (_, oh, ow, _) = op.operand(0).shape, op.output.shape
    if (h, w) in ((1, 1), (oh, ow)):
        return True
    less = 1 if attr(op, "align_corners") else 0
    up = [
        (big - less) / (small - less) if small > less else 0.0 for big, small in ((oh, h), (ow, w))
    ]
    return up[0] == up[1] and up[0] in (2, 4, 8)


def _spatial_axes(op: Op) -> bool:
    axes = op.operand(1).data
    rank = len(op.operand(0).shape)
    return axes is not None and {int(a) % rank for a in axes.reshape(-1)} <= {rank - 3, rank - 2}


def _pads_spatially(op: Op) -> bool:
    pads = op.operand(1).data
    return pads is not None and not pads[[0, -1]].any()


def _zero_pad(op: Op) -> bool:
    value = op.input(2)
    if value is None or value.data is None:
        return value is None
    zero = value.quant.zero_point[0] if value.quant is not None else 0
    return bool((value.data == zero).all())


def _inner_three(op: Op) -> bool:
    """No axis but the last three is longer than 1."""
    computed = [t for t in (*filter(None, op.inputs), *op.outputs) if not t.is_const]
    return all(d == 1 for t in computed for d in t.shape[:-3])


def _hexagon_depthwise(op: Op) -> bool:
    strides = attr(op, "stride_h"), attr(op, "stride_w")
    w, x = op.operand(1), op.operand(0)
    taps = w.shape[2] == 3 and w.shape[3] == x.shape[3]
    return taps and (_undilated(op) or strides == (1, 1)) and max(strides) <= 3


def _unfused(op: Op) -> bool:
    return not activates(op)


def _clipped_by_codes(op: Op) -> bool:
    """No activation is fused, or the ends of the 8-bit codes clip as it does."""
    return not activates(op) or op.output.dtype == "int8"


def _unfused_only(kinds: str) -> Limit:
    return Limit(kinds, _unfused, "has a fused activation", "keep the activation an op of its own")


def _kinds(names: str) -> frozenset[str]:
    return frozenset(names.split())


# -- the table -----------------------------------------------------------------------------

_MICRO = _kinds(
    """ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL
    BATCH_TO_SPACE_ND BROADCAST_ARGS BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS
    CUMSUM DEPTH_TO_SPACE DEPTHWISE_CONV_2D DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU
    EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER
    GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS
    LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D
    MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE
    REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2
    ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V
    SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE
    TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE"""
)
_VELA = _kinds(
    """ABS ADD ARG_MAX AVERAGE_POOL_2D BATCH_MATMUL CONCATENATION CONV_2D DEPTHWISE_CONV_2D ELU
    EXP EXPAND_DIMS FULLY_CONNECTED GELU HARD_SWISH LEAKY_RELU LOG LOGISTIC MAXIMUM MAX_POOL_2D
    MEAN MINIMUM MIRROR_PAD MUL NEG PACK PAD PADV2 PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU
    RELU6 RELU_0_TO_1 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2
    RSQRT SLICE SOFTMAX SPLIT SPLIT_V SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM TANH TILE
    TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK"""
)
_EDGE_TPU = _kinds(
    """ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D EXPAND_DIMS FULLY_CONNECTED
    L2_NORMALIZATION LOGISTIC LSTM MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PACK PAD PRELU QUANTIZE
    REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR
    RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQUARED_DIFFERENCE SQUEEZE
    STRIDED_SLICE SUB SUM TANH TRANSPOSE TRANSPOSE_CONV"""
)
_HEXAGON = _kinds(
    """ADD ARG_MAX ARG_MIN AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTH_TO_SPACE
    DEPTHWISE_CONV_2D FULLY_CONNECTED HARD_SWISH L2_NORMALIZATION LOGISTIC MAXIMUM MAX_POOL_2D
    MEAN MINIMUM MIRROR_PAD MUL NEG PACK PAD PADV2 QUANTIZE RELU RELU6 RESHAPE RESIZE_BILINEAR
    RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQUARED_DIFFERENCE
    STRIDED_SLICE SUB TANH TRANSPOSE TRANSPOSE_CONV"""
)
_CMSIS = _kinds(
    """ADD AVERAGE_POOL_2D BATCH_MATMUL CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED MAXIMUM
    MAX_POOL_2D MINIMUM MUL PAD SOFTMAX SVDF TRANSPOSE TRANSPOSE_CONV
    UNIDIRECTIONAL_SEQUENCE_LSTM"""
)
# They move or rename codes: no kernel is worth having.
_FREE = frozenset(kinds_that(lambda op: op.reshapes or op.quantizes))

# Their kernels of TRANSPOSE_CONV read no activation (tensorflow/lite/micro/kernels).
_MICRO_UPSAMPLING = Limit(
    "TRANSPOSE_CONV", _clipped_by_codes, "leaves out the fused activation", "use scheme int8"
)

TARGETS: Mapping[str, Target] = MappingProxyType({t.name: t for t in (
    # XNNPACK has no HARD_SWISH in 8 bits; the kernel that computes it is not vectorized.
    Target("litert", "LiteRT", slow=frozenset({"HARD_SWISH"})),
    Target("tflm", "TensorFlow Lite Micro", _MICRO, ("int8", "int16"), hybrid=False,
           fixed_shapes=True, limits=(_MICRO_UPSAMPLING,)),
    Target("cmsis-nn", "CMSIS-NN", _CMSIS | _FREE, ("int8", "int16"), hybrid=False,
           fallback="TensorFlow Lite Micro's reference kernel", fixed_shapes=True,
           limits=(_MICRO_UPSAMPLING,)),
    Target("vela", "the Ethos-U NPU", _VELA, floats=False, fallback="the CPU", fixed_shapes=True,
           limits=(
        Limit("CONV_2D AVERAGE_POOL_2D MAX_POOL_2D", _vela_stride,
              "has a stride above 3 with padding or dilation", "change it"),
        _stride_at_most(3, "DEPTHWISE_CONV_2D"),
        Limit("CONV_2D DEPTHWISE_CONV_2D", _weight_sums,
              "has weights whose magnitudes sum above 8323072", "split it"),
        Limit("AVERAGE_POOL_2D", _vela_window, "has a padded window above 8 x 8",
              "use VALID padding"),
        Limit("MAX_POOL_2D", _vela_window, "has a window above 256 x 256", "use a smaller one"),
        Limit("RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR", _resized_evenly,
              "does not grow both sides by 2, 4 or 8", "change the size"),
    )),
    Target("edgetpu", "the Edge TPU", _EDGE_TPU, ("int8", "uint8"), floats=False,
           fallback="the CPU, with everything behind it", per_axis_fc=False, fixed_shapes=True,
           free_batch=False, limits=(
        Limit("MEAN SUM REDUCE_MAX REDUCE_MIN", _spatial_axes,
              "reduces other axes than height and width", "transpose before it"),
        Limit("PAD", _pads_spatially, "pads batch or channels", "pad elsewhere"),
        Limit("CONV_2D DEPTHWISE_CONV_2D TRANSPOSE_CONV AVERAGE_POOL_2D MAX_POOL_2D", _inner_three,
              "has a batch", "convert with a batch of 1"),
        _unfused_only("AVERAGE_POOL_2D MAX_POOL_2D"),
    )),
    Target("hexagon-dsp", "the Hexagon DSP", _HEXAGON, ("int8", "uint8"), floats=False,
           fallback="the CPU", per_axis_fc=False, rank=4, fixed_shapes=True, free_batch=False,
           limits=(
        _stride_at_most(3, "CONV_2D TRANSPOSE_CONV"),
        Limit("DEPTHWISE_CONV_2D", _hexagon_depthwise, "needs a filter 3 wide, multiplier 1, "
              "stride to 3, dilation only at stride 1", "change the layer"),
        _unfused_only("AVERAGE_POOL_2D MAX_POOL_2D L2_NORMALIZATION"),
        Limit("PADV2", _zero_pad, "pads with another value than 0", "pad with 0"),
        Limit("RESIZE_BILINEAR", lambda op: max(op.output.shape[1:3]) <= 65, "is larger than 65",
              "resize in smaller steps"),
    )),
)})  # fmt: skip
"""Every target by name."""
