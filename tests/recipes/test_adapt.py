"""Fitting a network, small: both searches, their steps on disk, resuming, and a clock that a test holds."""

from __future__ import annotations

import hashlib
import itertools
import math
import shlex
import sqlite3
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from tests.adapt.machine import FakeClock, FakeTarget
from torch import nn

from tersa.adapt.budget import Additive, Damage
from tersa.adapt.measuring import Stopwatch
from tersa.cli.main import execute
from tersa.data.sources import load as load_task
from tersa.errors import Diverged, TargetError, UsageError
from tersa.prune.groups import Groups
from tersa.recipes import adapt_candidates, adapt_fit, adapt_race, adapt_search, adapt_tables, deploy, outcome
from tersa.recipes.adapt import adapt
from tersa.recipes.adapt_candidates import Quality
from tersa.recipes.adapt_fit import Fit
from tersa.recipes.adapt_race import Way
from tersa.recipes.adapt_request import AdaptSpec, adapt_command, check_call, specified
from tersa.recipes.adapt_search import cheapest
from tersa.recipes.adapt_store import AdaptStore
from tersa.recipes.goals import Goals, parse_bound
from tersa.recipes.job import Job
from tersa.recipes.pruning import usual_retraining
from tersa.recipes.retraining import Paused
from tersa.recipes.setting import Setting
from tersa.recipes.subjects import find_point
from tersa.recipes.trajectory import Trajectory
from tersa.records.results import Comparison, Measurement, Quantiles, ShrinkResult
from tersa.study.cluster import Crew
from tersa.train.evaluation import evaluate

MODEL = "mlp:24x16"
BLIND = ("synflow", "zen")
"""Scores that look at no images."""
QUICK = {"tune": 12, "criterion_samples": 60}


def spec(**changes: object) -> AdaptSpec:
    settings = {
        "model": MODEL,
        "epochs": 2,
        "protocol": QUICK,
        "goals": Goals(macs=parse_bound("0.5x", "macs")),
        "finetune_steps": 4,
    }
    if changes.get("search") == "netadapt":
        settings |= {"delta": 0.1}
        if changes.get("score") not in ("finetune", *BLIND) and changes.get("shortlist") != 0:
            settings |= {"score_images": 16}
    return AdaptSpec.model_validate({**settings, **changes})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def one_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """The closing measurement is of the goal's own target alone."""
    monkeypatch.setattr(outcome, "installed", list)


@pytest.fixture
def setting(cache: Path) -> Callable[..., Setting]:
    return lambda **changes: Setting(**{"threads": 1, "seconds": 0.02, "cache": cache, **changes})


def files(folder: Path) -> dict[str, str]:
    """Digests of the weights of every step."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("[0-9]*.safetensors"))
    }


def test_all_widths_at_once(tmp_path: Path, setting: Callable[..., Setting]) -> None:
    out = tmp_path / "run"
    result = adapt(spec(), out, setting=setting())
    assert result.verb == "adapt"
    assert [goal.met for goal in result.goals if goal.name == "macs"] == [True]
    assert result.acceleration >= 2.0
    assert result.acceleration < 2.6, "far below the budget accuracy is given away"
    assert result.adaptation is not None
    assert result.adaptation.machine == "", "no latency was asked for, none was measured"
    assert [step.stage for step in result.steps] == ["baseline", "prune", "distil"]
    assert adapt(spec(), out, setting=setting(), resume=True) == result
    page = (out / "report.html").read_text()
    assert "Where did the time go?" in page
    assert result.command.startswith("tersa adapt --data digits --model mlp:24x16 --macs 0.5x")


@pytest.mark.slow
def test_several_limits_hold_together(tmp_path: Path, setting: Callable[..., Setting]) -> None:
    goals = Goals(macs=parse_bound("0.6x", "macs"), parameters=parse_bound("0.4x", "parameters"))
    result = adapt(spec(goals=goals), tmp_path / "run", setting=setting())
    assert {goal.name: goal.met for goal in result.goals} == {"macs": True, "parameters": True}


@pytest.mark.slow
def test_a_front_in_one_call(tmp_path: Path, setting: Callable[..., Setting]) -> None:
    out = tmp_path / "run"
    result = adapt(spec(front=4), out, setting=setting())
    assert result.adaptation is not None
    points = result.adaptation.front
    assert [point.step for point in points] == [0, 1, 2, 3, 4]
    costs = [point.macs for point in points]
    assert costs == sorted(costs, reverse=True)
    assert points[-1].cost <= 1.0 < points[-2].cost
    assert not points[0].dominated or points[1].validation_accuracy >= points[0].validation_accuracy
    assert "What does each budget cost in accuracy?" in (out / "report.html").read_text()
    subject = find_point(out, "2")
    assert subject.module is not None
    assert sum(p.numel() for p in subject.module.parameters()) == points[2].parameters


@pytest.mark.slow
def test_netadapt_step_by_step(tmp_path: Path, setting: Callable[..., Setting]) -> None:
    out = tmp_path / "run"
    result = adapt(spec(search="netadapt", hybrid=0.5), out, setting=setting())
    assert result.goals[0].met
    assert result.adaptation is not None
    rows = result.adaptation.candidates
    steps = Trajectory(out).rows("steps")
    assert {row.step for row in rows} == {step.index for step in steps[1:]}
    assert {row.scored_by for row in rows} == {"naswot", "finetune"}
    kinds = [row.scored_by for row in rows]
    assert kinds == sorted(kinds, key=["naswot", "finetune"].index), "accuracy at the end of the way"
    for step in steps[1:]:
        chosen = [row for row in rows if row.step == step.index and row.chosen]
        assert len(chosen) == 1
        assert f"narrowed {chosen[0].group} from {chosen[0].before} to {chosen[0].width}" in step.what
    macs = [step.macs for step in steps]
    assert macs == sorted(set(macs), reverse=True)
    first = macs[0]
    assert all(a - b >= 0.09 * first or b <= 0.5 * first for a, b in itertools.pairwise(macs))


@pytest.mark.parametrize("how", [{"hybrid": 1.0}, {"score": "finetune", "race": 0.25}])
def test_candidates_run_a_race_that_the_best_alone_ends(
    how: dict[str, object], tmp_path: Path, setting: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three of a short list, or all; a heat for each, the winner alone the rest."""
    protocol = {**QUICK, **usual_retraining("adapt")}
    asked = spec(
        model="mlp:24x16x12", search="netadapt", finetune_steps=8, delta=0.1, protocol=protocol, **how
    )
    runs: list[tuple[int, int]] = []
    start, rest, once = adapt_race.start_, adapt_race.go_on_, adapt_race.retrain_

    def started(job: Job, model: nn.Module, iterations: int, *, until: int, seed: int) -> Paused:
        assert job.protocol.teacher_weight == 0.0, "labels teach short fine-tunes"
        assert (job.protocol.update, job.protocol.learning_rate) == ("adamw", 0.002), "that are not strong"
        runs.append((0, until))
        return start(job, model, iterations, until=until, seed=seed)

    def went_on(job: Job, model: nn.Module, paused: Paused) -> None:
        runs.append((paused.state.iteration, paused.iterations))
        rest(job, model, paused)

    def at_once(job: Job, model: nn.Module, iterations: int, *, seed: int) -> None:
        runs.append((0, iterations))
        once(job, model, iterations, seed=seed)

    monkeypatch.setattr(adapt_race, "start_", started)
    monkeypatch.setattr(adapt_race, "go_on_", went_on)
    monkeypatch.setattr(adapt_race, "retrain_", at_once)
    result = adapt(asked, tmp_path / "run", setting=setting())
    assert result.adaptation is not None
    rows, heat = result.adaptation.candidates, asked.heat
    assert heat == (1 if how.get("race") is None else 2)
    expected: list[tuple[int, int]] = []
    for step in {row.step for row in rows}:
        own = [row for row in rows if row.step == step]
        tuned = [row for row in own if row.scored_by == "finetune"]
        assert len(tuned) == (len(own) if asked.score == "finetune" else min(2, len(own)))
        assert [row.iterations for row in own if row.scored_by != "finetune"] == [0] * (len(own) - len(tuned))
        winner = [row for row in tuned if row.chosen]
        assert [row.iterations for row in winner] == [8]
        assert (winner[0].heat_score is None) == (len(tuned) == 1)
        assert all((row.iterations, row.heat_score) == (heat, None) for row in tuned if not row.chosen)
        expected += [(0, heat)] * len(tuned) + [(heat, 8)] if len(tuned) > 1 else [(0, 8)]
    assert (heat, 8) in expected
    assert sorted(runs) == sorted(expected)
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"candidates raced for {heat} iteration" in page


@pytest.mark.slow
@pytest.mark.parametrize("race", [0.1, 0.4])
def test_the_winner_of_a_race_has_the_bytes_of_a_whole_fine_tune(
    race: float, tmp_path: Path, setting: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made to choose alike, a run with races and one without end with the same networks."""
    monkeypatch.setattr(adapt_race, "order", lambda rivals, *_: list(range(len(rivals))))
    asked = spec(model="lenet:4-6-12", search="netadapt", hybrid=1.0, finetune_steps=10, delta=0.15)
    spent: list[int] = []
    for share in (race, 1.0):
        result = adapt(asked.model_copy(update={"race": share}), tmp_path / str(share), setting=setting())
        assert result.adaptation is not None
        spent.append(sum(row.iterations for row in result.adaptation.candidates))
    assert files(tmp_path / str(race)) == files(tmp_path / "1.0")
    assert spent[0] < spent[1]


@pytest.mark.slow
def test_the_loss_of_a_glance_is_of_the_same_images(
    tmp_path: Path, setting: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step ranked without training is shown on some images, and held against the baseline on these."""
    monkeypatch.setattr(adapt_search, "GLANCE", 40)
    goals, out = Goals(macs=parse_bound("0.7x", "macs")), tmp_path / "run"
    adapt(spec(search="netadapt", hybrid=0.0, goals=goals), out, setting=setting())
    task = load_task("digits", seed=0)
    few, step = task.validation.spread(40), Trajectory(out).rows("steps")[1]
    found = [find_point(out, place).module for place in ("0", "1")]
    accuracies = [evaluate(module, few, task).accuracy for module in found if module is not None]
    assert step.validation_accuracy == pytest.approx(accuracies[1])
    assert step.loss_points == pytest.approx(accuracies[0] - accuracies[1])


@pytest.mark.slow
def test_a_winner_that_diverges_on_its_way_stays_as_after_its_heat(
    tmp_path: Path, setting: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: object) -> None:
        raise Diverged("retraining diverged 3 times")

    monkeypatch.setattr(adapt_race, "go_on_", diverge)
    goals = Goals(macs=parse_bound("0.8x", "macs"))
    asked = spec(search="netadapt", hybrid=1.0, race=0.5, goals=goals)
    result = adapt(asked, tmp_path / "run", setting=setting())
    assert result.adaptation is not None
    tuned = [row for row in result.adaptation.candidates if row.scored_by == "finetune"]
    assert {row.iterations for row in tuned} == {2}
    step = Trajectory(tmp_path / "run").rows("steps")[1]
    assert step.validation_accuracy == next(row.score for row in tuned if row.chosen)


def test_without_a_short_list_all_candidates_are_fine_tuned_in_full(
    tmp_path: Path, setting: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spec(search="netadapt", hybrid=1.0, shortlist=0, finetune_steps=3, delta=0.3)
    runs: list[int] = []
    monkeypatch.setattr(adapt_race, "retrain_", lambda _job, _model, n, *, seed: runs.append(n))
    result = adapt(asked, tmp_path / "run", setting=setting())
    assert result.adaptation is not None
    assert {row.scored_by for row in result.adaptation.candidates} == {"finetune"}
    assert runs == [3] * len(result.adaptation.candidates)


class Stop(Exception):
    """What a killed run looks like from inside."""


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path: Path, setting: Callable[..., Setting]) -> None:
    asked = spec(search="netadapt", hybrid=0.4)
    whole = adapt(asked, tmp_path / "whole", setting=setting())

    def stop(task: str, _done: float, remark: str) -> None:
        if task == "netadapt" and remark.startswith("step 2:"):
            raise Stop

    with pytest.raises(Stop):
        adapt(asked, tmp_path / "stopped", setting=setting(say=stop))
    again = adapt(asked, tmp_path / "stopped", setting=setting(), resume=True)
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert again.adaptation is not None
    assert whole.adaptation is not None
    assert [(row.step, row.group, row.width, row.score) for row in again.adaptation.candidates] == [
        (row.step, row.group, row.width, row.score) for row in whole.adaptation.candidates
    ]


@pytest.mark.slow
def test_the_time_of_a_search_is_stored_as_it_goes_on(
    tmp_path: Path, setting: Callable[..., Setting]
) -> None:
    """A killed run leaves no `finally` behind: what its steps took is on disk after each of them."""
    told: list[float] = []

    def look(task: str, _done: float, remark: str) -> None:
        if task == "netadapt" and remark.startswith("step"):
            told.append(AdaptStore(tmp_path / "run").seconds().get("search", 0.0))

    result = adapt(spec(search="netadapt", hybrid=0.0), tmp_path / "run", setting=setting(say=look))
    assert result.adaptation is not None
    assert len(told) >= 2
    assert told == sorted(set(told))
    assert 0 < told[0] < told[-1] < result.adaptation.seconds["search"]
    stages = ("cut", "score", "evaluate")
    assert sum(result.adaptation.seconds[stage] for stage in stages) < result.adaptation.seconds["search"]


def test_a_stage_within_another_counts_in_both(tmp_path: Path) -> None:
    store = AdaptStore(tmp_path)
    with store.timed("search"):
        with store.timed("finetune"):
            pass
        first = AdaptStore(tmp_path).seconds()
        store.lap()
        second = AdaptStore(tmp_path).seconds()
    last = store.seconds()
    assert 0 < first["finetune"] <= first["search"] < second["search"] < last["search"]
    assert last["finetune"] == first["finetune"]


@pytest.mark.slow
def test_every_step_of_a_run_on_a_run_is_exported_from_its_own_folder(
    tmp_path: Path, setting: Callable[..., Setting]
) -> None:
    adapt(spec(), tmp_path / "first", setting=setting())
    asked = spec(model=None, run=str(tmp_path / "first"), epochs=None)
    made = adapt(asked, tmp_path / "second", setting=setting())
    with sqlite3.connect(tmp_path / "second" / "history.db") as other:  # a run of before it said so
        other.execute("DELETE FROM origin WHERE name = 'model'")
    (tmp_path / "second" / "result.json").unlink()
    again = adapt(asked, tmp_path / "second", setting=setting(), resume=True)
    assert again.result.parameters == made.result.parameters
    (tmp_path / "first").rename(tmp_path / "elsewhere")
    subject = find_point(tmp_path / "second", "1")
    assert subject.module is not None
    assert sum(p.numel() for p in subject.module.parameters()) == made.result.parameters


@pytest.mark.slow
def test_a_point_of_a_front_that_diverges_is_left_as_it_was_solved(
    tmp_path: Path, setting: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    tune, calls = adapt_search.retrain_, list[int]()

    def first_diverges(job: Job, model: nn.Module, iterations: int, *, seed: int) -> None:
        calls.append(seed)
        if len(calls) == 1:
            raise Diverged("retraining diverged 3 times")
        tune(job, model, iterations, seed=seed)

    monkeypatch.setattr(adapt_search, "retrain_", first_diverges)
    result = adapt(spec(front=2), tmp_path / "run", setting=setting())
    steps = Trajectory(tmp_path / "run").rows("steps")
    assert [step.what.rpartition(", ")[2] for step in steps[1:]] == [
        "its fine-tune of 4 iterations diverged and was left out",
        "fine-tuned 4 iterations",
    ]
    assert result.adaptation is not None
    assert len(result.adaptation.front) == 3


@pytest.mark.slow
def test_the_next_places_are_tried_where_a_short_list_diverges(
    tmp_path: Path, setting: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two candidates the better one diverges at every step: the other one becomes the step."""
    tune, calls = adapt_race.retrain_, list[int]()

    def every_other_diverges(job: Job, model: nn.Module, iterations: int, *, seed: int) -> None:
        calls.append(seed)
        if len(calls) % 2:
            raise Diverged("retraining diverged 3 times")
        tune(job, model, iterations, seed=seed)

    monkeypatch.setattr(adapt_race, "retrain_", every_other_diverges)
    goals = Goals(macs=parse_bound("0.8x", "macs"))
    asked = spec(search="netadapt", hybrid=1.0, shortlist=1, goals=goals)
    result = adapt(asked, tmp_path / "run", setting=setting())
    assert result.goals[0].met
    assert result.adaptation is not None
    rows = result.adaptation.candidates
    assert [(row.scored_by, row.chosen) for row in rows] == [("finetune", True)] * (len(calls) // 2)


@pytest.mark.slow
@pytest.mark.parametrize("hybrid", [0.0, 1.0])
def test_candidates_whose_score_is_no_number_are_left_out(
    hybrid: float,
    tmp_path: Path,
    setting: Callable[..., Setting],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The first candidate's of each step, here: the second one is taken, however it is ranked."""
    real, scored = adapt_candidates.score, list[str]()

    def first_is_nan(fit: Fit, model: nn.Module, name: str) -> tuple[float, float]:
        scored.append(name)
        value, seconds = real(fit, model, name)
        return (math.nan if len(scored) == 1 else value), seconds

    monkeypatch.setattr(adapt_candidates, "score", first_is_nan)
    goals = Goals(macs=parse_bound("0.8x", "macs"))
    result = adapt(spec(search="netadapt", hybrid=hybrid, goals=goals), tmp_path / "run", setting=setting())
    assert result.goals[0].met
    assert result.adaptation is not None
    first = [row.group for row in result.adaptation.candidates if row.step == 1]
    assert len(first) == 1
    assert "the score naswot is nan; left out" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("guarded", [True, False])
def test_a_score_without_training_makes_no_bottleneck(
    tmp_path: Path, setting: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """A step that only a bottleneck could save asks for less; without that rule a layer loses nearly all."""
    if not guarded:
        monkeypatch.setattr(adapt_candidates, "gentle", lambda *_: True)
    goals = Goals(macs=parse_bound("0.2x", "macs"), max_loss=90.0)
    asked = spec(search="netadapt", score="synflow", hybrid=0.0, delta=0.8, goals=goals)
    result = adapt(asked, tmp_path / "run", setting=setting())
    assert result.adaptation is not None
    rows = result.adaptation.candidates
    deep = [row for row in rows if row.width < row.before / 4]
    assert bool(deep) != guarded
    assert result.goals[0].met


@pytest.mark.slow
def test_when_no_candidate_has_a_score_it_is_said(
    tmp_path: Path, setting: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapt_candidates, "score", lambda *_: (-math.inf, 0.0))
    goals = Goals(macs=parse_bound("0.5x", "macs"), max_loss=50.0)
    result = adapt(spec(search="netadapt", hybrid=0.0, goals=goals), tmp_path / "run", setting=setting())
    reason = next(goal.reason for goal in result.goals if goal.name == "macs")
    assert "the score naswot of every candidate of the next step is no number; that has 2 times" in reason


@pytest.mark.slow
def test_no_iterations_are_none_for_a_short_list_too(
    tmp_path: Path, setting: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    monkeypatch.setattr(adapt_race, "retrain_", lambda _job, _model, n, *, seed: runs.append(n))
    goals = Goals(macs=parse_bound("0.8x", "macs"))
    adapt(
        spec(search="netadapt", hybrid=1.0, finetune_steps=0, goals=goals),
        tmp_path / "run",
        setting=setting(),
    )
    assert set(runs) == {0}


def test_the_closing_measurement_needs_the_goals_target(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Comparison(target="t", precision="fp32", verdict="not offered", reason="no such device")
    monkeypatch.setattr(outcome, "race", lambda *_, **__: gone)
    dock = SimpleNamespace(target="torch@threads=1", reference=None, precisions=("fp32",))
    ending = SimpleNamespace(
        job=SimpleNamespace(dock=dock), chosen=SimpleNamespace(artefact=None), options=[], setting=Setting()
    )
    with pytest.raises(TargetError, match=r"^torch@threads=1 cannot be measured any more: no such device;"):
        outcome._measure(cast(outcome.Outcome, ending), [])


@pytest.mark.slow
def test_a_target_that_disappears_before_the_closing_measurement(
    tmp_path: Path, setting: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    race = outcome.race
    gone = Comparison(target="t", precision="fp32", verdict="not offered", reason="no such device")
    monkeypatch.setattr(outcome, "race", lambda *_, **__: gone)
    said = r"^onnxruntime@threads=1 cannot be measured any more: no such device; --resume goes on$"
    with pytest.raises(TargetError, match=said):
        adapt(spec(), tmp_path / "run", setting=setting())
    kept = files(tmp_path / "run")
    assert any(name.startswith("tuned/") for name in kept)
    monkeypatch.setattr(outcome, "race", race)
    result = adapt(spec(), tmp_path / "run", setting=setting(), resume=True)
    assert result.goals[0].met
    assert files(tmp_path / "run") == kept


# A latency budget, on a machine that a test makes up: a call takes what the file's weights say, and the whole
# network half as long again as its layers do.


def timed(before: float, after: float, spread: float = 0.03) -> Comparison:
    """A comparison whose medians are these."""

    def side(name: str, ms: float) -> Measurement:
        return Measurement(
            model=name,
            target="fake@threads=1",
            precision="fp32",
            batch=1,
            threads=1,
            latency_ms=Quantiles(median=ms, p10=ms, p90=ms),
            rounds=5,
            warmup=3,
            calls=5,
            low=ms,
            high=ms,
            outliers=0,
            drift=1.0,
            runtime="fake 1",
        )

    ratio = before / after
    return Comparison(
        target="fake@threads=1",
        precision="fp32",
        before=side("baseline", before),
        after=side("result", after),
        speedup=ratio,
        low=ratio * (1 - spread),
        high=ratio * (1 + spread),
        verdict="faster",
    )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTarget:
    """A target whose clock is the size of the file, for the table and for whole networks."""
    clock = FakeClock()
    target = FakeTarget(clock)

    def race(_dock: object, before: object, after: object, **_: object) -> Comparison:
        return timed(*(1.5 * target.cost(each) + 0.2 for each in (before, after)))

    monkeypatch.setattr(adapt_tables, "Stopwatch", partial(Stopwatch, clock))
    monkeypatch.setattr(adapt_tables, "parse", lambda _: target)
    for module in (adapt_fit, deploy, outcome, __import__("tersa.recipes.shrink", fromlist=["race"])):
        monkeypatch.setattr(module, "race", race)
    return target


LATENCY = Goals(latency=parse_bound("0.5x", "latency"))


@pytest.mark.slow
@pytest.mark.parametrize("search", ["budget", "netadapt"])
def test_the_budget_counts_as_met_when_a_measurement_says_so(
    search: str, tmp_path: Path, setting: Callable[..., Setting], fake: FakeTarget
) -> None:
    steps = {"check_every": 2, "hybrid": 0.0} if search == "netadapt" else {}
    asked = spec(search=search, goals=LATENCY, table=str(tmp_path / "t.db"), **steps)
    result = adapt(asked, tmp_path / "run", setting=setting())
    assert result.goals[0].met
    found = result.adaptation
    assert found is not None
    assert found.budget_ms is not None
    last = found.checked[-1]
    assert last.high <= found.budget_ms
    assert last.measured_ms >= 0.7 * found.budget_ms, "not much narrower than asked: widths go in fours"
    assert last.estimate_ms == pytest.approx(last.measured_ms, rel=0.1)
    assert found.checked[0].step == 0
    assert found.points > 20
    assert found.measured == found.points
    assert found.machine
    assert "Does the table foretell the clock?" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_a_budget_that_no_width_meets_keeps_the_table(
    tmp_path: Path, setting: Callable[..., Setting], fake: FakeTarget
) -> None:
    asked = spec(goals=Goals(latency=parse_bound("0.01x", "latency")), table=str(tmp_path / "t.db"))
    result = adapt(asked, tmp_path / "run", setting=setting())
    assert not result.goals[0].met
    assert "every layer is as narrow as it goes" in result.goals[0].reason
    assert result.adaptation is not None
    assert [row.step for row in result.adaptation.checked] == [0, 1], "the cheapest network is measured once"
    prepared = len(fake.prepared)
    adapt(spec(goals=LATENCY, table=str(tmp_path / "t.db")), tmp_path / "other", setting=setting())
    assert len(fake.prepared) == prepared + 2, "the empty calls alone: every layer is known"


@pytest.mark.slow
@pytest.mark.parametrize("points", [0, 3])
def test_a_budget_out_of_reach_keeps_the_cheapest_network(
    points: int, tmp_path: Path, setting: Callable[..., Setting]
) -> None:
    goals = Goals(macs=parse_bound("0.01x", "macs"), max_loss=1.0)
    asked = spec(goals=goals, front=points, finetune_steps=0, protocol={**QUICK, "tune": 0})
    result = adapt(asked, tmp_path / "run", setting=setting())
    macs = next(goal for goal in result.goals if goal.name == "macs")
    assert not macs.met
    times = result.result.macs / (0.01 * result.baseline.macs)
    assert f"every layer is as narrow as it goes or must stay; that has {times:.3g} times the limit" in (
        macs.reason
    ), "the limit that was asked, and not the accuracy"
    assert macs.reason in (tmp_path / "run" / "result.json").read_text()
    steps = Trajectory(tmp_path / "run").rows("steps")
    assert len({step.macs for step in steps}) == len(steps), "a front ends with the cheapest network"
    (tmp_path / "run" / "result.json").unlink()
    assert adapt(asked, tmp_path / "run", setting=setting(), resume=True).goals == result.goals
    assert len(Trajectory(tmp_path / "run").rows("steps")) == len(steps)


def test_the_cheapest_widths_where_narrower_costs_more() -> None:
    damage = [Damage([1.0] * 3, [1, 2, 3]), Damage([1.0] * 3, [1, 2, 3])]
    assert cheapest(damage, Additive([[5.0, 2.0, 9.0], [1.0, 4.0, 7.0]], limit=1.0)) == (2, 1)


@pytest.mark.slow
def test_a_step_that_no_group_can_make_alone_is_halved(
    tmp_path: Path, setting: Callable[..., Setting]
) -> None:
    goals = Goals(macs=parse_bound("0.3x", "macs"), max_loss=50.0)
    asked = spec(
        model="mlp:16x16x16x16x16x16",
        search="netadapt",
        goals=goals,
        hybrid=0.0,
        delta=0.4,
        protocol={"tune": 0},
    )
    result = adapt(asked, tmp_path / "run", setting=setting())
    assert next(goal.met for goal in result.goals if goal.name == "macs")


@pytest.mark.slow
def test_when_all_candidates_diverge_it_is_said(
    tmp_path: Path, setting: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: object, **__: object) -> None:
        raise Diverged("the loss became NaN")

    monkeypatch.setattr(adapt_race, "retrain_", diverge)
    goals = Goals(macs=parse_bound("0.5x", "macs"), max_loss=50.0)
    result = adapt(spec(search="netadapt", score="finetune", goals=goals), tmp_path / "r", setting=setting())
    reason = next(goal.reason for goal in result.goals if goal.name == "macs")
    assert reason.endswith("every candidate of the next step diverged; that has 2 times the limit")


@pytest.mark.slow
def test_a_resumed_run_measures_its_steps_as_it_did(
    tmp_path: Path, setting: Callable[..., Setting], fake: FakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share that a step takes off is of the baseline's cost by the first factor and the first limit."""
    firsts, whole = list[float](), adapt_search.ways

    def told(
        fit: Fit, model: nn.Module, groups: Groups, index: int, first: float, quality: Quality | None
    ) -> list[Way]:
        firsts.append(first)
        return whole(fit, model, groups, index, first, quality)

    def stop(task: str, _done: float, remark: str) -> None:
        if task == "netadapt" and remark.startswith("step 2:"):
            raise Stop

    monkeypatch.setattr(adapt_search, "ways", told)
    asked = spec(search="netadapt", goals=LATENCY, table=str(tmp_path / "t.db"), check_every=1, hybrid=0.0)
    with pytest.raises(Stop):
        adapt(asked, tmp_path / "run", setting=setting(say=stop))
    shrunk = __import__("tersa.recipes.shrink", fromlist=["race"])
    monkeypatch.setattr(
        shrunk, "race", lambda *_, **__: timed(99.0, 99.0)
    )  # the baseline's own clock differs today
    adapt(asked, tmp_path / "run", setting=setting(), resume=True)
    assert len(firsts) > 2
    assert len(set(firsts)) == 1


def test_estimates_alone_end_the_way_where_nothing_is_measured_on_it(
    tmp_path: Path, setting: Callable[..., Setting], fake: FakeTarget
) -> None:
    asked = spec(search="netadapt", goals=LATENCY, table=str(tmp_path / "t.db"), check_every=0, hybrid=0.0)
    result = adapt(asked, tmp_path / "run", setting=setting())
    assert result.adaptation is not None
    assert result.adaptation.budget_ms is not None
    assert [row.step for row in result.adaptation.checked] == [0], "the baseline alone was measured"
    estimates = [step.estimate_ms or 0.0 for step in Trajectory(tmp_path / "run").rows("steps")]
    assert estimates[-1] <= result.adaptation.budget_ms < estimates[-2]
    assert "--check-every 0" in result.command


@pytest.mark.slow
def test_the_points_of_a_front_are_told_by_one_factor_and_the_limit_asked(
    tmp_path: Path, setting: Callable[..., Setting], fake: FakeTarget
) -> None:
    asked = spec(goals=LATENCY, table=str(tmp_path / "t.db"), front=3, finetune_steps=0)
    found = adapt(asked, tmp_path / "run", setting=setting()).adaptation
    assert found is not None
    assert found.budget_ms is not None
    for point in found.front:
        assert point.estimate_ms is not None
        assert point.cost == pytest.approx(point.estimate_ms / found.budget_ms)
    last = found.checked[-1]
    final = [row for row in found.checked if row.measured_ms == last.measured_ms][-1]
    assert found.front[-1].estimate_ms == pytest.approx(final.measured_ms, rel=1e-6)


@pytest.mark.slow
def test_netadapt_out_of_reach_ships_the_best_and_says_so(
    tmp_path: Path, setting: Callable[..., Setting], fake: FakeTarget
) -> None:
    goals = Goals(latency=parse_bound("0.01x", "latency"))
    asked = spec(search="netadapt", goals=goals, table=str(tmp_path / "t.db"), hybrid=0.0, delta=0.4)
    result = adapt(asked, tmp_path / "run", setting=setting())
    assert not result.goals[0].met
    assert result.goals[0].reason
    assert result.compression > 5


@pytest.mark.slow
def test_a_target_that_disappears_leaves_a_run_that_goes_on(
    tmp_path: Path, setting: Callable[..., Setting], fake: FakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spec(search="netadapt", goals=LATENCY, table=str(tmp_path / "t.db"), check_every=2, hybrid=0.0)
    race = adapt_fit.race
    gone = Comparison(target="fake", precision="fp32", verdict="not offered", reason="no such device")
    monkeypatch.setattr(adapt_fit, "race", lambda *_, **__: gone)
    with pytest.raises(TargetError, match=r"cannot be measured any more: no such device; --resume goes on"):
        adapt(asked, tmp_path / "run", setting=setting())
    assert len(Trajectory(tmp_path / "run").rows("steps")) == 3
    monkeypatch.setattr(adapt_fit, "race", race)
    result: ShrinkResult = adapt(asked, tmp_path / "run", setting=setting(), resume=True)
    assert result.goals[0].met


# Requests


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"goals": Goals(max_loss=1.0)}, "nothing to adapt to"),
        ({"score": "nas-wot"}, "did you mean 'naswot'"),
        ({"precision": "int8"}, "latency tables hold fp32 layers"),
        ({"front": 3, "search": "netadapt"}, "needs --search budget"),
        ({"front": 1}, "is no front"),
        ({"cut": "linear", "hybrid": 0.5, "shortlist": 3}, "--cut, --hybrid, --shortlist: for the steps of"),
        ({"search": "netadapt", "score": "finetune", "finetune_steps": 0}, "--finetune-steps of at least 1"),
        ({"protocol": {"schedule": "cubic", "amount": 0.5}}, "leave out the protocol's schedule"),
        ({"goals": Goals(latency=parse_bound("1.5x", "latency"))}, "asks for nothing smaller"),
        ({"table": "x.db", "allow_foreign": True}, "--table, --allow-foreign: no effect: .* no --latency"),
        (
            {"search": "netadapt", "score": "finetune", "hybrid": 0.9, "shortlist": 7},
            "--hybrid, --shortlist: no effect: not with --score finetune",
        ),
        ({"search": "netadapt", "hybrid": 0.0, "shortlist": 5}, "--shortlist: no effect: .* --hybrid 0"),
        ({"search": "netadapt", "hybrid": 0.0, "race": 0.5}, "--race: no effect: .* --hybrid 0"),
        ({"search": "netadapt", "shortlist": 1, "race": 0.5}, "--race: no effect: --shortlist 1"),
        ({"search": "netadapt", "finetune_steps": 1, "race": 0.5}, "--race: no effect: --finetune-steps"),
        ({"race": 0.5}, "--race: for the steps of --search netadapt"),
        ({"protocol": {"tune": 0, "arithmetic": "bf16"}}, "--arithmetic: no effect: nothing is fine-tuned"),
        ({"search": "netadapt", "hybrid": 1.0, "shortlist": 0, "score": "zen"}, "--score: no effect"),
        ({"search": "netadapt", "check_every": 3}, "--check-every: no effect: .* no --latency"),
        (
            {"search": "netadapt", "score": "synflow", "score_images": 32},
            "--score-images: no effect: --score synflow looks at the images' shape alone",
        ),
        (
            {"search": "netadapt", "score": "zen", "score_images": 32},
            "--score-images: no effect: --score zen",
        ),
    ],
)
def test_faults_show_before_any_work(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        adapt(spec(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_values_outside_their_range_are_told_together() -> None:
    with pytest.raises(UsageError, match=r"(?s)2 faults.*hybrid is 3.*delta is 2"):
        specified(delta=2.0, hybrid=3.0)


def test_what_is_no_part_of_a_spec_must_have_an_effect_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"(?s)--fresh-table: no effect.*--workers 2: no effect"):
        adapt(spec(), tmp_path / "run", fresh_table=True, crew=Crew(workers=2))
    with pytest.raises(UsageError, match="--workers 2: no effect"):
        check_call(spec(search="netadapt", hybrid=0.0), crew=Crew(workers=2))
    check_call(spec(search="netadapt"), crew=Crew(workers=2))


def test_the_same_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    protocol = {"learning_rate": 0.001, "criterion_samples": 50, "keep": "", "criterion": "l1"}
    command = adapt_command(spec(protocol=protocol, finetune_steps=500))
    assert command.endswith("--epochs 2 --criterion l1")
    assert execute([*shlex.split(command)[1:], "--dry-run"]) == 0


@pytest.mark.slow
def test_the_command_and_the_stored_spec_say_everything(
    tmp_path: Path, setting: Callable[..., Setting]
) -> None:
    asked = spec(delta=0.07, search="netadapt", score="synflow", hybrid=0.0, seed=3)
    command = adapt_command(asked)
    for part in (
        "--delta 0.07",
        "--search netadapt",
        "--score synflow",
        "--hybrid 0",
        "--seed 3",
        "--tune 12",
    ):
        assert part in command
    adapt(asked, tmp_path / "run", setting=setting())
    stored = tomllib.loads((tmp_path / "run" / "spec.toml").read_text())
    assert (stored["verb"], stored["delta"], stored["score"]) == ("adapt", 0.07, "synflow")
