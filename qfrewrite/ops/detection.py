"""TFLite_Detection_PostProcess: the custom op at the end of SSD detectors, and its options.

Decodes boxes against anchors and suppresses overlapping ones (tensorflow/lite/kernels/
detection_postprocess.cc). Its options are a FlexBuffers map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qfrewrite.errors import ModelFileError
from qfrewrite.ir import Op

CODE = "TFLite_Detection_PostProcess"
# The kernel's options by type; a GraphDef node has them as attributes of the same names.
OPTIONS: Mapping[str, type] = {
    "max_detections": int,
    "max_classes_per_detection": int,
    "detections_per_class": int,
    "use_regular_nms": bool,
    "nms_score_threshold": float,
    "nms_iou_threshold": float,
    "num_classes": int,
    "y_scale": float,
    "x_scale": float,
    "h_scale": float,
    "w_scale": float,
}
# Beyond this a count of detections is a mistake, or an attack.
_MOST = 1 << 20


def is_detection(op: Op) -> bool:
    """Whether `op` is the detection op."""
    return op.kind == "CUSTOM" and op.attrs.get("custom_code") == CODE


def encode_options(options: Mapping[str, Any]) -> bytes:
    """Options as a FlexBuffers map."""
    from flatbuffers import flexbuffers

    builder = flexbuffers.Builder()
    with builder.Map():
        for name, value in options.items():
            add = {bool: builder.Bool, int: builder.Int, float: builder.Float}[OPTIONS[name]]
            add(name, value)
    return bytes(builder.Finish())


def decode_options(op: Op) -> dict[str, Any]:
    """The options of a detection op; raises ModelFileError where they are no such map."""
    from flatbuffers import flexbuffers

    try:
        values = flexbuffers.Loads(bytes(op.attrs.get("custom_options") or b""))
        return {k: OPTIONS[k](v) for k, v in values.items() if k in OPTIONS}
    except Exception as error:  # the library raises whatever bytes lead it to
        what = f"has options that cannot be read ({type(error).__name__})"
        raise ModelFileError(what, where=f"op '{op.name}'") from None


def output_shapes(options: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Shapes of boxes, classes, scores and their number; raises ModelFileError."""
    most, each = options.get("max_detections", 10), options.get("max_classes_per_detection", 1)
    count = int(most) * int(each)
    if not 0 < count < _MOST:
        raise ModelFileError(f"asks for {count} detections")
    return (1, count, 4), (1, count), (1, count), (1,)
