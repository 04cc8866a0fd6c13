"""Rules and passes from outside the package: as printed in the page, by file, by entry point."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import qfrewrite as qf
from qfrewrite.cli.main import run
from qfrewrite.errors import PassError
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.passes import _registry, all_passes, load_plugin
from qfrewrite.testing import check_pass

PAGE = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "writing-a-pass.md").read_text(), re.S)
RULE, RULE_CLASS, PASS, CHECK = PAGE
HEAD = "import qfrewrite as qf\n"


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    all_passes()
    monkeypatch.setattr(_registry, "_REGISTRY", dict(_registry._REGISTRY))


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """The rules and the pass of the page in one file."""
    path = tmp_path / "my_passes.py"
    path.write_text("\n\n".join([RULE, RULE_CLASS, PASS]))
    return path


def clamp() -> qf.Graph:
    b = GraphBuilder()
    y = b.op("MINIMUM", b.input("x", (1, 4)), b.const("six", [6.0]))
    clamped = b.op("MAXIMUM", b.const("zero", [0.0]), y)
    return b.finish(b.op("SOFTMAX", clamped, name="y"))


def test_the_page_shows_a_rule_of_ten_lines_and_a_pass_of_thirty() -> None:
    code = RULE.partition("@qf.rule")[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    assert 15 <= len([line for line in PASS.splitlines() if line.strip()]) <= 30


def test_code_of_the_page_runs_as_printed(plugin: Path) -> None:
    load_plugin(plugin)
    space: dict[str, object] = {}
    exec(CHECK, space)
    test = space["test_clamp_to_relu6"]
    assert callable(test)
    test()
    graph = clamp()
    report = qf.run_passes(qf.Model([graph]), "clamp_to_relu6,strip_softmax")
    assert [op.kind for op in graph.ops] == ["RELU6"]
    assert [t.name for t in graph.outputs] == ["y"]
    assert report["clamp_to_relu6"].exact
    assert not report["strip_softmax"].exact


def test_a_rule_of_the_page_leaves_what_does_not_fit(plugin: Path) -> None:
    load_plugin(plugin)
    kinds = []
    for least in (0.5, -0.5):
        b = GraphBuilder()
        x, w = b.input("x", (1, 4)), b.const("w", [[0.0] * 4] * 3)
        y = b.op("FULLY_CONNECTED", x, w, b.const("bias", [1.0, 2.0, least]), name="dense")
        graph = b.finish(b.op("ABS", y, name="y"))
        report = check_pass(graph, "abs_to_relu", tolerance=0)
        kinds.append(graph.ops[-1].kind)
    assert kinds == ["RELU", "ABS"]
    assert [str(e) for e in report.log.skips] == ["skipped y: 'dense' may be negative"]


def test_the_command_line_takes_a_file(
    plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tmp_path / "m.tflite", tmp_path / "out.tflite"
    qf.save(qf.Model([clamp()]), model)
    command = [str(model), "-p", "clamp_to_relu6,strip_softmax", "-o", str(out)]
    assert run(command) == 5
    assert "no such pass: 'clamp_to_relu6'" in capsys.readouterr().err
    assert run([*command, "--plugin", str(plugin), "--verify", "numeric"]) == 0
    assert [op.kind for op in qf.load(out).graph.ops] == ["RELU6"]
    capsys.readouterr()
    assert run(["passes", "--plugin", str(plugin), "strip_softmax"]) == 0
    assert "Remove every SOFTMAX" in capsys.readouterr().out


def test_a_package_names_its_passes_by_an_entry_point(plugin: Path, tmp_path: Path) -> None:
    info = tmp_path / "my_passes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-passes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[qfrewrite.passes]\nmy_passes = my_passes\n")
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    command = [sys.executable, "-m", "qfrewrite", "passes", "clamp_to_relu6"]

    def printed() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )

    good = printed()
    assert good.returncode == 0, good.stderr
    assert "Replace a clamp to 0..6 by RELU6." in good.stdout
    plugin.write_text("1 / 0\n")
    bad = printed()
    assert bad.returncode == 5
    assert "entry point 'my_passes' (my_passes), line 1: ZeroDivisionError" in bad.stderr
    assert bad.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, r"mine.py: no such file"),
        ("", r"mine.py: registers no pass"),
        ("x = 1\nx.y", r"mine.py, line 2: AttributeError: 'int' object has no attribute 'y'"),
        ("x = 1\n\ndef f(:", r"mine.py, line 3: SyntaxError"),
        ("import no_such_module", r"mine.py, line 1: ModuleNotFoundError"),
        ("raise SystemExit(3)", r"mine.py, line 1: SystemExit: 3"),
        (
            HEAD + "class FoldBn(qf.Rule):\n    pattern = rewrite = None",
            r"mine.py: FoldBn: 'fold_bn' is the name of another pass",
        ),
    ],
)
def test_errors_of_a_plugin_are_one_line(
    code: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    if code is not None:
        path.write_text(code)
    assert run(["passes", "--plugin", str(path)]) == 5
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1


def test_rules_that_fit_their_own_results_end() -> None:
    @qf.rule(exact=True)
    def negate_twice(p):  # type: ignore[no-untyped-def]
        """Given y = NEG(x);  Result y = NEG(x), made anew."""
        return p.NEG(p.x), lambda m: m.new("NEG", m.x)

    b = GraphBuilder()
    graph = b.finish(b.op("NEG", b.input("x", (1, 4)), name="y"))
    with pytest.raises(PassError, match="negate_twice: fits its own results without end"):
        qf.run_passes(qf.Model([graph]), [negate_twice()])


def test_a_pattern_that_is_no_op_is_refused() -> None:
    @qf.rule(exact=True)
    def everything(p):  # type: ignore[no-untyped-def]
        """Given x;  Result x."""
        return p.x, lambda m: m.x

    with pytest.raises(PassError, match=r"everything.*begin with p\.KIND"):
        qf.run_passes(qf.Model([clamp()]), [everything()])


def test_rules_are_passes_by_name() -> None:
    class DropNeg(qf.Rule):
        """Given y = NEG(NEG(x));  Result y = x."""

        def pattern(self, p):  # type: ignore[no-untyped-def]
            return p.NEG(p.NEG(p.x))

        def rewrite(self, m):  # type: ignore[no-untyped-def]
            return m.x

    b = GraphBuilder()
    y = b.input("x", (1, 4))
    for _ in range(5):
        y = b.op("NEG", y)
    graph = b.finish(b.op("RELU", y, name="y"))
    check_pass(graph, "drop_neg", tolerance=0)
    assert [op.kind for op in graph.ops] == ["NEG", "RELU"]
    assert str(DropNeg()) == "drop_neg"
