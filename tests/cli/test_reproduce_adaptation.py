"""`tersa reproduce adaptation`: what is asked reaches the recipe, and what it finds is printed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.recipes.adaptation_example import result
from typer.testing import CliRunner, Result

import tersa.recipes.adaptation as recipe
import tersa.recipes.adaptation_plan as estimate
from tersa.adapt.table import Machine, Point, TableFile
from tersa.cli import reproduce as verb
from tersa.errors import UsageError
from tersa.recipes.adaptation import AdaptationPlan
from tersa.recipes.adaptation_report import write_results
from tersa.recipes.adaptation_result import AdaptationResult


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(verb.app, ["adaptation", *arguments])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    calls: list[Any] = []

    def run(plan: AdaptationPlan, out: Path, **options: Any) -> AdaptationResult:
        calls.append((plan, out, options))
        return write_results(result(), tmp_path)

    monkeypatch.setattr(recipe, "run_adaptation", run)
    return calls


def test_what_is_asked_reaches_the_recipe(asked: list[Any]) -> None:
    words = "--network vgg19,alexnet --delta 0.05,0.01 --finetune-steps 40 --target torch@threads=1 --resume"
    found = invoke(*words.split(), "--out", "somewhere", "--table", "t.db")
    assert found.exit_code == 0, found.output
    plan, out, options = asked[0]
    assert (plan.networks, plan.deltas) == (("alexnet", "vgg19"), (0.01, 0.05))
    assert (plan.request.iterations, plan.request.table, plan.request.mode) == (40, "t.db", "quick")
    assert (out, options["resume"], options["overwrite"]) == (Path("somewhere"), True, False)


def test_tables_and_the_answer_are_printed(asked: list[Any]) -> None:
    printed = invoke("--target", "torch").stdout
    for text in (
        "Table 5.1: How long does the original take?",
        "document: block 0",
        "37× in the document",
        "report.html",
    ):
        assert text in printed
    assert str(asked[0][1]) == "studies/adaptation-quick"


def test_json_is_the_result_alone(asked: list[Any]) -> None:
    found = json.loads(invoke("--target", "torch", "--json").stdout)
    assert found["timed"][0]["steps"] == 10
    assert found["report"].endswith("report.html")


def test_dry_run_does_nothing(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "expected_seconds", lambda plan: 7200.0)  # of its own: test_adaptation.py
    printed = invoke("--full", "--target", "torch", "--dry-run").stdout
    assert "nothing was done" in printed
    assert "15" in printed
    assert "2.0 h" in printed
    assert not asked


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", "3"], "--seeds: no effect: for the whole searches of --full"),
        (["--data", "mnist", "--data-dir", "d"], "--data, --data-dir: no effect: .* or leave them out"),
    ],
)
def test_what_only_a_full_run_takes(words: list[str], said: str, asked: list[Any]) -> None:
    found = invoke("--target", "torch", *words)
    assert isinstance(found.exception, UsageError)
    assert re.search(said, str(found.exception))
    assert not asked
    assert invoke("--full", "--target", "torch", *words).exit_code == 0
    assert len(asked) == 1


def test_a_table_from_elsewhere_is_refused_with_what_this_verb_has(tmp_path: Path) -> None:
    with TableFile(tmp_path / "other.db") as file:
        board = Machine("m", "a board", "other", "torch@threads=1")
        file.add(board, [Point("linear", 1, 1, 0.1, 9)])
    found = invoke("--target", "torch", "--table", str(tmp_path / "other.db"), "--dry-run")
    assert isinstance(found.exception, UsageError)
    assert "give another --table (tersa adapt --allow-foreign" in str(found.exception)


def test_numbers_that_are_none() -> None:
    found = invoke("--delta", "small", "--dry-run")
    assert isinstance(found.exception, UsageError)
    assert "such as 0.025,0.05" in str(found.exception)
