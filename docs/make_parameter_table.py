"""Write docs/parameters.md from the passes: `python docs/make_parameter_table.py`."""

from __future__ import annotations

from dataclasses import MISSING
from pathlib import Path

from qfrewrite.passes import all_passes
from qfrewrite.solve.parameters import parameters, shown

HEAD = """# Parameters of passes

Made by `python docs/make_parameter_table.py`; do not edit. [What they do](passes.md).

| pass | parameter | values | default |
|---|---|---|---|
"""


def table() -> str:
    """The page: a row per parameter; users' passes are left out."""
    rows = []
    for name, cls in all_passes().items():
        for one in parameters(cls) if cls.__module__.startswith("qfrewrite.") else ():
            values = str(one).replace("|", "\\|")
            default = "required" if one.default is MISSING else f"`{shown(one.default)}`"
            rows.append(f"| `{name}` | `{one.name}` | {values} | {default} |\n")
    return HEAD + "".join(rows).replace("``", "")


if __name__ == "__main__":
    (Path(__file__).parent / "parameters.md").write_text(table())
