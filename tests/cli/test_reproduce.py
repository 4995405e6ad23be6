"""`tersa reproduce`: what is asked reaches the recipe, and what it finds is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import tersa.recipes.quantized_training as recipe
from tersa.cli import reproduce as verb
from tersa.errors import UsageError
from tersa.recipes.quantized_training import ReproduceResult, Reproduction, RuleAgreement
from tersa.recipes.study import StudyPlan
from tersa.recipes.study_compare import Row
from tersa.study.cell import Cell
from tersa.study.statistics import Interval


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(verb.app, ["quantized-training", *arguments])


def result(failed: int = 0) -> ReproduceResult:
    row = RuleAgreement(
        name="all", cells=1, learned=1, spearman=0.95, agreement=100.0, gap=-0.11, absolute_gap=0.11
    )
    return ReproduceResult(
        data="mnist", quick=False, verdict="100 % of 1 published cells learn or collapse alike", cells=1,
        failed=failed, diverged=0, spearman=0.95, agreement=100.0, rules=[row],
        artefacts=["a/comparison.csv", "a/summary.md"], report="a/report.html", seconds=3.0,
    )  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the recipe was called with."""
    calls: list[Any] = []

    def run(
        wanted: Reproduction, folder: Path, setting: Any, **options: Any
    ) -> tuple[ReproduceResult, list[Row]]:
        calls.append((wanted, folder, options))
        cell = Cell(quant="symmetric", bits=8)
        return result(failed=int(wanted.seeds == 7)), [Row(cell, 97.41, Interval(97.3, 97.1, 97.5, 5))]

    monkeypatch.setattr(recipe, "reproduce", run)
    return calls


def test_every_value_is_printed_with_its_interval_and_gap(asked: list[Any]) -> None:
    found = invoke("--rule", "bp", "--no-pictures")
    assert found.exit_code == 0
    for words in (
        "bp mlp:100x100, symmetric layer, 8 bits",
        "97.41",
        "97.30",
        "97.10 – 97.50",
        "−0.11",
        "0.950",
    ):
        assert words in found.stdout
    assert found.stdout.index("−0.11") < found.stdout.index("100 % of 1 published cells")


def test_what_was_asked_arrives(asked: list[Any]) -> None:
    invoke("--data", "fashion-mnist", "--rule", "bp, fa", "--model", "2x100", "--bits", "2,8", "--seeds", "3",
           "--workers", "2", "--out", "there", "--resume", "--no-pictures")  # fmt: skip
    wanted, folder, options = asked[0]
    assert wanted == Reproduction(
        data="fashion-mnist", rules=("bp", "fa"), models=("2x100",), bits=(2, 8), seeds=3
    )
    assert folder == Path("there")
    assert options == {"workers": 2, "resume": True, "overwrite": False, "pictures": False}


def test_the_folder_is_named_after_the_study(asked: list[Any]) -> None:
    invoke("--quick")
    assert asked[0][1] == Path("studies/quantized-training-mnist-quick")


def test_json_is_one_line(asked: list[Any]) -> None:
    found = invoke("--json")
    assert found.stdout.count("\n") == 1
    assert json.loads(found.stdout)["agreement"] == 100.0


def test_failed_runs_are_an_exit_code(asked: list[Any]) -> None:
    assert invoke("--seeds", "7").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--bits", "two"), "not whole numbers"), (("--rule", "hsci"), "unknown rule 'hsci'")],
)
def test_wrong_arguments_are_said_in_one_line(arguments: tuple[str, ...], words: str) -> None:
    found = invoke(*arguments)
    assert isinstance(found.exception, UsageError)
    assert words in str(found.exception)


def test_a_dry_run_plans_and_does_nothing(monkeypatch: pytest.MonkeyPatch, asked: list[Any]) -> None:
    plan = StudyPlan(
        name="x", cells=174, ended=0, failed=0, left=174, epochs=5220, stacks=6, largest=29, workers=2,
        threads=1, seconds=7200.0, left_out=[], notes=[],
    )  # fmt: skip
    monkeypatch.setattr(recipe, "plan_reproduction", lambda *_, **__: plan)
    found = invoke("--dry-run")
    assert "174 runs, 5,220 epochs" in found.stdout
    assert "about 2.0 h" in found.stdout
    assert asked == []
