"""The benchmark of times: a table whose time survives a kill, rows that keep their commit, processor time."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from tests.adapt.machine import FakeClock, FakeTarget
from tests.scripts import load_script

from tersa.adapt.measuring import Stopwatch
from tersa.errors import TargetError
from tersa.recipes import adaptation_stages
from tersa.recipes.adapt_request import AdaptSpec
from tersa.records.adaptation import Candidate


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/adaptation_speed.py")


def test_the_time_of_a_table_is_that_of_all_calls_that_measured_some_of_it(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is killed in its second block; the next one measures the rest and adds its time."""
    clock, whole = FakeClock(), adaptation_stages.fill
    monkeypatch.setattr(adaptation_stages, "fill", lambda *a, **k: whole(*a, **k, gauge=Stopwatch(clock)))
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
    clocks, asked_of = list[object](), list[AdaptSpec]()

    def adapted(spec: AdaptSpec, out: Path, **_: object) -> None:
        asked_of.append(spec)
        clocks.extend((script.adapt_store.time, script.adapt_candidates.time))
        out.mkdir()
        store = script.adapt_store.AdaptStore(out)
        with store.timed("search"):
            store.spend("cut", 0.25)

    monkeypatch.setattr(script, "adapt", adapted)
    asked = argparse.Namespace(
        delta=0.05, data="digits", target="torch", budget=0.5, short=20, steps=20, baseline=20
    )
    for side, arithmetic in (("(a)", None), ("(a) in BF16", "bf16")):
        clocks.clear()
        found = script.run(asked, "mlp:8", side, tmp_path)
        assert clocks == [script.processor] * 2
        assert found.stages["cut"] == 0.25
        assert asked_of[-1].protocol.get("arithmetic") == arithmetic


def test_parts_of_fine_tunes_are_taken_to_their_whole_length(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two heats of 2 and a rest of 18 iterations at 0.5 s each and 1 s around; T is 25 times as long."""
    clock = [0.0]
    monkeypatch.setattr(script, "time", SimpleNamespace(process_time=lambda: clock[0]))

    def spend(iterations: int) -> None:
        clock[0] += 1.0 + 0.5 * iterations

    paused = SimpleNamespace(iterations=20, state=SimpleNamespace(iteration=2))
    monkeypatch.setattr(script.adapt_race, "start_", lambda *_, until, **__: spend(until))
    monkeypatch.setattr(
        script.adapt_race, "go_on_", lambda _job, _model, at: spend(at.iterations - at.state.iteration)
    )

    def adapted(_spec: object, out: Path, **_: object) -> None:
        out.mkdir()
        store = script.adapt_store.AdaptStore(out)
        for _ in range(2):
            script.adapt_race.start_(None, None, 20, until=2, seed=0)
        script.adapt_race.go_on_(None, None, paused)
        store.spend("search", clock[0] + 4.0)
        store.spend("finetune", clock[0])
        store.add_candidates([candidate(20), candidate(2), candidate(0)])

    monkeypatch.setattr(script, "adapt", adapted)
    asked = argparse.Namespace(
        delta=0.05, data="digits", target="torch", budget=0.5, short=20, steps=500, baseline=20
    )
    found = script.run(asked, "mlp:8", "(a)", tmp_path)
    assert found.stages["finetune"] == pytest.approx(3 * 1.0 + 0.5 * 25 * 22)
    assert found.seconds == pytest.approx(found.stages["finetune"] + 4.0)
    assert "0.500 s for each iteration of a fine-tune above 20" in found.how


def candidate(iterations: int) -> Candidate:
    return Candidate(
        step=1, group="g", before=8, width=4, estimate_ms=None, cost=1.0, score=9.0, scored_by="finetune",
        chosen=False, tries=1, cut_seconds=0.0, score_seconds=0.0, evaluate_seconds=0.0,
        iterations=iterations,
    )  # fmt: skip


def test_rows_of_a_network_are_replaced_and_equal_ones_keep_their_commit(
    script: ModuleType, tmp_path: Path
) -> None:
    def line(network: str, search: str, seconds: str, commit: str) -> dict[str, str]:
        return dict.fromkeys(script.COLUMNS, "") | {
            "network": network, "search": search, "seconds": seconds, "commit": commit,
        }  # fmt: skip

    path = tmp_path / "speed.csv"
    first = [
        line("alexnet", "original", "9", "1"),
        line("alexnet", "(a)", "5", "1"),
        line("vgg", "(a)", "7", "1"),
    ]
    script.keep(path, first)
    script.keep(path, [line("alexnet", "original", "9", "2"), line("alexnet", "(a) race", "4", "2")])
    with path.open(newline="") as file:
        rows = [
            (row["network"], row["search"], row["seconds"], row["commit"]) for row in csv.DictReader(file)
        ]
    assert rows == [
        ("vgg", "(a)", "7", "1"),
        ("alexnet", "original", "9", "1"),
        ("alexnet", "(a) race", "4", "2"),
    ]
