"""The layers of the package: its imports are read, each must lead to a lower layer."""

from __future__ import annotations

import ast
from pathlib import Path

import networkx as nx
import pytest
from conftest import ROOT

PACKAGE = ROOT / "qfrewrite"
# From the lowest layer to the highest: each imports from lower layers only, and from itself.
LAYERS = (
    "records", "errors", "ir", "ops", "rewrite", "lower", "targets", "formats", "data", "runtime",
    "calibration", "solve", "passes", "saving", "analyze",
    "conversion", "api", "testing", "cli",
)  # fmt: skip
LEVEL = {name: i for i, name in enumerate(LAYERS)}
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.stem in LEVEL)


def imports(path: Path) -> list[tuple[str, bool]]:
    """Imported modules, and whether the import stands inside a function."""
    tree = ast.parse(path.read_text())
    inner = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, id(node) in inner))
        elif isinstance(node, ast.Import):
            found += [(alias.name, id(node) in inner) for alias in node.names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_lead_to_lower_layers_only(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    for module, inside in imports(path):
        names = module.split(".")
        if names[0] == "qfrewrite" and len(names) > 1:
            assert LEVEL[names[1]] <= LEVEL[parts[0]], f"{path.name} imports {module}"
        assert names[0] != "tensorflow" or inside, "tensorflow is imported in functions only"
        assert names[0] != "networkx" or parts in {("ir", "graph"), ("ir", "relations")}


def test_no_modules_import_each_other() -> None:
    """Also not under TYPE_CHECKING, and not by way of others; a package is not its modules."""
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts) for p in PACKAGE.rglob("*.py")}
    graph = nx.DiGraph()
    for path in PACKAGE.rglob("*.py"):
        importer = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        graph.add_edges_from((importer, m) for m, _ in imports(path) if m in names)
    assert [sorted(c) for c in nx.strongly_connected_components(graph) if len(c) > 1] == []


def test_passes_are_one_file_each() -> None:
    """Nothing else lies there but the registry and the runner."""
    private = {p.stem for p in (PACKAGE / "passes").glob("_*.py")}
    assert private == {"__init__", "_registry", "_runner"}
    for path in (PACKAGE / "passes").glob("[!_]*.py"):
        assert path.read_text().count("@register\n") == 1, path.name


def test_files_are_named_for_what_they_do() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert path.stem not in ("utils", "helpers", "misc")


def test_meta_is_for_file_formats_only() -> None:
    """What has a meaning elsewhere is a field: a key of `meta` is lost, or goes stale, unseen."""
    for path in PACKAGE.rglob("*.py"):
        if "formats" in path.relative_to(PACKAGE).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            held: list[ast.expr | None] = []
            if isinstance(node, ast.Subscript | ast.Attribute | ast.Starred | ast.keyword):
                held = [node.value]
            elif isinstance(node, ast.Compare):
                held = list(node.comparators)
            elif isinstance(node, ast.Dict):
                held = [v for k, v in zip(node.keys, node.values, strict=True) if k is None]
            elif isinstance(node, ast.comprehension):
                held = [node.iter]
            passed_on = isinstance(node, ast.keyword) and node.arg == "meta"
            for value in () if passed_on else held:
                keyed = isinstance(value, ast.Attribute) and value.attr == "meta"
                assert not keyed, f"{path.name}:{getattr(value, 'lineno', 0)} looks into meta"
