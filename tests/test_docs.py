"""Documentation that is made from code is up to date, and what it links to is there."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
from pathlib import Path

import pytest
from conftest import ROOT


def test_the_op_table_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_ops_table.py"))["table"]()
    assert (ROOT / "docs" / "ops.md").read_text() == made


def test_the_table_of_parameters_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_parameter_table.py"))["table"]()
    assert (ROOT / "docs" / "parameters.md").read_text() == made


def test_every_code_of_a_diagnostic_is_listed() -> None:
    """With its severities; fails if a code is renamed, added or dropped in one place only."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "qfrewrite").rglob("*.py"):
        for call in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)):
            texts = [a.value for a in call.args
                     if isinstance(a, ast.Constant) and isinstance(a.value, str)]  # fmt: skip
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            if name == "Diagnostic" and len(texts) > 1:
                found.setdefault(texts[1], set()).add(texts[0])
            elif name in ("note", "notice", "warn") and texts and texts[0] == call.args[0].value:
                severity = "warning" if name == "warn" else name
                found.setdefault(texts[0], set()).add(severity)
    page = (ROOT / "docs" / "diagnostics.md").read_text()
    listed = re.findall(r"^\| `([a-z0-9-]+)` \| ([a-z, ]+) \|", page, re.M)
    assert {code: set(severities.split(", ")) for code, severities in listed} == found


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_files_that_pages_name_are_there() -> None:
    """Code moves; a page that names a module must move with it."""
    for page in (ROOT / "docs").glob("*.md"):
        folder = ROOT / "qfrewrite"
        for name in re.findall(r"`([\w/]+\.py)`", page.read_text()):
            places = [ROOT / name, folder / name]
            # A page that names a folder once names files in it alone after that.
            places += [f for f in folder.rglob(Path(name).name) if str(f).endswith(f"/{name}")]
            own = name.startswith(("my_", "model", "convert_")) or page.name == "cli.md"
            assert own or any(place.exists() for place in places), f"{page.name}: {name}"


def test_every_pass_and_option_is_described() -> None:
    from qfrewrite.cli.convert import convert
    from qfrewrite.passes import all_passes

    passes = (ROOT / "docs" / "passes.md").read_text()
    options = (ROOT / "docs" / "cli.md").read_text()
    shipped = [n for n, cls in all_passes().items() if cls.__module__.startswith("qfrewrite.")]
    assert all(f"`{name}`" in passes for name in shipped)
    assert all(f"`{p.opts[-1]}" in options for p in convert.params if p.opts[0].startswith("-"))


@pytest.mark.slow
def test_commands_of_the_readme_work_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what the page shows of `inspect` is what that prints, but for the spaces."""
    from qfrewrite.cli.main import run

    page = (ROOT / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    commands = [c for c in re.findall(r"^    qfrewrite (.*)$", page, re.M) if "model.pb" not in c]
    assert len(commands) > 10
    for command in commands:
        assert run(shlex.split(command)) == 0, command
        printed = capsys.readouterr().out
        if command.startswith("inspect") and "--cost" not in command:
            lines = {" ".join(line.split()) for line in printed.splitlines()}
            shown = re.findall(r"^    ((?:layer|conv1|dw1|pw1|dw2).*)$", page, re.M)
            assert len(shown) == 5
            assert {" ".join(line.split()) for line in shown} <= lines
