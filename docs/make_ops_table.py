"""Write docs/ops.md from the op table: `python docs/make_ops_table.py`."""

from __future__ import annotations

from pathlib import Path

from qfrewrite.lower.substitute import SUBSTITUTES
from qfrewrite.ops import OPS, OpSpec

HEAD = """# Ops

Made from the op table (`qfrewrite/ops`) by `python docs/make_ops_table.py`; do not edit.

- *GraphDef*: the node this op is read from and written to where the two correspond one to one;
  "own" means a converter of its own in `qfrewrite/formats`.
- *int8*: what the int8 writer makes of it. "float": it stays float between DEQUANTIZE and
  QUANTIZE, "as X": it is written as another op. "same scale": input and output share scale and
  zero point. Ops that are not listed are opaque: a `.tflite` keeps them as they are, in float.
- *uint8*, *int16*: whether LiteRT computes it in these types too; *hybrid*: whether its float
  kernel takes int8 weights (scheme `dynamic`). Measured with XNNPACK, the optimized and the
  reference kernels of LiteRT 2.3; a kernel that gives wrong values counts as none.

| op | GraphDef | int8 | uint8 | int16 | hybrid | fused activation | least version, float / int8 |
|---|---|---|---|---|---|---|---|
"""
OWN = {
    "AVERAGE_POOL_2D", "BATCH_NORM", "CAST", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D",
    "FAKE_QUANT", "FULLY_CONNECTED", "GATHER", "IDENTITY", "MAX_POOL_2D", "RESHAPE", "SHAPE",
    "SQUEEZE", "TRANSPOSE_CONV",
}  # fmt: skip

# Ops that no written int8 model holds: what becomes of them.
GONE = {
    "BATCH_NORM": "folded",
    "DENSIFY": "made dense",
    "ERF": "float, by GELU",
    "FAKE_QUANT": "gives ranges",
    "IDENTITY": "dropped",
}


def table() -> str:
    """The page as text."""
    return HEAD + "".join(f"{_row(spec)}\n" for _, spec in sorted(OPS.items()))


def _row(spec: OpSpec) -> str:
    graphdef = spec.graphdef or ("own" if spec.kind in OWN else "-")
    versions = f"{spec.versions.get('float32', 1)} / {spec.versions.get('int8', 1)}"
    fuses = "yes" if spec.fuses else "-"
    others = " | ".join(
        "yes" if t in spec.kernels else _substituted(spec) or "-" for t in ("uint8", "int16")
    )
    hybrid = "yes" if spec.hybrid else "-"
    return (
        f"| {spec.kind} | {graphdef} | {_int8(spec)} | {others} | {hybrid} | {fuses} | {versions} |"
    )


def _substituted(spec: OpSpec) -> str:
    """What takes the place of an op without a kernel."""
    return f"as {SUBSTITUTES[spec.kind].kinds}" if spec.kind in SUBSTITUTES else ""


def _int8(spec: OpSpec) -> str:
    if spec.kind in GONE:
        return GONE[spec.kind]
    if "int8" not in spec.kernels:
        return _substituted(spec) or "float"
    fixed = spec.outputs[0].fixed if spec.outputs else None
    if fixed is not None:
        return f"output scale 1/{round(1 / fixed[0])}, zero point {fixed[1]}"
    axis = next((p.axis for p in spec.inputs if p.role == "weight"), None)
    if axis is not None:
        return f"weights per channel on axis {axis}"
    return "same scale" if spec.same_scale else "yes"


if __name__ == "__main__":
    Path(__file__).with_name("ops.md").write_text(table())
