"""Write qfrewrite/formats/graphdef/graphdef.binpb from graphdef.proto.

Run after a change to the schema: `python schemas/compile_graphdef.py`. Needs `protoc` on the path,
or the package grpcio-tools. A descriptor set is checked in, and no generated Python, because
generated code refuses runtimes older than the compiler that made it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "graphdef.proto"
TARGET = HERE.parent / "qfrewrite" / "formats" / "graphdef" / "graphdef.binpb"


def compile_schema(target: Path = TARGET) -> None:
    """Compile `SOURCE` into the descriptor set `target`."""
    protoc = shutil.which("protoc")
    command = [protoc] if protoc else [sys.executable, "-m", "grpc_tools.protoc"]
    subprocess.run(
        [*command, f"--proto_path={HERE}", f"--descriptor_set_out={target}", SOURCE.name],
        check=True,
        cwd=HERE,
    )


if __name__ == "__main__":
    compile_schema()
    print(f"wrote {TARGET}")
