"""Reading and writing large `.tflite` files: time, peak memory, and that nothing is lost.

Models are made here: MobileNetV1 1.0 sized (17 MB), dense layers of 500 MB, and of 2.2 GB, beyond
what offsets in a flatbuffer reach. Each job runs in a process of its own.

    python benchmarks/files.py [--large] [--workdir DIR]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

MB = 1 << 20
CHILD = """
import json, resource, statistics, sys, time
from pathlib import Path
job, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
from qfrewrite.formats.tflite.read import read_tflite
from qfrewrite.formats.tflite.write import write_tflite

def timed(f):
    start = time.perf_counter()
    result = f()
    return time.perf_counter() - start, result

said = {}
if job == "make":
    import numpy as np
    from qfrewrite.ir import Model
    from qfrewrite.ops.build import GraphBuilder
    rng = np.random.default_rng(0)
    b = GraphBuilder()
    if target.stem == "mobilenet":
        x, c = b.input("x", (1, 224, 224, 3)), 3
        def conv(x, kind, shape, stride):
            w = b.const("w", rng.normal(size=shape).astype("f4") * (2 / np.prod(shape[1:])) ** 0.5)
            bias = b.const("b", np.zeros(shape[3 if kind[0] == "D" else 0], "f4"))
            return b.op("RELU6", b.op(kind, x, w, bias,
                                      attrs={"stride_h": stride, "stride_w": stride}))
        x, c = conv(x, "CONV_2D", (32, 3, 3, 3), 2), 32
        for out, s in [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5,
                       (1024, 2), (1024, 1)]:
            x = conv(x, "DEPTHWISE_CONV_2D", (1, 3, 3, c), s)
            x, c = conv(x, "CONV_2D", (out, 1, 1, c), 1), out
        x = b.op("MEAN", x, b.const("axes", np.array([1, 2], "i4")))
        y = b.op("FULLY_CONNECTED", x, b.const("fc", rng.normal(size=(1000, c)).astype("f4")))
    else:
        y, n = b.input("x", (1, 4096)), 4096
        for i in range(int(sys.argv[4])):  # of 64 MB
            w = rng.standard_normal((n, n), dtype="f4") * np.float32(n ** -0.5)
            y = b.op("RELU", b.op("FULLY_CONNECTED", y, b.const(f"w{i}", w)))
    write_tflite(Model([b.finish(y)]), target)
elif job == "copy":
    reads = [timed(lambda: read_tflite(source))[0] for _ in range(int(sys.argv[4]))]
    model = read_tflite(source)
    writes = [timed(lambda: write_tflite(model, target))[0] for _ in range(int(sys.argv[4]))]
    said |= {"read": statistics.median(reads), "write": statistics.median(writes)}
elif job == "same":
    one, two = read_tflite(source), read_tflite(target)
    import numpy as np
    same = len(one.graph.tensors) == len(two.graph.tensors) and all(
        a.name == b.name and a.shape == b.shape
        and (a.data is None) == (b.data is None)
        and (a.data is None or np.array_equal(a.data, b.data))
        for a, b in zip(one.graph.tensors, two.graph.tensors))
    said["same"] = bool(same)
elif job == "int8":
    import qfrewrite as qf
    seconds, _ = timed(lambda: qf.quantize(source, target, passes="calibrate"))
    said["int8"] = seconds
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps(said | {"peak": peak}))
"""


def child(job: str, source: Path, target: Path, count: int = 1) -> dict[str, float]:
    """Run one job in a new process; what it says, and its peak memory in bytes."""
    command = [sys.executable, "-c", CHILD, job, str(source), str(target), str(count)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stderr)
    result: dict[str, float] = json.loads(run.stdout)
    return result


def main() -> None:
    """Make the models, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--large", action="store_true", help="also 2.2 GB (takes 5 GB of disk)")
    parser.add_argument("--workdir", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.workdir) as folder:
        work = Path(folder)
        sizes = [("mobilenet", 0, 15), ("dense", 8, 1)] + [("huge", 34, 1)] * args.large
        print(
            "| model | size, MB | read, ms | write, ms | peak of both, MB | same | int8, s | peak |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for name, layers, runs in sizes:
            source, target = work / f"{name}.tflite", work / f"{name}_out.tflite"
            child("make", source, source, layers)
            copy = child("copy", source, target, runs)
            same = child("same", source, target)["same"]
            size = source.stat().st_size
            int8 = child("int8", source, target) if name != "huge" else {"int8": 0.0, "peak": 0}
            print(
                f"| {name} | {size / MB:.0f} | {1e3 * copy['read']:.1f} | "
                f"{1e3 * copy['write']:.1f} | {copy['peak'] / MB:.0f} | {same} | "
                f"{int8['int8']:.1f} | {int8['peak'] / MB:.0f} |", flush=True,
            )  # fmt: skip
            target.unlink()
            source.unlink()


if __name__ == "__main__":
    main()
