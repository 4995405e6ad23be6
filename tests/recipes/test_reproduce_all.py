"""`tersa reproduce all`: every experiment in its folder, failures told, ended ones not run again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.recipes.test_book import binary_result, binary_row

import tersa.recipes.reproduce_all as recipe
from tersa.errors import DataError, UsageError
from tersa.recipes.folder import RESULT
from tersa.recipes.pruning_results import PruningResult
from tersa.recipes.reproduce_all import RESULTS, RUNNERS, Answer, Asked, chosen, reproduce_all
from tersa.recipes.reproductions import EXPERIMENTS
from tersa.recipes.setting import Setting
from tersa.records.base import write_record
from tersa.study.cluster import Crew
from tersa.targets.environment import environment


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """Runners that end at once: document 004's leaves a result, that of document 002 fails."""
    calls: list[Asked] = []

    def fine(asked: Asked) -> Answer:
        calls.append(asked)
        write_record(asked.folder / RESULT, binary_result(binary_row("BNN-PYNQ", 83.9)))
        return Answer("as good")

    def broken(asked: Asked) -> Answer:
        calls.append(asked)
        raise DataError("no data")

    monkeypatch.setattr(recipe, "RUNNERS", {**RUNNERS, "pruning": broken, "binary-vgg": fine})
    return calls


def test_every_experiment_has_a_runner() -> None:
    assert list(RUNNERS) == list(RESULTS) == [each.name for each in EXPERIMENTS]
    assert chosen(()) == list(RUNNERS)
    assert chosen(("binary-vgg", "pruning")) == ["pruning", "binary-vgg"]
    with pytest.raises(UsageError, match="unknown experiment 'prune'; did you mean 'pruning'"):
        chosen(("prune",))


def test_a_failure_is_told_and_the_others_go_on(ran: list[Asked], tmp_path: Path) -> None:
    result = reproduce_all("full", tmp_path / "all", only=("pruning", "binary-vgg"))
    assert [(part.name, part.status, part.verdict) for part in result.parts] == [
        ("pruning", "failed", "no data"),
        ("binary-vgg", "done", "as good"),
    ]
    assert (
        ran[1].setting.command == f"tersa reproduce binary-vgg --full --out {tmp_path / 'all' / 'binary-vgg'}"
    )
    assert (tmp_path / "all" / "book" / "book.html").is_file()
    assert result.verdict == "Of 1 value with ours, 1 holds"


def test_what_has_ended_is_read_not_run(ran: list[Asked], tmp_path: Path) -> None:
    reproduce_all("quick", tmp_path / "all", only=("binary-vgg",))
    with pytest.raises(UsageError, match="exists and is not empty; give another --out, or --resume"):
        reproduce_all("quick", tmp_path / "all", only=("binary-vgg",))
    result = reproduce_all("quick", tmp_path / "all", only=("binary-vgg",), resume=True)
    assert [(part.status, part.verdict) for part in result.parts] == [("ended before", "v")]
    assert len(ran) == 1
    assert result.share > 0


def test_a_folder_does_not_go_on_in_the_other_mode(ran: list[Asked], tmp_path: Path) -> None:
    reproduce_all("quick", tmp_path / "all", only=("binary-vgg",))
    with pytest.raises(UsageError, match="binary-vgg is of mode quick, mode full is asked; give --quick"):
        reproduce_all("full", tmp_path / "all", resume=True)
    assert len(ran) == 1


def pruned(failed: int) -> PruningResult:
    return PruningResult(
        data="mnist", model="lenet", mode="quick", precision="fp32", shortened=False, verdict="as thin",
        curves=3, done=3 - failed, diverged=0, failed=failed, stored=3, trouble="", baselines=[], table=[],
        environment=environment(1), workers=1, curve_seconds=1.0, artefacts=[], report="", seconds=1.0,
    )  # fmt: skip


def test_failed_runs_make_a_part_fail_and_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [2, 0]

    def prune(wanted: object, folder: Path, *_: object, **__: object) -> PruningResult:
        result = pruned(left.pop(0))
        write_record(folder / RESULT, result)
        return result

    monkeypatch.setattr(recipe, "reproduce_pruning", prune)
    monkeypatch.setattr(recipe, "found", lambda paths: [])
    told = [
        reproduce_all("quick", tmp_path / "all", only=("pruning",), resume=resume).parts[0]
        for resume in (False, True, True)
    ]
    assert [(part.status, part.verdict) for part in told] == [
        ("failed", "2 runs failed; as thin"),
        ("done", "as thin"),
        ("ended before", "as thin"),
    ]


def test_failed_runs_of_a_study_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = SimpleNamespace(verdict="as good", failed=1)
    monkeypatch.setattr(recipe, "reproduce", lambda *_, **__: (answer, []))
    how = Asked("quick", tmp_path, Setting(), 1, resume=True)
    assert RUNNERS["quantized-training"](how) == Answer("as good", 1)


def test_nothing_that_ended_writes_no_book(ran: list[Asked], tmp_path: Path) -> None:
    result = reproduce_all("quick", tmp_path / "all", only=("pruning",))
    assert (result.report, result.artefacts) == ("", [])
    assert not (tmp_path / "all" / "book").exists()


def test_workers_reach_what_trains_many_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, tuple[int | None, str]] = {}

    class Answer:
        verdict = "as good"
        failed = 0

    def many(name: str) -> Callable[..., Any]:
        def run(*_: object, workers: int | None, on: str, **__: object) -> Any:
            seen[name] = workers, on
            return (Answer, []) if name == "quantized-training" else Answer

        return run

    def rows(*_: object, crew: Crew, **__: object) -> Any:
        seen["binary-vgg"] = crew.workers, crew.on
        return Answer

    monkeypatch.setattr(recipe, "check_place", lambda on: None)
    monkeypatch.setattr(recipe, "reproduce", many("quantized-training"))
    monkeypatch.setattr(recipe, "reproduce_pruning", many("pruning"))
    monkeypatch.setattr(recipe, "reproduce_binary_vgg", rows)
    names = ("quantized-training", "pruning", "binary-vgg")
    result = reproduce_all("quick", tmp_path / "all", only=names, workers=3, on="ray")
    assert seen == dict.fromkeys(names, (3, "ray"))
    assert [part.status for part in result.parts] == ["done"] * 3


def test_a_place_that_is_none_is_refused_before_any_work(ran: list[Asked], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--on nowhere: give local, ray"):
        reproduce_all("quick", tmp_path / "all", only=("binary-vgg",), on="nowhere")
    assert not ran
