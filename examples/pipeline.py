"""A conversion pipeline: one float model in, an int8 `.tflite` and a FakeQuant `.pb` out.

Stops with a message when the int8 model does not follow the float one closely enough.
"""

from __future__ import annotations

import sys
from pathlib import Path

import qfrewrite as qf

HERE = Path(__file__).parent / "digits"
LEAST_AGREEMENT = 0.95


def convert(model_file: Path, images: Path, out: Path) -> qf.QuantizeReport:
    """Quantize `model_file` on `images` into the folder `out`; prints what each pass did."""
    report = qf.quantize(
        model_file, out / f"{model_file.stem}_int8.tflite", data=images, samples=60,
        passes="remove_dw_bn,relu6_to_relu,calibrate",
    )  # fmt: skip
    for one in report.passes.passes:
        print(f"{one.name}: {one.edits} edits, {one.skips} skips, {one.seconds:.2f} s")
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"int8 against float: {report.fidelity}, on {report.measured_on}")
    return report


def write_fake_quant_graph(model_file: Path, images: Path, target: Path) -> None:
    """The same ranges as FakeQuant nodes in a GraphDef, for TensorFlow's own tools."""
    model = qf.load(model_file)
    qf.run_passes(model, "calibrate", data=images, samples=60)
    print(f"wrote {qf.save(model, target).path}")


def main() -> int:
    """Run the pipeline on the shipped model."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
    out.mkdir(parents=True, exist_ok=True)
    model_file = HERE / "digits_mobilenet.pb"
    try:
        report = convert(model_file, HERE / "calib", out)
        write_fake_quant_graph(model_file, HERE / "calib", out / "digits_fake_quant.pb")
    except qf.QfError as error:
        print(f"conversion failed: {error}", file=sys.stderr)
        return error.exit_code
    agreement = report.fidelity.agreement if report.fidelity else None
    if agreement is not None and agreement < LEAST_AGREEMENT:
        print(f"int8 agrees with float on only {100 * agreement:.0f} % of the samples")
        return 1
    print(f"wrote {report.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
