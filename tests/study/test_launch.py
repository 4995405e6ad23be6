"""Launching: how cells are cut, what is trained when, and what happens to those who die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tersa.errors import UsageError
from tersa.study.cell import Cell
from tersa.study.launch import check, cut, default_workers, prepare, run
from tersa.study.store import CellSummary, StudyStore
from tersa.study.workers import Launch, Shelf

SCRIPT = Path(__file__).with_name("killable.py")


def cells(count: int, model: str = "mlp:4", epochs: int = 2) -> list[Cell]:
    return [Cell(data="digits", model=model, epochs=epochs, seed=seed) for seed in range(count)]


def study(
    path: Path,
    wanted: Sequence[Cell],
    launch: Launch,
    told: list[tuple[float, str]] | None = None,
    **flags: bool,
) -> list[CellSummary]:
    """Run what is left of a study; its summaries."""
    said: list[tuple[float, str]] = [] if told is None else told
    with StudyStore(path, write=True) as store:
        stacks = prepare(store, wanted, Shelf(None), launch, **flags)
        run(store, stacks, launch, lambda share, remark: said.append((share, remark)))
        return store.summaries()


def test_groups_are_cut_into_equal_parts_that_fit() -> None:
    mixed = [cell for pair in zip(cells(7), cells(7, "mlp:6"), strict=True) for cell in pair]
    stacks = cut(mixed, lambda cell: 3, lambda cell: 1.0, 1)
    assert [len(stack) for stack in stacks] == [2, 3, 2] * 2
    assert [cell for stack in stacks for cell in stack] == cells(7) + cells(7, "mlp:6")
    assert all(len({cell.group for cell in stack}) == 1 for stack in stacks)


def test_no_stack_is_longer_than_its_workers_share() -> None:
    assert [len(stack) for stack in cut(cells(28), lambda cell: 64, lambda cell: 1.0, 1)] == [28]
    assert [len(stack) for stack in cut(cells(28), lambda cell: 64, lambda cell: 1.0, 2)] == [14, 14]
    short, long = cells(4), cells(4, "mlp:6", epochs=20)
    lengths = [len(stack) for stack in cut(short + long, lambda cell: 64, lambda cell: float(cell.epochs), 2)]
    assert lengths == [4, 2, 2]
    assert [len(stack) for stack in cut(cells(2), lambda cell: 64, lambda cell: 1.0, 8)] == [1, 1]
    assert [len(stack) for stack in cut(cells(2), lambda cell: 64, lambda cell: 0.0, 8)] == [2]


def test_workers_fill_the_cores() -> None:
    cores = default_workers(1)
    assert cores >= 1
    assert default_workers(cores) == 1
    assert default_workers(10 * cores) == 1


def test_the_longest_stack_goes_first_and_finished_ones_are_left(tmp_path: Path, engine: str) -> None:
    launch = Launch(engine=engine)
    wanted = cells(4) + cells(2, "mlp:6", epochs=9)
    with StudyStore(tmp_path / "study.db", write=True) as store:
        stacks = prepare(store, wanted, Shelf(None), launch)
        assert [(stack.cells[0].model, len(stack.cells)) for stack in stacks] == [
            ("mlp:6", 2), ("mlp:4", 2), ("mlp:4", 2),
        ]  # fmt: skip
        run(store, stacks[:1], launch)
        assert [stack.cells for stack in prepare(store, wanted, Shelf(None), launch)] == [
            stack.cells for stack in stacks[1:]
        ]


def test_progress_is_told_over_all_runs_with_the_time_left(tmp_path: Path, engine: str) -> None:
    told: list[tuple[float, str]] = []
    study(tmp_path / "study.db", cells(4) + cells(2, "mlp:5"), Launch(engine=engine), told)
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert told[-1][1] == "6 of 6 runs, 2 diverged"
    assert any(remark.startswith("2 of 6 runs") and remark.endswith(" left") for _, remark in told)


def test_a_growing_study_leaves_the_stacks_it_had(tmp_path: Path, engine: str) -> None:
    path, launch = tmp_path / "study.db", Launch(engine=engine)
    first = study(path, cells(4), launch)
    second = study(path, cells(9), launch)
    assert second[:4] == first
    assert [row.stack for row in second] == [1, 1, 2, 2, 3, 3, 4, 4, 4]
    assert [row.stacked for row in second] == [2, 2, 2, 2, 2, 2, 3, 3, 3]
    assert study(path, cells(9), launch) == second


def test_workers_give_the_numbers_of_one_process_and_survive_their_deaths(
    tmp_path: Path, engine: str
) -> None:
    calm = cells(5) + cells(2, "mlp:5") + cells(1, "mlp:13")
    deadly = cells(2, "mlp:7") + cells(2, "mlp:9")  # kills its worker once, and always
    alone, two, told = Launch(engine=engine), Launch(workers=2, engine=engine), list[tuple[float, str]]()
    path = tmp_path / "b.db"
    with StudyStore(path, write=True) as store:
        prepare(store, calm, Shelf(None), alone)  # cut for one worker
    rows = study(path, calm + deadly, two, told)
    assert told[-1] == (1.0, "12 of 12 runs, 2 diverged, 3 failed")
    assert rows[:8] == study(tmp_path / "a.db", calm, alone)
    assert [row.status for row in rows[8:]] == ["done", "done", "failed", "failed"]
    assert "ended 2 times, the last time by signal 9 (SIGKILL)" in rows[-1].message
    with StudyStore(tmp_path / "a.db") as a, StudyStore(path) as b:
        assert b.results()[:8] == a.results()


def test_failed_cells_keep_their_traceback_and_are_retried_only_when_asked(
    tmp_path: Path, engine: str
) -> None:
    path, launch = tmp_path / "study.db", Launch(engine=engine)
    rows = study(path, cells(2, "mlp:13") + cells(1), launch)
    assert [row.status for row in rows] == ["failed", "failed", "done"]
    assert "Traceback" in rows[0].message
    assert rows[0].message.rstrip().endswith("RuntimeError: thirteen units")
    told: list[tuple[float, str]] = []
    study(path, cells(2, "mlp:13"), launch, told)
    assert told == []
    study(path, cells(2, "mlp:13"), launch, told, retry=True)
    assert told[-1][1] == "2 of 2 runs, 2 failed"


def test_networks_that_do_not_fit_are_refused_together_before_any_work(engine: str) -> None:
    odd = [*cells(2, "mlp:0"), *cells(1), Cell(data="digits", model="mlp:0", rule="fa")]
    with pytest.raises(UsageError) as refused:
        check(odd, Shelf(None), Launch(engine=engine))
    assert "2 faults" in str(refused.value)
    assert "rule fa, model mlp:0, data digits: a layer without units" in str(refused.value)


def test_termination_ends_a_study_like_ctrl_c(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE_SLEEP", "0.05")
    before = signal.getsignal(signal.SIGTERM)
    wanted = cells(2, epochs=1) + cells(2, "mlp:6", epochs=200)
    path, launch = tmp_path / "study.db", Launch(engine=engine)
    with StudyStore(path, write=True) as store:
        stacks = sorted(prepare(store, wanted, Shelf(None), launch), key=lambda stack: stack.cost)
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            run(store, stacks, launch)
        assert [row.status for row in store.summaries()] == ["done", "done", "waiting", "waiting"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_workers_are_gone_after_an_interrupt(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE_SLEEP", "0.1")
    began: list[float] = []

    def progress(share: float, remark: str) -> None:
        began.append(share)
        raise KeyboardInterrupt

    launch = Launch(workers=2, engine=engine)
    with StudyStore(tmp_path / "study.db", write=True) as store:
        stacks = prepare(store, cells(4, epochs=600), Shelf(None), launch)
        with pytest.raises(KeyboardInterrupt):
            run(store, stacks, launch, progress)
    assert began
    assert multiprocessing.active_children() == []


def test_killed_ten_times_it_ends_with_the_cells_and_numbers_of_an_undisturbed_study(tmp_path: Path) -> None:
    """In one process that forks a child per attempt: the fake engine's numbers depend on the neighbours."""
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path, "10"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    kills = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("killed")]
    assert len(kills) == 10
    assert kills == sorted(kills)
    assert 0 < kills[-1] < 60
    with StudyStore(tmp_path / "calm.db") as calm, StudyStore(tmp_path / "rough.db") as rough:
        assert len(calm.results()) == 60
        assert rough.results() == calm.results()
        assert rough.summaries() == calm.summaries()
