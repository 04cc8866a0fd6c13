"""Tables fold to the terminal and stay whole in a pipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from qfrewrite.cli import tables as t
from qfrewrite.ir.names import shorten
from qfrewrite.records import Record

ROWS = [
    {"name": "net/a/very/long/name/of/a/layer", "x": 1.5, "shape": [1, 2, 3], "none": None},
    {"name": "net/b", "x": 12345.678, "shape": [], "none": None},
]
COLUMNS = (
    t.Column("name", "layer", right=False), t.Column("x", "figure", t.figure),
    t.Column("shape", "shape", t.shape), t.Column("none", "nothing"),
    t.Column("x", "again", t.figure),
)  # fmt: skip


@dataclass
class Rows(Record):
    rows: list[dict[str, Any]]


def printed(capsys: pytest.CaptureFixture[str], how: str, width: int | None) -> list[str]:
    t.print_report(Rows(ROWS), COLUMNS, how, key="rows", room=width)
    return capsys.readouterr().out.splitlines()


def test_a_terminal_gets_lines_that_fit(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "table", 40)
    assert max(map(len, lines)) <= 40
    assert sum("layer" in line for line in lines) > 1  # the first column in each part
    assert any(line.startswith("…") for line in lines)


def test_a_pipe_gets_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "table", None)
    assert sum(line.startswith("layer") for line in lines) == 1
    assert any("net/a/very/long/name/of/a/layer" in line for line in lines)
    assert not any("nothing" in line or "\x1b" in line for line in lines)


def test_markdown_has_no_empty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "markdown", None)
    assert lines[0] == "| layer | figure | shape | again |"
    assert lines[2].startswith("| net/a/very/long/name/of/a/layer | 1.5 | 1x2x3 |")


def test_shared_paths_are_left_out() -> None:
    assert shorten(["m/a/x", "m/b/y"]) == ["a/x", "b/y"]
    assert shorten(["m/x;m/y;z"]) == ["m/x"]
    assert shorten(["m", "m/x"]) == ["m", "m/x"]
    assert shorten([]) == []
