"""`tersa reproduce adaptation`: what is asked reaches the recipe, and what it finds is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.recipes.adaptation_example import result
from typer.testing import CliRunner, Result

import tersa.recipes.adaptation as recipe
import tersa.recipes.adaptation_plan as estimate
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


def test_numbers_that_are_none() -> None:
    found = invoke("--delta", "small", "--dry-run")
    assert isinstance(found.exception, UsageError)
    assert "such as 0.025,0.05" in str(found.exception)
