"""The benchmark of accuracies: rows that stay, means of pairs, every budget with runs of its own."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tests.scripts import load_script

from tersa.errors import UsageError
from tersa.files import keep_rows
from tersa.recipes.adapt_request import AdaptSpec
from tersa.recipes.setting import Setting


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/adaptation_accuracy.py")


def row(script: ModuleType, **changes: str) -> dict[str, str]:
    usual = dict.fromkeys(script.SETTINGS, "") | {
        "network": "vgg",
        "budget": "0.5",
        "seed": "0",
        "side": "(b)",
    }
    return {**usual, "accuracy": "90", "latency_share": "0.5", **changes}


def test_a_row_takes_the_place_of_its_own_settings_alone(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "results" / "accuracy.csv"
    for each in (
        row(script, accuracy="90"),
        row(script, budget="0.3", accuracy="80"),
        row(script, seed="1", accuracy="91"),
        row(script, accuracy="92"),
    ):
        keep_rows(path, [each], script.SETTINGS)
    with path.open(newline="") as file:
        kept = [(each["budget"], each["seed"], each["accuracy"]) for each in csv.DictReader(file)]
    assert kept == [("0.3", "0", "80"), ("0.5", "1", "91"), ("0.5", "0", "92")]


def test_rows_of_a_file_without_a_column_stay(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "accuracy.csv"
    path.write_text("network,seed,side,accuracy\nvgg,0,(b),77\n")
    keep_rows(path, [row(script)], script.SETTINGS)
    with path.open(newline="") as file:
        assert [(each["budget"], each["accuracy"]) for each in csv.DictReader(file)] == [
            ("", "77"),
            ("0.5", "90"),
        ]


def test_means_of_the_pairs_that_were_run_for_each_budget(script: ModuleType) -> None:
    rows = [
        row(script, budget=budget, seed=str(seed), side=side, accuracy=str(accuracy), latency_share=share)
        for budget, seed, side, accuracy, share in (
            ("0.3", 0, "(b)", 80.5, "0.29"),
            ("0.3", 0, "(a)", 80.0, "0.30"),
            ("0.3", 1, "(b)", 81.0, "0.29"),
            ("0.3", 1, "(a)", 80.1, "0.28"),
            ("0.5", 0, "original", 85.0, "0.50"),
            ("0.5", 0, "(b)", 84.0, "0.45"),
        )
    ]
    first, second = script.compared(rows)
    assert (first.budget, first.side, first.other, first.seeds) == ("0.3", "(b)", "(a)", 2)
    assert first.latency == pytest.approx((0.29, 0.29))
    assert first.accuracy == pytest.approx((80.75, 80.05))
    assert first.gaps == pytest.approx([0.5, 0.9])
    assert first.gained() == "+0.70 +- 0.20"
    assert (second.budget, second.other, second.gained()) == ("0.5", "original", "-1.00")


def recorded(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, shares: Callable[[AdaptSpec], float]
) -> list[tuple[str, float]]:
    """Runs in place of those of adapt, folder by folder with the share that they are asked for; `shares` says
    what is left of the latency, and the accuracy is 90 % and that."""
    runs: list[tuple[str, float]] = []

    def adapted(spec: AdaptSpec, folder: Path, *, setting: Setting, resume: bool) -> SimpleNamespace:
        assert spec.goals.latency is not None
        assert not resume
        runs.append((folder.name, spec.goals.latency.value))
        share = shares(spec)
        figures = SimpleNamespace(test_accuracy=90.0 + share, latency_ms=SimpleNamespace(median=share))
        steps = [SimpleNamespace(stage=stage) for stage in ("baseline", "prune", "prune", "distil")]
        measured = SimpleNamespace(target="torch", low=1.0 / (share + 0.01))
        return SimpleNamespace(
            adaptation=SimpleNamespace(seconds={"search": 3.0}), baseline=figures, result=figures,
            speedup=1.0 / share, goals=[], environment=SimpleNamespace(processor="p", commit="c"),
            target="torch", comparisons=[SimpleNamespace(target="openvino", low=9.0), measured], steps=steps,
        )  # fmt: skip

    monkeypatch.setattr(script, "adapt", adapted)
    return runs


def asked_for(tmp_path: Path, **changes: Any) -> argparse.Namespace:
    usual: dict[str, Any] = {
        "models": "vgg:11", "budgets": [0.3, 0.7], "seeds": 1, "data": "digits", "target": "torch",
        "delta": 0.05, "steps": 20, "epochs": 1, "tune": 5, "validation": 100, "seconds": 0.1,
        "device": "cpu", "match": False, "out": tmp_path, "csv": tmp_path / "rows.csv",
    }  # fmt: skip
    return argparse.Namespace(**usual | changes)


def limit(spec: AdaptSpec) -> float:
    assert spec.goals.latency is not None
    return spec.goals.latency.value


def test_every_budget_has_runs_of_its_own_and_every_run_a_row(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = recorded(script, monkeypatch, lambda spec: limit(spec) - 0.01 * (spec.search == "budget"))
    script.accuracy(asked_for(tmp_path, seeds=2, sides="ba"))
    assert [folder for folder, _ in runs] == [
        f"vgg-11-{budget}x-{seed}-{side}" for budget in (0.3, 0.7) for seed in (0, 1) for side in "ab"
    ]
    with (tmp_path / "rows.csv").open(newline="") as file:
        kept = list(csv.DictReader(file))
    assert [each["budget"] for each in kept] == ["0.3"] * 4 + ["0.7"] * 4
    assert [each["race"] for each in kept] == ["2", ""] * 4
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == (
        "ratio vgg:11 at 0.3x (b) -0.01 +- 0.00 points at 0.967 of the latency of (a), "
        "vgg:11 at 0.7x (b) -0.01 +- 0.00 points at 0.986 of the latency of (a)"
    )
    assert "29.0 against 30.0" in printed
    with (tmp_path / "rows_means.csv").open(newline="") as file:
        means = [
            (each["budget"], each["latency_percent"], each["points"], each["seeds"])
            for each in csv.DictReader(file)
        ]
    assert means == [("0.3", "29.0", "-0.01", "2"), ("0.7", "69.0", "-0.01", "2")]


def test_the_solver_is_given_what_the_originals_network_took(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upper end of its latency, if that is less than the budget, and its iterations; the rows say so."""
    tunes = list[object]()

    def shares(spec: AdaptSpec) -> float:
        tunes.append(spec.protocol["tune"])
        return limit(spec) - 0.08 * (limit(spec) == 0.3)

    runs = recorded(script, monkeypatch, shares)
    script.accuracy(asked_for(tmp_path, sides="ob", match=True))
    assert runs == [
        ("vgg-11-0.3x-0-original", 0.3), ("vgg-11-0.3x-0-b-matched", 0.23),
        ("vgg-11-0.7x-0-original", 0.7), ("vgg-11-0.7x-0-b-matched", 0.7),
    ]  # fmt: skip
    with (tmp_path / "rows.csv").open(newline="") as file:
        kept = [
            (each["budget"], each["side"], each["limit"], each["matched"]) for each in csv.DictReader(file)
        ]
    assert kept == [
        ("0.3", "original", "0.3", ""), ("0.3", "(b)", "0.23", "yes"),
        ("0.7", "original", "0.7", ""), ("0.7", "(b)", "0.7", "yes"),
    ]  # fmt: skip
    assert tunes == [5, 5 + 2 * 20] * 2


def test_a_match_needs_both_sides(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["adaptation_accuracy.py", "--sides", "ab", "--match"])
    with pytest.raises(SystemExit):
        script.main()
    assert "--match with --sides ab: it needs o and b, such as --sides ob" in capsys.readouterr().err


def test_budgets_and_sides_that_are_none(script: ModuleType) -> None:
    assert script.budgets_of("0.3,0.5") == [0.3, 0.5]
    assert script.sides_of("bo") == ["original", "(b)"]
    for text in ("", "half", "0.5,2"):
        with pytest.raises(UsageError, match=r"not shares of the latency .* such as 0\.3,0\.5,0\.7"):
            script.budgets_of(text)
    with pytest.raises(UsageError, match=r"unknown c; known: o for original, a"):
        script.sides_of("ac")


def test_the_original_fine_tunes_every_candidate_to_the_end(script: ModuleType) -> None:
    asked = argparse.Namespace(
        data="digits", target="torch", delta=0.05, steps=20, epochs=1, tune=5, validation=100, out=Path("x")
    )
    specs = [
        script.accuracy_spec(asked, "mlp:8", 0.5, 0, side, asked.tune) for side in ("original", "(a)", "(b)")
    ]
    assert [(each.search, each.cut, each.score, each.heat) for each in specs] == [
        ("netadapt", "linear", "finetune", 20),
        ("netadapt", "bisect", "naswot", 2),
        ("budget", "bisect", "naswot", 2),
    ]
