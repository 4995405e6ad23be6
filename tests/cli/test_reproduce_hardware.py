"""`tersa reproduce hardware`: what is asked reaches the recipe, and what it finds is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.recipes.hardware_example import result
from typer.testing import CliRunner, Result

import tersa.recipes.hardware as recipe
from tersa.cli import reproduce as verb
from tersa.errors import UsageError
from tersa.recipes.hardware import HardwarePlan
from tersa.recipes.hardware_report import write_results
from tersa.recipes.hardware_result import HardwareResult


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(verb.app, ["hardware", *arguments])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    calls: list[Any] = []

    def run(plan: HardwarePlan, out: Path, **options: Any) -> HardwareResult:
        calls.append((plan, out, options))
        return write_results(result(), tmp_path)

    monkeypatch.setattr(recipe, "run_hardware", run)
    return calls


def test_what_is_asked_reaches_the_recipe(asked: list[Any]) -> None:
    words = "--network alexnet --size 32 --batch 4,2 --precision int8 --targets torch,torch@threads=2"
    found = invoke(*words.split(), "--out", "somewhere", "--resume")
    assert found.exit_code == 0
    plan, out, options = asked[0]
    assert (plan.groups, plan.batches.sizes, list(plan.precisions)) == ([("alexnet", 32)], (2, 4), ["int8"])
    assert [text for text, _ in plan.targets] == ["torch@threads=1", "torch@threads=2"]
    assert (out, options["resume"], options["overwrite"]) == (Path("somewhere"), True, False)


def test_tables_gaps_and_the_answer_are_printed(asked: list[Any]) -> None:
    printed = invoke("--targets", "torch").stdout
    for text in (
        "Table 4.3: How long does AlexNet take",
        "document: TX2, PyTorch",
        "2 combinations not measured",
        "torch@threads=1, int8: not offered: torch does not offer int8",
        "AlexNet takes 4.00 ms an image",
        "report.html",
    ):
        assert text in printed
    assert str(asked[0][1]) == "studies/hardware-quick"


def test_json_is_the_result_alone(asked: list[Any]) -> None:
    found = json.loads(invoke("--targets", "torch", "--json").stdout)
    assert found["groups"][0]["rows"][0]["latency_ms"]["median"] == 20.0
    assert found["verdict"].startswith("AlexNet takes")
    assert found["report"].endswith("report.html")


def test_dry_run_names_what_is_missing_and_does_nothing(asked: list[Any]) -> None:
    printed = invoke("--targets", "torch,tensorrt", "--dry-run").stdout
    assert "nothing was done" in printed
    assert "36" in printed
    assert "tensorrt" in printed
    assert not asked


@pytest.mark.parametrize("wrong", [("--batch", "1,x"), ("--size", "big")])
def test_numbers_that_are_none(wrong: tuple[str, str]) -> None:
    found = invoke(*wrong, "--dry-run")
    assert isinstance(found.exception, UsageError)
    assert wrong[0] in str(found.exception)
    assert "such as 1,8,32" in str(found.exception)
