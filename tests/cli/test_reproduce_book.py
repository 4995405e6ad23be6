"""`tersa reproduce book` and `all`: what is printed, what is written, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import tersa.recipes.reproduce_all as recipe
from tersa.cli import reproduce as verb
from tersa.errors import UsageError

KEPT = Path(__file__).parents[2] / "docs" / "results"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(verb.app, arguments)


def test_the_book_of_the_repository(tmp_path: Path) -> None:
    found = invoke("book", str(KEPT), "--out", str(tmp_path / "book"))
    assert found.exit_code == 0
    assert "000 Which learning rule" in found.stdout
    assert "values with ours" in found.stdout
    assert (tmp_path / "book" / "book.html").is_file()


def test_json_has_counts_and_paths(tmp_path: Path) -> None:
    found = invoke("book", str(KEPT), "--out", str(tmp_path / "book"), "--json")
    told = json.loads(found.stdout)
    assert told["verb"] == "reproduce book"
    assert sum(told["counts"].values()) > 1000
    assert Path(told["report"]).is_file()


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    found = invoke("book", str(tmp_path / "nowhere"))
    assert isinstance(found.exception, UsageError)


def test_the_plan_of_all_names_each_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = invoke("all", "--full", "--only", "pruning,quantized-training", "--dry-run", "--json")
    told = json.loads(found.stdout)
    assert told["commands"] == [
        "tersa reproduce quantized-training --out studies/all-full/quantized-training",
        "tersa reproduce pruning --full --out studies/all-full/pruning",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_failed_experiment_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(asked: recipe.Asked) -> recipe.Answer:
        raise UsageError("no data here")

    monkeypatch.setitem(recipe.RUNNERS, "pruning", broken)
    found = invoke("all", "--only", "pruning", "--out", str(tmp_path / "all"))
    assert found.exit_code == 1
    assert "no data here" in found.stdout
