"""`tersa reproduce`: what is asked reaches the recipe, and what it finds is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import tersa.recipes.pruning_study as pruning_recipe
import tersa.recipes.quantized_training as recipe
from tersa.cli import reproduce as verb
from tersa.errors import UsageError
from tersa.recipes.pruning_results import PruningResult, TableRow
from tersa.recipes.pruning_store import Trained
from tersa.recipes.pruning_study import Pruning, PruningPlan
from tersa.recipes.quantized_training import ReproduceResult, Reproduction, RuleAgreement
from tersa.recipes.study import StudyPlan
from tersa.recipes.study_compare import Row
from tersa.records.results import Environment
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
           "--workers", "2", "--on", "auto", "--out", "there", "--resume", "--no-pictures")  # fmt: skip
    wanted, folder, options = asked[0]
    assert wanted == Reproduction(
        data="fashion-mnist", rules=("bp", "fa"), models=("2x100",), bits=(2, 8), seeds=3
    )
    assert folder == Path("there")
    assert options == {"workers": 2, "resume": True, "overwrite": False, "pictures": False, "on": "auto"}


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


# pruning


def prune(*arguments: str) -> Result:
    return CliRunner().invoke(verb.app, ["pruning", *arguments])


def pruned(wanted: Pruning, failed: int = 0) -> PruningResult:
    row = TableRow(
        floor="99 %", floor_accuracy=99.0, seed=0, removed=1000, widths="conv1=9 conv2=20 fc1=91",
        parameters=40_000, macs=1_900_000, compression=81.9, acceleration=7.3, validation_accuracy=99.01,
        test_accuracy=98.95, validation_loss=0.23, test_loss=0.25, scratch_validation_loss=0.81,
        scratch_test_loss=None,
    )  # fmt: skip
    start = Trained(
        spec="lenet", seed=0, digest="abc", parameters=3_274_634, macs=13_883_904,
        validation_accuracy=99.24, test_accuracy=99.2, iterations=10_000, seconds=60.0,
    )  # fmt: skip
    machine = Environment(
        machine="x", processor="one", cores=2, memory_bytes=1, system="s", python="3", versions={}, threads=1,
        date="d",
    )  # fmt: skip
    return PruningResult(
        data=wanted.data, model=wanted.model, mode=wanted.mode, precision="bf16", shortened=False,
        verdict="Taylor with l2 keeps 99.01 %", curves=102, done=102 - failed, diverged=0, failed=failed,
        stored=102, trouble="MemoryError: none" if failed else "", baselines=[start],
        table=[] if wanted.seeds == 9 else [row], environment=machine, workers=2, curve_seconds=9.0,
        artefacts=["a/points.csv"], report="a/report.html", seconds=7000.0,
    )  # fmt: skip


@pytest.fixture
def pruning_asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the recipe was called with."""
    calls: list[Any] = []

    def run(wanted: Pruning, folder: Path, setting: Any, **options: Any) -> PruningResult:
        calls.append((wanted, folder, options, setting))
        return pruned(wanted, failed=int(wanted.seeds == 7))

    monkeypatch.setattr(pruning_recipe, "reproduce_pruning", run)
    return calls


def test_table_4_1_is_printed_beside_the_document_s(pruning_asked: list[Any]) -> None:
    found = prune("--workers", "2")
    assert found.exit_code == 0
    assert pruning_asked[0][:2] == (Pruning(), Path("studies/pruning-mnist-quick"))
    for words in ("99.239 %", "0.239", "80×", "0.839", "0.23", "0.25", "82×", "7.3×", "0.81", "9-20-91"):
        assert words in found.stdout
    assert found.stdout.index("document, 99 %") < found.stdout.index("99 %, seed 0")
    assert "Taylor with l2 keeps 99.01 %" in found.stdout


def test_what_was_asked_of_pruning_arrives(pruning_asked: list[Any]) -> None:
    prune("--full", "--figure", "4.8, 4.10", "--curve", "conv1-l1-10", "--seeds", "2", "--precision", "fp32",
          "--model", "lenet:4-6-12", "--baseline-iterations", "30", "--workers", "3", "--threads", "2",
          "--out", "there", "--resume")  # fmt: skip
    wanted, folder, options, setting = pruning_asked[0]
    assert wanted == Pruning(
        model="lenet:4-6-12", mode="full", figures=("4.8", "4.10"), curves=("conv1-l1-10",), seeds=2,
        precision="fp32", baseline_iterations=30,
    )  # fmt: skip
    assert folder == Path("there")
    assert options == {"workers": 3, "resume": True, "overwrite": False, "on": "local"}
    assert (setting.threads, setting.device) == (2, "cpu")


def test_failed_curves_are_an_exit_code_and_a_line(pruning_asked: list[Any]) -> None:
    found = prune("--seeds", "7")
    assert found.exit_code == 1
    assert "101 of 102 curves done, 0 diverged, 1 failed" in found.stdout
    assert "first failure: MemoryError: none" in found.stdout


def test_an_empty_table_says_why(pruning_asked: list[Any]) -> None:
    assert "no row: its curve was not pruned" in prune("--seeds", "9").stdout


def test_pruning_as_json_is_one_line(pruning_asked: list[Any]) -> None:
    found = prune("--json")
    assert found.stdout.count("\n") == 1
    assert json.loads(found.stdout)["table"][0]["compression"] == 81.9


def test_unknown_figures_are_refused_before_any_work(tmp_path: Path) -> None:
    found = prune("--figure", "4.99", "--out", str(tmp_path / "out"))
    assert isinstance(found.exception, UsageError)
    assert "unknown figure '4.99'" in str(found.exception)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_pruning_lists_the_curves(
    monkeypatch: pytest.MonkeyPatch, pruning_asked: list[Any]
) -> None:
    plan = PruningPlan(
        curves=102, ended=2, left=100, steps=4900, baselines=1, mode="quick", precision="bf16", workers=2,
        threads=1, seconds=6600.0, names=["network-taylor-l2-100", "fc1-l1-10"],
    )  # fmt: skip
    monkeypatch.setattr(pruning_recipe, "plan_pruning", lambda *_, **__: plan)
    found = prune("--dry-run")
    for words in ("102, 2 % of the channels a step", "100 curves, 4,900 steps", "about 1.8 h", "  fc1-l1-10"):
        assert words in found.stdout
    assert pruning_asked == []


def test_the_list_names_every_verb_and_counts_what_was_published() -> None:
    found = CliRunner().invoke(verb.app, ["list", "--json"])
    assert found.exit_code == 0
    listed = {each["name"]: each for each in json.loads(found.stdout)["experiments"]}
    verbs = {command.name for command in verb.app.registered_commands} - {"list", "all", "book"}
    assert set(listed) == verbs
    assert listed["quantized-training"]["published_values"] == 672 + 48 + 24
    assert listed["adaptation"]["command"] == "tersa reproduce adaptation --quick"


def test_the_list_is_a_table_for_people() -> None:
    found = CliRunner().invoke(verb.app, ["list"])
    assert "which pruning strategy is best" in found.output
    assert "--dry-run" in found.output
