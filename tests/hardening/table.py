"""The fault tables of `docs/reliability.md`: the test behind each row, and how often it injects its fault.

    python -m tests.hardening.table        writes the runs into the tables

A test's runs are its parameters times the trials of one call: `trials` and `fuzz` say them for the tests
here, `max_examples` for property tests elsewhere, `LOOPS` for a loop inside an older test.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.hardening.trials import FACTOR, count

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "reliability.md"
ROW = re.compile(r"^\|(.+)\|(.+)\| *([\d,]*) *\|(.+)\| *`(tests/[\w/]+\.py)::(\w+)` *\|$", re.MULTILINE)
DEFAULT_EXAMPLES = 100
"""Of hypothesis, where a test names no number."""

LOOPS = {
    "test_killed_at_any_moment_it_ends_as_if_it_never_had_been": 3,
    "test_killed_anywhere_and_resumed_ends_the_same": 4,
    "test_a_command_killed_ten_times_ends_with_the_numbers_of_an_undisturbed_one": 10,
    "test_killed_ten_times_it_ends_with_the_cells_and_numbers_of_an_undisturbed_study": 10,
    "test_workers_that_are_killed_lose_and_double_nothing": 3,
    "test_damage_behind_a_right_checksum_is_one_line_or_a_network": 150,
}
"""Faults that one call of an older test injects."""


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    fault: str
    runs: str
    losses: str
    path: str
    test: str


def rows(text: str) -> list[Row]:
    """Every line of every fault table."""
    return [
        Row(fault.strip(), runs.replace(",", ""), losses.strip(), path, test)
        for fault, _, runs, losses, path, test in ROW.findall(text)
    ]


def runs_of(path: str, test: str) -> int | None:
    """How often a test injects its fault; None where that cannot be read from it.

    Raises:
        LookupError: there is no such test.
    """
    if path.startswith("tests/hardening/"):
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        function: Callable[..., Any] = vars(module)[test]
        marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"]
        found = count(function)
        for mark in marks:
            found *= len(mark.args[1])
        return found // FACTOR if hasattr(function, "hypothesis") else found
    return _declared(path, test)


def _declared(path: str, test: str) -> int | None:
    """The same from the source alone: other tests are not imported for it."""
    tree = _tree(path)
    named = {one.name: one for one in tree.body if isinstance(one, ast.FunctionDef)}
    found = LOOPS.get(test, 1)
    for decorator in named[test].decorator_list:
        text = ast.unparse(decorator)
        if isinstance(decorator, ast.Call) and text.startswith("pytest.mark.parametrize"):
            size = _length(decorator.args[1], tree)
            if size is None:
                return None
            found *= size
        elif isinstance(decorator, ast.Call) and text.startswith("settings"):
            most = [word.value for word in decorator.keywords if word.arg == "max_examples"]
            found *= ast.literal_eval(most[0]) if most else DEFAULT_EXAMPLES
    drawn = {ast.unparse(one).partition("(")[0] for one in named[test].decorator_list}
    return found * DEFAULT_EXAMPLES if "given" in drawn and "settings" not in drawn else found


def _length(values: ast.expr, tree: ast.Module) -> int | None:
    """Of a list that is written out, or of a constant of the module that is one."""
    if isinstance(values, ast.Name):
        for one in tree.body:
            targets = one.targets if isinstance(one, ast.Assign) else []
            if any(isinstance(target, ast.Name) and target.id == values.id for target in targets):
                return _length(one.value, tree)  # pyright: ignore[reportAttributeAccessIssue]
        return None
    if isinstance(values, ast.List | ast.Tuple):
        return None if any(isinstance(one, ast.Starred) for one in values.elts) else len(values.elts)
    return len(values.keys) if isinstance(values, ast.Dict) else None


@cache
def _tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def written(text: str) -> str:
    """The page with the runs of every row."""

    def fill(match: re.Match[str]) -> str:
        found = runs_of(match[5], match[6])
        runs = match[3] if found is None else f"{found:,}"
        return f"|{match[1]}|{match[2]}| {runs} |{match[4]}| `{match[5]}::{match[6]}` |"

    return ROW.sub(fill, text)


if __name__ == "__main__":
    DOCS.write_text(written(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
