"""What a study would take, from a few updates."""

from __future__ import annotations

from pathlib import Path

import pytest

from tersa.data import load
from tersa.recipes.study import plan_study
from tersa.study import pace
from tersa.study.cell import Cell
from tersa.study.spec import StudySpec
from tersa.study.workers import Shelf


def stack(runs: int, model: str = "mlp:8", rule: str = "bp") -> list[Cell]:
    return [Cell(data="digits", model=model, rule=rule, epochs=2, seed=seed) for seed in range(1, runs + 1)]


def test_updates_and_looks_of_every_phase_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second an update, a hundred a look: 2 epochs of ceil(1437 / 64) updates, and two looks each."""
    now = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])

    def call(self: object, updates: int, *, threads: int = 1) -> None:
        now[0] += updates

    def look(self: object, *, threads: int = 1) -> None:
        now[0] += 100

    monkeypatch.setattr(pace.Workload, "__call__", call)
    monkeypatch.setattr(pace.Workload, "evaluate", look)
    task = load("digits")
    updates = -(-(len(task.train) + len(task.validation)) // 64)
    assert pace.stack_seconds(stack(3), task) == 2 * updates + 2 * 2 * 100
    phases = pace.stack_seconds(stack(1, rule="hsic"), task)  # unformatted, then its classifier
    assert phases > pace.stack_seconds(stack(1), task)


def test_stacks_of_one_kind_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def seconds(cells: list[Cell], task: object, **_: object) -> float:
        asked.append(len(cells))
        return 10.0 * len(cells)

    monkeypatch.setattr(pace, "stack_seconds", seconds)
    assert pace.paces([stack(3), stack(2), stack(3)], Shelf(None)) == [30.0, 20.0, 30.0]
    assert sorted(asked) == [2, 3]
    monkeypatch.setattr(pace, "MOST_KINDS", 1)
    assert pace.paces([stack(3), stack(2)], Shelf(None)) is None


def test_the_last_worker_counts() -> None:
    assert pace.makespan([], 3) == 0.0
    assert pace.makespan([5.0, 1.0, 1.0, 1.0], 2) == 5.0
    assert pace.makespan([1.0] * 6, 4) == 2.0


def test_a_plan_has_a_time_before_any_run_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = StudySpec(
        name="plan",
        fixed={"data": "digits", "model": "mlp:8", "quant": "symmetric", "epochs": 2},
        axes={"bits": [2, 4, 8]},
    )
    plan = plan_study(spec, tmp_path / "plan", workers=1)
    assert plan.seconds is not None
    assert plan.seconds > 0
    assert not (tmp_path / "plan").exists()
    monkeypatch.setattr(pace, "stack_seconds", lambda cells, task, **_: 10.0 * len(cells))
    assert plan_study(spec, tmp_path / "plan", workers=1).seconds == 90.0  # one stack of nine runs
