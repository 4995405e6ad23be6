"""The benchmark's own parts: rows that stay, means of pairs, and a table whose time survives a kill."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from tests.adapt.machine import FakeClock, FakeTarget
from tests.scripts import load_script

from tersa.errors import TargetError, UsageError
from tersa.recipes import adaptation_stages
from tersa.recipes.adapt_request import AdaptSpec
from tersa.recipes.setting import Setting


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/adaptation_speed.py")


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
        script.keep(path, each)
    with path.open(newline="") as file:
        kept = [(each["budget"], each["seed"], each["accuracy"]) for each in csv.DictReader(file)]
    assert kept == [("0.3", "0", "80"), ("0.5", "1", "91"), ("0.5", "0", "92")]


def test_rows_of_a_file_without_a_column_stay(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "accuracy.csv"
    path.write_text("network,seed,side,accuracy\nvgg,0,(b),77\n")
    script.keep(path, row(script))
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


def test_every_budget_has_runs_of_its_own_and_every_run_a_row(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders: list[str] = []

    def adapted(spec: AdaptSpec, folder: Path, *, setting: Setting, resume: bool) -> SimpleNamespace:
        assert spec.goals.latency is not None
        folders.append(folder.name)
        assert not resume
        share = spec.goals.latency.value - (0.01 if spec.search == "budget" else 0.0)
        figures = SimpleNamespace(test_accuracy=90.0 + share, latency_ms=SimpleNamespace(median=share))
        return SimpleNamespace(
            adaptation=SimpleNamespace(seconds={"search": 3.0}), baseline=figures, result=figures,
            speedup=1.0 / share, goals=[], environment=SimpleNamespace(processor="p", commit="c"),
        )  # fmt: skip

    monkeypatch.setattr(script, "adapt", adapted)
    asked = argparse.Namespace(
        models="vgg:11", budgets=[0.3, 0.7], seeds=2, sides="ba", data="digits", target="torch", delta=0.05,
        steps=10, epochs=None, tune=None, device="cpu", out=tmp_path, csv=tmp_path / "rows.csv",
    )  # fmt: skip
    script.accuracy(asked)
    assert folders == [
        f"vgg-11-{budget}x-{seed}-{side}" for budget in (0.3, 0.7) for seed in (0, 1) for side in "ab"
    ]
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert [each["budget"] for each in csv.DictReader(file)] == ["0.3"] * 4 + ["0.7"] * 4
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == (
        "ratio vgg:11 at 0.3x (b) -0.01 +- 0.00 points at 0.967 of the latency of (a), "
        "vgg:11 at 0.7x (b) -0.01 +- 0.00 points at 0.986 of the latency of (a)"
    )
    assert "29.0 against 30.0" in printed


def test_budgets_and_sides_that_are_none(script: ModuleType) -> None:
    assert script.budgets_of("0.3,0.5") == [0.3, 0.5]
    assert script.sides_of("bo") == ["original", "(b)"]
    for text in ("", "half", "0.5,2"):
        with pytest.raises(UsageError, match=r"not shares of the latency .* such as 0\.3,0\.5,0\.7"):
            script.budgets_of(text)
    with pytest.raises(UsageError, match=r"unknown c; known: o for original, a"):
        script.sides_of("ac")


def test_the_time_of_a_table_is_that_of_all_calls_that_measured_some_of_it(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is killed in its second block; the next one measures the rest and adds its time."""
    clock, whole = FakeClock(), adaptation_stages.fill
    monkeypatch.setattr(adaptation_stages, "fill", lambda *a, **k: whole(*a, **k, clock=clock))
    spent = iter(range(0, 1000, 10))
    monkeypatch.setattr(script, "time", SimpleNamespace(process_time=lambda: float(next(spent))))

    def table(last: int | None) -> dict[str, object]:
        monkeypatch.setattr(script, "parse", lambda _: FakeTarget(clock, last=last))
        return script.filled_table("mlp:64", "fake", tmp_path)[1]

    with pytest.raises(TargetError):
        table(15)
    before = json.loads((tmp_path / "table.json").read_text())
    assert (before["points"], before["whole"]) == (12, False)
    found = table(None)
    assert found["whole"]
    assert found["points"] > 12
    assert found["seconds"] > before["seconds"] > 0
    again = table(None)
    assert again == found, "nothing was measured, and no time is added"


def test_all_times_of_a_side_are_the_processors(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cut` is timed by the candidates' own clock, the other stages by the store's."""
    clocks: list[object] = []

    def adapted(_spec: object, out: Path, **_: object) -> None:
        clocks.extend((script.adapt_store.time, script.adapt_candidates.time))
        out.mkdir()
        store = script.adapt_store.AdaptStore(out)
        with store.timed("search"):
            store.spend("cut", 0.25)

    monkeypatch.setattr(script, "adapt", adapted)
    asked = argparse.Namespace(
        delta=0.05, data="digits", target="torch", budget=0.5, short=20, steps=20, baseline=20
    )
    found = script.run(asked, "mlp:8", "(a)", tmp_path)
    assert clocks == [script.processor] * 2
    assert found.stages["cut"] == 0.25
