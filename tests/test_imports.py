"""Imports follow the data, left to right (CONTRIBUTING.md), and nothing heavy loads for `--help`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tersa

SOURCE = Path(tersa.__file__).parent
GROUND_UP = "errors numerics database files records data quant models rules train study"
ORDER = f"{GROUND_UP} prune binary export targets adapt report recipes cli".split()
APART = {("prune", "binary"), ("binary", "prune")}
GROUND = {
    "errors": set(),
    "numerics": set(),
    "database": {"errors"},
    "files": set(),
    "records": {"errors", "files"},
}
FILES = sorted(SOURCE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """First-level tersa packages that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert all(alias.name != "*" for alias in node.names), f"{path}: star import"
            if node.module == "tersa":
                found |= {alias.name for alias in node.names}
            elif node.module and node.module.startswith("tersa."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("tersa.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    place = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if place in ("__init__", "__main__"):
        return
    for other in imported(path) - {place}:
        assert other in ORDER, f"{path} imports tersa.{other}, which has no place in the order"
        assert ORDER.index(other) < ORDER.index(place), f"{path}: {place} must not import {other}"
        assert (place, other) not in APART
        if place in GROUND:
            assert other in GROUND[place]


def test_every_folder_has_a_place() -> None:
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(ORDER)


def test_depth_is_at_most_two() -> None:
    assert all(len(path.relative_to(SOURCE).parts) <= 3 for path in FILES)


@pytest.mark.parametrize("module", ["tersa", "tersa.cli.main", "tersa.records.results", "tersa.report.page"])
def test_light_modules_do_not_load_torch(module: str) -> None:
    heavy = {"torch", "numpy", "onnxruntime", "sklearn"}
    code = f"import sys, {module}; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_runs_as_the_command_does() -> None:
    command = [sys.executable, "-m", "tersa", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "tersa shrink" in done.stdout
    assert "__main__" not in done.stdout
